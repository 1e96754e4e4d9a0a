package organization_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

// world is organizations, the people in them, and what was mailed.
type world struct {
	*organization.Organizations
	db *db.DB

	mu    sync.Mutex
	mails []notify.Mail
}

func newWorld(t *testing.T, d *db.DB) *world {
	t.Helper()
	w := &world{db: d}
	w.Organizations = organization.New(d, organization.Config{URL: "https://chom.example.com", Mail: func(_ context.Context, tx *db.Tx, mail notify.Mail) error {
		tx.AfterCommit(func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.mails = append(w.mails, mail)
		})
		return nil
	}})
	return w
}

// person makes somebody whose address is verified.
func (w *world) person(t *testing.T, email string) account.Caller {
	t.Helper()
	address, err := contract.ParseEmail(email)
	must(t, err)
	made := account.Caller{Scope: account.Manage, SecondFactor: true}
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
		if made.ID, err = account.Ensure(t.Context(), tx, address); err != nil {
			return err
		}
		return tx.QueryRow(t.Context(), `UPDATE accounts SET verified_at = 1 WHERE id = $1 RETURNING email, operator`, made.ID).Scan(&made.Email, &made.Operator)
	}))
	return made
}

// operator makes somebody who runs the platform.
func (w *world) operator(t *testing.T) account.Caller {
	t.Helper()
	made := w.person(t, "operator@example.com")
	w.exec(t, `UPDATE accounts SET operator = TRUE WHERE id = $1`, made.ID)
	made.Operator = true
	return made
}

// acme makes an organization with a member of each role, found by it.
func (w *world) acme(t *testing.T) (contract.OrganizationID, map[organization.Role]account.Caller) {
	t.Helper()
	people := map[organization.Role]account.Caller{organization.Owner: w.person(t, "owner@acme.example")}
	made, err := w.Found(t.Context(), people[organization.Owner], "acme")
	must(t, err)
	for _, role := range []organization.Role{organization.Admin, organization.Member, organization.Viewer} {
		people[role] = w.join(t, made.ID, string(role)+"@acme.example", role)
	}
	return made.ID, people
}

// join makes a member without an invitation.
func (w *world) join(t *testing.T, id contract.OrganizationID, email string, role organization.Role) account.Caller {
	t.Helper()
	made := w.person(t, email)
	w.exec(t, `INSERT INTO members (organization_id, account_id, role, all_sites, created_at) VALUES ($1, $2, $3, TRUE, 2)`, id, made.ID, string(role))
	return made
}

// crowd makes many members at once.
func (w *world) crowd(t *testing.T, id contract.OrganizationID, n int) {
	t.Helper()
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
		for i := range n {
			address, err := contract.ParseEmail(fmt.Sprintf("m%d@example.com", i))
			must(t, err)
			who, err := account.Ensure(t.Context(), tx, address)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(t.Context(), `INSERT INTO members (organization_id, account_id, role, all_sites, created_at) VALUES ($1, $2, 'viewer', TRUE, 2)`, id, who); err != nil {
				return err
			}
		}
		return nil
	}))
}

// site makes a row of a site, which is all that a grant needs.
func (w *world) site(t *testing.T, id contract.OrganizationID) string {
	t.Helper()
	made := contract.NewSiteID().String()
	w.exec(t, `
		INSERT INTO servers (id, name, tenancy, state, problem, created_at, changed_at, prepared, prepare_task_id, serial, next_serial, recoveries, epoch, instance_id, task_sequence)
		VALUES ('a server', 'a', 'shared', 'active', '', 1, 1, TRUE, '', '', '', 0, 0, '', 0)
		ON CONFLICT (id) DO NOTHING`)
	w.exec(t, `
		INSERT INTO sites (organization_id, id, handle, server_id, name, type, desired, phase, frozen, generation, observed_generation, problem, last_task_id, created_at, updated_at)
		VALUES ($1, $2, $3, 'a server', $3, 'static', $4, 'active', FALSE, 1, 0, '', '', 1, 1)`, id, made, made[24:], []byte{})
	return made
}

func (w *world) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), statement, args...); return err }))
}

func (w *world) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	must(t, w.db.Reader().QueryRow(t.Context(), query, args...).Scan(&n))
	return n
}

// role is what somebody is now.
func (w *world) role(t *testing.T, id contract.OrganizationID, who account.Caller) organization.Role {
	t.Helper()
	found, err := w.MembershipOf(t.Context(), id, who.ID)
	must(t, err)
	return found.Role
}

// mailed is what somebody got, by the name of its template.
func (w *world) mailed(to, template string) (found []notify.Mail) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, mail := range w.mails {
		if strings.EqualFold(mail.To.String(), to) && mail.Template == template {
			found = append(found, mail)
		}
	}
	return found
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func denied(err error) bool { return fault.KindOf(err) == fault.KindDenied }
