package organization_test

import (
	"errors"
	"fmt"
	"testing"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
)

func accountID(t *testing.T, d *db.DB, email string) string {
	t.Helper()
	var id string
	if err := d.Reader().QueryRow(t.Context(), `SELECT id FROM accounts WHERE email = $1`, email).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		organizations := organization.New(d, organization.Config{})
		acme, err := organizations.Create(ctx, "acme", "Anna@acme.example")
		if err != nil {
			t.Fatal(err)
		}
		t.Run("makes its owner", func(t *testing.T) {
			member, err := organizations.MembershipOf(ctx, acme.ID, accountID(t, d, "anna@acme.example"))
			if err != nil || member.Role != organization.Owner {
				t.Errorf("got %q, %v", member.Role, err)
			}
			if got, err := organizations.Get(ctx, acme.ID); err != nil || got != acme {
				t.Errorf("got %+v, want %+v, %v", got, acme, err)
			}
		})
		t.Run("lets one person own several", func(t *testing.T) {
			if _, err := organizations.Create(ctx, "acme-two", "anna@acme.example"); err != nil {
				t.Error(err)
			}
		})
		t.Run("refuses a name already taken, with no effect", func(t *testing.T) {
			if _, err := organizations.Create(ctx, "acme", "ben@acme.example"); !errors.Is(err, organization.ErrNameTaken) {
				t.Errorf("got %v", err)
			}
			var n int
			if err := d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM accounts WHERE email = 'ben@acme.example'`).Scan(&n); err != nil || n != 0 {
				t.Errorf("%d accounts, %v", n, err)
			}
		})
		for field, bad := range map[string][2]string{"name": {"Acme; id", "a@b.example"}, "owner_email": {"other", "nobody"}} {
			t.Run("refuses a bad "+field, func(t *testing.T) {
				var f *fault.Fault
				if _, err := organizations.Create(ctx, bad[0], bad[1]); !errors.As(err, &f) || f.Field() != field {
					t.Errorf("got %v", err)
				}
			})
		}
		t.Run("writes who did it in the same transaction", func(t *testing.T) {
			if err := db.InTx(ctx, d, func(tx *db.Tx) error { _, err := tx.Exec(ctx, `ALTER TABLE audit_events RENAME TO gone`); return err }); err != nil {
				t.Fatal(err)
			}
			if _, err := organizations.Create(ctx, "unseen", "a@b.example"); err == nil {
				t.Error("was made without a trace")
			}
			var n int
			if err := d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM organizations WHERE name = 'unseen'`).Scan(&n); err != nil || n != 0 {
				t.Errorf("%d organizations, %v", n, err)
			}
		})
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		organizations := organization.New(d, organization.Config{})
		for i := range 5 {
			if _, err := organizations.Create(ctx, fmt.Sprintf("o%d", i), fmt.Sprintf("p%d@example.com", i%2)); err != nil {
				t.Fatal(err)
			}
		}
		read := func(t *testing.T, caller account.Caller) (names []string) {
			t.Helper()
			for token := ""; ; {
				found, next, err := organizations.List(ctx, caller, 2, token, false)
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range found {
					names = append(names, o.Name)
				}
				if token = next; token == "" {
					return names
				}
			}
		}
		operator := account.Caller{Account: account.Account{ID: "0190b1c2-0000-7000-8000-000000000001", Operator: true}}
		member := account.Caller{Account: account.Account{ID: accountID(t, d, "p1@example.com")}}
		stranger := account.Caller{Account: account.Account{ID: "0190b1c2-0000-7000-8000-000000000002"}}
		for name, test := range map[string]struct {
			caller account.Caller
			want   string
		}{
			"shows all to an operator, oldest first": {operator, "[o0 o1 o2 o3 o4]"},
			"shows a member their own":               {member, "[o1 o3]"},
			"shows a stranger nothing":               {stranger, "[]"},
		} {
			t.Run(name, func(t *testing.T) {
				if got := fmt.Sprint(read(t, test.caller)); got != test.want {
					t.Errorf("got %s, want %s", got, test.want)
				}
			})
		}
		t.Run("refuses another caller's page token", func(t *testing.T) {
			_, next, err := organizations.List(ctx, operator, 2, "", false)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := organizations.List(ctx, member, 2, next, false); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestRole(t *testing.T) {
	ladder := []organization.Role{organization.Owner, organization.Admin, organization.Member, organization.Viewer}
	for i, role := range ladder {
		for j, other := range ladder {
			if got := role.AtLeast(other); got != (i <= j) {
				t.Errorf("%s.AtLeast(%s) = %t", role, other, got)
			}
		}
	}
	if organization.Role("").AtLeast(organization.Viewer) || organization.Owner.AtLeast("") || organization.Role("").AtLeast("") {
		t.Error("no role was enough")
	}
}
