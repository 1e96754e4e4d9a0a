package site_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

func TestLife(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		if made.State != site.StateCreating || made.Wanted.Generation != 1 {
			t.Fatalf("begins as %+v", made)
		}
		expect := func(t *testing.T, state site.State, generation uint64) {
			t.Helper()
			if got := w.get(t, made.ID); got.State != state || got.Wanted.Generation != generation {
				t.Fatalf("state %d (%s), generation %d; want %d, %d", got.State, got.Problem, got.Wanted.Generation, state, generation)
			}
		}
		step := func(do func(context.Context, contract.OrganizationID, contract.SiteID) (*site.Site, task.Task, error), underway, after site.State, generation uint64) {
			t.Helper()
			if _, _, err := do(ctx, w.organization, made.ID); err != nil {
				t.Fatal(err)
			}
			expect(t, underway, generation)
			if orders := w.work(t, well); len(orders) != 1 || orders[0].GetConvergeSite().GetDesired().GetGeneration() != generation {
				t.Fatalf("the host was ordered %v", orders)
			}
			expect(t, after, generation)
		}
		w.work(t, well)
		expect(t, site.StateActive, 1)
		step(w.sites.Suspend, site.StateUpdating, site.StateSuspended, 2)
		step(w.sites.Resume, site.StateUpdating, site.StateActive, 3)
		step(w.sites.Delete, site.StateTrashed, site.StateTrashed, 4)
		if _, _, err := w.sites.Suspend(ctx, w.organization, made.ID); !errors.Is(err, site.ErrInTrash) {
			t.Errorf("suspend in the trash: %v", err)
		}
		if _, _, err := w.sites.Create(ctx, site.Request{Organization: w.organization, Name: "thief", Type: "static", Domains: []string{"blog.example.com"}}); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "blog.example.com") {
			t.Errorf("took the name of a site in the trash: %v", err)
		}
		step(w.sites.Restore, site.StateUpdating, site.StateActive, 5)
		step(w.sites.Delete, site.StateTrashed, site.StateTrashed, 6)

		if n, err := w.sites.Purge(ctx, time.Now().Add(site.DefaultTrashPeriod-time.Minute)); err != nil || n != 0 {
			t.Fatalf("purged %d too early, %v", n, err)
		}
		if n, err := w.sites.Purge(ctx, time.Now().Add(site.DefaultTrashPeriod+time.Minute)); err != nil || n != 1 {
			t.Fatalf("purged %d, %v", n, err)
		}
		expect(t, site.StateDeleting, 7)
		if _, _, err := w.sites.Restore(ctx, w.organization, made.ID); !errors.Is(err, site.ErrPurging) {
			t.Errorf("restored while it was removed: %v", err)
		}
		w.work(t, well)
		if _, err := w.sites.Get(ctx, w.organization, made.ID); !errors.Is(err, site.ErrNotFound) {
			t.Errorf("after the purge: %v", err)
		}
		again := w.create(t, w.request("blog"))
		if again.ID == made.ID || again.Handle == made.Handle {
			t.Error("a new site took over an old one's id or handle")
		}
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE object = $1`, made.ID); n != 8 {
			t.Errorf("%d audit events", n)
		}
	})
}

func TestCreate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		w.create(t, w.request("first"))

		for name, test := range map[string]struct {
			change func(*site.Request)
			field  string
		}{
			"a name with a space":          {func(r *site.Request) { r.Name = "a b" }, "name"},
			"an unknown type":              {func(r *site.Request) { r.Type = "drupal" }, "type"},
			"no domain":                    {func(r *site.Request) { r.Domains = nil }, "domains"},
			"a domain with a line break":   {func(r *site.Request) { r.Domains = []string{"a.example.com", "b.example.com\n"} }, "domains[1]"},
			"a domain twice":               {func(r *site.Request) { r.Domains = []string{"a.example.com", "A.example.com"} }, "domains[1]"},
			"an unknown setting":           {func(r *site.Request) { r.Settings = map[string]string{"theme": "x"} }, "settings"},
			"a title with a line break":    {func(r *site.Request) { r.Settings = map[string]string{"title": "a\nb"} }, "settings.title"},
			"WordPress without an address": {func(r *site.Request) { r.Type = "wordpress" }, "settings.admin_email"},
			"a strange locale": {func(r *site.Request) {
				r.Type, r.Settings = "wordpress", map[string]string{"admin_email": "a@example.com", "locale": "../x"}
			}, "settings.locale"},
			"a strange administrator": {func(r *site.Request) {
				r.Type, r.Settings = "wordpress", map[string]string{"admin_email": "a@example.com", "admin_user": "-x"}
			}, "settings.admin_user"},
			"too little memory":    {func(r *site.Request) { r.Limits.MemoryBytes = 1 }, "limits.memory_bytes"},
			"a hostile request id": {func(r *site.Request) { r.RequestID = "a;b" }, "request_id"},
		} {
			t.Run("refuses "+name, func(t *testing.T) {
				r := w.request("second")
				test.change(&r)
				var f *fault.Fault
				if _, _, err := w.sites.Create(ctx, r); !errors.As(err, &f) || f.Kind() != fault.KindInvalid || f.Field() != test.field {
					t.Errorf("got %v", err)
				}
			})
		}
		t.Run("refuses a name already taken", func(t *testing.T) {
			r := w.request("first")
			r.Domains = []string{"new.example.com"}
			if _, _, err := w.sites.Create(ctx, r); !errors.Is(err, site.ErrNameTaken) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("lets another organization use the name, but not the domain", func(t *testing.T) {
			r := w.request("first")
			r.Organization = w.stranger
			if _, _, err := w.sites.Create(ctx, r); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "first.example.com") {
				t.Errorf("got %v", err)
			}
			r.Domains = []string{"theirs.example.com"}
			if _, _, err := w.sites.Create(ctx, r); err != nil {
				t.Error(err)
			}
		})
		t.Run("refuses an organization that is not there", func(t *testing.T) {
			r := w.request("ghost")
			r.Organization = contract.NewOrganizationID()
			if _, _, err := w.sites.Create(ctx, r); !errors.Is(err, organization.ErrNotFound) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("leaves nothing of what was refused", func(t *testing.T) {
			if sites, tasks, domains := w.count(t, `SELECT COUNT(*) FROM sites`), w.count(t, `SELECT COUNT(*) FROM tasks`), w.count(t, `SELECT COUNT(*) FROM domains`); sites != 2 || tasks != 2 || domains != 2 {
				t.Errorf("%d sites, %d tasks, %d domains", sites, tasks, domains)
			}
		})
		t.Run("fills in what a WordPress site needs", func(t *testing.T) {
			r := w.request("shop")
			r.Type, r.Settings = "wordpress", map[string]string{"admin_email": "Anna@Example.com", "title": `Anna's "shop"; $(id)`}
			made := w.create(t, r)
			want := map[string]string{"title": `Anna's "shop"; $(id)`, "admin_user": "admin", "admin_email": "Anna@example.com", "locale": "en_US"}
			if fmt.Sprint(made.Wanted.Settings) != fmt.Sprint(want) || made.Wanted.Archive == nil || made.Wanted.Archive.Version != "6.8.1" {
				t.Errorf("got %+v", made.Wanted)
			}
		})
	})
}

// TestCrowd has everybody make and change sites on one server at once.
func TestCrowd(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		const sites = 40
		var wg sync.WaitGroup
		for i := range sites {
			wg.Go(func() {
				made, _, err := w.sites.Create(t.Context(), w.request(fmt.Sprintf("s%d", i)))
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				if _, _, err := w.sites.Suspend(t.Context(), w.organization, made.ID); err != nil {
					t.Errorf("suspend: %v", err)
				}
			})
		}
		wg.Wait()
		if n := w.count(t, `SELECT COUNT(*) FROM sites WHERE generation = 2`); n != sites {
			t.Errorf("%d sites", n)
		}
	})
}

func TestRequestID(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		r := w.request("blog")
		r.RequestID = "order-1"
		type answer struct {
			site contract.SiteID
			task string
		}
		var mu sync.Mutex
		answers := map[answer]int{}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				made, ordered, err := w.sites.Create(t.Context(), r)
				if err != nil {
					t.Errorf("a repeat: %v", err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				answers[answer{made.ID, ordered.ID}]++
			})
		}
		wg.Wait()
		if len(answers) != 1 {
			t.Errorf("%d different answers: %v", len(answers), answers)
		}
		if sites, tasks := w.count(t, `SELECT COUNT(*) FROM sites`), w.count(t, `SELECT COUNT(*) FROM tasks`); sites != 1 || tasks != 1 {
			t.Errorf("%d sites, %d tasks", sites, tasks)
		}
		r.Domains = append(r.Domains, "www.blog.example.com")
		if _, _, err := w.sites.Create(t.Context(), r); !errors.Is(err, site.ErrRequestID) {
			t.Errorf("the same id with other content: %v", err)
		}
		r.Organization = w.stranger
		r.Domains = []string{"elsewhere.example.com"}
		if made, _, err := w.sites.Create(t.Context(), r); err != nil || made.Organization != w.stranger {
			t.Errorf("the same id of another organization: %v", err)
		}
	})
}

func TestUpdate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		r := w.request("shop")
		r.Type, r.Settings = "wordpress", map[string]string{"admin_email": "a@example.com", "title": "Old"}
		made := w.create(t, r)
		w.create(t, w.request("other"))
		w.work(t, well)

		t.Run("changes what is named and leaves the rest", func(t *testing.T) {
			_, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{
				Domains: []string{"new.example.com", "shop.example.com"}, Settings: map[string]string{"title": "New"},
			})
			if err != nil {
				t.Fatal(err)
			}
			got := w.get(t, made.ID)
			if got.Wanted.Domains[0].String() != "new.example.com" || got.Wanted.Settings["title"] != "New" || got.Wanted.Settings["admin_email"] != "a@example.com" {
				t.Errorf("got %+v", got.Wanted)
			}
			if orders := w.work(t, well); len(orders) != 1 || orders[0].GetConvergeSite().GetDesired().GetSettings()["title"] != "New" {
				t.Errorf("the host was ordered %v", orders)
			}
		})
		t.Run("frees the domains that are not wanted any more", func(t *testing.T) {
			if _, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{Domains: []string{"new.example.com"}}); err != nil {
				t.Fatal(err)
			}
			next := w.request("next")
			next.Domains = []string{"shop.example.com"}
			w.create(t, next)
			w.work(t, well)
		})
		before := w.get(t, made.ID)
		for name, change := range map[string]site.Change{
			"another site's domain":      {Domains: []string{"other.example.com"}, Settings: map[string]string{"title": "Newer"}},
			"a fixed setting":            {Settings: map[string]string{"admin_user": "root"}},
			"no domain at all":           {Domains: []string{}},
			"nothing":                    {},
			"limits that nobody can set": {Limits: &site.Limits{CPUPercent: 1 << 20}},
		} {
			t.Run("refuses "+name+", with no effect", func(t *testing.T) {
				if _, _, err := w.sites.Update(ctx, w.organization, made.ID, change); fault.KindOf(err) != fault.KindInvalid && fault.KindOf(err) != fault.KindConflict {
					t.Errorf("got %v", err)
				}
				if after := w.get(t, made.ID); !reflect.DeepEqual(after.Wanted, before.Wanted) {
					t.Errorf("became %+v", after.Wanted)
				}
			})
		}
	})
}

func TestFailure(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		w.work(t, badly)
		if got := w.get(t, made.ID); got.State != site.StateFailed || !strings.HasPrefix(got.Problem, "the disk is full; it is tried again at ") {
			t.Errorf("after a failure: %d %q", got.State, got.Problem)
		}
		if _, _, err := w.sites.Resume(ctx, w.organization, made.ID); err != nil {
			t.Fatal(err)
		}
		w.work(t, well)
		if got := w.get(t, made.ID); got.State != site.StateActive || got.Problem != "" {
			t.Errorf("after the next try: %d %q", got.State, got.Problem)
		}
		// The removal fails; it is tried again, but not in a loop.
		if _, _, err := w.sites.Delete(ctx, w.organization, made.ID); err != nil {
			t.Fatal(err)
		}
		w.work(t, well)
		later := time.Now().Add(8 * 24 * time.Hour)
		if _, err := w.sites.Purge(ctx, later); err != nil {
			t.Fatal(err)
		}
		w.work(t, badly)
		if n, err := w.sites.Purge(ctx, later); err != nil || n != 0 {
			t.Errorf("purged twice: %d, %v", n, err)
		}
		if n := w.after(t, 30*time.Second); n != 0 {
			t.Errorf("tried again at once: %d", n)
		}
		if n := w.after(t, time.Hour); n != 1 {
			t.Errorf("did not try again: %d", n)
		}
		w.work(t, well)
		if n := w.count(t, `SELECT COUNT(*) FROM sites`); n != 0 {
			t.Errorf("%d sites left", n)
		}
	})
}

// TestETag has two people change a site that both have looked at.
func TestETag(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		seen := w.get(t, made.ID).ETag()
		w.work(t, well)
		if got := w.get(t, made.ID).ETag(); got != seen {
			t.Errorf("the host's work changed it from %s to %s", seen, got)
		}
		var won, late atomic.Int64
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				_, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{ETag: seen, Limits: &site.Limits{CPUPercent: uint32(50 + i)}})
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, site.ErrChanged) && fault.KindOf(err) == fault.KindChanged:
					late.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 || late.Load() != 19 || w.get(t, made.ID).Wanted.Generation != 2 {
			t.Errorf("%d changed it, %d were late, generation %d", won.Load(), late.Load(), w.get(t, made.ID).Wanted.Generation)
		}
		if _, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{Limits: &site.Limits{CPUPercent: 50}}); err != nil {
			t.Errorf("without one: %v", err)
		}
	})
}
