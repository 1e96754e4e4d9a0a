package token_test

import (
	"context"
	"database/sql"
	"log/slog"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/token"
)

func newTokens(d *db.DB) *token.Tokens { return token.New(d, slog.New(slog.DiscardHandler), nil) }

func TestUses(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		made, text := w.create(t, w.owner, token.Request{Scope: account.Read})
		used := func() (at time.Time, from string) {
			t.Helper()
			var us sql.NullInt64
			must(t, d.Reader().QueryRow(ctx, `SELECT last_used_at, last_used_address FROM tokens WHERE id = $1`, made.ID).Scan(&us, &from))
			return db.NullTime(us), from
		}
		use := func(from string) {
			t.Helper()
			if _, err := w.Authenticate(ctx, text, from); err != nil {
				t.Fatal(err)
			}
		}
		use("192.0.2.1")
		if at, _ := used(); !at.IsZero() {
			t.Error("a call writes")
		}
		must(t, w.Flush(ctx))
		at, from := used()
		if time.Since(at) > time.Minute || from != "192.0.2.1" {
			t.Errorf("used %s from %s", at, from)
		}
		listed, _, err := w.Of(ctx, w.owner, 0, "")
		if err != nil || len(listed) != 1 || !listed[0].UsedAt.Equal(at) || listed[0].UsedFrom != from {
			t.Errorf("listed %+v, %v", listed, err)
		}
		t.Run("are written once a minute", func(t *testing.T) {
			use("192.0.2.2")
			must(t, w.Flush(ctx))
			if again, from := used(); !again.Equal(at) || from != "192.0.2.1" {
				t.Errorf("written again after %s", again.Sub(at))
			}
			w.exec(t, `UPDATE tokens SET last_used_at = last_used_at - 61000000`)
			use("2001:db8::1")
			must(t, w.Flush(ctx))
			if again, from := used(); !again.After(at) || from != "2001:db8::1" {
				t.Errorf("used %s from %s", again, from)
			}
		})
		t.Run("wait when the database is away", func(t *testing.T) {
			w.exec(t, `UPDATE tokens SET last_used_at = NULL`)
			use("192.0.2.3")
			gone, cancel := context.WithCancel(ctx)
			cancel()
			if err := w.Flush(gone); err == nil {
				t.Fatal("nothing went wrong")
			}
			must(t, w.Flush(ctx))
			if _, from := used(); from != "192.0.2.3" {
				t.Errorf("from %s", from)
			}
		})
		t.Run("of a thousand tokens are written at the end", func(t *testing.T) {
			var texts []string
			for range 11 {
				who := w.person(t, "p"+string(rune('a'+len(texts)/100))+"@example.com")
				for range 100 {
					_, text := w.create(t, who, token.Request{Scope: account.Read})
					texts = append(texts, text)
				}
			}
			running, stop := context.WithCancel(ctx)
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := w.Run(running); err != nil {
					t.Errorf("ended with %v", err)
				}
			})
			for _, text := range texts {
				if _, err := w.Authenticate(ctx, text, "192.0.2.9"); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			wg.Wait()
			if n := w.count(t, `SELECT COUNT(*) FROM tokens WHERE last_used_address = '192.0.2.9' AND last_used_at > 1`); n != len(texts) {
				t.Errorf("%d of %d are written", n, len(texts))
			}
		})
	})
}
