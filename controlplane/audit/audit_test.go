package audit_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

func TestRecord(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, trail := t.Context(), audit.New(d)
		one := func(t *testing.T, organization string) audit.Entry {
			t.Helper()
			found, _, err := trail.List(ctx, audit.Query{Organization: organization}, 0, "")
			if err != nil || len(found) != 1 {
				t.Fatalf("got %v, %v", found, err)
			}
			return found[0]
		}
		t.Run("refuses what belongs nowhere", func(t *testing.T) {
			if err := db.InTx(ctx, d, func(tx *db.Tx) error { return audit.Record(ctx, tx, audit.Event{Action: "x"}) }); err == nil {
				t.Error("it was recorded")
			}
		})
		t.Run("keeps what was done, by whom and from where", func(t *testing.T) {
			e := audit.Event{Organization: uuid.NewString(), Action: "site.create", Object: uuid.NewString(), Detail: "blog", Refused: true}
			actor := person()
			began := time.Now().Truncate(time.Microsecond)
			must(t, db.InTx(ctx, d, func(tx *db.Tx) error { return audit.Record(audit.As(ctx, actor), tx, e) }))
			got := one(t, e.Organization)
			if got.Event != e || got.Actor != actor || got.Sequence != 1 || got.Time.Before(began) || got.Time.After(time.Now()) {
				t.Errorf("got %+v", got)
			}
		})
		t.Run("names the control plane where nobody else acts", func(t *testing.T) {
			organization := uuid.NewString()
			record(t, ctx, d, organization, "site.purge")
			if got := one(t, organization); got.Actor != (audit.Actor{Kind: audit.System}) {
				t.Errorf("got %+v", got.Actor)
			}
		})
		t.Run("keeps each text in its field", func(t *testing.T) { // case B12
			const hostile = "a\r\nb\x00c\u2028d\u202ee\x1b[31m=\"x\",{\"actor\":\"system\"}\xff"
			const kept = "a��b�c�d�e�[31m=\"x\",{\"actor\":\"system\"}�"
			organization := uuid.NewString()
			actor := audit.Actor{Kind: audit.Person, ID: hostile, Session: hostile, Token: hostile, Request: hostile, Address: netip.MustParseAddr("fe80::1%eth0")}
			must(t, db.InTx(ctx, d, func(tx *db.Tx) error {
				return audit.Record(audit.As(ctx, actor), tx, audit.Event{Organization: organization, Action: hostile, Object: hostile, Detail: strings.Repeat("é", 600)})
			}))
			got := one(t, organization)
			for name, text := range map[string]string{
				"id": got.Actor.ID, "session": got.Actor.Session, "token": got.Actor.Token, "request": got.Actor.Request, "action": got.Action, "object": got.Object,
			} {
				if text != kept {
					t.Errorf("%s is %q", name, text)
				}
			}
			if got.Detail != strings.Repeat("é", 500) || got.Actor.Address.String() != "fe80::1" {
				t.Errorf("got %q and %s", got.Detail, got.Actor.Address)
			}
		})
		t.Run("fails the transaction that it cannot be part of", func(t *testing.T) { // case A14
			change := func(d *db.DB, organization string) error {
				return db.InTx(ctx, d, func(tx *db.Tx) error {
					if _, err := tx.Exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, 'x')`, organization); err != nil {
						return err
					}
					return audit.Record(ctx, tx, audit.Event{Organization: organization, Action: "setting.change"})
				})
			}
			for _, table := range []string{"audit_events", "audit_heads"} {
				exec(t, d, `ALTER TABLE `+table+` RENAME TO gone`)
				if err := change(d, table); err == nil || count(t, d, `SELECT COUNT(*) FROM settings WHERE name = $1`, table) != 0 {
					t.Errorf("without %s: %v", table, err)
				}
				exec(t, d, `ALTER TABLE gone RENAME TO `+table)
			}
			if err := change(d, "whole again"); err != nil || count(t, d, `SELECT COUNT(*) FROM settings WHERE name = 'whole again'`) != 1 {
				t.Errorf("got %v", err)
			}
		})
		t.Run("leaves no event of what did not happen", func(t *testing.T) {
			organization, failed := uuid.NewString(), errors.New("failed")
			err := db.InTx(ctx, d, func(tx *db.Tx) error {
				if err := audit.Record(ctx, tx, audit.Event{Organization: organization, Action: "site.create"}); err != nil {
					return err
				}
				return failed
			})
			if !errors.Is(err, failed) || count(t, d, `SELECT COUNT(*) FROM audit_events WHERE organization_id = $1`, organization) != 0 {
				t.Errorf("got %v", err)
			}
		})
		t.Run("makes whole chains of what many do at once", func(t *testing.T) {
			shared := uuid.NewString()
			var wg sync.WaitGroup
			for i := range 30 {
				wg.Go(func() {
					own := uuid.NewString()
					for n := range 5 {
						var options []db.TxOption
						if n%2 == 0 {
							options = []db.TxOption{db.ReadCommitted()}
						}
						if err := db.InTx(ctx, d, func(tx *db.Tx) error {
							if _, err := tx.Exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, 'x')`, fmt.Sprintf("%d-%d", i, n)); err != nil {
								return err
							}
							for _, organization := range []string{shared, own, shared} {
								if err := audit.Record(ctx, tx, audit.Event{Organization: organization, Action: "site.update"}); err != nil {
									return err
								}
							}
							return nil
						}, options...); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if n := count(t, d, `SELECT COUNT(*) FROM audit_events WHERE organization_id = $1`, shared); n != 300 {
				t.Errorf("%d events", n)
			}
			if n := count(t, d, `SELECT MAX(sequence) FROM audit_events WHERE organization_id = $1`, shared); n != 300 {
				t.Errorf("the last is event %d", n)
			}
			if checked, err := trail.Verify(ctx, nil); err != nil || len(checked.Damages) != 0 || checked.Chains < 31 {
				t.Errorf("got %+v, %v", checked, err)
			}
		})
	})
	t.Run("refuses to work without a key", func(t *testing.T) {
		d, err := db.Open(t.Context(), dbtest.SQLiteURL(t))
		must(t, err)
		defer d.Close()
		if err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
			return audit.Record(t.Context(), tx, audit.Event{Organization: audit.Platform, Action: "x"})
		}); err == nil || count(t, d, `SELECT COUNT(*) FROM audit_events`) != 0 {
			t.Errorf("got %v", err)
		}
	})
}
