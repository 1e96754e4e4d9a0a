package fleet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
)

func TestHello(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		t.Run("opens an epoch and ends the former", func(t *testing.T) {
			_, who := w.host(t, "epochs", "key")
			first := w.mustHello(t, who, "i1")
			second := w.mustHello(t, who, "i1")
			if second <= first {
				t.Errorf("%d after %d", second, first)
			}
			if err := w.Check(ctx, who, first); !errors.Is(err, ErrStaleEpoch) || fault.KindOf(err) != fault.KindConflict {
				t.Errorf("the first: %v", err)
			}
			if err := w.Check(ctx, who, second); err != nil {
				t.Errorf("the second: %v", err)
			}
		})
		t.Run("gives each of many its own epoch", func(t *testing.T) {
			_, who := w.host(t, "many", "key")
			var group sync.WaitGroup
			var mu sync.Mutex
			epochs := map[uint64]bool{}
			for range 30 {
				group.Go(func() {
					epoch, err := w.hello(ctx, who, "i1")
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					epochs[epoch] = true
				})
			}
			group.Wait()
			if len(epochs) != 30 {
				t.Errorf("%d epochs", len(epochs))
			}
		})
		t.Run("keeps fences above what the agent accepted, and says so", func(t *testing.T) {
			id, who := w.host(t, "fence", "key")
			for _, step := range []struct {
				highest, want uint64
				older         bool
			}{{0, 0, false}, {9, 9, true}, {9, 9, false}, {3, 9, false}, {1 << 62, 1 << 62, true}} {
				var older bool
				_, err := w.Hello(ctx, who, Greeting{Instance: "i1", HighestFence: step.highest}, w.now,
					func(_ context.Context, _ *db.Tx, o bool) error { older = o; return nil })
				if err != nil {
					t.Fatal(err)
				}
				var fence uint64
				if err := d.Reader().QueryRow(ctx, `SELECT fence FROM server_links WHERE server_id = $1`, id).Scan(&fence); err != nil || fence != step.want || older != step.older {
					t.Errorf("after %d: fence %d, older %t, %v", step.highest, fence, older, err)
				}
			}
			_, err := w.Hello(ctx, who, Greeting{Instance: "i1", HighestFence: 1<<62 + 1}, w.now, opened)
			wantKind(t, err, fault.KindInvalid)
		})
		t.Run("opens nothing when the journal can't be compared", func(t *testing.T) {
			_, who := w.host(t, "journal", "key")
			epoch := w.mustHello(t, who, "i1")
			broken := errors.New("broken")
			if _, err := w.Hello(ctx, who, Greeting{Instance: "i2"}, w.now, func(context.Context, *db.Tx, bool) error { return broken }); !errors.Is(err, broken) {
				t.Errorf("got %v", err)
			}
			if err := w.Check(ctx, who, epoch); err != nil {
				t.Errorf("the epoch before: %v", err)
			}
		})
		t.Run("silences two living hosts, and says why", func(t *testing.T) {
			id, who := w.host(t, "clone", "key")
			var err error
			var last uint64
			hellos := 0
			for _, instance := range []string{"a", "b", "a", "b", "a"} {
				var epoch uint64
				if epoch, err = w.hello(ctx, who, instance); err != nil {
					break
				}
				last = epoch
				hellos++
			}
			if hellos != 4 || fault.KindOf(err) != fault.KindDenied {
				t.Errorf("%d hellos, then %v", hellos, err)
			}
			got := w.get(t, id)
			if got.State != Quarantined || !strings.Contains(got.Problem, "two hosts") || got.Online {
				t.Errorf("got %+v", got)
			}
			for _, instance := range []string{"a", "b", "c"} {
				if _, err := w.hello(ctx, who, instance); fault.KindOf(err) != fault.KindDenied || !strings.Contains(err.Error(), "two hosts") {
					t.Errorf("%s: %v", instance, err)
				}
			}
			if err := w.Check(ctx, who, last); fault.KindOf(err) != fault.KindDenied {
				t.Errorf("a call: %v", err)
			}
			if _, err := w.Readmit(ctx, id); err != nil {
				t.Fatal(err)
			}
			if err := w.Check(ctx, who, last); !errors.Is(err, ErrStaleEpoch) {
				t.Errorf("a call without a new hello: %v", err)
			}
			w.mustHello(t, who, "a")
			w.mustHello(t, who, "b")
			if _, err := w.hello(ctx, who, "a"); err != nil {
				t.Errorf("what was before the readmission still counts: %v", err)
			}
		})
		t.Run("notices a thief that never shows the same process twice", func(t *testing.T) {
			id, who := w.host(t, "thief", "key")
			for i := range 3 {
				w.mustHello(t, who, fmt.Sprint("thief", i))
				_, _ = w.hello(ctx, who, "host") // its last one is refused
			}
			if got := w.get(t, id); got.State != Quarantined {
				t.Errorf("is %s", got.State)
			}
		})
		t.Run("forgets a return after a week", func(t *testing.T) {
			_, who := w.host(t, "week", "key")
			w := newWorld(t, d)
			for range 5 {
				w.mustHello(t, who, "a")
				w.mustHello(t, who, "b")
				w.now = w.now.Add(returnsCount + time.Hour)
			}
		})
		t.Run("bounds what it remembers of an agent that restarts without end", func(t *testing.T) {
			id, who := w.host(t, "restarts", "key")
			exec(t, d, `UPDATE servers SET epoch = $2 WHERE id = $1`, id, rememberEpochs)
			w.mustHello(t, who, "first")
			exec(t, d, `UPDATE servers SET epoch = epoch + $2 WHERE id = $1`, id, rememberEpochs)
			w.mustHello(t, who, "second")
			var n int
			if err := d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM server_instances WHERE server_id = $1`, id).Scan(&n); err != nil || n != 1 {
				t.Errorf("%d instances, %v", n, err)
			}
		})
	})
}

// host is a model of one machine with the server's identity: at most one of its processes lives.
type host struct {
	name    string
	number  int
	epoch   uint64
	dead    string // a process whose Hello may still be on its way
	refused bool
}

func (h *host) instance() string { return fmt.Sprintf("%s%d", h.name, h.number) }

// call does what an agent does: a call in its epoch, and a Hello where that one is stale.
func (h *host) call(ctx context.Context, t *rapid.T, w *world, who pki.Peer) {
	err := w.Check(ctx, who, h.epoch)
	if errors.Is(err, ErrStaleEpoch) {
		h.epoch, err = w.hello(ctx, who, h.instance())
	}
	h.refused = err != nil
	if err != nil && fault.KindOf(err) != fault.KindDenied {
		t.Fatal(err)
	}
}

// restart kills the process and starts another, which says Hello.
func (h *host) restart(ctx context.Context, t *rapid.T, w *world, who pki.Peer) {
	h.dead, h.number, h.epoch = h.instance(), h.number+1, 0
	h.call(ctx, t, w, who)
}

func TestClones(t *testing.T) {
	// Each check is a walk of some thirty transactions.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		t.Fatal(err)
	}
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		servers := 0
		fresh := func() pki.Peer {
			servers++
			_, who := w.host(t, fmt.Sprint("s", servers), "key")
			return who
		}
		t.Run("one host is never silenced, whatever it does", func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				who, h, late := fresh(), &host{name: "a"}, false
				h.call(ctx, t, w, who)
				t.Repeat(map[string]func(*rapid.T){
					"call":    func(t *rapid.T) { h.call(ctx, t, w, who) },
					"restart": func(t *rapid.T) { h.restart(ctx, t, w, who) },
					"reconnect": func(t *rapid.T) {
						h.epoch = 0
						h.call(ctx, t, w, who)
					},
					"late": func(t *rapid.T) {
						if h.dead == "" || late {
							t.Skip("no Hello is on its way")
						}
						late = true
						if _, err := w.hello(ctx, who, h.dead); err != nil {
							t.Fatal(err)
						}
					},
					"": func(t *rapid.T) {
						if h.refused {
							t.Fatal("the only host was refused")
						}
					},
				})
			})
		})
		t.Run("of two hosts both are silenced once each was pushed out twice", func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				who := fresh()
				hosts := []*host{{name: "a"}, {name: "b"}}
				last, turns := -1, 0
				for turns < 12 {
					i := rapid.IntRange(0, 1).Draw(t, "host")
					hosts[i].call(ctx, t, w, who)
					// Only one of them may restart all the time; where both do nobody could tell them from one host.
					if i == 1 && rapid.IntRange(0, 3).Draw(t, "restart") == 0 {
						hosts[1].restart(ctx, t, w, who)
					}
					if i != last {
						last, turns = i, turns+1
					}
				}
				for _, h := range hosts {
					h.call(ctx, t, w, who)
					if !h.refused {
						t.Fatalf("host %s still speaks", h.name)
					}
				}
			})
		})
	})
}

// TestAdopt has a database that was restored from a backup, while agents renewed their certificates.
func TestAdopt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		backup, restored := w.now.Add(-20*time.Hour), w.now.Add(-time.Hour)
		// newer is a certificate that the database does not know, issued at a time.
		newer := func(who pki.Peer, serial string, issued time.Time) pki.Peer {
			return pki.Peer{Server: who.Server, Serial: serial, KeyHash: keyHash(serial), Expires: issued.Add(pki.AgentLife)}
		}
		server, who := w.host(t, "renewed", "k1")
		exec(t, d, `UPDATE servers SET certificate_expires_at = $1`, db.Micros(backup.Add(-48*time.Hour).Add(pki.AgentLife)))
		inGap := newer(who, "c2", backup.Add(time.Hour))
		if _, err := w.hello(t.Context(), inGap, "i1"); !errors.Is(err, ErrRevoked) {
			t.Fatalf("of a database that remembers all: %v", err)
		}
		for name, at := range map[string]time.Time{"forgotten_from": backup, "forgotten_to": restored} {
			exec(t, d, `INSERT INTO settings (name, value) VALUES ($1, $2)`, name, at.Format(time.RFC3339Nano))
		}
		for what, other := range map[string]pki.Peer{
			"issued before the backup":                       newer(who, "c3", backup.Add(-2*time.Minute)),
			"issued after the restore":                       newer(who, "c4", restored.Add(time.Second)),
			"of a server that was enrolled after the backup": newer(pki.Peer{Server: contract.NewServerID().String()}, "c5", backup.Add(time.Hour)),
		} {
			if _, err := w.hello(t.Context(), other, "i1"); !errors.Is(err, ErrRevoked) {
				t.Errorf("%s: %v", what, err)
			}
		}
		epoch := w.mustHello(t, inGap, "i1")
		if err := w.Check(t.Context(), inGap, epoch); err != nil {
			t.Errorf("the adopted one: %v", err)
		}
		if err := w.Check(t.Context(), who, epoch); !errors.Is(err, ErrRevoked) {
			t.Errorf("the former one: %v", err)
		}
		if _, err := w.hello(t.Context(), newer(who, "c6", backup.Add(30*time.Minute)), "i1"); !errors.Is(err, ErrRevoked) {
			t.Errorf("an older one of that time: %v", err)
		}
		if _, err := w.Renew(t.Context(), inGap, keyHash("k9"), w.now, w.issue(w.now)); err != nil {
			t.Errorf("renew: %v", err)
		}
		if err := w.Quarantine(t.Context(), server, "for a test"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.hello(t.Context(), newer(who, "c7", backup.Add(10*time.Hour)), "i1"); err == nil || errors.Is(err, ErrRevoked) {
			t.Errorf("of one in quarantine: %v", err)
		}
	})
}
