package token_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/token"
	"chom.dev/proto/contract"
)

// world is tokens, an organization with an owner, and an operator.
type world struct {
	*token.Tokens
	db            *db.DB
	organizations *organization.Organizations
	acme          contract.OrganizationID
	owner         account.Caller
	operator      account.Caller

	mu    sync.Mutex
	mails []notify.Mail
}

func newWorld(t *testing.T, d *db.DB) *world {
	t.Helper()
	w := &world{db: d}
	w.organizations = organization.New(d, organization.Config{Mail: func(_ context.Context, tx *db.Tx, mail notify.Mail) error {
		tx.AfterCommit(func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.mails = append(w.mails, mail)
		})
		return nil
	}})
	w.Tokens = token.New(d, slog.New(slog.DiscardHandler), w.organizations)
	w.owner = w.person(t, "owner@acme.example")
	made, err := w.organizations.Found(t.Context(), w.owner, "acme")
	must(t, err)
	w.acme = made.ID
	w.operator = w.person(t, "operator@example.com")
	w.exec(t, `UPDATE accounts SET operator = TRUE WHERE id = $1`, w.operator.ID)
	w.operator.Operator = true
	return w
}

// person makes somebody whose address is verified, signed in by a fresh session.
func (w *world) person(t *testing.T, email string) account.Caller {
	t.Helper()
	address, err := contract.ParseEmail(email)
	must(t, err)
	made := account.Caller{Session: "s", Scope: account.Manage, Account: account.Account{Email: email}}
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
		if made.ID, err = account.Ensure(t.Context(), tx, address); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), `UPDATE accounts SET verified_at = 1 WHERE id = $1`, made.ID)
		return err
	}))
	return made
}

func (w *world) member(t *testing.T, email string, role organization.Role) account.Caller {
	t.Helper()
	made := w.person(t, email)
	w.exec(t, `
		INSERT INTO members (organization_id, account_id, role, all_sites, created_at)
		VALUES ($1, $2, $3, TRUE, 2)
		ON CONFLICT (organization_id, account_id) DO UPDATE SET role = excluded.role`, w.acme, made.ID, string(role))
	return made
}

// site makes a row of a site, which is all that a bound needs.
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

// create makes a personal token.
func (w *world) create(t *testing.T, who account.Caller, r token.Request) (token.Token, string) {
	t.Helper()
	if r.Name == "" {
		r.Name = "laptop"
	}
	made, text, err := w.Create(t.Context(), who, r)
	must(t, err)
	return made, text
}

// caller is who a text stands for now; nil for nobody.
func (w *world) caller(t *testing.T, text string) *account.Caller {
	t.Helper()
	found, err := w.Authenticate(t.Context(), text, "192.0.2.1")
	if err != nil {
		return nil
	}
	return &found
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
