package site_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

func TestObserve(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		w.work(t, well)
		id := made.ID.String()

		t.Run("takes in what the site's own server measured", func(t *testing.T) {
			down := holding(id, 1, sitev1.Phase_PHASE_ACTIVE)
			down.HttpStatus = 0
			if err := w.sites.Observe(ctx, w.server, []*sitev1.ObservedState{down}); err != nil {
				t.Fatal(err)
			}
			if got := w.get(t, made.ID); got.State != site.StateFailed || got.Problem != "the home page did not answer" {
				t.Errorf("got %d %q", got.State, got.Problem)
			}
			if err := w.sites.Observe(ctx, w.server, []*sitev1.ObservedState{holding(id, 1, sitev1.Phase_PHASE_ACTIVE)}); err != nil {
				t.Fatal(err)
			}
		})
		liar := addServer(t, d, "liar")
		t.Run("ignores another server", func(t *testing.T) {
			if err := w.sites.Observe(ctx, liar, []*sitev1.ObservedState{holding(id, 9, sitev1.Phase_PHASE_ABSENT)}); err != nil {
				t.Fatal(err)
			}
			if got := w.get(t, made.ID); got.State != site.StateActive || got.Observed.Generation != 1 {
				t.Errorf("got %d, %+v", got.State, got.Observed)
			}
		})
		t.Run("ignores a generation that no counting gives", func(t *testing.T) {
			if err := w.sites.Observe(ctx, w.server, []*sitev1.ObservedState{holding(id, 1<<63, sitev1.Phase_PHASE_ACTIVE)}); err != nil {
				t.Fatal(err)
			}
			if got := w.get(t, made.ID); got.Observed.Generation != 1 {
				t.Errorf("got %+v", got.Observed)
			}
		})
		t.Run("ignores a site that is not there", func(t *testing.T) {
			if err := w.sites.Observe(ctx, w.server, []*sitev1.ObservedState{holding(contract.NewSiteID().String(), 1, sitev1.Phase_PHASE_ACTIVE)}); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestHold(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		hold := func(holdings ...*sitev1.ObservedState) []contract.SiteID {
			t.Helper()
			ordered, err := w.sites.Hold(ctx, w.server, holdings)
			if err != nil {
				t.Fatal(err)
			}
			return ordered
		}
		if ordered := hold(); len(ordered) != 0 {
			t.Errorf("ordered again although a task is open: %v", ordered)
		}
		w.work(t, well)
		id := made.ID.String()
		if ordered := hold(holding(id, 1, sitev1.Phase_PHASE_ACTIVE)); len(ordered) != 0 {
			t.Errorf("ordered again although the host holds it: %v", ordered)
		}
		if ordered := hold(); len(ordered) != 1 {
			t.Errorf("the host lost the site, and was ordered %v", ordered)
		}
		if ordered := hold(); len(ordered) != 0 {
			t.Errorf("ordered twice: %v", ordered)
		}
		w.work(t, well)

		// The database was restored from before generation 7.
		if ordered := hold(holding(id, 7, sitev1.Phase_PHASE_SUSPENDED)); len(ordered) != 0 {
			t.Errorf("a host that knows more was ordered %v", ordered)
		}
		got := w.get(t, made.ID)
		if got.State != site.StateFailed || !strings.HasPrefix(got.Problem, "the host holds generation 7, newer than 1") {
			t.Errorf("got %d %q", got.State, got.Problem)
		}
		changed, _, err := w.sites.Resume(ctx, w.organization, made.ID)
		if err != nil || changed.Wanted.Generation != 8 {
			t.Fatalf("the next generation is %d, %v", changed.Wanted.Generation, err)
		}
		w.work(t, well)
		if got := w.get(t, made.ID); got.State != site.StateActive {
			t.Errorf("got %d %q", got.State, got.Problem)
		}
	})
}

func TestLogin(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		r := w.request("shop")
		r.Type, r.Settings = "wordpress", map[string]string{"admin_email": "a@example.com"}
		shop := w.create(t, r)
		if _, err := w.sites.CreateLogin(ctx, w.organization, shop.ID); !errors.Is(err, site.ErrNotActive) {
			t.Errorf("before it is active: %v", err)
		}
		brochure := w.create(t, w.request("brochure"))
		w.work(t, well)
		if _, err := w.sites.CreateLogin(ctx, w.organization, brochure.ID); !errors.Is(err, site.ErrNoLogin) {
			t.Errorf("a static site: %v", err)
		}

		answer := func(do func(*orderv1.Order) *orderv1.Result) (site.Login, *orderv1.Order, error) {
			t.Helper()
			type outcome struct {
				site.Login
				error
			}
			done := make(chan outcome)
			go func() {
				login, err := w.sites.CreateLogin(ctx, w.organization, shop.ID)
				done <- outcome{login, err}
			}()
			var ordered *orderv1.Order
			for {
				for _, order := range w.work(t, do) {
					ordered = order
				}
				select {
				case o := <-done:
					return o.Login, ordered, o.error
				case <-time.After(10 * time.Millisecond):
				}
			}
		}
		login, order, err := answer(well)
		if err != nil {
			t.Fatal(err)
		}
		prefix := "http://shop.example.com/?chom_login="
		token := strings.TrimPrefix(login.URL, prefix)
		if token == login.URL || len(token) != 43 {
			t.Errorf("the link is %s", login.URL)
		}
		if left := time.Until(login.ExpiresAt); left > time.Minute || left < 30*time.Second {
			t.Errorf("it works for %s", left)
		}
		if got := order.GetSiteLogin(); got.GetHandle() != shop.Handle.String() || len(got.GetTokenSha256()) != 32 {
			t.Errorf("the host was ordered %v", order)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'site.login'`); n != 1 {
			t.Errorf("%d audit events", n)
		}
		if _, _, err := answer(badly); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "the disk is full") {
			t.Errorf("when the host fails: %v", err)
		}
	})
}

func TestList(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		for i := range 5 {
			w.create(t, w.request(fmt.Sprintf("s%d", i)))
		}
		trashed := w.create(t, w.request("trashed"))
		if _, _, err := w.sites.Delete(ctx, w.organization, trashed.ID); err != nil {
			t.Fatal(err)
		}
		read := func(organization contract.OrganizationID, all bool) (names []string) {
			t.Helper()
			for token := ""; ; {
				found, next, err := w.sites.List(ctx, organization, 2, token, site.Filter{Trashed: all})
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range found {
					names = append(names, s.Name)
				}
				if token = next; token == "" {
					return names
				}
			}
		}
		for _, test := range []struct {
			organization contract.OrganizationID
			all          bool
			want         string
		}{
			{w.organization, false, "[s0 s1 s2 s3 s4]"},
			{w.organization, true, "[s0 s1 s2 s3 s4 trashed]"},
			{w.stranger, true, "[]"},
		} {
			if got := fmt.Sprint(read(test.organization, test.all)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		}
		theirs := w.request("theirs")
		theirs.Organization = w.stranger
		w.create(t, theirs)
		var held []string
		for token := ""; ; {
			found, next, err := w.sites.HeldBy(ctx, w.server, 2, token)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range found {
				held = append(held, s.OrganizationName+"/"+s.Name)
			}
			if token = next; token == "" {
				break
			}
		}
		if got, want := fmt.Sprint(held), "[acme/s0 acme/s1 acme/s2 acme/s3 acme/s4 acme/trashed other/theirs]"; got != want {
			t.Errorf("the server holds %s, not %s", got, want)
		}
		if found, _, err := w.sites.HeldBy(ctx, addServer(t, d, "web2"), 2, ""); err != nil || len(found) > 0 {
			t.Errorf("an empty server holds %v, %v", found, err)
		}
		_, next, err := w.sites.List(ctx, w.organization, 2, "", site.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		for name, read := range map[string]func() error{
			"another organization's": func() error { _, _, err := w.sites.List(ctx, w.stranger, 2, next, site.Filter{}); return err },
			"another query's": func() error {
				_, _, err := w.sites.List(ctx, w.organization, 2, next, site.Filter{Trashed: true})
				return err
			},
		} {
			if err := read(); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("%s page token: %v", name, err)
			}
		}
	})
}

// TestFilter looks for some of an organization's sites, two at a time.
func TestFilter(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		for _, name := range []string{"active-1", "other", "suspended-1", "active-2", "trashed-1", "active-3"} {
			request := w.request(name)
			request.Tags = map[string][]string{"active-1": {"eu", "shop"}, "active-3": {"blog"}, "other": {"shopping"}}[name]
			w.create(t, request)
		}
		w.work(t, well)
		for name, do := range map[string]func(context.Context, contract.OrganizationID, contract.SiteID) (*site.Site, task.Task, error){
			"suspended-1": w.sites.Suspend, "trashed-1": w.sites.Delete,
		} {
			for _, s := range w.all(t) {
				if s.Name != name {
					continue
				}
				if _, _, err := do(ctx, w.organization, s.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.work(t, well)
		w.create(t, w.request("new-1"))
		for _, test := range []struct {
			filter site.Filter
			want   string
		}{
			{site.Filter{NameContains: "-1"}, "[active-1 suspended-1 new-1]"},
			{site.Filter{NameContains: "active", Trashed: true}, "[active-1 active-2 active-3]"},
			{site.Filter{NameContains: "nothing"}, "[]"},
			{site.Filter{Type: "static", NameContains: "other"}, "[other]"},
			{site.Filter{Type: "wordpress"}, "[]"},
			{site.Filter{Server: w.server.String(), NameContains: "other"}, "[other]"},
			{site.Filter{Server: contract.NewServerID().String()}, "[]"},
			{site.Filter{States: []site.State{site.StateActive}}, "[active-1 other active-2 active-3]"},
			{site.Filter{States: []site.State{site.StateSuspended, site.StateCreating}}, "[suspended-1 new-1]"},
			{site.Filter{States: []site.State{site.StateTrashed}}, "[trashed-1]"},
			{site.Filter{States: []site.State{site.StateActive}, NameContains: "-3"}, "[active-3]"},
			{site.Filter{States: []site.State{site.StateFailed}}, "[]"},
			{site.Filter{Tags: []string{"shop"}}, "[active-1]"},
			{site.Filter{Tags: []string{"blog", "eu", "us"}}, "[active-1 active-3]"},
			{site.Filter{Tags: []string{"shop", "shopping"}, NameContains: "o"}, "[other]"},
			{site.Filter{Tags: []string{"sho"}}, "[]"},
		} {
			names := []string{}
			for token := ""; ; {
				found, next, err := w.sites.List(ctx, w.organization, 2, token, test.filter)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range found {
					names = append(names, s.Name)
				}
				if next != "" {
					other := test.filter
					other.NameContains += "x"
					if _, _, err := w.sites.List(ctx, w.organization, 2, next, other); fault.KindOf(err) != fault.KindInvalid {
						t.Errorf("%+v: its page token works for %+v: %v", test.filter, other, err)
					}
				}
				if token = next; token == "" {
					break
				}
			}
			if got := fmt.Sprint(names); got != test.want {
				t.Errorf("%+v gave %s, want %s", test.filter, got, test.want)
			}
		}
	})
}

func TestForeign(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		w.work(t, well)
		for name, do := range map[string]func(contract.OrganizationID, contract.SiteID) error{
			"get": func(o contract.OrganizationID, id contract.SiteID) error {
				_, err := w.sites.Get(ctx, o, id)
				return err
			},
			"suspend": func(o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := w.sites.Suspend(ctx, o, id)
				return err
			},
			"delete": func(o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := w.sites.Delete(ctx, o, id)
				return err
			},
			"login": func(o contract.OrganizationID, id contract.SiteID) error {
				_, err := w.sites.CreateLogin(ctx, o, id)
				return err
			},
			"update": func(o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := w.sites.Update(ctx, o, id, site.Change{Domains: []string{"stolen.example.com"}})
				return err
			},
		} {
			if err := do(w.stranger, made.ID); !errors.Is(err, site.ErrNotFound) {
				t.Errorf("%s of another organization's site: %v", name, err)
			}
		}
		if got := w.get(t, made.ID); got.Wanted.Generation != 1 {
			t.Errorf("it became %+v", got.Wanted)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM tasks`); n != 1 {
			t.Errorf("%d tasks", n)
		}
	})
}
