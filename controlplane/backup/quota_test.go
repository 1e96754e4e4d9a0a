package backup

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// hostOf gives the way of another site's host to its repository, in the world's store.
func (w *world) hostOf(t *testing.T, s store.Store, organization contract.OrganizationID, site contract.SiteID) *host {
	t.Helper()
	repository := store.NewServer(s, w, slog.New(slog.NewTextHandler(t.Output(), nil))).Repository(organization, site)
	met := make(chan struct{}, 1)
	door := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		repository.ServeHTTP(&meeting{rw, met}, r)
	}))
	t.Cleanup(door.Close)
	key, err := w.Key(t.Context(), organization, site)
	must(t, err)
	h := &host{url: door.URL, key: key, dir: t.TempDir(), met: met}
	h.restic(t, "", "init", "--repository-version=2")
	return h
}

// meeting tells of a quota that was met.
type meeting struct {
	http.ResponseWriter
	met chan<- struct{}
}

func (m *meeting) WriteHeader(status int) {
	if status == http.StatusInsufficientStorage {
		select {
		case m.met <- struct{}{}:
		default: // it was told
		}
	}
	m.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (m *meeting) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// errQuota is how a host ends that was turned away.
var errQuota = errors.New("the quota is used up")

// tries has a host back up so many bytes that nobody has seen before, so many pieces of about 4 MiB at once. A host that is turned
// away gives up at once, as agents do: restic alone would go on for a quarter of an hour.
func (h *host) tries(ctx context.Context, n, atOnce int) error {
	content := make([]byte, n)
	_, _ = rand.Read(content) // it never fails
	if err := os.WriteFile(filepath.Join(h.dir, "page"), content, 0o600); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-h.met:
			stop(errQuota)
		case <-ctx.Done():
		}
	}()
	_, err := h.run(ctx, "", "backup", "--pack-size=4", fmt.Sprintf("--option=rest.connections=%d", atOnce), "page")
	if errors.Is(context.Cause(ctx), errQuota) {
		_, unlocked := h.run(context.WithoutCancel(ctx), "", "unlock", "--remove-all") // what was killed has left its lock
		return errors.Join(errQuota, unlocked)
	}
	return err
}

// quota sets that of an organization; -1 takes it away.
func (w *world) quota(t *testing.T, organization contract.OrganizationID, n int64) {
	t.Helper()
	w.exec(t, `UPDATE organizations SET backup_quota = $2, backup_refused_at = NULL WHERE id = $1`, organization, sql.NullInt64{Int64: n, Valid: n >= 0})
}

func (w *world) used(t *testing.T, organization contract.OrganizationID) int64 {
	t.Helper()
	used, _, err := w.UseOf(t.Context(), organization)
	must(t, err)
	return int64(used)
}

// TestQuota has the real restic meet the quota at the real door.
func TestQuota(t *testing.T) {
	dbtest.AtOnce(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		s := openDisk(t, filepath.Join(t.TempDir(), "backups"))
		h := w.over(t, s)
		theirs := w.hostOf(t, s, w.theirs, w.theirSite)
		good := w.makeBackups(t, h, s, 1)[0]
		stored := func(t *testing.T) int64 {
			t.Helper()
			n, err := s.Usage(t.Context(), store.Repository{Organization: w.ours, Site: w.site})
			must(t, err)
			return n
		}
		// full has our host meet a quota that leaves so much room.
		full := func(t *testing.T, room int64) {
			t.Helper()
			w.quota(t, w.ours, w.used(t, w.ours)+room)
			if err := h.tries(t.Context(), 24<<20, 1); !errors.Is(err, errQuota) {
				t.Fatalf("it ends with %v", err)
			}
		}

		t.Run("what is put counts at once, and what was measured counts from then on", func(t *testing.T) {
			before := w.used(t, w.ours)
			must(t, h.tries(t.Context(), 9<<20, 1))
			if by := w.used(t, w.ours) - before; by < 9<<20 || by > 10<<20 {
				t.Errorf("9 MiB count as %d bytes", by)
			}
			w.keeps(t, time.Now())
			if used := w.used(t, w.ours); used != stored(t) {
				t.Errorf("%d bytes count after they were measured, and %d are there", used, stored(t))
			}
			w.exec(t, `UPDATE repositories SET put_bytes = put_bytes + 1000000 WHERE site_id = $1`, w.site) // a piece that came twice
			w.keeps(t, time.Now())
			if used := w.used(t, w.ours); used != stored(t) {
				t.Errorf("%d bytes count, and %d are there", used, stored(t))
			}
		})

		t.Run("what hosts put while a repository is measured is not lost", func(t *testing.T) {
			r, err := w.open(t.Context(), w.ours, w.site)
			must(t, err)
			measured, err := w.sizeOf(t.Context(), r)
			must(t, err)
			w.Took(t.Context(), r.place(), store.Data, 5000)
			must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error { return measured.save(t.Context(), tx, w.ours, w.site) }))
			if used := w.used(t, w.ours); used != int64(measured.bytes)+5000 {
				t.Errorf("%d bytes count, of %d and 5000", used, measured.bytes)
			}
			w.keeps(t, time.Now())
		})

		t.Run("above it no data is taken, and whoever asks is told why", func(t *testing.T) {
			full(t, 10<<20)
			_, quota, err := w.UseOf(t.Context(), w.ours)
			must(t, err)
			if used := w.used(t, w.ours); used > int64(quota) || stored(t) > int64(quota) {
				t.Errorf("%d count, %d are there, and %d may be", used, stored(t), quota)
			}
			err = w.Admit(t.Context(), store.Repository{Organization: w.ours, Site: w.site}, store.Data, 16<<20)
			want := fmt.Sprintf("the organization's %s for backups are full: %s are used; remove backups, shorten the retention, or ask for more",
				sizeText(int64(quota)), sizeText(w.used(t, w.ours)))
			if err == nil || err.Error() != want {
				t.Errorf("it says %v, and should say %s", err, want)
			}
			status, err := w.StatusOf(t.Context(), w.ours, w.site)
			must(t, err)
			if status.Quota != quota || int64(status.Used) != w.used(t, w.ours) {
				t.Errorf("the status says %d of %d", status.Used, status.Quota)
			}
		})

		t.Run("above it backups are read, proven and removed", func(t *testing.T) {
			w.quota(t, w.ours, 1)
			w.whole(t, good)
			h.restic(t, "", "restore", "latest", "--target", t.TempDir()) // with its lock
			_, err := w.Drill(t.Context(), w.ours, w.site, good.ID)
			must(t, err)
			w.work(t, well)
			more := w.count(t, `SELECT COUNT(*) FROM drills WHERE state <> 'running'`)
			if more != 1 {
				t.Errorf("%d drills ended", more)
			}
			must(t, w.Admit(t.Context(), store.Repository{Organization: w.ours, Site: w.site}, store.Locks, 200))
		})

		t.Run("what was begun in vain is removed, though nothing has expired", func(t *testing.T) {
			w.quota(t, w.ours, -1)
			w.keeps(t, time.Now())
			before := stored(t)
			full(t, 10<<20)
			if left := stored(t) - before; left < 4<<20 {
				t.Fatalf("%d bytes were stored before the quota was met", left)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM repositories WHERE site_id = $1 AND leftovers AND keep_at <= $2`, w.site, db.Micros(time.Now())); n != 1 {
				t.Error("nobody looks after what is left")
			}
			more, err := w.keepNext(t.Context(), time.Now())
			must(t, err)
			if !more {
				t.Error("nothing was due")
			}
			if left := stored(t) - before; left > 1<<20 {
				t.Errorf("%d bytes are left of it", left)
			}
			w.whole(t, good)
		})

		t.Run("a backup before a restore is made whatever is used", func(t *testing.T) {
			w.quota(t, w.ours, 1)
			restore, err := w.Restore(t.Context(), w.ours, w.site, good.ID, Parts{})
			must(t, err)
			must(t, h.tries(t.Context(), 6<<20, 1))
			w.exec(t, `UPDATE backups SET state = 'failed' WHERE id = $1`, restore.Before)
			if err := w.Admit(t.Context(), store.Repository{Organization: w.ours, Site: w.site}, store.Data, 1); err == nil {
				t.Error("after it still everything is taken")
			}
		})

		t.Run("another organization is not touched", func(t *testing.T) {
			w.quota(t, w.ours, 1)
			must(t, theirs.tries(t.Context(), 9<<20, 1))
			if used := w.used(t, w.theirs); used < 9<<20 {
				t.Errorf("%d bytes of theirs count", used)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM organizations WHERE id = $1 AND backup_refused_at IS NOT NULL`, w.theirs); n != 0 {
				t.Error("they are told of our quota")
			}
		})

		t.Run("one that is set goes before the platform's own", func(t *testing.T) {
			w.config.Quota = 1
			defer func() { w.config.Quota = 0 }()
			r := store.Repository{Organization: w.theirs, Site: w.theirSite}
			if err := w.Admit(t.Context(), r, store.Data, 1); err == nil {
				t.Error("the platform's own is none")
			}
			w.quota(t, w.theirs, 0)
			must(t, w.Admit(t.Context(), r, store.Data, 1))
			w.quota(t, w.theirs, -1)
		})
	})
}

// TestQuotaOfTwo has two sites of an organization near its quota at the same time. What both may have on its way is what restic
// puts at once by default, from each of them: five pieces.
func TestQuotaOfTwo(t *testing.T) {
	const inFlight = 2 * 5 * 9 << 20 // a piece of 4 MiB is closed by the chunk that makes it larger, of at most 8 MiB
	dbtest.AtOnce(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		s := openDisk(t, filepath.Join(t.TempDir(), "backups"))
		h := w.over(t, s)
		second := w.addSite(t, w.ours, "second")
		other := w.hostOf(t, s, w.ours, second)
		quota := w.used(t, w.ours) + 40<<20
		w.quota(t, w.ours, quota)
		var both sync.WaitGroup
		for _, h := range []*host{h, other} {
			both.Go(func() {
				if err := h.tries(t.Context(), 160<<20, 5); !errors.Is(err, errQuota) {
					t.Errorf("it ends with %v", err)
				}
			})
		}
		both.Wait()
		there := int64(0)
		for _, site := range []contract.SiteID{w.site, second} {
			n, err := s.Usage(t.Context(), store.Repository{Organization: w.ours, Site: site})
			must(t, err)
			there += n
		}
		if there < quota/2 || there > quota+inFlight {
			t.Errorf("%d bytes are there, of %d that may be", there, quota)
		}
		t.Logf("%.1f MiB are above the quota", float64(there-quota)/(1<<20))
	})
}

func TestFilled(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		used, quota int64
		refused     time.Time
		want        fill
	}{
		"no quota":                        {1000, 0, now, roomy},
		"much room":                       {79, 100, time.Time{}, roomy},
		"four fifths":                     {80, 100, time.Time{}, nearly},
		"all":                             {100, 100, time.Time{}, full},
		"one was turned away":             {10, 100, now.Add(-25 * time.Hour), full},
		"that was long ago":               {10, 100, now.Add(-27 * time.Hour), roomy},
		"by a clock that has been set on": {10, 100, now.Add(1000 * time.Hour), roomy},
		"a very large one":                {1 << 50, 1 << 50, time.Time{}, full},
	} {
		if got := filled(now, c.used, c.quota, c.refused); got != c.want {
			t.Errorf("%s: %v, not %v", name, got, c.want)
		}
	}
	for _, c := range []struct {
		is, told fill
		tell     bool
		next     fill
	}{
		{roomy, roomy, false, roomy}, {nearly, roomy, true, nearly}, {nearly, nearly, false, nearly}, {full, nearly, true, full}, {full, roomy, true, full},
		{nearly, full, false, full}, {full, full, false, full}, {roomy, full, false, roomy},
	} {
		if tell, next := news(c.is, c.told); tell != c.tell || next != c.next {
			t.Errorf("%v after %v was told: %v, %v", c.is, c.told, tell, next)
		}
	}
}

func TestWarnQuotas(t *testing.T) {
	dbtest.AtOnce(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.one(t)
		w.exec(t, `
			INSERT INTO webhooks (organization_id, id, url, description, events, enabled, problem, sealed_secret, created_at, updated_at)
			VALUES ($1, $2, 'https://hooks.example.com', '', '', TRUE, '', $3, 1, 1)`, w.ours, contract.NewSiteID(), []byte{0})
		now := time.Now()
		expect := func(what string, at time.Time, used, quota int64, want ...string) {
			t.Helper()
			w.exec(t, `UPDATE repositories SET bytes = $1, put_bytes = 0, measured_put_bytes = 0 WHERE organization_id = $2`, used, w.ours)
			w.exec(t, `UPDATE organizations SET backup_quota = $2 WHERE id = $1`, w.ours, quota)
			for range 2 { // the second time there is no news
				must(t, w.warnQuotas(t.Context(), at))
			}
			if got := w.mailed(t); !slices.Equal(got, want) {
				t.Errorf("%s: mailed %v, want %v", what, got, want)
			}
		}
		in := func(label string) float64 { return testutil.ToFloat64(w.gauges.quotas.WithLabelValues(label)) }
		expect("no quota", now, 1000, 0)
		expect("much room", now, 10, 100)
		if in("roomy") != 1 || in("full") != 0 {
			t.Error("the metric says otherwise")
		}
		expect("four fifths", now, 80, 100, "backup_quota_near acme@example.com")
		expect("a little more", now, 90, 100)
		must(t, w.refused(t.Context(), store.Repository{Organization: w.ours, Site: w.site}, now))
		expect("one was turned away", now, 90, 100, "backup_quota_full acme@example.com")
		if in("full") != 1 {
			t.Error("the metric says otherwise")
		}
		expect("a day later", now.Add(27*time.Hour), 90, 100)
		expect("room again", now.Add(27*time.Hour), 10, 100)
		expect("all at once", now.Add(28*time.Hour), 100, 100, "backup_quota_full acme@example.com")
		expect("more is given", now.Add(28*time.Hour), 100, 1000)
		if n := w.count(t, `SELECT COUNT(*) FROM webhook_deliveries WHERE type = $1`, string(webhook.BackupQuota)); n != 3 {
			t.Errorf("%d events", n)
		}
	})
}

// TestForgetDrills has old drills deleted by who looks after repositories.
func TestForgetDrills(t *testing.T) {
	dbtest.AtOnce(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		b := w.one(t)
		add := func(organization contract.OrganizationID, site contract.SiteID, state string) string {
			id := contract.NewDrillID().String()
			w.exec(t, `
				INSERT INTO drills (organization_id, id, site_id, backup_id, state, problem, mailed, task_id, created_at, ended_at)
				VALUES ($1, $2, $3, $4, $5, '', FALSE, '', 1, 2)`, organization, id, site, b.ID, state)
			return id
		}
		add(w.ours, w.site, "passed")
		proven := add(w.ours, w.site, "passed")
		old := add(w.ours, w.site, "failed")
		for range drillsKept {
			add(w.ours, w.site, "failed")
			add(w.theirs, w.theirSite, "failed")
		}
		foreign := add(w.theirs, w.theirSite, "failed")
		w.keeps(t, time.Now())
		if n := w.count(t, `SELECT COUNT(*) FROM drills WHERE organization_id = $1`, w.ours); n != drillsKept+1 {
			t.Errorf("%d drills are kept", n)
		}
		for id, want := range map[string]int{proven: 1, old: 0, foreign: 1} {
			if n := w.count(t, `SELECT COUNT(*) FROM drills WHERE id = $1`, id); n != want {
				t.Errorf("of %s there are %d", id, n)
			}
		}
		if n := w.count(t, `SELECT COUNT(*) FROM drills WHERE organization_id = $1`, w.theirs); n != drillsKept+1 {
			t.Errorf("%d drills of a repository that is not looked after", n)
		}
	})
}
