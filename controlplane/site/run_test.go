package site_test

import (
	"errors"
	"testing"
	"time"

	"chom.dev/controlplane/clock/clocktest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// TestClockSet is I08: whatever somebody sets the clock to, nobody's site is purged before its time in the trash has passed.
func TestClockSet(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		trashed := func(name string) contract.SiteID {
			t.Helper()
			made := w.create(t, w.request(name))
			w.work(t, well)
			if _, _, err := w.sites.Delete(ctx, w.organization, made.ID); err != nil {
				t.Fatal(err)
			}
			w.work(t, well)
			return made.ID
		}
		there := func(t *testing.T, id contract.SiteID, when string) {
			t.Helper()
			w.work(t, well) // what was ordered is done
			if _, err := w.sites.Get(ctx, w.organization, id); err != nil {
				t.Errorf("%s the site is gone: %v", when, err)
			}
		}
		gone := func(t *testing.T, id contract.SiteID, when string) {
			t.Helper()
			w.work(t, well)
			if _, err := w.sites.Get(ctx, w.organization, id); !errors.Is(err, site.ErrNotFound) {
				t.Errorf("%s the site is still there: %v", when, err)
			}
		}

		t.Run("nothing leaves the trash in the first hour after a start", func(t *testing.T) {
			id := trashed("early")
			start := time.Now().Add(10 * year) // whoever starts with such a clock sees no jump
			look := w.sites.Looks(start)
			look(ctx, start.Add(59*time.Minute))
			there(t, id, "after 59 minutes")
			look(ctx, start.Add(time.Hour))
			gone(t, id, "after an hour")
		})

		for name, by := range map[string]time.Duration{
			"an hour ahead": time.Hour, "an hour back": -time.Hour, "ten years ahead": 10 * year, "ten years back": -10 * year,
		} {
			t.Run(name, func(t *testing.T) {
				id := trashed("kept")
				start := time.Now()
				look := w.sites.Looks(start)
				look(ctx, start.Add(6*day))
				look(ctx, clocktest.Set(t, start.Add(6*day+time.Minute), by))
				look(ctx, clocktest.Set(t, start.Add(13*day), by))
				there(t, id, "a day before its new time is over")
				look(ctx, start.Add(13*day+time.Hour)) // and set right
				look(ctx, start.Add(20*day))
				there(t, id, "a day before that is over again")
				look(ctx, start.Add(20*day+2*time.Hour))
				gone(t, id, "at last")
			})
		}

		t.Run("a little is no jump", func(t *testing.T) {
			id := trashed("little")
			start := time.Now()
			look := w.sites.Looks(start)
			look(ctx, clocktest.Set(t, start.Add(6*day), 4*time.Minute))
			look(ctx, clocktest.Set(t, start.Add(7*day), 4*time.Minute))
			gone(t, id, "after its seven days")
		})

		t.Run("a database that does not answer keeps the trash", func(t *testing.T) {
			id := trashed("locked")
			start := time.Now()
			look := w.sites.Looks(start)
			exec(t, d, `ALTER TABLE sites RENAME COLUMN purge_at TO elsewhere`)
			look(ctx, clocktest.Set(t, start.Add(time.Minute), 10*year))
			exec(t, d, `ALTER TABLE sites RENAME COLUMN elsewhere TO purge_at`)
			look(ctx, clocktest.Set(t, start.Add(2*time.Hour), 10*year))
			there(t, id, "once it answers again")
			look(ctx, clocktest.Set(t, start.Add(2*time.Hour+7*day), 10*year))
			gone(t, id, "after its seven days")
		})
	})
}
