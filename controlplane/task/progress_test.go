package task

import (
	"context"
	"testing"
	"time"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

func TestProgress(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		far := func(o *orderv1.Order, step string, done, total uint64) *linkv1.TaskProgress {
			return &linkv1.TaskProgress{
				TaskId: o.GetTaskId(), Attempt: o.GetAttempt(), Step: step,
				Progress: &taskv1.Progress{Doing: "files", DoneBytes: done, TotalBytes: total},
			}
		}
		say := func(t *testing.T, server string, all ...*linkv1.TaskProgress) {
			t.Helper()
			if err := w.ts.Progress(t.Context(), server, all); err != nil {
				t.Fatal(err)
			}
		}
		shown := func(t *testing.T, o *orderv1.Order) *taskv1.Progress {
			t.Helper()
			got, err := w.ts.Get(t.Context(), Platform, o.GetTaskId())
			if err != nil {
				t.Fatal(err)
			}
			return got.Proto().GetProgress()
		}
		begun := func(t *testing.T) (server string, o *orderv1.Order) {
			t.Helper()
			server = w.server()
			w.noop(server)
			o = w.begin(server)
			w.apply(server, event(o, 2, &linkv1.StepStarted{Name: "copy"}))
			return server, o
		}

		t.Run("is shown while its step runs", func(t *testing.T) {
			server, o := begun(t)
			if p := shown(t, o); p != nil {
				t.Errorf("before it was said it is %v", p)
			}
			const version = `SELECT version FROM tasks WHERE id = $1`
			before := w.count(version, o.GetTaskId())
			say(t, server, far(o, "copy", 1, 10))
			say(t, server, far(o, "copy", 7, 10))
			if p := shown(t, o); p.GetDoing() != "files" || p.GetDoneBytes() != 7 || p.GetTotalBytes() != 10 {
				t.Errorf("it is %v", p)
			}
			if after := w.count(version, o.GetTaskId()); after != before {
				t.Errorf("the task's own row was written: its version went from %d to %d", before, after)
			}
			w.apply(server, event(o, 3, &linkv1.StepEnded{Name: "copy", State: taskv1.StepState_STEP_STATE_DONE}), event(o, 4, &linkv1.StepStarted{Name: "compare"}))
			if p := shown(t, o); p != nil {
				t.Errorf("in the step after it is still %v", p)
			}
			say(t, server, far(o, "compare", 2, 0))
			w.apply(server, event(o, 5, &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_SUCCEEDED}))
			say(t, server, far(o, "compare", 3, 0))
			if p := shown(t, o); p != nil {
				t.Errorf("after the end it is %v", p)
			}
		})

		t.Run("is not heard of who does not do the task", func(t *testing.T) {
			server, o := begun(t)
			say(t, w.server(), far(o, "copy", 1, 10))
			older := far(o, "copy", 1, 10)
			older.Attempt++
			say(t, server, older)
			if p := shown(t, o); p != nil {
				t.Errorf("it is %v", p)
			}
		})

		t.Run("comes to who watches as it is said", func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
			running := make(chan error, 1)
			go func() { running <- w.ts.Run(ctx) }()
			defer func() { stop(); <-running }()
			listening, over := w.ts.subscribe("listening")
			for waiting := true; waiting; {
				w.ts.db.Notify(TopicTask, "listening")
				select {
				case <-listening:
					waiting = false
				case <-time.After(time.Millisecond):
				}
			}
			over()
			server, o := begun(t)
			seen := make(chan uint64, 100)
			watching := make(chan error, 1)
			go func() {
				watching <- w.ts.Watch(ctx, Platform, o.GetTaskId(), 0, func(t Task, _ []LogLine) error {
					seen <- t.Progress.Done
					return nil
				})
			}()
			if n := <-seen; n != 0 {
				t.Errorf("at first %d bytes are seen", n)
			}
			for i := range uint64(3) {
				began := time.Now()
				say(t, server, far(o, "copy", i+1, 10))
				if n := <-seen; n != i+1 {
					t.Errorf("%d bytes are seen, not %d", n, i+1)
				}
				if d := time.Since(began); d > watchSweep/2 {
					t.Errorf("it was seen after %s: by the sweep, not by a wake-up", d)
				}
			}
			w.apply(server, event(o, 3, &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_SUCCEEDED}))
			if err := <-watching; err != nil {
				t.Error(err)
			}
			if n := <-seen; n != 0 {
				t.Errorf("after the end %d bytes are seen", n)
			}
		})
	})
}
