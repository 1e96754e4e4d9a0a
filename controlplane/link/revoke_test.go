package link_test

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/link"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

func withoutSites(c *link.Config) { c.Sites = nil }

func TestRevoke(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		remove := func(h *host) {
			if _, err := w.fleet.Remove(t.Context(), must(contract.ParseServerID(h.id)), func(ctx context.Context, tx *db.Tx, server contract.ServerID) error {
				return w.tasks.Removed(ctx, tx, server.String(), time.Now())
			}); err != nil {
				t.Fatal(err)
			}
		}
		silently := func(h *host) { // as it looks from another process whose hint got lost
			w.tx(func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE servers SET state = 'removed', changed_at = $1 WHERE id = $2`, db.Micros(time.Now()), h.id)
				return err
			})
		}
		for name, c := range map[string]struct {
			revoke func(*host)
			within time.Duration
		}{
			"by an operator":             {remove, 500 * time.Millisecond},
			"without a word of it heard": {silently, 2 * time.Second},
		} {
			t.Run("a server that is removed "+name+" is cut, streams included", func(t *testing.T) {
				h, other := w.enroll(name[:2]+"1"), w.enroll(name[:2]+"2")
				h.hello()
				other.hello()
				s, bystander := h.watch().opened(t), other.watch().opened(t)
				c.revoke(h)
				wantCode(t, s.end(t, c.within), connect.CodePermissionDenied)
				_, err := h.report()
				if err == nil {
					t.Error("it may report")
				}
				_, err = h.tryHello()
				if err == nil {
					t.Error("it may say Hello")
				}
				again := *h
				again.dial()
				_, err = again.tryHello()
				wantCode(t, err, connect.CodePermissionDenied)
				select {
				case _, ok := <-bystander.messages:
					if !ok {
						t.Errorf("another one was cut as well: %v", bystander.err)
					}
				default:
				}
			})
		}
		t.Run("a Poll ends too", func(t *testing.T) {
			h := w.enroll("poll")
			h.hello()
			done := make(chan error, 1)
			go func() {
				_, err := h.client.Poll(context.Background(), &linkv1.PollRequest{Epoch: h.epoch})
				done <- err
			}()
			time.Sleep(100 * time.Millisecond)
			remove(h)
			select {
			case err := <-done:
				wantCode(t, err, connect.CodePermissionDenied)
			case <-time.After(2 * time.Second):
				t.Error("it did not")
			}
		})
		t.Run("one identity on two hosts: both are locked out", func(t *testing.T) {
			one := w.enroll("clone")
			two := one.twin()
			var last error
			for range 4 { // they push each other out
				if _, last = one.tryHello(); last != nil {
					break
				}
				if _, last = two.tryHello(); last != nil {
					break
				}
			}
			wantCode(t, last, connect.CodePermissionDenied)
			for _, h := range []*host{one.twin(), two.twin()} {
				_, err := h.tryHello()
				wantCode(t, err, connect.CodePermissionDenied)
			}
			s, err := w.fleet.Get(t.Context(), must(contract.ParseServerID(one.id)))
			if err != nil || s.State != fleet.Quarantined || s.Problem == "" {
				t.Errorf("got %v, %v", s, err)
			}
		})
		t.Run("a clone that only listens is cut by the other one's Hello", func(t *testing.T) {
			one := w.enroll("quiet")
			one.hello()
			s := one.watch().opened(t)
			two := one.twin()
			two.hello()
			wantCode(t, s.end(t, time.Second), connect.CodeFailedPrecondition)
			_, err := one.report()
			wantCode(t, err, connect.CodeFailedPrecondition)
		})
	})
}
