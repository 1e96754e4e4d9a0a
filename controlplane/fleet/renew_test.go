package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/pki"
)

func TestRenew(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		renew := func(w *world, who pki.Peer, key string) ([]byte, error) {
			return w.Renew(ctx, who, keyHash(key), w.now, w.issue(w.now))
		}
		t.Run("gives the same key the same answer", func(t *testing.T) {
			w := newWorld(t, d)
			_, who := w.host(t, "same", "k1")
			first, err := renew(w, who, "k2")
			if err != nil {
				t.Fatal(err)
			}
			second, err := renew(w, who, "k2")
			if err != nil || !bytes.Equal(first, second) || w.issued.Load() != 2 {
				t.Errorf("got %s, %v after %s, %d issued", second, err, first, w.issued.Load())
			}
		})
		t.Run("gives one answer to many who ask at once", func(t *testing.T) {
			w := newWorld(t, d)
			_, who := w.host(t, "crowd", "k1")
			var group sync.WaitGroup
			var mu sync.Mutex
			answers := map[string]bool{}
			for range 20 {
				group.Go(func() {
					der, err := renew(w, who, "k2")
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					answers[string(der)] = true
				})
			}
			group.Wait()
			if len(answers) != 1 {
				t.Errorf("got %v", answers)
			}
		})
		t.Run("replaces what was pending by what another key asked for", func(t *testing.T) {
			w := newWorld(t, d)
			_, who := w.host(t, "other", "k1")
			epoch := w.mustHello(t, who, "i1")
			dead, err := renew(w, who, "k2")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := renew(w, who, "k3"); err != nil {
				t.Fatal(err)
			}
			if err := w.Check(ctx, pki.Peer{Server: who.Server, Serial: serialOf(dead)}, epoch); !errors.Is(err, ErrRevoked) {
				t.Errorf("got %v", err)
			}
			if err := w.Check(ctx, who, epoch); err != nil {
				t.Errorf("the current one: %v", err)
			}
		})
		t.Run("makes another certificate when the pending one grows old", func(t *testing.T) {
			w := newWorld(t, d)
			_, who := w.host(t, "old", "k1")
			first, err := renew(w, who, "k2")
			if err != nil {
				t.Fatal(err)
			}
			w.now = w.now.Add(5 * 24 * time.Hour)
			if second, err := renew(w, who, "k2"); err != nil || bytes.Equal(first, second) {
				t.Errorf("got %s, %v", second, err)
			}
		})
		t.Run("goes on from the next certificate when that one asks", func(t *testing.T) {
			w := newWorld(t, d)
			_, who := w.host(t, "chain", "k0")
			for i := range 5 {
				key := fmt.Sprint("k", i+1)
				der, err := renew(w, who, key)
				if err != nil {
					t.Fatal(err)
				}
				former := who
				who = pki.Peer{Server: who.Server, Serial: serialOf(der), KeyHash: keyHash(key)}
				if i == 4 {
					w.mustHello(t, who, "i1")
					if _, err := renew(w, former, "k9"); !errors.Is(err, ErrRevoked) {
						t.Errorf("the former one: %v", err)
					}
				}
			}
		})
		t.Run("refuses the key that is in use", func(t *testing.T) {
			w := newWorld(t, d)
			_, who := w.host(t, "inuse", "k1")
			_, err := renew(w, who, "k1")
			wantKind(t, err, fault.KindInvalid)
		})
		t.Run("refuses a server that may not speak", func(t *testing.T) {
			w := newWorld(t, d)
			id, who := w.host(t, "silent", "k1")
			if err := w.Quarantine(ctx, id, "seen twice"); err != nil {
				t.Fatal(err)
			}
			_, err := renew(w, who, "k2")
			wantKind(t, err, fault.KindDenied)
		})
	})
}

func TestRecover(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		recovers := func(w *world, who pki.Peer, key string) ([]byte, error) {
			return w.Recover(ctx, who, keyHash(key), w.now, w.issue(w.now))
		}
		peer := func(who pki.Peer, der []byte, key string) pki.Peer {
			return pki.Peer{Server: who.Server, Serial: serialOf(der), KeyHash: keyHash(key)}
		}
		// off lets the server's certificate run out.
		off := func(w *world) { w.now = w.now.Add(8 * 24 * time.Hour) }

		t.Run("gives three certificates, then none until an operator says so", func(t *testing.T) {
			w := newWorld(t, d)
			id, who := w.host(t, "thrice", "k0")
			for i := range 3 {
				off(w)
				key := fmt.Sprint("k", i+1)
				der, err := recovers(w, who, key)
				if err != nil {
					t.Fatalf("recovery %d: %v", i+1, err)
				}
				who = peer(who, der, key)
				w.mustHello(t, who, "i1")
			}
			off(w)
			if _, err := recovers(w, who, "k4"); !errors.Is(err, ErrRecoveries) {
				t.Fatalf("got %v", err)
			}
			exec(t, d, `UPDATE servers SET certificate_expires_at = 1 WHERE id = $1`, id)
			if got := w.get(t, id); got.Problem != ErrRecoveries.Error() {
				t.Errorf("the problem is %q", got.Problem)
			}
			if _, err := w.Readmit(ctx, id); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				if _, err := recovers(w, who, fmt.Sprint("n", i)); err != nil {
					t.Errorf("after the readmission, %d: %v", i, err)
				}
			}
			// The operator's clock is the real one; the window is over by ours.
			if _, err := recovers(w, who, "n4"); !errors.Is(err, ErrRecoveries) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("counts nothing within the time after a readmission", func(t *testing.T) {
			w := newWorld(t, d)
			id, who := w.host(t, "window", "k0")
			exec(t, d, `UPDATE servers SET readmit_until = $2 WHERE id = $1`, id, db.Micros(w.now.Add(time.Hour)))
			for i := range 10 {
				if _, err := recovers(w, who, fmt.Sprint("k", i+1)); err != nil {
					t.Fatalf("%d: %v", i, err)
				}
			}
			w.now = w.now.Add(2 * time.Hour)
			for i := range 4 {
				if _, err := recovers(w, who, fmt.Sprint("n", i)); (err != nil) != (i == 3) {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
		t.Run("gives the same answer again and counts it once", func(t *testing.T) {
			w := newWorld(t, d)
			_, who := w.host(t, "again", "k0")
			off(w)
			first, err := recovers(w, who, "k1")
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				if der, err := recovers(w, who, "k1"); err != nil || !bytes.Equal(der, first) {
					t.Fatalf("got %s, %v", der, err)
				}
			}
		})
		t.Run("takes the next key, and keeps it bound while the answer is on its way", func(t *testing.T) {
			w := newWorld(t, d)
			_, who := w.host(t, "nextkey", "k0")
			der, err := w.Renew(ctx, who, keyHash("k1"), w.now, w.issue(w.now))
			if err != nil {
				t.Fatal(err)
			}
			next := peer(who, der, "k1")
			off(w)
			first, err := recovers(w, next, "k2")
			if err != nil {
				t.Fatal(err)
			}
			if again, err := recovers(w, next, "k2"); err != nil || !bytes.Equal(again, first) {
				t.Errorf("got %s, %v", again, err)
			}
			if _, err := recovers(w, who, "k3"); !errors.Is(err, ErrRevoked) {
				t.Errorf("the key before: %v", err)
			}
		})
		t.Run("refuses a key that is not bound", func(t *testing.T) {
			w := newWorld(t, d)
			_, who := w.host(t, "stranger", "k0")
			for _, hash := range [][]byte{keyHash("other"), nil, {}} {
				if _, err := recovers(w, pki.Peer{Server: who.Server, Serial: who.Serial, KeyHash: hash}, "k1"); !errors.Is(err, ErrRevoked) {
					t.Errorf("%x: got %v", hash, err)
				}
			}
			_, err := recovers(w, who, "k0")
			wantKind(t, err, fault.KindInvalid)
		})
		t.Run("refuses a server that is pending, quarantined or removed", func(t *testing.T) {
			w := newWorld(t, d)
			s, _ := w.create(t, "pending")
			if _, err := recovers(w, pki.Peer{Server: s.ID.String()}, "k1"); !errors.Is(err, ErrRevoked) {
				t.Errorf("pending: %v", err)
			}
			id, who := w.host(t, "bad", "k0")
			if err := w.Quarantine(ctx, id, "seen twice"); err != nil {
				t.Fatal(err)
			}
			_, err := recovers(w, who, "k1")
			wantKind(t, err, fault.KindDenied)
			if _, err := w.Remove(ctx, id); err != nil {
				t.Fatal(err)
			}
			_, err = recovers(w, who, "k1")
			wantKind(t, err, fault.KindDenied)
		})
	})
}
