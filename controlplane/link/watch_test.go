package link_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/task"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

func TestWatch(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		h := w.enroll("web1")
		h.hello()

		t.Run("a task goes down as a signed order, and its end comes up", func(t *testing.T) {
			s := h.watch().opened(t)
			made := w.noop(h.id)
			o := h.order(s.next(t, time.Second)) // far below the sweep
			if o.GetTaskId() != made.ID || o.GetAttempt() != 1 || o.GetFence() == 0 {
				t.Errorf("got %v", o)
			}
			if got := w.task(made.ID).State; got != task.Offered {
				t.Errorf("it is %s", got)
			}
			h.mustReport(accepted(o))
			if got := w.task(made.ID).State; got != task.Running {
				t.Errorf("it is %s", got)
			}
			h.mustReport(result(o, 2, succeeded))
			if got := w.task(made.ID).State; got != task.Succeeded {
				t.Errorf("it is %s", got)
			}
		})
		t.Run("what was asked for before the stream comes first", func(t *testing.T) {
			h.hello() // cuts the stream from before
			made := w.noop(h.id)
			o := h.order(h.watch().opened(t).next(t, time.Second))
			if o.GetTaskId() != made.ID {
				t.Errorf("got %v", o)
			}
			h.mustReport(accepted(o), result(o, 2, succeeded))
		})
		t.Run("a lost wake-up costs two seconds", func(t *testing.T) {
			s := h.watch().opened(t)
			// The hint comes while the task rests, and finds nothing.
			w.tx(func(ctx context.Context, tx *db.Tx) error {
				made, err := task.Enqueue(ctx, tx, task.New{Server: h.id, Kind: task.Noop, Parameters: &orderv1.Noop{}})
				if err != nil {
					return err
				}
				_, err = tx.Exec(ctx, `UPDATE tasks SET not_before = $1 WHERE id = $2`, db.Micros(time.Now().Add(500*time.Millisecond)), made.ID)
				return err
			})
			o := h.order(s.next(t, 4*time.Second))
			h.mustReport(accepted(o), result(o, 2, succeeded))
		})
		t.Run("a cancel is told once in a while, not all the time", func(t *testing.T) {
			s := h.watch().opened(t)
			made := w.noop(h.id)
			o := h.order(s.next(t, time.Second))
			h.mustReport(accepted(o))
			w.tx(func(ctx context.Context, tx *db.Tx) error {
				_, err := w.tasks.Cancel(ctx, tx, task.Platform, made.ID)
				return err
			})
			c := s.next(t, time.Second).GetCancel()
			if c.GetTaskId() != made.ID || c.GetAttempt() != 1 {
				t.Errorf("got %v", c)
			}
			select {
			case m := <-s.messages:
				t.Errorf("it came again: %v", m)
			case <-time.After(3 * time.Second): // more than a sweep
			}
			h.mustReport(result(o, 2, orderv1.Outcome_OUTCOME_CANCELED))
			if got := w.task(made.ID).State; got != task.Canceled {
				t.Errorf("it is %s", got)
			}
		})
		t.Run("the newest of two streams of an epoch has it", func(t *testing.T) {
			first := h.watch().opened(t)
			second := h.watch().opened(t)
			wantCode(t, first.end(t, time.Second), connect.CodeAborted)
			made := w.noop(h.id)
			o := h.order(second.next(t, time.Second))
			if o.GetTaskId() != made.ID {
				t.Errorf("got %v", o)
			}
			h.mustReport(accepted(o), result(o, 2, succeeded))
		})
		t.Run("a new epoch cuts the stream of the old one, which is refused from then on", func(t *testing.T) {
			old := h.watch().opened(t)
			before := h.epoch
			h.hello()
			wantCode(t, old.end(t, time.Second), connect.CodeFailedPrecondition)
			stale := *h
			stale.epoch = before
			wantCode(t, stale.watch().end(t, 5*time.Second), connect.CodeFailedPrecondition)
			_, err := stale.report()
			wantCode(t, err, connect.CodeFailedPrecondition)
			_, err = stale.client.Poll(t.Context(), &linkv1.PollRequest{Epoch: before})
			wantCode(t, err, connect.CodeFailedPrecondition)
			_, err = stale.client.Renew(t.Context(), &linkv1.RenewRequest{Epoch: before, Csr: newCSR(t, newKey(t))})
			wantCode(t, err, connect.CodeFailedPrecondition)
			if _, err := h.report(); err != nil {
				t.Errorf("the new epoch: %v", err)
			}
		})
		t.Run("an attempt that was lost sight of makes the agent say Hello", func(t *testing.T) {
			s := h.watch().opened(t)
			made := w.noop(h.id)
			h.order(s.next(t, time.Second)) // and never accepted
			if err := w.tasks.Sweep(t.Context(), time.Now().Add(31*time.Second)); err != nil {
				t.Fatal(err)
			}
			wantCode(t, s.end(t, 5*time.Second), connect.CodeFailedPrecondition)
			h.hello() // an empty journal: it was never accepted
			o := h.order(h.watch().opened(t).next(t, 5*time.Second))
			if o.GetTaskId() != made.ID || o.GetAttempt() != 2 {
				t.Errorf("got %v", o)
			}
			h.mustReport(accepted(o), result(o, 2, succeeded))
		})
	})
}

func TestPoll(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		h := w.enroll("web1")
		h.hello()
		poll := func() chan any {
			done := make(chan any, 1)
			go func() {
				res, err := h.client.Poll(context.Background(), &linkv1.PollRequest{Epoch: h.epoch})
				if err != nil {
					done <- err
					return
				}
				done <- res
			}()
			return done
		}
		t.Run("it answers when there is something", func(t *testing.T) {
			done := poll()
			time.Sleep(100 * time.Millisecond) // the Poll waits before there is something; if not, nothing is lost either
			made := w.noop(h.id)
			select {
			case got := <-done:
				res, ok := got.(*linkv1.PollResponse)
				if !ok || len(res.GetMessages()) != 1 {
					t.Fatalf("got %v", got)
				}
				o := h.order(res.GetMessages()[0])
				if o.GetTaskId() != made.ID {
					t.Errorf("got %v", o)
				}
				h.mustReport(accepted(o), result(o, 2, succeeded))
			case <-time.After(time.Second):
				t.Fatal("it did not")
			}
		})
		t.Run("a Watch takes over from it", func(t *testing.T) {
			done := poll()
			time.Sleep(200 * time.Millisecond)
			h.watch().opened(t)
			err, _ := (<-done).(error)
			wantCode(t, err, connect.CodeAborted)
		})
	})
}

func TestQuietPoll(t *testing.T) {
	t.Parallel() // it waits
	w := newWorld(t, dbtest.SQLite(t))
	h := w.enroll("web1")
	h.hello()
	began := time.Now()
	res, err := h.client.Poll(context.Background(), &linkv1.PollRequest{Epoch: h.epoch})
	if took := time.Since(began); err != nil || len(res.GetMessages()) != 0 || took < 24*time.Second || took > 28*time.Second {
		t.Errorf("got %v, %v after %s", res, err, took)
	}
}

func TestKeepAlive(t *testing.T) {
	t.Parallel() // it waits
	w := newWorld(t, dbtest.SQLite(t))
	h := w.enroll("web1")
	h.hello()
	s := h.watch().opened(t)
	began := time.Now()
	if m := s.next(t, 22*time.Second); m.GetKeepAlive() == nil || time.Since(began) < 18*time.Second {
		t.Errorf("got %v after %s", m, time.Since(began))
	}
}

func TestRestart(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		h := w.enroll("web1")
		h.hello()
		s := h.watch().opened(t)
		var running, offered task.Task
		running = w.noop(h.id)
		o := h.order(s.next(t, time.Second))
		h.mustReport(accepted(o))
		offered = w.noop(h.id)
		lost := h.order(s.next(t, time.Second)) // the agent dies before it is in the journal
		w.kill()
		if err := s.end(t, 5*time.Second); err == nil {
			t.Log("the stream ended in order")
		}
		w.start(w.addr)
		h.w = w
		h.close()
		h.dial()
		h.hello(&linkv1.JournalEntry{TaskId: running.ID, Attempt: 1})
		again := h.order(h.watch().opened(t).next(t, 5*time.Second))
		if again.GetTaskId() != offered.ID || again.GetAttempt() != 2 || again.GetFence() <= lost.GetFence() {
			t.Errorf("what was only offered comes back as %v", again)
		}
		if got := w.task(running.ID); got.State != task.Running || got.Attempt != 1 {
			t.Errorf("what runs is %s, attempt %d", got.State, got.Attempt)
		}
		h.mustReport(result(o, 2, succeeded), accepted(again), result(again, 2, succeeded))
		for _, id := range []string{running.ID, offered.ID} {
			if got := w.task(id).State; got != task.Succeeded {
				t.Errorf("task %s is %s", id, got)
			}
		}
		// The result was on its way when the next process came: it is asked for again.
		t.Run("a result that got lost is asked for", func(t *testing.T) {
			h.hello()
			s := h.watch().opened(t)
			made := w.noop(h.id)
			o := h.order(s.next(t, time.Second))
			h.mustReport(accepted(o))
			res := h.hello(&linkv1.JournalEntry{TaskId: made.ID, Attempt: 1, Ended: true})
			if len(res.GetResend()) != 1 || res.GetResend()[0].GetTaskId() != made.ID {
				t.Errorf("got %v", res.GetResend())
			}
		})
	})
}

func TestDrain(t *testing.T) {
	const agents = 200
	d := dbtest.SQLite(t)
	w := newWorld(t, d)
	var streams []*stream
	for i := range agents {
		h := w.enroll(fmt.Sprintf("web%d", i))
		h.hello()
		streams = append(streams, h.watch())
	}
	for _, s := range streams {
		s.opened(t)
	}
	began := time.Now()
	w.stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d streams took %s", agents, took)
	} else {
		t.Logf("%d streams took %s", agents, took)
	}
	for i, s := range streams {
		m, ok := <-s.messages
		for m.GetKeepAlive() != nil { // it took that long to open them all
			m, ok = <-s.messages
		}
		if window := m.GetDrain().GetWindow().AsDuration(); !ok || window != 10*time.Second {
			t.Fatalf("stream %d: got %v, %v", i, m, s.err)
		}
		if err := s.end(t, time.Second); err != nil {
			t.Fatalf("stream %d ended with %v", i, err)
		}
	}
}
