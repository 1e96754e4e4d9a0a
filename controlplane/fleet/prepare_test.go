package fleet

import (
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// ends is what package task does when the newest task that prepares a server ends.
func (w *world) ends(t testing.TB, id contract.ServerID, state task.State, text string, result *orderv1.Result) {
	t.Helper()
	ended := task.Task{ID: w.get(t, id).PrepareTaskID, Server: id.String(), State: state, Error: text, Ended: w.now}
	if err := db.InTx(t.Context(), w.db, func(tx *db.Tx) error { return PrepareEnded(t.Context(), tx, ended, result) }); err != nil {
		t.Fatal(err)
	}
}

// again looks at a moment ahead, at which the server is heard of, and gives the new task; empty when there is none.
func (w *world) again(t testing.TB, id contract.ServerID, ahead time.Duration) string {
	t.Helper()
	at := w.now.Add(ahead)
	exec(t, w.db, `UPDATE server_links SET last_seen_at = $1 WHERE server_id = $2`, db.Micros(at), id)
	before := w.get(t, id).PrepareTaskID
	if _, err := w.PrepareAgain(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	if after := w.get(t, id).PrepareTaskID; after != before {
		return after
	}
	return ""
}

func TestPrepare(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)

		t.Run("that failed is repeated by itself, and people see why and when", func(t *testing.T) {
			id, _ := w.host(t, "bare", "key1")
			first := w.get(t, id).PrepareTaskID
			w.ends(t, id, task.Failed, "the mirror does not answer", nil)
			if got := w.get(t, id).Problem; !strings.HasPrefix(got, "it could not be prepared: the mirror does not answer; it is tried again at 20") {
				t.Errorf("people see %q", got)
			}
			if early := w.again(t, id, 40*time.Second); early != "" {
				t.Error("it is tried again within the minute")
			}
			second := w.again(t, id, time.Minute)
			if second == "" || second == first {
				t.Fatalf("after a minute its task is %q, the first was %q", second, first)
			}
			if got := w.get(t, id).Problem; got != "it could not be prepared: the mirror does not answer" {
				t.Errorf("while it is tried again people see %q", got)
			}
			if third := w.again(t, id, time.Hour); third != "" {
				t.Error("it is tried again while that goes on")
			}
			w.ends(t, id, task.Failed, "the mirror does not answer", nil)
			if early := w.again(t, id, time.Minute); early != "" {
				t.Error("the second rest is not longer than the first")
			}
			if w.again(t, id, 2*time.Minute) == "" {
				t.Error("it is not tried a third time")
			}
			w.ends(t, id, task.Succeeded, "", nil)
			if got := w.get(t, id).Problem; got != "" {
				t.Errorf("it is prepared, and people see %q", got)
			}
			if late := w.again(t, id, 30*24*time.Hour); late != "" {
				t.Error("it is prepared again although it is")
			}
			w.ends(t, id, task.Failed, "later", nil)
			if w.again(t, id, time.Minute) == "" {
				t.Error("a success did not begin the count anew")
			}
		})

		t.Run("waits for hours where trying can't help", func(t *testing.T) {
			id, _ := w.host(t, "old", "key2")
			w.ends(t, id, task.Failed, "the kernel is too old", &orderv1.Result{Permanent: true})
			if early := w.again(t, id, 40*time.Minute); early != "" {
				t.Error("it is tried again within the hour")
			}
			if w.again(t, id, time.Hour) == "" {
				t.Error("it is not tried again after the hour")
			}
		})

		t.Run("by a person begins anew", func(t *testing.T) {
			id, _ := w.host(t, "asked", "key3")
			w.ends(t, id, task.TimedOut, "", nil)
			if got := w.get(t, id).Problem; !strings.Contains(got, "its task ended as timed_out") {
				t.Errorf("people see %q", got)
			}
			ordered, err := w.Prepare(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			if got := w.get(t, id); got.PrepareTaskID != ordered.ID || got.Problem != "" {
				t.Errorf("people see %q of task %s, ordered was %s", got.Problem, got.PrepareTaskID, ordered.ID)
			}
			if late := w.again(t, id, time.Hour); late != "" {
				t.Error("it was ordered beside the person's order")
			}
			w.ends(t, id, task.Failed, "again", nil)
			if w.again(t, id, time.Minute) == "" {
				t.Error("the count did not begin anew")
			}
			if _, err := w.Prepare(ctx, contract.NewServerID()); fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("of a server that is not there: %v", err)
			}
		})

		t.Run("asks no host that is not there, and none that was taken out", func(t *testing.T) {
			id, _ := w.host(t, "away", "key4")
			w.ends(t, id, task.Failed, "no", nil)
			if n, err := w.PrepareAgain(ctx, w.now.Add(time.Hour)); n != 0 || err != nil {
				t.Errorf("%d hosts that are not heard of were asked, %v", n, err)
			}
			if w.again(t, id, time.Hour) == "" {
				t.Error("it was not asked once it was back")
			}
			if _, err := w.Remove(ctx, id); err != nil {
				t.Fatal(err)
			}
			w.ends(t, id, task.Failed, "the server was removed", nil)
			if got := w.get(t, id).Problem; got != "" {
				t.Errorf("a removed server has the problem %q", got)
			}
			if late := w.again(t, id, time.Hour); late != "" {
				t.Error("a removed server is prepared")
			}
		})

		t.Run("is not held up by a clock that was set back", func(t *testing.T) {
			id, _ := w.host(t, "early", "key5")
			w.ends(t, id, task.Failed, "no", nil)
			if w.again(t, id, -10*365*24*time.Hour) == "" {
				t.Error("it waits for ten years")
			}
		})
	})
}
