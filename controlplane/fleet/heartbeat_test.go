package fleet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/proto/contract"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
)

// crowd inserts servers without their enrolment.
func crowd(t testing.TB, d *db.DB, n int) []contract.ServerID {
	t.Helper()
	ids := make([]contract.ServerID, n)
	err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
		for i := range ids {
			ids[i] = contract.NewServerID()
			if err := insert(t.Context(), tx, ids[i], fmt.Sprint("s", i), Shared, contract.OrganizationID{}, time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, d, `UPDATE servers SET state = 'active'`)
	return ids
}

func TestHeartbeats(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		ids := crowd(t, d, 5000)
		seen := func(id contract.ServerID) time.Time { return w.get(t, id).LastSeenAt }

		t.Run("are written whatever their number", func(t *testing.T) {
			// Below and above the sizes of both statements.
			for _, n := range []int{1, beatChunkSmall, beatChunkSmall + 1, 4*beatChunkSmall + 1, beatChunk, beatChunk + 1, len(ids)} {
				w.now = w.now.Add(time.Second)
				for _, id := range ids[:n] {
					w.Beat(id, w.now)
				}
				if err := w.flush(ctx); err != nil {
					t.Fatal(err)
				}
				var written int
				if err := d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM server_links WHERE last_seen_at = $1`, db.Micros(w.now)).Scan(&written); err != nil || written != n {
					t.Errorf("%d of %d, %v", written, n, err)
				}
			}
		})
		t.Run("take a small part of a second for 5,000", func(t *testing.T) {
			best := time.Hour
			for range 5 {
				w.now = w.now.Add(time.Second)
				for _, id := range ids {
					w.Beat(id, w.now)
				}
				began := time.Now()
				if err := w.flush(ctx); err != nil {
					t.Fatal(err)
				}
				best = min(best, time.Since(began))
			}
			t.Logf("5,000 heartbeats in %s", best)
			if best > time.Second {
				t.Errorf("took %s: they would pile up", best)
			}
		})
		t.Run("never go back", func(t *testing.T) {
			id := ids[0]
			w.Beat(id, w.now.Add(2*time.Second))
			w.Beat(id, w.now.Add(time.Second))
			if err := w.flush(ctx); err != nil {
				t.Fatal(err)
			}
			w.Beat(id, w.now)
			if err := w.flush(ctx); err != nil {
				t.Fatal(err)
			}
			if got := seen(id); !got.Equal(w.now.Add(2 * time.Second)) {
				t.Errorf("seen at %s", got)
			}
		})
		t.Run("go back with a clock that was years ahead", func(t *testing.T) {
			id := ids[4]
			w.Beat(id, w.now.Add(10*365*24*time.Hour))
			if err := w.flush(ctx); err != nil {
				t.Fatal(err)
			}
			if w.get(t, id).Online {
				t.Error("it counts as there for ten years")
			}
			w.Beat(id, w.now)
			if err := w.flush(ctx); err != nil {
				t.Fatal(err)
			}
			if got := w.get(t, id); !got.LastSeenAt.Equal(w.now) || !got.Online {
				t.Errorf("seen at %s", got.LastSeenAt)
			}
		})
		t.Run("don't wake those who look for changes", func(t *testing.T) {
			before := changedAt(t, d, ids[1])
			w.Beat(ids[1], w.now.Add(time.Minute))
			if err := w.flush(ctx); err != nil {
				t.Fatal(err)
			}
			if after := changedAt(t, d, ids[1]); after != before {
				t.Errorf("changed at %d, then %d", before, after)
			}
		})
		t.Run("wait while the database is away", func(t *testing.T) {
			at := w.now.Add(time.Hour)
			w.Beat(ids[2], at)
			gone, cancel := context.WithCancel(ctx)
			cancel()
			if err := w.flush(gone); err == nil {
				t.Fatal("was written without a database")
			}
			if err := w.flush(ctx); err != nil {
				t.Fatal(err)
			}
			if got := seen(ids[2]); !got.Equal(at) {
				t.Errorf("seen at %s", got)
			}
		})
		t.Run("are written at the end of the process", func(t *testing.T) {
			at := w.now.Add(2 * time.Hour)
			run, cancel := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- w.Run(run) }()
			w.Beat(ids[3], at)
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
			if got := seen(ids[3]); !got.Equal(at) {
				t.Errorf("seen at %s", got)
			}
		})
	})
}

func changedAt(t testing.TB, d *db.DB, id contract.ServerID) (at int64) {
	t.Helper()
	if err := d.Reader().QueryRow(t.Context(), `SELECT changed_at FROM servers WHERE id = $1`, id).Scan(&at); err != nil {
		t.Fatal(err)
	}
	return at
}

func TestFacts(t *testing.T) {
	t.Run("of a hostile host are cut and printable", func(t *testing.T) {
		f := FactsFrom(&fleetv1.Facts{
			Hostname:  "a\x1b[2Jb\nc\x00\u202ed",
			Os:        strings.Repeat("é", 1000),
			Findings:  make([]string, 100),
			Addresses: []string{strings.Repeat("1", 500), "\xff"},
		})
		if f.Hostname != "a\uFFFD[2Jb\uFFFDc\uFFFD\uFFFDd" {
			t.Errorf("hostname %q", f.Hostname)
		}
		if f.OS != strings.Repeat("é", 128) || len(f.Findings) != 32 || len(f.Addresses[0]) != 64 || f.Addresses[1] != "\uFFFD" {
			t.Errorf("got %+v", f)
		}
	})
	t.Run("of a silent host are empty", func(t *testing.T) {
		if f := FactsFrom(nil); f.Prepared || f.Hostname != "" || len(f.Findings) != 0 {
			t.Errorf("got %+v", f)
		}
	})
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		save := func(id contract.ServerID, f Facts) {
			t.Helper()
			if err := db.InTx(t.Context(), d, func(tx *db.Tx) error { return SaveFacts(t.Context(), tx, id, f) }); err != nil {
				t.Fatal(err)
			}
		}
		id, _ := w.host(t, "web", "key")
		want := FactsFrom(&fleetv1.Facts{Hostname: "web", Os: "debian 12", CpuCount: 2, MemoryBytes: math.MaxUint64, Prepared: true, Findings: []string{"x"}})
		save(id, want)
		if got := w.get(t, id); fmt.Sprint(*got.Facts) != fmt.Sprint(want) || !got.Prepared {
			t.Errorf("got %+v, want %+v", *got.Facts, want)
		}
		save(id, Facts{})
		if got := w.get(t, id); got.Prepared || got.Facts.Hostname != "" {
			t.Errorf("got %+v", got)
		}
		if _, err := w.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		save(id, want)
		if got := w.get(t, id); got.Prepared {
			t.Error("a removed server's agent was believed")
		}
	})
}
