package site_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
)

// hopelessly is how a host answers that can never do what it is asked.
func hopelessly(*orderv1.Order) *orderv1.Result {
	return &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_FAILED, Error: "the kernel is too old", Permanent: true}
}

// after has the host heard of at a moment ahead, and says how many sites are ordered again then.
func (w *world) after(t *testing.T, d time.Duration) int {
	t.Helper()
	now := time.Now().Add(d)
	exec(t, w.db, `UPDATE server_links SET last_seen_at = $1`, db.Micros(now))
	n, err := w.sites.TryAgain(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, w.db, `UPDATE server_links SET last_seen_at = $1`, db.Micros(time.Now()))
	return n
}

func TestTryAgain(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()

		t.Run("orders a site again after a minute, then later and later, until it is as wanted", func(t *testing.T) {
			made := w.create(t, w.request("blog"))
			w.work(t, badly)
			got := w.get(t, made.ID)
			if got.State != site.StateFailed || !strings.HasPrefix(got.Problem, "the disk is full; it is tried again at 20") {
				t.Fatalf("people see %d %q", got.State, got.Problem)
			}
			if n := w.after(t, 40*time.Second); n != 0 {
				t.Errorf("%d orders before the time", n)
			}
			if n := w.after(t, time.Minute); n != 1 {
				t.Fatalf("%d orders after a minute", n)
			}
			if got := w.get(t, made.ID); got.State != site.StateCreating || got.Problem != "" {
				t.Errorf("while it is tried again people see %d %q", got.State, got.Problem)
			}
			if n := w.after(t, time.Hour); n != 0 {
				t.Errorf("%d orders while one is under way", n)
			}
			orders := w.work(t, badly)
			if len(orders) != 1 || orders[0].GetConvergeSite().GetDesired().GetGeneration() != 1 {
				t.Fatalf("the host was ordered %v", orders)
			}
			if n := w.after(t, time.Minute); n != 0 {
				t.Errorf("the second rest is not longer than the first")
			}
			if n := w.after(t, 2*time.Minute); n != 1 {
				t.Errorf("%d orders after two minutes", n)
			}
			w.work(t, well)
			if got := w.get(t, made.ID); got.State != site.StateActive || got.Problem != "" {
				t.Errorf("in the end people see %d %q", got.State, got.Problem)
			}
			if n := w.after(t, 30*24*time.Hour); n != 0 {
				t.Errorf("%d orders although all is well", n)
			}
			if n := w.count(t, `SELECT failures FROM sites WHERE id = $1`, made.ID); n != 0 {
				t.Errorf("%d failures are remembered", n)
			}
		})

		t.Run("begins anew with each new generation", func(t *testing.T) {
			made := w.create(t, w.request("shop"))
			for range 2 {
				w.work(t, badly)
				w.after(t, time.Hour)
			}
			w.work(t, badly)
			if _, _, err := w.sites.Suspend(ctx, w.organization, made.ID); err != nil {
				t.Fatal(err)
			}
			w.work(t, badly)
			if n := w.after(t, time.Minute); n != 1 {
				t.Errorf("%d orders a minute after the change failed", n)
			}
			w.work(t, well)
		})

		t.Run("waits for hours where trying can't help, and where somebody has stopped it", func(t *testing.T) {
			w.create(t, w.request("old"))
			w.work(t, hopelessly)
			_, ordered, err := w.sites.Create(ctx, w.request("stopped"))
			if err != nil {
				t.Fatal(err)
			}
			if err := db.InTx(ctx, d, func(tx *db.Tx) error {
				_, err := w.tasks.Cancel(ctx, tx, w.organization.String(), ordered.ID)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if n := w.after(t, 40*time.Minute); n != 0 {
				t.Errorf("%d orders within the hour", n)
			}
			if n := w.after(t, time.Hour); n != 2 {
				t.Errorf("%d orders after the hour", n)
			}
			w.work(t, well)
		})

		t.Run("asks no host that is not there, and asks it once it is back", func(t *testing.T) {
			w.create(t, w.request("away"))
			w.work(t, badly)
			later := time.Now().Add(time.Hour) // last heard of now
			if n, err := w.sites.TryAgain(ctx, later); n != 0 || err != nil {
				t.Errorf("a host that is not heard of was asked %d times, %v", n, err)
			}
			exec(t, d, `UPDATE servers SET state = 'quarantined'`)
			if n := w.after(t, time.Hour); n != 0 {
				t.Errorf("a quarantined one was asked %d times", n)
			}
			exec(t, d, `UPDATE servers SET state = 'draining'`)
			if n := w.after(t, time.Hour); n != 1 {
				t.Errorf("back again it was asked %d times", n)
			}
			w.work(t, well)
			exec(t, d, `UPDATE servers SET state = 'active'`)
		})

		t.Run("is not held up by a clock that was set back", func(t *testing.T) {
			w.create(t, w.request("late"))
			w.work(t, badly)
			if n := w.after(t, -10*365*24*time.Hour); n != 1 {
				t.Errorf("ten years ago it was ordered %d times", n)
			}
			w.work(t, well)
		})

		t.Run("leaves a host alone that knows more than the database", func(t *testing.T) {
			made := w.create(t, w.request("restored"))
			w.work(t, badly)
			if err := w.sites.Observe(ctx, w.server, []*sitev1.ObservedState{holding(made.ID.String(), 7, sitev1.Phase_PHASE_ACTIVE)}); err != nil {
				t.Fatal(err)
			}
			if n := w.after(t, time.Hour); n != 0 {
				t.Errorf("it was ordered %d times", n)
			}
		})

		t.Run("takes no notice of the end of a task that is not the newest", func(t *testing.T) {
			made := w.create(t, w.request("busy"))
			if err := site.Ended(ctx, nil, task.Task{ID: "other", Server: "broken"}, nil); err == nil {
				t.Error("a task without a server has ended well")
			}
			if err := db.InTx(ctx, d, func(tx *db.Tx) error {
				return site.Ended(ctx, tx, task.Task{
					ID: "older", Organization: w.organization.String(), Server: w.server.String(), Site: made.ID.String(),
					State: task.Failed, Error: "it was too slow", Ended: time.Now(),
				}, nil)
			}); err != nil {
				t.Fatal(err)
			}
			w.work(t, well)
			if got := w.get(t, made.ID); got.State != site.StateActive || got.Problem != "" {
				t.Errorf("people see %d %q", got.State, got.Problem)
			}
		})

		t.Run("orders once, however many processes look", func(t *testing.T) {
			w.create(t, w.request("crowded"))
			w.work(t, badly)
			now := time.Now().Add(time.Hour)
			exec(t, d, `UPDATE server_links SET last_seen_at = $1`, db.Micros(now))
			before := w.count(t, `SELECT COUNT(*) FROM tasks`)
			var ordered atomic.Int64
			var looks sync.WaitGroup
			for range 8 {
				looks.Go(func() {
					n, err := w.sites.TryAgain(context.WithoutCancel(ctx), now)
					if err != nil {
						t.Error(err)
					}
					ordered.Add(int64(n))
				})
			}
			looks.Wait()
			if made := w.count(t, `SELECT COUNT(*) FROM tasks`) - before; made != 1 || ordered.Load() != 1 {
				t.Errorf("%d tasks were made, %d orders told", made, ordered.Load())
			}
		})
	})
}
