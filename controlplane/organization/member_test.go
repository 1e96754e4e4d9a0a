package organization_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

var ladder = []organization.Role{organization.Owner, organization.Admin, organization.Member, organization.Viewer}

// TestClimbing has each role change, remove and promote each other one.
func TestClimbing(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		id, people := w.acme(t)
		second := w.join(t, id, "second@acme.example", organization.Owner) // so that no owner is the last
		reset := func(who account.Caller, role organization.Role) {
			w.exec(t, `DELETE FROM members WHERE organization_id = $1 AND account_id = $2`, id, who.ID)
			w.exec(t, `INSERT INTO members (organization_id, account_id, role, all_sites, created_at) VALUES ($1, $2, $3, TRUE, 3)`, id, who.ID, string(role))
		}
		target := w.person(t, "target@acme.example")
		for _, acting := range ladder {
			for _, has := range ladder {
				may := acting.AtLeast(organization.Admin) && acting.AtLeast(has)
				reset(target, has)
				if err := w.RemoveMember(ctx, people[acting], id, target.ID); denied(err) == may || may && err != nil {
					t.Errorf("%s removes %s: %v", acting, has, err)
				}
				for _, becomes := range ladder {
					reset(target, has)
					may := may && acting.AtLeast(becomes)
					_, err := w.UpdateMember(ctx, people[acting], id, target.ID, organization.MemberChange{Role: becomes})
					if denied(err) == may || may && err != nil {
						t.Errorf("%s makes %s %s: %v", acting, has, becomes, err)
					}
					if want := map[bool]organization.Role{true: becomes, false: has}[may]; w.role(t, id, target) != want {
						t.Errorf("%s made %s %s: is %s", acting, has, becomes, w.role(t, id, target))
					}
				}
			}
			for _, becomes := range ladder {
				_, err := w.UpdateMember(ctx, people[acting], id, people[acting].ID, organization.MemberChange{Role: becomes})
				if may := acting.AtLeast(organization.Admin) && acting.AtLeast(becomes); denied(err) == may {
					t.Errorf("%s makes themselves %s: %v", acting, becomes, err)
				}
				reset(people[acting], acting)
			}
		}
		t.Run("an operator may what owners may", func(t *testing.T) {
			if _, err := w.UpdateMember(ctx, w.operator(t), id, target.ID, organization.MemberChange{Role: organization.Owner}); err != nil {
				t.Error(err)
			}
		})
		t.Run("an organization's own token may what its role may", func(t *testing.T) {
			bot := account.Caller{Token: "x", Scope: account.Manage, Organization: id.String(), Role: string(organization.Admin)}
			if err := w.RemoveMember(ctx, bot, id, second.ID); !denied(err) {
				t.Errorf("removes an owner: %v", err)
			}
			if err := w.RemoveMember(ctx, bot, id, people[organization.Viewer].ID); err != nil {
				t.Errorf("removes a viewer: %v", err)
			}
		})
		t.Run("another organization's people and tokens find nothing", func(t *testing.T) {
			other, err := w.Found(ctx, w.person(t, "other@example.com"), "other")
			must(t, err)
			for name, who := range map[string]account.Caller{
				"its owner": w.person(t, "other@example.com"),
				"its token": {Token: "x", Organization: other.ID.String(), Role: string(organization.Admin)},
				"nobody":    {},
			} {
				if err := w.RemoveMember(ctx, who, id, second.ID); !errors.Is(err, organization.ErrNotFound) {
					t.Errorf("%s: %v", name, err)
				}
				if err := w.Leave(ctx, who, id); !errors.Is(err, organization.ErrNotFound) {
					t.Errorf("%s leaves: %v", name, err)
				}
			}
		})
		t.Run("is recorded", func(t *testing.T) {
			for action, least := range map[string]int{"member.update": 20, "member.remove": 5} {
				if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE organization_id = $1 AND action = $2`, id, action); n < least {
					t.Errorf("%d events %s", n, action)
				}
			}
		})
	})
}

// TestLastOwner is about one owner who goes, in each way that there is.
func TestLastOwner(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		id, people := w.acme(t)
		owner := people[organization.Owner]
		ways := map[string]func(context.Context) error{
			"leaves":           func(ctx context.Context) error { return w.Leave(ctx, owner, id) },
			"removes herself":  func(ctx context.Context) error { return w.RemoveMember(ctx, owner, id, owner.ID) },
			"is removed":       func(ctx context.Context) error { return w.RemoveMember(ctx, w.operator(t), id, owner.ID) },
			"hands it to self": func(ctx context.Context) error { _, err := w.Transfer(ctx, owner, id, owner.ID); return err },
			"becomes an admin": func(ctx context.Context) error {
				return second(w.UpdateMember(ctx, owner, id, owner.ID, organization.MemberChange{Role: organization.Admin}))
			},
			"becomes a viewer ": func(ctx context.Context) error {
				return second(w.UpdateMember(ctx, owner, id, owner.ID, organization.MemberChange{Role: organization.Viewer}))
			},
		}
		for name, way := range ways {
			if err := way(ctx); !errors.Is(err, organization.ErrLastOwner) {
				t.Errorf("she %s: %v", name, err)
			}
		}
		t.Run("an owner who cannot sign in does not count", func(t *testing.T) {
			unborn := w.join(t, id, "unborn@acme.example", organization.Owner)
			w.exec(t, `UPDATE accounts SET verified_at = NULL WHERE id = $1`, unborn.ID)
			for name, way := range ways {
				if err := way(ctx); !errors.Is(err, organization.ErrLastOwner) {
					t.Errorf("she %s: %v", name, err)
				}
			}
			if _, err := w.Transfer(ctx, owner, id, unborn.ID); !errors.Is(err, organization.ErrNotWorking) {
				t.Errorf("she hands it over: %v", err)
			}
			if err := w.RemoveMember(ctx, owner, id, unborn.ID); err != nil {
				t.Errorf("she cannot get rid of them: %v", err)
			}
		})
		if w.role(t, id, owner) != organization.Owner {
			t.Errorf("she is %s", w.role(t, id, owner))
		}
	})
}

func second[T any](_ T, err error) error { return err }

// TestOwnersRace has two owners who want to be rid of each other, or of it all, at the same moment.
func TestOwnersRace(t *testing.T) {
	t.Parallel()
	for engine, open := range map[string]func(testing.TB) string{"sqlite": dbtest.SQLiteURL, "postgres": dbtest.PostgresURL} {
		t.Run(engine, func(t *testing.T) {
			ctx := t.Context()
			url := open(t)
			d := dbtest.Open(t, url)
			here := newWorld(t, d)
			there := here
			if engine == "postgres" {
				there = newWorld(t, dbtest.Open(t, url)) // another process
			}
			id, people := here.acme(t)
			a, b := people[organization.Owner], here.join(t, id, "b@acme.example", organization.Owner)
			act := func(w *world, me, other account.Caller) error {
				switch rand.N(5) {
				case 0:
					return w.RemoveMember(ctx, me, id, other.ID)
				case 1:
					return second(w.UpdateMember(ctx, me, id, other.ID, organization.MemberChange{Role: organization.Viewer}))
				case 2:
					return w.Leave(ctx, me, id)
				case 3:
					return second(w.UpdateMember(ctx, me, id, me.ID, organization.MemberChange{Role: organization.Admin}))
				}
				return second(w.Transfer(ctx, me, id, other.ID))
			}
			won, lost := 0, 0
			for round := range 200 {
				var both sync.WaitGroup
				var errs [2]error
				both.Go(func() { errs[0] = act(here, a, b) })
				both.Go(func() { errs[1] = act(there, b, a) })
				both.Wait()
				if n := here.count(t, `SELECT COUNT(*) FROM members WHERE organization_id = $1 AND role = 'owner'`, id); n == 0 {
					t.Fatalf("round %d: no owner; %v, %v", round, errs[0], errs[1])
				}
				for _, err := range errs {
					switch fault.KindOf(err) {
					case fault.KindInternal:
						if err != nil {
							t.Fatalf("round %d: %v", round, err)
						}
						won++
					case fault.KindDenied, fault.KindConflict, fault.KindNotFound:
						lost++
					default:
						t.Fatalf("round %d: %v", round, err)
					}
				}
				for _, who := range []account.Caller{a, b} {
					here.exec(t, `
						INSERT INTO members (organization_id, account_id, role, all_sites, created_at)
						VALUES ($1, $2, 'owner', TRUE, 1)
						ON CONFLICT (organization_id, account_id) DO UPDATE SET role = 'owner', all_sites = TRUE`, id, who.ID)
				}
			}
			if won < 50 || lost < 50 {
				t.Errorf("no race: %d won, %d lost", won, lost)
			}
		})
	}
}

func TestTransfer(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		id, people := w.acme(t)
		site := w.site(t, id)
		owner, viewer := people[organization.Owner], people[organization.Viewer]
		must(t, second(w.UpdateMember(ctx, owner, id, viewer.ID, organization.MemberChange{Sites: []string{site}, Bounds: true})))
		for name, who := range map[string]account.Caller{"an admin": people[organization.Admin], "an operator": w.operator(t)} {
			if _, err := w.Transfer(ctx, who, id, viewer.ID); !denied(err) {
				t.Errorf("%s hands it over: %v", name, err)
			}
		}
		if _, err := w.Transfer(ctx, owner, id, w.person(t, "stranger@example.com").ID); !errors.Is(err, organization.ErrNoMember) {
			t.Errorf("to a stranger: %v", err)
		}
		got, err := w.Transfer(ctx, owner, id, viewer.ID)
		if err != nil || got.Role != organization.Owner || got.Sites != nil {
			t.Errorf("the new owner is %+v, %v", got, err)
		}
		if w.role(t, id, owner) != organization.Admin || w.role(t, id, viewer) != organization.Owner {
			t.Errorf("they are %s and %s", w.role(t, id, owner), w.role(t, id, viewer))
		}
		if n := w.count(t, `SELECT COUNT(*) FROM member_sites`); n != 0 {
			t.Errorf("%d grants bind an owner", n)
		}
	})
}

func TestGrants(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		id, people := w.acme(t)
		owner, member := people[organization.Owner], people[organization.Member]
		one, two := w.site(t, id), w.site(t, id)
		other, err := w.Found(ctx, w.person(t, "other@example.com"), "other")
		must(t, err)
		foreign := w.site(t, other.ID)
		bind := func(who account.Caller, sites ...string) (organization.Person, error) {
			return w.UpdateMember(ctx, owner, id, who.ID, organization.MemberChange{Sites: append([]string{}, sites...), Bounds: true})
		}
		reach := func() []string {
			t.Helper()
			found, err := w.MembershipOf(ctx, id, member.ID)
			must(t, err)
			slices.Sort(found.Sites)
			return found.Sites
		}
		if reach() != nil {
			t.Errorf("a new member reaches %v", reach())
		}
		for name, sites := range map[string][]string{"one": {one}, "two": {one, two}, "none": {}} {
			got, err := bind(member, sites...)
			if err != nil || len(got.Sites) != len(sites) || got.Sites == nil || fmt.Sprint(reach()) != fmt.Sprint(sites) || reach() == nil {
				t.Errorf("%s: got %v, reaches %v, %v", name, got.Sites, reach(), err)
			}
		}
		must(t, second(bind(member, one)))
		for name, site := range map[string]string{"another organization's site": foreign, "no site": contract.NewSiteID().String()} {
			_, err := bind(member, two, site)
			if fault.KindOf(err) != fault.KindNotFound || fmt.Sprint(reach()) != fmt.Sprint([]string{one}) {
				t.Errorf("%s: reaches %v, %v", name, reach(), err)
			}
		}
		t.Run("the database refuses another organization's site as well", func(t *testing.T) {
			err := db.InTx(ctx, d, func(tx *db.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO member_sites (organization_id, account_id, site_id) VALUES ($1, $2, $3)`, id, member.ID, foreign)
				return err
			})
			if !db.IsForeignKey(err) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("are changed by who knows what they are", func(t *testing.T) {
			before, err := bind(member, one)
			must(t, err)
			change := organization.MemberChange{Sites: []string{one, two}, Bounds: true, ETag: before.ETag()}
			after, err := w.UpdateMember(ctx, owner, id, member.ID, change)
			if err != nil || after.ETag() == before.ETag() {
				t.Errorf("the first: %s -> %s, %v", before.ETag(), after.ETag(), err)
			}
			if _, err := w.UpdateMember(ctx, owner, id, member.ID, change); !errors.Is(err, organization.ErrChanged) {
				t.Errorf("the second: %v", err)
			}
			must(t, second(bind(member, one)))
		})
		t.Run("owners and admins cannot be bound", func(t *testing.T) {
			for _, role := range []organization.Role{organization.Owner, organization.Admin} {
				var f *fault.Fault
				if _, err := bind(people[role], one); !errors.As(err, &f) || f.Field() != "site_ids" {
					t.Errorf("%s: %v", role, err)
				}
			}
			got, err := w.UpdateMember(ctx, owner, id, member.ID, organization.MemberChange{Role: organization.Admin})
			if err != nil || got.Sites != nil || reach() != nil {
				t.Errorf("who became an admin reaches %v, %v", reach(), err)
			}
		})
		t.Run("a site that is gone is granted to nobody, and its members to no more", func(t *testing.T) {
			must(t, second(w.UpdateMember(ctx, owner, id, member.ID, organization.MemberChange{Role: organization.Member, Sites: []string{one}, Bounds: true})))
			w.exec(t, `DELETE FROM sites WHERE id = $1`, one)
			if got := reach(); got == nil || len(got) != 0 {
				t.Errorf("reaches %v", got)
			}
			must(t, w.RemoveMember(ctx, owner, id, member.ID))
		})
	})
}

func TestMembers(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		id, people := w.acme(t)
		var emails []string
		for token := ""; ; {
			found, next, err := w.Members(ctx, id, 3, token)
			must(t, err)
			for _, one := range found {
				emails = append(emails, one.Email+" "+string(one.Role))
			}
			if token = next; token == "" {
				break
			}
		}
		if want := "[owner@acme.example owner admin@acme.example admin member@acme.example member viewer@acme.example viewer]"; fmt.Sprint(emails) != want {
			t.Errorf("got %v", emails)
		}
		must(t, w.Leave(ctx, people[organization.Viewer], id))
		if got := w.role(t, id, people[organization.Viewer]); got != "" {
			t.Errorf("who left is %s", got)
		}
	})
}
