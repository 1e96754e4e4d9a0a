package site_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

var operator = account.Caller{Account: account.Account{ID: "0190b1c2-0000-7000-8000-000000000001", Operator: true}}

// TestClosing is about the sites of an organization that closes, and all who would wake them.
func TestClosing(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		organizations := organization.New(d, organization.Config{})
		served, suspended, trashed := w.create(t, w.request("served")), w.create(t, w.request("suspended")), w.create(t, w.request("trashed"))
		neighbour := w.request("neighbour")
		neighbour.Organization = w.stranger
		w.create(t, neighbour)
		change := func(do func(context.Context, contract.OrganizationID, contract.SiteID) (*site.Site, error), s *site.Site) error {
			_, err := do(ctx, w.organization, s.ID)
			return err
		}
		suspend := func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) (*site.Site, error) {
			s, _, err := w.sites.Suspend(ctx, o, id)
			return s, err
		}
		resume := func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) (*site.Site, error) {
			s, _, err := w.sites.Resume(ctx, o, id)
			return s, err
		}
		remove := func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) (*site.Site, error) {
			s, _, err := w.sites.Delete(ctx, o, id)
			return s, err
		}
		restore := func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) (*site.Site, error) {
			s, _, err := w.sites.Restore(ctx, o, id)
			return s, err
		}
		update := func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) (*site.Site, error) {
			s, _, err := w.sites.Update(ctx, o, id, site.Change{Limits: &site.Limits{CPUPercent: 50}})
			return s, err
		}
		must(t, change(suspend, suspended))
		must(t, change(remove, trashed))
		w.work(t, well)
		follow := func(t *testing.T, want int) (phases []string) {
			t.Helper()
			n, err := w.sites.Follow(ctx)
			if err != nil || n != want {
				t.Fatalf("%d sites followed, want %d, %v", n, want, err)
			}
			for _, order := range w.work(t, well) {
				desired := order.GetConvergeSite().GetDesired()
				if desired.GetOrganizationId() != w.organization.String() {
					t.Errorf("a neighbour was ordered %v", desired)
				}
				phases = append(phases, desired.GetPhase().String())
			}
			slices.Sort(phases)
			return phases
		}
		states := func() string {
			return fmt.Sprint(w.get(t, served.ID).State, w.get(t, suspended.ID).State, w.get(t, trashed.ID).State)
		}
		asBefore := fmt.Sprint(site.StateActive, site.StateSuspended, site.StateTrashed)
		frozen := fmt.Sprint(site.StateSuspended, site.StateSuspended, site.StateTrashed)
		if states() != asBefore {
			t.Fatalf("the sites begin as %s", states())
		}
		follow(t, 0)

		if _, err := organizations.Close(ctx, operator, w.organization, "acme"); err != nil {
			t.Fatal(err)
		}
		if phases := follow(t, 2); fmt.Sprint(phases) != "[PHASE_SUSPENDED PHASE_SUSPENDED]" || states() != frozen {
			t.Fatalf("ordered %v, the sites are %s", phases, states())
		}
		follow(t, 0)

		t.Run("nobody wakes them", func(t *testing.T) {
			for name, try := range map[string]func() error{
				"resume":              func() error { return change(resume, served) },
				"resume a suspended":  func() error { return change(resume, suspended) },
				"update":              func() error { return change(update, served) },
				"restore":             func() error { return change(restore, trashed) },
				"create another":      func() error { _, _, err := w.sites.Create(ctx, w.request("another")); return err },
				"sign in to the site": func() error { _, err := w.sites.CreateLogin(ctx, w.organization, served.ID); return err },
			} {
				if err := try(); fault.KindOf(err) != fault.KindConflict {
					t.Errorf("%s: %v", name, err)
				}
			}
			// An agent that lost all, one that claims to serve it, and one that knows a later generation.
			for _, holdings := range [][]*sitev1.ObservedState{
				nil, {holding(served.ID.String(), 2, sitev1.Phase_PHASE_ACTIVE)}, {holding(served.ID.String(), 1, sitev1.Phase_PHASE_ACTIVE)},
			} {
				if _, err := w.sites.Hold(ctx, w.server, holdings); err != nil {
					t.Fatal(err)
				}
				for _, order := range w.work(t, well) {
					if desired := order.GetConvergeSite().GetDesired(); desired.GetOrganizationId() == w.organization.String() && desired.GetPhase() == sitev1.Phase_PHASE_ACTIVE {
						t.Errorf("an agent that holds %v was ordered to serve", holdings)
					}
				}
			}
			if states() != frozen {
				t.Errorf("the sites are %s", states())
			}
		})
		t.Run("a person's own suspension is kept apart", func(t *testing.T) {
			if _, err := organizations.Reopen(ctx, operator, w.organization); err != nil {
				t.Fatal(err)
			}
			if phases := follow(t, 2); fmt.Sprint(phases) != "[PHASE_ACTIVE PHASE_SUSPENDED]" || states() != asBefore {
				t.Errorf("ordered %v, the sites are %s", phases, states())
			}
			must(t, change(restore, trashed))
			w.work(t, well)
		})
		t.Run("what is suspended or deleted meanwhile stays so", func(t *testing.T) {
			if _, err := organizations.Close(ctx, operator, w.organization, "acme"); err != nil {
				t.Fatal(err)
			}
			follow(t, 3)
			must(t, change(suspend, served))
			must(t, change(remove, trashed))
			w.work(t, well)
			if _, err := organizations.Reopen(ctx, operator, w.organization); err != nil {
				t.Fatal(err)
			}
			follow(t, 2)
			if want := frozen; states() != want {
				t.Errorf("the sites are %s, want %s", states(), want)
			}
			must(t, change(resume, served))
			w.work(t, well)
		})
		t.Run("one that is created while it closes is found as well", func(t *testing.T) {
			late := w.create(t, w.request("late"))
			if _, err := organizations.Close(ctx, operator, w.organization, "acme"); err != nil {
				t.Fatal(err)
			}
			if n, err := w.sites.Follow(ctx); err != nil || n != 3 {
				t.Fatalf("%d followed, %v", n, err)
			}
			w.work(t, well)
			if got := w.get(t, late.ID); got.State != site.StateSuspended || got.Wanted.Phase != site.Active {
				t.Errorf("is %d, wanted %s", got.State, got.Wanted.Phase)
			}
		})
		t.Run("they go through the trash when it is closed for good", func(t *testing.T) {
			must(t, organizations.End(ctx, time.Now().Add(organization.DefaultClosePeriod+time.Minute)))
			if phases := follow(t, 3); fmt.Sprint(phases) != "[PHASE_TRASHED PHASE_TRASHED PHASE_TRASHED]" {
				t.Errorf("ordered %v", phases)
			}
			follow(t, 0)
			if err := change(restore, served); !errors.Is(err, organization.ErrClosing) {
				t.Errorf("restored: %v", err)
			}
			if n, err := w.sites.Purge(ctx, time.Now().Add(site.DefaultTrashPeriod+time.Minute)); err != nil || n != 4 {
				t.Fatalf("purged %d, %v", n, err)
			}
			w.work(t, well)
			if n := w.count(t, `SELECT COUNT(*) FROM sites WHERE organization_id = $1`, w.organization); n != 0 {
				t.Errorf("%d sites are left", n)
			}
			if got, err := organizations.Get(ctx, w.organization); err != nil || got.State != organization.Closed {
				t.Errorf("its row is %s, %v", got.State, err)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM sites WHERE organization_id = $1 AND phase = 'active' AND generation = 1`, w.stranger); n != 1 {
				t.Error("the neighbour was touched")
			}
		})
	})
}

// TestFollow has Run notice that an organization closes, by the wake-up and not by the next look.
func TestFollow(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		made := w.create(t, w.request("blog"))
		w.work(t, well)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.sites.Run(ctx) }()
		time.Sleep(200 * time.Millisecond) // its first look is over, and it listens
		began := time.Now()
		if _, err := organization.New(d, organization.Config{}).Close(ctx, operator, w.organization, "acme"); err != nil {
			t.Fatal(err)
		}
		for w.get(t, made.ID).Wanted.Generation == 1 {
			if time.Since(began) > 4*time.Second {
				t.Fatal("the site did not follow")
			}
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
