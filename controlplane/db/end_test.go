package db_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

// count adds one to a counter at the end of a transaction, as the head of a chain grows.
func count(ctx context.Context, tx *db.Tx, name string) {
	tx.AtEnd(name, func() error {
		var value string
		if err := tx.QueryRow(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&value); err != nil {
			return err
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return err
		}
		return put(ctx, tx, name, strconv.Itoa(n+1))
	})
}

func TestAtEnd(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		t.Run("runs last, in the order of the keys", func(t *testing.T) {
			var order []string
			if err := db.InTx(ctx, d, func(tx *db.Tx) error {
				order = nil
				for _, key := range []string{"b", "a", "b"} {
					tx.AtEnd(key, func() error { order = append(order, key); return nil })
				}
				order = append(order, "body")
				return nil
			}); err != nil || !slices.Equal(order, []string{"body", "a", "b", "b"}) {
				t.Errorf("got %v, %v", order, err)
			}
		})
		t.Run("undoes the transaction by its error", func(t *testing.T) {
			broken := errors.New("broken")
			err := db.InTx(ctx, d, func(tx *db.Tx) error {
				tx.AtEnd("a", func() error { return broken })
				return put(ctx, tx, "undone", "1")
			})
			if !errors.Is(err, broken) || get(t, d, "undone") != "" {
				t.Errorf("got %v, and %q is stored", err, get(t, d, "undone"))
			}
		})
		t.Run("lets many change one row, without one that gives up", func(t *testing.T) {
			const writers, each = 40, 5
			for _, name := range []string{"one", "two"} {
				if err := db.InTx(ctx, d, func(tx *db.Tx) error { return put(ctx, tx, name, "0") }); err != nil {
					t.Fatal(err)
				}
			}
			var wg sync.WaitGroup
			for i := range writers {
				wg.Go(func() {
					for range each {
						err := db.InTx(ctx, d, func(tx *db.Tx) error {
							if i%2 == 0 {
								count(ctx, tx, "two")
							}
							count(ctx, tx, "one")
							if i%2 == 1 {
								count(ctx, tx, "two")
							}
							return nil
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if one, two := get(t, d, "one"), get(t, d, "two"); one != strconv.Itoa(writers*each) || two != one {
				t.Errorf("counted %s and %s", one, two)
			}
		})
		t.Run("does not keep who gives up waiting", func(t *testing.T) {
			inside, done := make(chan struct{}), make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := db.InTx(ctx, d, func(tx *db.Tx) error {
					tx.AtEnd("slow", func() error { close(inside); <-done; return nil })
					return nil
				}); err != nil {
					t.Error(err)
				}
			})
			<-inside
			time.AfterFunc(300*time.Millisecond, func() { close(done) }) // SQLite has one writer: there one waits for this
			impatient, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			err := db.InTx(impatient, d, func(tx *db.Tx) error {
				tx.AtEnd("slow", func() error { return nil })
				return nil
			})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			wg.Wait()
			if err := db.InTx(ctx, d, func(tx *db.Tx) error {
				tx.AtEnd("slow", func() error { return nil })
				return nil
			}); err != nil {
				t.Errorf("the next one: %v", err)
			}
		})
	})
}
