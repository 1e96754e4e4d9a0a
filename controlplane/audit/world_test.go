package audit_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// record writes one event for each action.
func record(t testing.TB, ctx context.Context, d *db.DB, organization string, actions ...string) {
	t.Helper()
	for _, action := range actions {
		must(t, db.InTx(ctx, d, func(tx *db.Tx) error {
			return audit.Record(ctx, tx, audit.Event{Organization: organization, Action: action, Object: "object of " + action, Detail: "some words"})
		}))
	}
}

func exec(t testing.TB, d *db.DB, statement string, args ...any) {
	t.Helper()
	must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), statement, args...)
		return err
	}))
}

func count(t testing.TB, d *db.DB, query string, args ...any) (n int) {
	t.Helper()
	must(t, d.Reader().QueryRow(t.Context(), query, args...).Scan(&n))
	return n
}

// person is an actor with all that there can be.
func person() audit.Actor {
	return audit.Actor{
		Kind: audit.Person, ID: uuid.NewString(), Session: uuid.NewString(), Impersonator: uuid.NewString(),
		Address: netip.MustParseAddr("2001:db8::1"), Request: "REQUEST",
	}
}

// fill gives a new organization very many events.
func fill(t testing.TB, d *db.DB, events int) string {
	t.Helper()
	organization, err := audit.Fill(t.Context(), d, events)
	must(t, err)
	return organization
}
