package repeat_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/repeat"
)

func open(t *testing.T, d *db.DB) *repeat.Repeats {
	t.Helper()
	d.SetSealKey([]byte("a key of this test"))
	return repeat.New(d, slog.New(slog.NewTextHandler(t.Output(), nil)))
}

// act is a call's effect: one more row of settings.
func act(ctx context.Context, d *db.DB, name string) error {
	return db.InTx(ctx, d, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, '')`, name)
		return err
	})
}

func effects(t *testing.T, d *db.DB) (n int) {
	t.Helper()
	if err := d.Reader().QueryRow(t.Context(), `SELECT COUNT(*) FROM settings WHERE name LIKE 'effect %'`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKey(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		r := open(t, d)
		call := repeat.Call{Caller: "somebody", Key: "a", Request: r.Seal("/Create", []byte("x"))}
		under, first := r.Begin(t.Context(), call)
		t.Run("is not there before its effect", func(t *testing.T) {
			if past, err := r.Find(t.Context(), call); past != nil || err != nil {
				t.Errorf("got %+v, %v", past, err)
			}
		})
		t.Run("goes with an effect that is undone", func(t *testing.T) {
			undone := errors.New("changed my mind")
			if err := db.InTx(under, d, func(*db.Tx) error { return undone }); !errors.Is(err, undone) {
				t.Fatal(err)
			}
			if past, _ := r.Find(t.Context(), call); past != nil || first.Done() {
				t.Errorf("got %+v", past)
			}
		})
		t.Run("comes with the first effect that is committed, and once", func(t *testing.T) {
			for i := range 2 {
				if err := act(under, d, fmt.Sprint("effect ", i)); err != nil {
					t.Fatal(err)
				}
			}
			past, err := r.Find(t.Context(), call)
			if err != nil || past == nil || past.Outcome != repeat.Unknown || time.Since(past.Began) > time.Minute || !first.Done() {
				t.Errorf("got %+v, %v", past, err)
			}
		})
		t.Run("keeps a second call from having one", func(t *testing.T) {
			before := effects(t, d)
			again, first := r.Begin(t.Context(), call)
			if err := act(again, d, "effect again"); !errors.Is(err, repeat.ErrRepeated) {
				t.Errorf("got %v", err)
			}
			if effects(t, d) != before || first.Done() {
				t.Error("it had one")
			}
		})
		t.Run("holds the answer, and only the first", func(t *testing.T) {
			for _, text := range []string{"the answer", "another"} {
				if err := r.Keep(t.Context(), call, repeat.Answered, []byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			if past, err := r.Find(t.Context(), call); err != nil || past.Outcome != repeat.Answered || string(past.Answer) != "the answer" {
				t.Errorf("got %+v, %v", past, err)
			}
		})
		t.Run("stands for one request", func(t *testing.T) {
			for _, request := range [][]byte{r.Seal("/Create", []byte("y")), r.Seal("/Delete", []byte("x")), nil} {
				other := call
				other.Request = request
				if _, err := r.Find(t.Context(), other); !errors.Is(err, repeat.ErrOther) {
					t.Errorf("got %v", err)
				}
			}
		})
		t.Run("is its caller's own", func(t *testing.T) {
			other := call
			other.Caller = "somebody else"
			if past, err := r.Find(t.Context(), other); past != nil || err != nil {
				t.Errorf("got %+v, %v", past, err)
			}
		})
		t.Run("is written for a call that had nothing to write", func(t *testing.T) {
			idle := repeat.Call{Caller: "somebody", Key: "idle", Request: call.Request}
			if err := r.Keep(t.Context(), idle, repeat.Answered, []byte("nothing")); err != nil {
				t.Fatal(err)
			}
			if past, err := r.Find(t.Context(), idle); err != nil || past == nil || string(past.Answer) != "nothing" {
				t.Errorf("got %+v, %v", past, err)
			}
		})
		t.Run("is no more after its end", func(t *testing.T) {
			late := repeat.Call{Caller: "somebody", Key: "late", Request: call.Request}
			under, first := r.Begin(t.Context(), late)
			first.End()
			if err := act(under, d, "effect late"); err != nil {
				t.Fatal(err)
			}
			if past, err := r.Find(t.Context(), late); past != nil || err != nil {
				t.Errorf("got %+v, %v", past, err)
			}
		})
	})
}

// TestCrowd has fifty calls with one key begin at once: one has its effect.
func TestCrowd(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		r := open(t, d)
		call := repeat.Call{Caller: "somebody", Key: "a", Request: r.Seal("/Create", nil)}
		var won, repeated atomic.Int64
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				under, _ := r.Begin(t.Context(), call)
				switch err := act(under, d, fmt.Sprint("effect ", i)); {
				case err == nil:
					won.Add(1)
				case errors.Is(err, repeat.ErrRepeated):
					repeated.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 || repeated.Load() != 49 || effects(t, d) != 1 {
			t.Errorf("%d won, %d were repeats, %d effects", won.Load(), repeated.Load(), effects(t, d))
		}
	})
}

func TestPrune(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		r := open(t, d)
		ctx := t.Context()
		request := r.Seal("/Create", nil)
		old := db.Micros(time.Now().Add(-25 * time.Hour))
		if err := db.InTx(ctx, d, func(tx *db.Tx) error {
			for i := range 2500 {
				if _, err := tx.Exec(ctx, `INSERT INTO repeats (caller, key, request, began_at, outcome) VALUES ('somebody', $1, $2, $3, 'unknown')`,
					fmt.Sprint(i), request, old+int64(i)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		fresh := repeat.Call{Caller: "somebody", Key: "0", Request: request}
		t.Run("lets a key that is over be used before it is pruned", func(t *testing.T) {
			if past, err := r.Find(ctx, fresh); past != nil || err != nil {
				t.Errorf("got %+v, %v", past, err)
			}
			under, _ := r.Begin(ctx, fresh)
			if err := act(under, d, "effect 0"); err != nil {
				t.Fatal(err)
			}
		})
		t.Run("removes what is over and nothing else", func(t *testing.T) {
			if err := r.Prune(ctx, time.Now()); err != nil {
				t.Fatal(err)
			}
			var n int
			if err := d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM repeats`).Scan(&n); err != nil || n != 1 {
				t.Errorf("%d are left, %v", n, err)
			}
			if past, err := r.Find(ctx, fresh); past == nil || err != nil {
				t.Errorf("got %+v, %v", past, err)
			}
		})
	})
}
