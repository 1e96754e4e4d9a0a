package site_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

func TestEvents(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		made := w.create(t, w.request("blog"))
		w.work(t, well)
		neighbour := w.create(t, w.request("shop"))
		list := func(t *testing.T, organization contract.OrganizationID, size int32) (all []site.Event, pages int) {
			t.Helper()
			for token := ""; ; pages++ {
				some, next, err := w.sites.Events(t.Context(), organization, made.ID, size, token)
				if err != nil {
					t.Fatal(err)
				}
				if all = append(all, some...); next == "" {
					return all, pages + 1
				}
				token = next
			}
		}
		t.Run("begin with the task that made it", func(t *testing.T) {
			all, _ := list(t, w.organization, 0)
			if len(all) != 1 || all[0].Kind != site.EventChange || all[0].Outcome != site.EventDone || all[0].TaskID != all[0].ID || all[0].Ended.IsZero() {
				t.Errorf("got %+v", all)
			}
		})

		now := time.Now()
		hour := func(n int) int64 { return db.Micros(now.Add(time.Duration(n-100) * time.Hour)) }
		for i, of := range []*site.Site{made, neighbour} {
			id := func(name string) string { return fmt.Sprint(name, i) }
			exec(t, d, `INSERT INTO backups (organization_id, id, site_id, sequence, state, reason, problem, task_id, draft, put, claim, tries, created_at, checked_at)
				VALUES ($1, $2, $3, 1, 'ready', 'scheduled', '', 'tb', $4, TRUE, '', 0, $5, $6)`, w.organization, id("b1"), of.ID, []byte{}, hour(1), hour(2))
			exec(t, d, `INSERT INTO backups (organization_id, id, site_id, sequence, state, reason, problem, task_id, draft, put, claim, tries, created_at)
				VALUES ($1, $2, $3, 0, 'failed', 'requested', 'no room', 'tb2', $4, FALSE, '', 0, $5)`, w.organization, id("b2"), of.ID, []byte{}, hour(3))
			exec(t, d, `INSERT INTO drills (organization_id, id, site_id, backup_id, state, problem, mailed, task_id, created_at)
				VALUES ($1, $2, $3, 'b1', 'running', '', FALSE, '', $4)`, w.organization, id("d"), of.ID, hour(4))
			exec(t, d, `INSERT INTO restores (organization_id, id, site_id, backup_id, with_files, with_database, state, undone, problem, task_id, created_at, ended_at)
				VALUES ($1, $2, $3, 'b1', TRUE, TRUE, 'done', TRUE, '', 'tr', $4, $5)`, w.organization, id("r"), of.ID, hour(5), hour(6))
			for _, name := range []string{"a.example", "b.example", "c.example"} { // one certificate for all: one moment
				exec(t, d, `INSERT INTO certificates (organization_id, site_id, name, observed, observed_at, failures, valid, begins_at, ends_at, lost_at, decide_at, mailed_end, mailed_marks, mailed_lost, mailed_at)
					VALUES ($1, $2, $3, $4, 0, 0, FALSE, $5, $6, $7, 0, 0, 0, 0, 0)`, w.organization, of.ID, name, []byte{}, hour(7), hour(8), hour(8))
			}
		}
		t.Run("come from all tables, newest first", func(t *testing.T) {
			all, _ := list(t, w.organization, 0)
			var got []string
			for _, e := range all[1:] {
				got = append(got, fmt.Sprint(e.Kind, " ", e.Outcome, " ", e.Subject, " ", e.Problem))
			}
			lost := "it is not served with a valid certificate any more"
			want := []string{
				"certificate_lost failed a.example " + lost, "certificate_lost failed b.example " + lost, "certificate_lost failed c.example " + lost,
				"certificate done a.example ", "certificate done b.example ", "certificate done c.example ",
				"restore done undone ", "drill running  ", "backup failed requested no room", "backup done scheduled ",
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q\nwant %q", got, want)
			}
		})
		t.Run("are the same in pages of any size", func(t *testing.T) {
			want, _ := list(t, w.organization, 0)
			for size := int32(1); size <= 12; size++ {
				got, pages := list(t, w.organization, size)
				if !slices.Equal(got, want) || pages != (len(want)+int(size)-1)/int(size) {
					t.Errorf("of %d: %d events in %d pages, want %d", size, len(got), pages, len(want))
				}
			}
		})
		t.Run("are nobody else's", func(t *testing.T) {
			if _, _, err := w.sites.Events(t.Context(), w.stranger, made.ID, 0, ""); fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("got %v", err)
			}
		})
		t.Run("refuse a token of another list", func(t *testing.T) {
			_, token, err := w.sites.Events(t.Context(), w.organization, made.ID, 1, "")
			if err != nil || token == "" {
				t.Fatal(token, err)
			}
			for _, bad := range []string{token[:10], "x"} {
				if _, _, err := w.sites.Events(t.Context(), w.organization, made.ID, 1, bad); fault.KindOf(err) != fault.KindInvalid {
					t.Errorf("%s: %v", bad, err)
				}
			}
			if _, _, err := w.sites.Events(t.Context(), w.organization, neighbour.ID, 1, token); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestOutages(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		made := w.create(t, w.request("blog"))
		say := func(t *testing.T, server contract.ServerID, generation uint64, status uint32) {
			t.Helper()
			seen := holding(made.ID.String(), generation, sitev1.Phase_PHASE_ACTIVE)
			seen.HttpStatus = status
			if err := w.sites.Observe(t.Context(), server, []*sitev1.ObservedState{seen}); err != nil {
				t.Fatal(err)
			}
		}
		outages := func(t *testing.T) (all []site.Event) {
			t.Helper()
			events, _, err := w.sites.Events(t.Context(), w.organization, made.ID, 0, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if e.Kind == site.EventDown {
					all = append(all, e)
				}
			}
			return all
		}
		t.Run("are none while a site is made", func(t *testing.T) {
			say(t, w.server, 0, 0)
			if got := outages(t); len(got) != 0 {
				t.Errorf("got %+v", got)
			}
		})
		w.work(t, well)
		t.Run("begin once, however often it is measured", func(t *testing.T) {
			say(t, w.server, 1, 200)
			say(t, w.server, 1, 502)
			say(t, w.server, 1, 0)
			got := outages(t)
			if len(got) != 1 || got[0].Outcome != site.EventRunning || got[0].Problem != "the home page answered with status 502" || !got[0].Ended.IsZero() {
				t.Errorf("got %+v", got)
			}
		})
		t.Run("are not another server's to tell", func(t *testing.T) {
			say(t, addServer(t, d, "liar"), 1, 200)
			if got := outages(t); len(got) != 1 || got[0].Outcome != site.EventRunning {
				t.Errorf("got %+v", got)
			}
		})
		t.Run("end when it answers, be it that a page is missing", func(t *testing.T) {
			say(t, w.server, 1, 404)
			if got := outages(t); len(got) != 1 || got[0].Outcome != site.EventDone || got[0].Ended.IsZero() {
				t.Errorf("got %+v", got)
			}
		})
		t.Run("end when it is not wanted any more", func(t *testing.T) {
			say(t, w.server, 1, 500)
			if _, _, err := w.sites.Suspend(t.Context(), w.organization, made.ID); err != nil {
				t.Fatal(err)
			}
			say(t, w.server, 1, 503)
			if got := outages(t); len(got) != 2 || got[0].Outcome != site.EventDone {
				t.Errorf("got %+v", got)
			}
		})
	})
}
