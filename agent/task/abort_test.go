package task

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	orderv1 "chom.dev/proto/gen/chom/order/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestAbort(t *testing.T) {
	setup := func(t *testing.T, plan Plan) *host {
		h := newHost(t)
		h.handlers[Noop] = HandlerFunc(func(Order) (Plan, error) { return plan, nil })
		h.start()
		t.Cleanup(h.end)
		return h
	}
	fine := Step{Name: "fine", Do: func(context.Context, *Log) error { return nil }}
	fails := Step{Name: "fails", Do: func(context.Context, *Log) error { return Permanent(errors.New("broken")) }}

	t.Run("is called once after a step failed, and never after success", func(t *testing.T) {
		for _, c := range []struct {
			steps []Step
			want  int32
		}{{[]Step{fine}, 0}, {[]Step{fine, fails}, 1}} {
			var aborts atomic.Int32
			h := setup(t, Plan{Steps: c.steps, Abort: func(context.Context, *Log) error { aborts.Add(1); return nil }})
			h.result(h.offer(h.order()))
			if got := aborts.Load(); got != c.want {
				t.Errorf("%d steps: called %d times, want %d", len(c.steps), got, c.want)
			}
		}
	})
	t.Run("says what it could not take back", func(t *testing.T) {
		h := setup(t, Plan{Steps: []Step{fails}, Abort: func(context.Context, *Log) error { return errors.New("disk is gone") }})
		r := h.result(h.offer(h.order()))
		if r.Outcome != failed || !r.Permanent || !strings.Contains(r.Error, "broken") || !strings.Contains(r.Error, "disk is gone") {
			t.Error(r)
		}
	})
	t.Run("has time after a cancel, which has not", func(t *testing.T) {
		runs := make(chan struct{})
		var alive atomic.Bool
		h := setup(t, Plan{
			Steps: []Step{{Name: "long", Do: func(ctx context.Context, _ *Log) error { close(runs); <-ctx.Done(); return ctx.Err() }}},
			Abort: func(ctx context.Context, _ *Log) error { alive.Store(ctx.Err() == nil); return nil },
		})
		o := h.offer(h.order())
		<-runs
		h.engine.Cancel(o.TaskId, 1)
		if r := h.result(o); r.Outcome != canceled || !alive.Load() {
			t.Error(r, alive.Load())
		}
	})
	t.Run("a committed plan goes through, whoever asks it to stop", func(t *testing.T) {
		for name, stop := range map[string]func(*host, *orderv1.Order){
			"cancel":  func(h *host, o *orderv1.Order) { h.engine.Cancel(o.TaskId, 1) },
			"timeout": func(*host, *orderv1.Order) {},
		} {
			t.Run(name, func(t *testing.T) {
				var committed, aborted, last atomic.Bool
				runs := make(chan struct{})
				h := setup(t, Plan{
					Committed: committed.Load,
					Abort:     func(context.Context, *Log) error { aborted.Store(true); return nil },
					Steps: []Step{
						{Name: "commit", Do: func(ctx context.Context, _ *Log) error {
							committed.Store(true)
							close(runs)
							<-ctx.Done() // told to stop right then
							return nil
						}},
						{Name: "through", Do: func(ctx context.Context, _ *Log) error { last.Store(true); return ctx.Err() }},
					},
				})
				o := h.offer(h.order(func(o *orderv1.Order) {
					if name == "timeout" {
						o.Timeout = durationpb.New(1e9)
					}
				}))
				<-runs
				stop(h, o)
				if r := h.result(o); r.Outcome != succeeded || aborted.Load() || !last.Load() {
					t.Error(r, aborted.Load(), last.Load())
				}
			})
		}
	})
	t.Run("one that is committed and fails has failed, and is not taken back", func(t *testing.T) {
		var committed, aborted atomic.Bool
		h := setup(t, Plan{
			Committed: committed.Load,
			Abort:     func(context.Context, *Log) error { aborted.Store(true); return nil },
			Steps:     []Step{{Name: "commit", Do: func(context.Context, *Log) error { committed.Store(true); return nil }}, fails},
		})
		if r := h.result(h.offer(h.order())); r.Outcome != failed || aborted.Load() {
			t.Error(r, aborted.Load())
		}
	})
}
