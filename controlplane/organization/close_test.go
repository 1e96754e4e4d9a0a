package organization_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
)

func TestClose(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		id, people := w.acme(t)
		owner := people[organization.Owner]
		other := w.join(t, id, "second@acme.example", organization.Owner)
		_, link, err := w.Invite(ctx, owner, id, organization.Offer{Email: "late@example.com", Role: organization.Admin})
		must(t, err)

		var f *fault.Fault
		for name, wrong := range map[string]string{"another name": "acne", "no name": "", "the id": id.String()} {
			if _, err := w.Close(ctx, owner, id, wrong); !errors.As(err, &f) || f.Field() != "name" {
				t.Errorf("closed with %s: %v", name, err)
			}
		}
		for _, role := range ladder[1:] {
			if _, err := w.Close(ctx, people[role], id, "acme"); !denied(err) {
				t.Errorf("closed by %s: %v", role, err)
			}
		}
		closing, err := w.Close(ctx, owner, id, "acme")
		if err != nil || closing.State != organization.Closing || time.Until(closing.CloseAt) < 30*24*time.Hour-time.Minute || time.Until(closing.CloseAt) > 30*24*time.Hour {
			t.Fatalf("got %+v, %v", closing, err)
		}
		for _, who := range []account.Caller{owner, other} {
			if mails := w.mailed(who.Email, "organization_closing"); len(mails) != 1 || mails[0].Values["organization"] != "acme" || mails[0].Values["closer"] != owner.Email {
				t.Errorf("%s got %+v", who.Email, mails)
			}
		}
		t.Run("keeps everything, and its people out of what wakes it", func(t *testing.T) {
			if w.role(t, id, people[organization.Viewer]) != organization.Viewer {
				t.Error("its members are gone")
			}
			name := "other-name"
			for what, do := range map[string]func() error{
				"closing it again": func() error { return second(w.Close(ctx, owner, id, "acme")) },
				"an invitation": func() error {
					_, _, err := w.Invite(ctx, owner, id, organization.Offer{Email: "x@example.com", Role: organization.Viewer})
					return err
				},
				"an old invitation":    func() error { _, _, err := w.Accept(ctx, w.person(t, "late@example.com"), tokenOf(link)); return err },
				"another name":         func() error { return second(w.Update(ctx, owner, id, organization.Change{Name: &name})) },
				"its name, by another": func() error { return second(w.Found(ctx, w.person(t, "thief@example.com"), "acme")) },
			} {
				want := organization.ErrClosing
				if what == "its name, by another" {
					want = organization.ErrNameTaken
				}
				if err := do(); !errors.Is(err, want) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := w.End(ctx, time.Now()); err != nil {
				t.Error(err)
			}
			if got, err := w.Get(ctx, id); err != nil || got.State != organization.Closing {
				t.Errorf("is %s before its time, %v", got.State, err)
			}
		})
		t.Run("can be undone by an owner", func(t *testing.T) {
			for _, role := range ladder[1:] {
				if _, err := w.Reopen(ctx, people[role], id); !denied(err) {
					t.Errorf("reopened by %s: %v", role, err)
				}
			}
			open, err := w.Reopen(ctx, other, id)
			if err != nil || open.State != organization.Active || !open.CloseAt.IsZero() {
				t.Errorf("got %+v, %v", open, err)
			}
			if _, err := w.Reopen(ctx, owner, id); !errors.Is(err, organization.ErrNotClosing) {
				t.Errorf("twice: %v", err)
			}
			if err := w.End(ctx, time.Now().Add(31*24*time.Hour)); err != nil {
				t.Error(err)
			}
			if got, err := w.Get(ctx, id); err != nil || got.State != organization.Active {
				t.Errorf("a reopened one is %s, %v", got.State, err)
			}
		})
		t.Run("ends it when the time is over", func(t *testing.T) {
			must(t, second(w.Close(ctx, w.operator(t), id, "acme")))
			must(t, w.End(ctx, time.Now().Add(30*24*time.Hour+time.Second)))
			if got, err := w.Get(ctx, id); err != nil || got.State != organization.Closed {
				t.Fatalf("is %s, %v", got.State, err)
			}
			if w.role(t, id, owner) != "" {
				t.Errorf("its owner is still %s", w.role(t, id, owner))
			}
			for what, do := range map[string]func() error{
				"reopen":           func() error { return second(w.Reopen(ctx, owner, id)) },
				"reopen, operator": func() error { return second(w.Reopen(ctx, w.operator(t), id)) },
				"update": func() error {
					required := false
					return second(w.Update(ctx, owner, id, organization.Change{RequireSecondFactor: &required}))
				},
				"remove a member": func() error { return w.RemoveMember(ctx, owner, id, other.ID) },
				"invite to it": func() error {
					_, _, err := w.Invite(ctx, owner, id, organization.Offer{Email: "x@example.com", Role: organization.Viewer})
					return err
				},
				"accept an old link": func() error { _, _, err := w.Accept(ctx, w.person(t, "late@example.com"), tokenOf(link)); return err },
			} {
				if err := do(); fault.KindOf(err) != fault.KindNotFound {
					t.Errorf("%s: %v", what, err)
				}
			}
			mine, _, err := w.List(ctx, owner, 0, "", true)
			if err != nil || len(mine) != 0 {
				t.Errorf("its owner sees %v, %v", mine, err)
			}
			for closed, want := range map[bool]int{false: 0, true: 1} {
				if all, _, err := w.List(ctx, w.operator(t), 0, "", closed); err != nil || len(all) != want {
					t.Errorf("an operator sees %v, %v", all, err)
				}
			}
			if _, err := w.Found(ctx, owner, "acme"); err != nil {
				t.Errorf("its name is not free: %v", err)
			}
		})
		t.Run("is recorded", func(t *testing.T) {
			for _, action := range []string{"organization.close", "organization.reopen", "organization.end"} {
				if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE organization_id = $1 AND action = $2`, id, action); n == 0 {
					t.Errorf("no event %s", action)
				}
			}
		})
	})
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		id, people := w.acme(t)
		owner := people[organization.Owner]
		must(t, second(w.Found(ctx, owner, "taken")))
		set := func(who account.Caller, name string) error {
			return second(w.Update(ctx, who, id, organization.Change{Name: &name}))
		}
		for _, role := range ladder[1:] {
			if err := set(people[role], "mine"); !denied(err) {
				t.Errorf("renamed by %s: %v", role, err)
			}
		}
		if err := set(owner, "taken"); !errors.Is(err, organization.ErrNameTaken) {
			t.Errorf("a name that is taken: %v", err)
		}
		if err := set(owner, "Bad Name"); fault.KindOf(err) != fault.KindInvalid {
			t.Errorf("a bad name: %v", err)
		}
		if err := set(owner, "acme"); err != nil {
			t.Errorf("its own name: %v", err)
		}
		if err := set(owner, "acme-two"); err != nil {
			t.Error(err)
		}
		if _, err := w.Update(ctx, owner, id, organization.Change{}); fault.KindOf(err) != fault.KindInvalid {
			t.Errorf("nothing: %v", err)
		}
		seen, err := w.Get(ctx, id)
		must(t, err)
		name := "acme-three"
		change := organization.Change{Name: &name, ETag: seen.ETag()}
		must(t, second(w.Update(ctx, owner, id, change)))
		if _, err := w.Update(ctx, owner, id, change); !errors.Is(err, organization.ErrChanged) {
			t.Errorf("changed by who does not know what it is: %v", err)
		}
		must(t, set(owner, "acme-two"))
		required := true
		demand := organization.Change{RequireSecondFactor: &required}
		bare := owner
		bare.SecondFactor = false
		if _, err := w.Update(ctx, bare, id, demand); !errors.Is(err, organization.ErrOwnSecondFactor) {
			t.Errorf("demanded by who has none: %v", err)
		}
		got, err := w.Update(ctx, owner, id, demand)
		if err != nil || got.Name != "acme-two" || !got.RequireSecondFactor {
			t.Errorf("got %+v, %v", got, err)
		}
		if member, err := w.MembershipOf(ctx, id, people[organization.Viewer].ID); err != nil || !member.NeedsSecondFactor {
			t.Errorf("a viewer is %+v, %v", member, err)
		}
		required = false
		if _, err := w.Update(ctx, bare, id, demand); err != nil {
			t.Errorf("taken back by who has none: %v", err)
		}
	})
}

func TestRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	d := dbtest.SQLite(t)
	organizations := organization.New(d, organization.Config{ClosePeriod: time.Second})
	made, err := organizations.Create(ctx, "acme", "owner@acme.example")
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- organizations.Run(ctx) }()
	operator := account.Caller{Account: account.Account{Operator: true}}
	must(t, second(organizations.Close(ctx, operator, made.ID, "acme")))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got, err := organizations.Get(ctx, made.ID)
		must(t, err)
		if got.State == organization.Closed {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("is %s long after its time", got.State)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}
