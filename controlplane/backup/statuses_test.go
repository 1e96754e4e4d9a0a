package backup

import (
	"slices"
	"strings"
	"testing"
	"time"

	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/proto/contract"
)

// briefs are the statuses of our sites, or of those that need somebody.
func (w *world) briefs(t *testing.T, attention bool) []Brief {
	t.Helper()
	all, next, err := w.Statuses(t.Context(), w.ours, 0, "", attention, nil)
	must(t, err)
	if next != "" {
		t.Error("there is another page")
	}
	return all
}

func TestStatuses(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		now := time.Now()
		expect := func(what string, standing Standing, proof Proof, attention bool, problem string) {
			t.Helper()
			all, urgent := w.briefs(t, false), w.briefs(t, true)
			if len(all) != 1 || all[0].Site != w.site || all[0].Name != "shop" {
				t.Fatalf("%s: %+v", what, all)
			}
			if got := all[0]; got.Standing != standing || got.Proof != proof || !strings.Contains(got.Problem, problem) || problem == "" && got.Problem != "" {
				t.Errorf("%s: %+v", what, got)
			}
			if (len(urgent) == 1) != attention {
				t.Errorf("%s: need somebody: %+v", what, urgent)
			}
		}
		w.warned(t, now)
		expect("a new site", StandingWell, ProofNone, false, "")
		w.create(t)
		w.work(t, badly)
		w.warned(t, now.Add(time.Hour))
		expect("a backup failed", StandingFailing, ProofNone, true, "the disk is full")
		w.warned(t, now.Add(27*time.Hour))
		expect("there is none for too long", StandingOverdue, ProofNone, true, "the disk is full")
		b := w.one(t)
		w.warned(t, time.Now())
		expect("a good one", StandingWell, ProofUnproven, false, "")
		w.exec(t, `UPDATE backups SET checked_at = $2 WHERE id = $1`, b.ID, db.Micros(now.Add(-2*week)))
		if urgent := w.briefs(t, true); len(urgent) != 1 || urgent[0].Proof != ProofUnproven {
			t.Errorf("there was time to prove it: %+v", urgent)
		}
		w.exec(t, `UPDATE backups SET checked_at = $2 WHERE id = $1`, b.ID, db.Micros(now))
		w.drilled(t, b, lossy)
		expect("a drill failed", StandingWell, ProofFailed, true, lost)
		w.drilled(t, b, well)
		expect("the next passed", StandingWell, ProofProven, false, "")
		if got := w.briefs(t, false)[0]; got.Last.IsZero() || got.Proven.Before(now) {
			t.Errorf("last %v, proven %v", got.Last, got.Proven)
		}
		w.exec(t, `UPDATE drills SET ended_at = $1 WHERE state = 'passed'`, db.Micros(now.Add(-2*week)))
		expect("that was long ago", StandingWell, ProofUnproven, false, "") // its first backup is from today
		w.exec(t, `UPDATE sites SET phase = 'trashed' WHERE id = $1`, w.site)
		if all := w.briefs(t, false); len(all) != 0 {
			t.Errorf("a site in the trash: %+v", all)
		}
	})
}

func TestStatusesPages(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ours := []string{w.site.String(), w.addSite(t, w.ours, "docs").String(), w.addSite(t, w.ours, "news").String()}
		w.work(t, func(o *orderv1.Order) *orderv1.Result { return well(o) })
		slices.Sort(ours)
		list := func(organization contract.OrganizationID, reach []string) (sites []string) {
			t.Helper()
			for token := ""; ; {
				some, next, err := w.Statuses(t.Context(), organization, 2, token, false, reach)
				must(t, err)
				if len(some) > 2 {
					t.Errorf("a page of %d", len(some))
				}
				for _, one := range some {
					sites = append(sites, one.Site.String())
				}
				if token = next; token == "" {
					return sites
				}
			}
		}
		if got := list(w.ours, nil); !slices.Equal(got, ours) {
			t.Errorf("ours are %v, want %v", got, ours)
		}
		if got := list(w.theirs, nil); !slices.Equal(got, []string{w.theirSite.String()}) {
			t.Errorf("theirs are %v", got)
		}
		if got := list(w.ours, []string{ours[1], w.theirSite.String()}); !slices.Equal(got, ours[1:2]) {
			t.Errorf("who is bound to one sees %v", got)
		}
		if got := list(w.ours, []string{}); len(got) != 0 {
			t.Errorf("who is bound to none sees %v", got)
		}
		_, token, err := w.Statuses(t.Context(), w.ours, 2, "", false, nil)
		must(t, err)
		if _, _, err := w.Statuses(t.Context(), w.ours, 2, token, true, nil); err == nil {
			t.Error("a token of another list is taken")
		}
	})
}
