package site_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// ordered are the names in the newest order to a site's host.
func (w *world) ordered(t *testing.T, id contract.SiteID) []string {
	t.Helper()
	var parameters []byte
	err := w.db.Reader().QueryRow(t.Context(), `SELECT parameters FROM tasks WHERE site_id = $1 ORDER BY id DESC LIMIT 1`, id).Scan(&parameters)
	if err != nil {
		t.Fatal(err)
	}
	var order orderv1.ConvergeSite
	if err := proto.Unmarshal(parameters, &order); err != nil {
		t.Fatal(err)
	}
	return order.GetDesired().GetDomains()
}

// TestServed is about the names that a host is told to answer to: the control plane's part of cases C10 and H01.
func TestServed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		w.sites = site.New(d, w.tasks, slog.New(slog.DiscardHandler), site.Config{PreviewDomain: "preview.example.net"})
		domains := domain.New(d, slog.New(slog.DiscardHandler), domain.Config{InUse: site.InUse})
		made, _, err := w.sites.Create(ctx, site.Request{
			Organization: w.organization, Name: "blog", Type: "static", Domains: []string{"example.com", "www.example.com", "example.org"},
		})
		if err != nil {
			t.Fatal(err)
		}
		preview := made.Handle.String() + ".preview.example.net"
		want := func(names ...string) {
			t.Helper()
			if _, err := w.sites.Follow(ctx); err != nil {
				t.Fatal(err)
			}
			if got := w.ordered(t, made.ID); !slices.Equal(got, names) {
				t.Errorf("ordered %v, want %v", got, names)
			}
			found, err := w.sites.Get(ctx, w.organization, made.ID)
			if err != nil {
				t.Fatal(err)
			}
			if found.URL(time.Now()) != "http://"+names[0]+"/" || found.Preview() != preview || len(found.Pending()) != 3-len(names)+1 {
				t.Errorf("shown as %s, preview %s, pending %v", found.URL(time.Now()), found.Preview(), found.Pending())
			}
		}
		want(preview)
		if _, err := domains.Attest(ctx, w.stranger, "elsewhere.example"); err != nil {
			t.Fatal(err)
		}
		want(preview)
		if _, err := domains.Attest(ctx, w.organization, "example.com"); err != nil {
			t.Fatal(err)
		}
		want("example.com", "www.example.com", preview)
		org, err := domains.Attest(ctx, w.organization, "example.org")
		if err != nil {
			t.Fatal(err)
		}
		want("example.com", "www.example.com", "example.org", preview)
		t.Run("a site that lists its preview name keeps it", func(t *testing.T) {
			if _, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{Domains: []string{"example.com", preview, "www.example.com"}}); err != nil {
				t.Fatal(err)
			}
			found := w.get(t, made.ID)
			if got := w.ordered(t, made.ID); found.Preview() != preview || !slices.Equal(got, []string{"example.com", "www.example.com", preview}) {
				t.Errorf("the preview name is %q, ordered %v", found.Preview(), got)
			}
			if _, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{Domains: []string{"example.com", "www.example.com", "example.org"}}); err != nil {
				t.Fatal(err)
			}
		})
		t.Run("a name in use is not released", func(t *testing.T) {
			if _, err := domains.Release(ctx, w.organization, org.ID); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "blog") {
				t.Errorf("got %v", err)
			}
		})
		t.Run("a site takes a name, or its organization releases it", func(t *testing.T) {
			for i := range 5 {
				name := "race" + string(rune('a'+i)) + ".example.net"
				held, err := domains.Attest(ctx, w.organization, name)
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() {
					_, err := domains.Release(context.WithoutCancel(ctx), w.organization, held.ID)
					ended <- err
				}()
				_, _, err = w.sites.Update(ctx, w.organization, made.ID, site.Change{Domains: []string{name}})
				released := <-ended
				if err != nil {
					t.Fatal(err)
				}
				serves := slices.Contains(w.ordered(t, made.ID), name)
				if serves == (released == nil) {
					t.Errorf("%s: released %v, served %v", name, released, serves)
				}
				time.Sleep(time.Millisecond)
			}
		})
		t.Run("a site is made while its name is proved", func(t *testing.T) {
			for i := range 5 {
				name := "meets" + string(rune('a'+i)) + ".example.net"
				proved := make(chan error, 1)
				go func() {
					_, err := domains.Attest(context.WithoutCancel(ctx), w.organization, name)
					proved <- err
				}()
				both, _, err := w.sites.Create(ctx, site.Request{Organization: w.organization, Name: "meets" + string(rune('a'+i)), Type: "static", Domains: []string{name}})
				if err := errors.Join(err, <-proved); err != nil {
					t.Fatal(err)
				}
				if _, err := w.sites.Follow(ctx); err != nil {
					t.Fatal(err)
				}
				if got := w.ordered(t, both.ID); !slices.Contains(got, name) {
					t.Errorf("ordered %v, never %s", got, name)
				}
			}
		})
		t.Run("without any name a site is not made or woken, but goes", func(t *testing.T) {
			nameless := site.New(d, w.tasks, slog.New(slog.DiscardHandler), site.Config{})
			request := site.Request{Organization: w.organization, Name: "nameless", Type: "static", Domains: []string{"nameless.example"}}
			if _, _, err := nameless.Create(ctx, request); fault.KindOf(err) != fault.KindConflict {
				t.Errorf("made: %v", err)
			}
			former, _, err := site.New(d, w.tasks, slog.New(slog.DiscardHandler), site.Config{AnyName: true}).Create(ctx, request)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := nameless.Suspend(ctx, w.organization, former.ID); err != nil {
				t.Errorf("suspend: %v", err)
			}
			if _, _, err := nameless.Resume(ctx, w.organization, former.ID); fault.KindOf(err) != fault.KindConflict {
				t.Errorf("woken: %v", err)
			}
			if _, _, err := nameless.Delete(ctx, w.organization, former.ID); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	})
}

// TestTaken is case C10: to write a name into a site first is no proof, and keeps nobody from it who has one.
func TestTaken(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		w.sites = site.New(d, w.tasks, slog.New(slog.DiscardHandler), site.Config{PreviewDomain: "preview.example.net"})
		domains := domain.New(d, slog.New(slog.DiscardHandler), domain.Config{InUse: site.InUse})
		create := func(who contract.OrganizationID, name string, names ...string) *site.Site {
			t.Helper()
			made, _, err := w.sites.Create(ctx, site.Request{Organization: who, Name: name, Type: "static", Domains: names})
			if err != nil {
				t.Fatal(err)
			}
			return made
		}
		update := func(of *site.Site, names ...string) error {
			_, _, err := w.sites.Update(ctx, of.Organization, of.ID, site.Change{Domains: names})
			return err
		}
		serves := func(of *site.Site, names ...string) {
			t.Helper()
			if got := w.ordered(t, of.ID); !slices.Equal(got, append(names, of.Handle.String()+".preview.example.net")) {
				t.Errorf("%s: ordered %v, want %v", of.Name, got, names)
			}
		}
		refused := func(err error, next string) {
			t.Helper()
			if fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), next) {
				t.Errorf("got %v, want a conflict that says: %s", err, next)
			}
		}
		squatter := create(w.stranger, "squatter", "squatter.example", "www.example.com")
		blog := create(w.organization, "blog", "blog.example")
		refused(update(blog, "blog.example", "www.example.com"), "claim it") // nobody has shown anything yet
		if _, err := domains.Attest(ctx, w.organization, "example.com"); err != nil {
			t.Fatal(err)
		}
		must(t, update(blog, "blog.example", "www.example.com"))
		serves(blog, "www.example.com")
		shop := create(w.organization, "shop", "example.com")
		refused(update(shop, "example.com", "www.example.com"), "of the organization: take it from that site first")
		refused(update(create(w.stranger, "late", "late.example"), "late.example", "www.example.com"), "claim it")

		// The squatter keeps its wish, and whatever it does, that is all.
		must(t, update(squatter, "squatter.example", "www.example.com"))
		for _, do := range []func(context.Context, contract.OrganizationID, contract.SiteID) error{
			func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := w.sites.Suspend(ctx, o, id)
				return err
			},
			func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := w.sites.Resume(ctx, o, id)
				return err
			},
			func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := w.sites.Delete(ctx, o, id)
				return err
			},
			func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := w.sites.Restore(ctx, o, id)
				return err
			},
		} {
			must(t, do(ctx, w.stranger, squatter.ID))
			serves(squatter)
		}
		found, err := w.sites.Get(ctx, w.stranger, squatter.ID)
		must(t, err)
		if names, err := w.sites.Names(ctx, found); err != nil || names[1].State != site.NameUnclaimed {
			t.Errorf("shown as %+v, %v", names, err)
		}
		serves(blog, "www.example.com")

		// It gets the name once it is free, and its own.
		must(t, update(blog, "blog.example"))
		must(t, update(shop, "shop.example"))
		exec(t, d, `DELETE FROM claims WHERE organization_id = $1`, w.organization)
		if _, err := domains.Attest(ctx, w.stranger, "example.com"); err != nil {
			t.Fatal(err)
		}
		must(t, update(squatter, "squatter.example", "www.example.com"))
		serves(squatter, "www.example.com")
		if n := w.count(t, `SELECT COUNT(*) FROM domains WHERE name = 'www.example.com' AND site_id = $1`, squatter.ID); n != 1 {
			t.Error("it answers to a name that is not in the table")
		}
	})
}
