package task

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func clone(d *sitev1.DesiredState) *sitev1.DesiredState { return proto.CloneOf(d) }

const (
	succeeded = orderv1.Outcome_OUTCOME_SUCCEEDED
	failed    = orderv1.Outcome_OUTCOME_FAILED
	canceled  = orderv1.Outcome_OUTCOME_CANCELED
	timedOut  = orderv1.Outcome_OUTCOME_TIMED_OUT
	refused   = orderv1.Outcome_OUTCOME_REFUSED
)

// story is an attempt's events in short.
func (h *host) story(o *orderv1.Order) string {
	var parts []string
	for _, ev := range h.events[attemptOf(o.TaskId, o.Attempt)] {
		switch e := ev.Event.(type) {
		case *linkv1.TaskEvent_Accepted:
			parts = append(parts, fmt.Sprintf("accepted %d", e.Accepted.StepCount))
		case *linkv1.TaskEvent_StepStarted:
			parts = append(parts, "start "+e.StepStarted.Name)
		case *linkv1.TaskEvent_StepEnded:
			state := strings.ToLower(strings.TrimPrefix(e.StepEnded.State.String(), "STEP_STATE_"))
			parts = append(parts, state+" "+e.StepEnded.Name)
		case *linkv1.TaskEvent_Log:
			parts = append(parts, "log")
		case *linkv1.TaskEvent_Result:
			parts = append(parts, strings.ToLower(strings.TrimPrefix(e.Result.Outcome.String(), "OUTCOME_")))
		}
	}
	return strings.Join(parts, ", ")
}

func TestEngine(t *testing.T) {
	t.Run("tells the whole story of an attempt, in order", func(t *testing.T) {
		h := newHost(t).start()
		defer h.end()
		o := h.offer(h.order())
		if r := h.result(o); r.Outcome != succeeded {
			t.Fatal(r)
		}
		want := "accepted 2, start noop-1, done noop-1, start noop-2, done noop-2, succeeded"
		if got := h.story(o); got != want {
			t.Errorf("story is %q, want %q", got, want)
		}
	})

	t.Run("starts a repeated attempt once and answers the repeat", func(t *testing.T) {
		var runs atomic.Int32
		h := newHost(t)
		h.handlers[Noop] = steps(Step{Name: "count", Do: func(context.Context, *Log) error { runs.Add(1); return nil }})
		h.start()
		defer h.end()
		o := h.offer(h.order())
		h.result(o)
		h.events = map[string][]*linkv1.TaskEvent{} // the control plane forgot
		h.offer(o)
		if r := h.result(o); r.Outcome != succeeded || runs.Load() != 1 {
			t.Errorf("result %v after %d runs", r, runs.Load())
		}
	})

	t.Run("refuses and starts nothing", func(t *testing.T) {
		h := newHost(t)
		var planned atomic.Int32
		h.handlers[Noop] = HandlerFunc(func(Order) (Plan, error) { planned.Add(1); return Plan{}, nil })
		h.start()
		defer h.end()
		for name, offer := range map[string]func() *orderv1.Order{
			"an order for another server": func() *orderv1.Order {
				return h.offer(h.order(func(o *orderv1.Order) { o.ServerId = contract.NewServerID().String() }))
			},
			"an expired order": func() *orderv1.Order {
				return h.offer(h.order(func(o *orderv1.Order) { o.ExpireTime = timestamppb.New(time.Now().Add(-time.Hour)) }))
			},
			"an order by an unknown signer": func() *orderv1.Order {
				o := h.order()
				_, other, _ := ed25519.GenerateKey(rand.Reader)
				h.engine.Offer(must(contract.SignOrder(other, o)))
				return o
			},
			"an order that was changed after it was signed": func() *orderv1.Order {
				o := h.order()
				so := h.sign(o)
				changed := proto.CloneOf(o)
				changed.GetNoop().Steps = 99
				so.Order = must(proto.Marshal(changed))
				h.engine.Offer(so)
				return o
			},
			"a kind that it has no handler for": func() *orderv1.Order {
				return h.offer(h.order(func(o *orderv1.Order) { o.Kind = &orderv1.Order_PrepareServer{PrepareServer: &orderv1.PrepareServer{}} }))
			},
		} {
			t.Run(name, func(t *testing.T) {
				if r := h.result(offer()); r.Outcome != refused || r.Error == "" {
					t.Errorf("result is %v", r)
				}
			})
		}
		if planned.Load() != 0 {
			t.Errorf("%d refused orders reached their handler", planned.Load())
		}
	})

	t.Run("refuses what its handler won't plan, and survives one that panics", func(t *testing.T) {
		h := newHost(t)
		h.handlers[Noop] = HandlerFunc(func(o Order) (Plan, error) {
			if o.Message.GetNoop().Steps == 1 {
				panic("boom")
			}
			return Plan{}, errors.New("the type is unknown")
		})
		h.start()
		defer h.end()
		for steps, want := range map[uint32]string{1: "boom", 2: "the type is unknown"} {
			o := h.offer(h.order(func(o *orderv1.Order) { o.GetNoop().Steps = steps }))
			if r := h.result(o); r.Outcome != refused || !strings.Contains(r.Error, want) {
				t.Errorf("result is %v, want %q", r, want)
			}
		}
	})

	t.Run("names in Hello whatever was offered before", func(t *testing.T) {
		h := newHost(t).start()
		defer h.end()
		for range 50 {
			o := h.offer(h.order())
			held, err := h.engine.Holdings()
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(held.Journal, func(e *linkv1.JournalEntry) bool { return e.TaskId == o.TaskId }) {
				t.Fatal("an order is on its way into the journal, and would be offered again")
			}
		}
	})

	t.Run("refuses late what it once refused, though the reason is gone", func(t *testing.T) {
		h := newHost(t).start()
		defer h.end()
		h.clock.Set(time.Now().Add(time.Hour))
		o := h.offer(h.order())
		if r := h.result(o); r.Outcome != refused {
			t.Fatal(r)
		}
		h.clock.Set(time.Now())
		h.events = map[string][]*linkv1.TaskEvent{}
		h.offer(o)
		if r := h.result(o); r.Outcome != refused {
			t.Error("a refused attempt was started by its repeat:", r)
		}
	})

	t.Run("refuses late what it once turned away without writing it down", func(t *testing.T) {
		h := newHost(t).start()
		defer h.end()
		o := h.order()
		_, other, _ := ed25519.GenerateKey(rand.Reader)
		h.engine.Offer(must(contract.SignOrder(other, o)))
		if r := h.result(o); r.Outcome != refused {
			t.Fatal(r)
		}
		h.events = map[string][]*linkv1.TaskEvent{}
		h.offer(o)
		if r := h.result(o); r.Outcome != refused {
			t.Error("an attempt that was turned away was started later:", r)
		}
	})
}

func TestSteps(t *testing.T) {
	run := func(t *testing.T, s ...Step) (*host, *orderv1.Order, *orderv1.Result) {
		h := newHost(t)
		h.handlers[Noop] = steps(s...)
		h.start()
		t.Cleanup(h.end)
		o := h.offer(h.order())
		return h, o, h.result(o)
	}
	t.Run("are not done when a probe finds them done", func(t *testing.T) {
		h, o, r := run(t, Step{
			Name:  "user",
			Probe: func(context.Context) (bool, string, error) { return true, "it exists", nil },
			Do:    func(context.Context, *Log) error { t.Error("was done"); return nil },
		})
		if want := "accepted 1, start user, already_done user, succeeded"; r.Outcome != succeeded || h.story(o) != want {
			t.Errorf("story is %q, want %q", h.story(o), want)
		}
	})
	t.Run("are tried again after a plain error", func(t *testing.T) {
		n := 0
		h, o, r := run(t, Step{Name: "flaky", Do: func(context.Context, *Log) error {
			if n++; n < 4 {
				return errors.New("not now")
			}
			return nil
		}})
		if want := "accepted 1, start flaky, log, log, log, done flaky, succeeded"; r.Outcome != succeeded || h.story(o) != want {
			t.Errorf("story is %q, want %q", h.story(o), want)
		}
	})
	t.Run("end the attempt after five tries", func(t *testing.T) {
		n := 0
		_, _, r := run(t, Step{Name: "down", Do: func(context.Context, *Log) error { n++; return errors.New("connection refused") }})
		if r.Outcome != failed || n != 5 || r.Error != "down: connection refused" || r.Permanent {
			t.Errorf("after %d tries: %v", n, r)
		}
	})
	t.Run("end the attempt at once after a permanent error", func(t *testing.T) {
		n := 0
		h, o, r := run(t,
			Step{Name: "bad", Do: func(context.Context, *Log) error { n++; return fmt.Errorf("x: %w", Permanent(errors.New("never"))) }},
			Step{Name: "after", Do: func(context.Context, *Log) error { t.Error("went on"); return nil }})
		if want := "accepted 2, start bad, failed bad, failed"; r.Outcome != failed || n != 1 || h.story(o) != want || !r.Permanent {
			t.Errorf("story is %q, want %q, and the result %v", h.story(o), want, r)
		}
	})
	t.Run("have failed when their effect is not there afterwards", func(t *testing.T) {
		_, _, r := run(t, Step{
			Name:  "lie",
			Probe: func(context.Context) (bool, string, error) { return false, "no file", nil },
			Do:    func(context.Context, *Log) error { return nil },
		})
		if r.Outcome != failed || !strings.Contains(r.Error, "no file") {
			t.Error(r)
		}
	})
	t.Run("that panic fail their own attempt and nothing else", func(t *testing.T) {
		h, _, r := run(t, Step{Name: "boom", Do: func(context.Context, *Log) error { panic("boom") }})
		if r.Outcome != failed || !strings.Contains(r.Error, "boom") {
			t.Fatal(r)
		}
		h.handlers[Noop] = NoopHandler()
		if r := h.result(h.offer(h.order())); r.Outcome != succeeded {
			t.Error("the next order fails too:", r)
		}
	})
	t.Run("may not print without end, nor what is no line", func(t *testing.T) {
		h, o, _ := run(t, Step{Name: "noisy", Do: func(_ context.Context, log *Log) error {
			for range 200 {
				log.Printf("%s\x1b\xff\n%s", strings.Repeat("x", 5000), strings.Repeat("y", 5000))
			}
			return nil
		}})
		size := 0
		for _, ev := range h.events[attemptOf(o.TaskId, o.Attempt)] {
			text := ev.GetLog().GetText()
			if size += len(text); len(text) > maxText || strings.ContainsAny(text, "\x1b\n") {
				t.Fatalf("line of %d bytes: %.20q", len(text), text)
			}
		}
		if size == 0 || size > maxLogBytes+maxText {
			t.Errorf("%d bytes were printed", size)
		}
	})
}

func TestPlanEnds(t *testing.T) {
	setup := func(t *testing.T, s Step) (*host, *atomic.Int32) {
		ends := new(atomic.Int32)
		h := newHost(t)
		h.handlers[Noop] = HandlerFunc(func(Order) (Plan, error) {
			return Plan{Steps: []Step{s}, End: func() { ends.Add(1) }}, nil
		})
		return h.start(), ends
	}
	t.Run("once, after the last step, whatever came of it", func(t *testing.T) {
		for _, err := range []error{nil, Permanent(errors.New("never"))} {
			var early atomic.Bool
			var ends *atomic.Int32
			var h *host
			h, ends = setup(t, Step{Name: "only", Do: func(context.Context, *Log) error { early.Store(ends.Load() > 0); return err }})
			h.result(h.offer(h.order()))
			h.end()
			if ends.Load() != 1 || early.Load() {
				t.Errorf("with the step's error %v it ended %d times, before its step: %v", err, ends.Load(), early.Load())
			}
		}
	})
	t.Run("when the attempt is left to the next process", func(t *testing.T) {
		runs := make(chan struct{})
		h, ends := setup(t, Step{Name: "long", Do: func(ctx context.Context, _ *Log) error { close(runs); <-ctx.Done(); return ctx.Err() }})
		h.offer(h.order())
		<-runs
		h.end()
		if ends.Load() != 1 {
			t.Errorf("it ended %d times", ends.Load())
		}
	})
}

// blocker is a step that says when it runs and waits until told.
type blocker struct {
	runs chan string
	goOn chan struct{}
}

func (b *blocker) handler() Handler {
	return HandlerFunc(func(o Order) (Plan, error) {
		return Plan{Steps: []Step{{Name: "block", Do: func(ctx context.Context, _ *Log) error {
			b.runs <- o.Task.String()
			select {
			case <-b.goOn:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}, {Name: "after", Do: func(context.Context, *Log) error { return nil }}}}, nil
	})
}

func newBlocker() *blocker { return &blocker{make(chan string, 100), make(chan struct{})} }

func TestCancel(t *testing.T) {
	setup := func(t *testing.T) (*host, *blocker) {
		b := newBlocker()
		h := newHost(t)
		h.handlers[Noop] = b.handler()
		h.start()
		t.Cleanup(h.end)
		return h, b
	}
	t.Run("stops a running attempt and does no further step", func(t *testing.T) {
		h, b := setup(t)
		o := h.offer(h.order())
		<-b.runs
		h.engine.Cancel(o.TaskId, 1)
		if r := h.result(o); r.Outcome != canceled {
			t.Fatal(r)
		}
		if want := "accepted 2, start block, failed block, canceled"; h.story(o) != want {
			t.Errorf("story is %q, want %q", h.story(o), want)
		}
	})
	t.Run("ends one that waits for its turn without starting it", func(t *testing.T) {
		h, b := setup(t)
		var running []*orderv1.Order
		for range defaultSlots {
			running = append(running, h.offer(h.order()))
			<-b.runs
		}
		second := h.offer(h.order())
		h.engine.Cancel(second.TaskId, 1)
		close(b.goOn)
		for _, o := range running {
			h.result(o)
		}
		if r := h.result(second); r.Outcome != canceled || len(b.runs) != 0 {
			t.Errorf("result %v, and %d more runs", r, len(b.runs))
		}
	})
	t.Run("that overtakes its order still holds", func(t *testing.T) {
		h, b := setup(t)
		o := h.order()
		h.engine.Cancel(o.TaskId, 1)
		h.offer(o)
		if r := h.result(o); r.Outcome != canceled || len(b.runs) != 0 {
			t.Error(r)
		}
	})
	t.Run("of an attempt that ended tells its result again", func(t *testing.T) {
		h, b := setup(t)
		close(b.goOn)
		o := h.offer(h.order())
		h.result(o)
		h.events = map[string][]*linkv1.TaskEvent{}
		h.engine.Cancel(o.TaskId, 1)
		if r := h.result(o); r.Outcome != succeeded {
			t.Error(r)
		}
	})
	t.Run("of one whose plan has yet to end, too", func(t *testing.T) {
		end := make(chan struct{})
		h := newHost(t)
		h.handlers[Noop] = HandlerFunc(func(Order) (Plan, error) { return Plan{End: func() { <-end }}, nil })
		h.start()
		t.Cleanup(h.end)
		defer close(end)
		o := h.offer(h.order())
		h.result(o)
		h.events = map[string][]*linkv1.TaskEvent{}
		h.engine.Cancel(o.TaskId, 1)
		if r := h.result(o); r.Outcome != succeeded {
			t.Error(r)
		}
	})
	t.Run("is not forgotten by a restart", func(t *testing.T) {
		h, b := setup(t)
		stuck := newBlocker()
		o := h.offer(h.order())
		<-b.runs
		// The step doesn't hear of the cancellation before the process dies.
		key := must(orderKey(o))
		h.engine.mu.Lock()
		a := h.engine.live[key]
		h.engine.mu.Unlock()
		a.cancel = func(error) {}
		h.engine.Cancel(o.TaskId, 1)
		if err := h.journal.Beat(); err != nil { // written after the note
			t.Fatal(err)
		}
		h.kill()
		h.handlers[Noop] = stuck.handler()
		h.start()
		if r := h.result(o); r.Outcome != canceled || len(stuck.runs) != 0 {
			t.Error(r)
		}
	})
	t.Run("comes with a newer attempt of the same task", func(t *testing.T) {
		h, b := setup(t)
		first := h.offer(h.order())
		<-b.runs
		second := h.offer(h.order(func(o *orderv1.Order) { o.TaskId, o.Attempt = first.TaskId, 2 }))
		if r := h.result(first); r.Outcome != canceled || !strings.Contains(r.Error, "newer attempt") {
			t.Error(r)
		}
		close(b.goOn)
		if r := h.result(second); r.Outcome != succeeded {
			t.Error(r)
		}
	})
}

func TestTimeout(t *testing.T) {
	b := newBlocker()
	h := newHost(t)
	h.handlers[Noop] = b.handler()
	h.start()
	defer h.end()
	o := h.offer(h.order(func(o *orderv1.Order) { o.Timeout = durationpb.New(20 * time.Millisecond) }))
	if r := h.result(o); r.Outcome != timedOut {
		t.Error(r)
	}
}

func TestOrderOfWork(t *testing.T) {
	t.Run("is one at a time and in order for a site, and four at a time for a host", func(t *testing.T) {
		var (
			mu      sync.Mutex
			running = map[string]int{}
			most    int
			seen    = map[string][]uint64{}
			once    sync.Once
			four    = make(chan struct{})
		)
		h := newHost(t)
		h.handlers[ConvergeSite] = HandlerFunc(func(o Order) (Plan, error) {
			return Plan{Steps: []Step{{Name: "work", Do: func(context.Context, *Log) error {
				site := o.Site.ID.String()
				mu.Lock()
				running[site]++
				seen[site] = append(seen[site], o.Fence)
				all := 0
				for _, n := range running {
					if n > 1 {
						t.Error("two attempts of one site run at once")
					}
					all += n
				}
				if most = max(most, all); all == 4 {
					once.Do(func() { close(four) })
				}
				mu.Unlock()
				select { // the first ones wait for each other
				case <-four:
				case <-time.After(5 * time.Second):
				}
				mu.Lock()
				running[site]--
				mu.Unlock()
				return nil
			}}}}, nil
		})
		h.start()
		defer h.end()
		var orders []*orderv1.Order
		var sites []*sitev1.DesiredState
		for range 8 {
			sites = append(sites, desired())
		}
		for range 5 {
			for _, d := range sites {
				d.Generation++
				orders = append(orders, h.offer(h.order(converge(clone(d)))))
			}
		}
		for _, o := range orders {
			if r := h.result(o); r.Outcome != succeeded {
				t.Fatal(r)
			}
		}
		if most != 4 {
			t.Errorf("%d ran at once, want 4", most)
		}
		for site, fences := range seen {
			for i := range fences[1:] {
				if fences[i] >= fences[i+1] {
					t.Errorf("site %s did fence %d before %d", site, fences[i], fences[i+1])
				}
			}
		}
	})
	t.Run("takes no more than 100 at once", func(t *testing.T) {
		b := newBlocker()
		h := newHost(t)
		h.handlers[Noop] = b.handler()
		h.start()
		defer h.end()
		for range 105 {
			h.offer(h.order())
		}
		if err := h.journal.Beat(); err != nil { // comes after all of them
			t.Fatal(err)
		}
		if n := h.engine.Busy(); n != 100 {
			t.Errorf("%d orders were taken", n)
		}
	})
}

func TestSiteRegistry(t *testing.T) {
	observe := func(context.Context) (*sitev1.ObservedState, error) {
		return &sitev1.ObservedState{Phase: sitev1.Phase_PHASE_ACTIVE, HttpStatus: 200, PageTitle: "a\x1bb"}, nil
	}
	h := newHost(t)
	fails := atomic.Bool{}
	h.handlers[ConvergeSite] = HandlerFunc(func(o Order) (Plan, error) {
		return Plan{Observe: observe, Steps: []Step{{Name: "all", Do: func(context.Context, *Log) error {
			if fails.Load() {
				return Permanent(errors.New("no"))
			}
			return nil
		}}}}, nil
	})
	h.start()
	defer h.end()
	d := desired()
	site := must(contract.ParseSiteID(d.SiteId))

	t.Run("learns a site with its order, and its generation with success", func(t *testing.T) {
		r := h.result(h.offer(h.order(converge(clone(d)))))
		rec, found, err := h.journal.Site(site)
		if err != nil || !found || rec.UID != 200000 || rec.Converged != 1 || rec.Handle.String() != d.Handle {
			t.Fatalf("record %+v, %v, %v", rec, found, err)
		}
		if o := r.Observed; o.GetSiteId() != d.SiteId || o.GetGeneration() != 1 || o.PageTitle != "a b" || o.ObserveTime == nil {
			t.Errorf("observed %v", o)
		}
	})
	t.Run("keeps the converged generation when a later one fails", func(t *testing.T) {
		fails.Store(true)
		defer fails.Store(false)
		d.Generation = 2
		r := h.result(h.offer(h.order(converge(clone(d)))))
		rec, _, err := h.journal.Site(site)
		if err != nil || rec.Converged != 1 || rec.Generation != 2 || r.Observed.GetGeneration() != 1 {
			t.Errorf("record %+v, observed %v, %v", rec, r.Observed, err)
		}
	})
	t.Run("gives the next site the next unix id", func(t *testing.T) {
		other := desired()
		h.result(h.offer(h.order(converge(other))))
		rec, _, err := h.journal.Site(must(contract.ParseSiteID(other.SiteId)))
		if err != nil || rec.UID != 200001 {
			t.Errorf("record %+v, %v", rec, err)
		}
	})
	t.Run("keeps a removed site's id and handle for ever", func(t *testing.T) {
		d.Generation, d.Phase = 3, sitev1.Phase_PHASE_ABSENT
		h.result(h.offer(h.order(converge(clone(d)))))
		sites := must(h.engine.Sites())
		if len(sites) != 1 {
			t.Errorf("%d sites are left, want the other one", len(sites))
		}
		thief := desired()
		thief.Handle = d.Handle
		if r := h.result(h.offer(h.order(converge(thief)))); r.Outcome != refused {
			t.Error("a removed site's handle was given away:", r)
		}
		late := clone(d)
		late.Generation, late.Phase = 2, sitev1.Phase_PHASE_ACTIVE
		if r := h.result(h.offer(h.order(converge(late)))); r.Outcome != refused {
			t.Error("a removed site came back by an old generation:", r)
		}
	})
	t.Run("tells in Hello what is on the host", func(t *testing.T) {
		held := must(h.engine.Holdings())
		phases := map[string]sitev1.Phase{}
		for _, s := range held.Sites {
			phases[s.SiteId] = s.Phase
		}
		if len(phases) != 2 || phases[d.SiteId] != sitev1.Phase_PHASE_ABSENT || held.HighestFence != h.fence-2 {
			t.Errorf("phases %v, highest fence %d of %d", phases, held.HighestFence, h.fence)
		}
	})
	t.Run("tells what was measured between orders, the newest once", func(t *testing.T) {
		h.take()
		live := must(h.engine.Sites())[0]
		for _, status := range []uint32{200, 500} {
			if err := h.engine.Observed(&sitev1.ObservedState{SiteId: live.ID.String(), HttpStatus: status}); err != nil {
				t.Fatal(err)
			}
		}
		b := must(h.engine.Outbox(10, 1000))
		if len(b.Sites) != 1 || b.Sites[0].HttpStatus != 500 || b.Sites[0].Generation != 1 {
			t.Fatalf("sites %v", b.Sites)
		}
		h.engine.Delivered(b)
		if b := must(h.engine.Outbox(10, 1000)); len(b.Sites) != 0 {
			t.Error("it is told twice")
		}
	})
}

func TestRestart(t *testing.T) {
	t.Run("goes on where the journal ends, and repeats no step that a probe finds done", func(t *testing.T) {
		var mu sync.Mutex
		effects := map[string]int{}
		die := make(chan struct{})
		h := newHost(t)
		step := func(name string, deadly bool) Step {
			return Step{
				Name: name,
				Probe: func(context.Context) (bool, string, error) {
					mu.Lock()
					defer mu.Unlock()
					return effects[name] > 0, "", nil
				},
				Do: func(ctx context.Context, _ *Log) error {
					mu.Lock()
					effects[name]++
					mu.Unlock()
					if deadly {
						close(die)
						<-ctx.Done() // the effect is there, its note never will be
						return ctx.Err()
					}
					return nil
				},
			}
		}
		h.handlers[Noop] = steps(step("a", false), step("b", true), step("c", false))
		h.start()
		o := h.offer(h.order())
		<-die
		if err := h.journal.Beat(); err != nil { // all that was told before is written then
			t.Fatal(err)
		}
		h.take()
		h.kill()
		h.start()
		defer h.end()
		if r := h.result(o); r.Outcome != succeeded {
			t.Fatal(r)
		}
		for _, name := range []string{"a", "b", "c"} {
			if effects[name] != 1 {
				t.Errorf("step %s took effect %d times", name, effects[name])
			}
		}
		if want := "accepted 3, start a, done a, start b, start b, already_done b, start c, done c, succeeded"; h.story(o) != want {
			t.Errorf("story is %q, want %q", h.story(o), want)
		}
	})
	t.Run("does a step again whose effect went away meanwhile", func(t *testing.T) {
		var there atomic.Bool
		b := newBlocker()
		h := newHost(t)
		h.handlers[Noop] = steps(Step{
			Name:  "file",
			Probe: func(context.Context) (bool, string, error) { return there.Load(), "", nil },
			Do:    func(context.Context, *Log) error { there.Store(true); return nil },
		}, must(b.handler().Plan(Order{})).Steps[0])
		h.start()
		o := h.offer(h.order())
		<-b.runs
		h.kill()
		there.Store(false)
		close(b.goOn)
		h.start()
		defer h.end()
		if r := h.result(o); r.Outcome != succeeded || !there.Load() {
			t.Error(r, there.Load())
		}
	})
	t.Run("takes the journal's word for steps that nobody can probe", func(t *testing.T) {
		var runs atomic.Int32
		b := newBlocker()
		h := newHost(t)
		h.handlers[Noop] = steps(Step{Name: "blind", Do: func(context.Context, *Log) error { runs.Add(1); return nil }},
			must(b.handler().Plan(Order{})).Steps[0])
		h.start()
		o := h.offer(h.order())
		<-b.runs
		h.kill()
		close(b.goOn)
		h.start()
		defer h.end()
		if r := h.result(o); r.Outcome != succeeded || runs.Load() != 1 {
			t.Error(r, runs.Load())
		}
	})
	t.Run("leaves running steps to the next process when it is told to stop", func(t *testing.T) {
		b := newBlocker()
		h := newHost(t)
		h.handlers[Noop] = b.handler()
		h.start()
		o := h.offer(h.order())
		<-b.runs
		began := time.Now()
		h.end()
		if d := time.Since(began); d > time.Second {
			t.Errorf("stopping took %s", d)
		}
		close(b.goOn)
		h.start()
		defer h.end()
		if r := h.result(o); r.Outcome != succeeded {
			t.Error(r)
		}
	})
	t.Run("gives up an attempt that kills its agent again and again", func(t *testing.T) {
		b := newBlocker()
		h := newHost(t)
		h.handlers[Noop] = b.handler()
		h.start()
		o := h.offer(h.order())
		for range maxResumes + 1 {
			<-b.runs
			h.kill()
			h.start()
		}
		defer h.end()
		if r := h.result(o); r.Outcome != failed || !strings.Contains(r.Error, "ended 20 times") {
			t.Error(r)
		}
	})
	t.Run("fails an attempt whose kind the new agent doesn't know", func(t *testing.T) {
		b := newBlocker()
		h := newHost(t)
		h.handlers[Noop] = b.handler()
		h.start()
		o := h.offer(h.order())
		<-b.runs
		h.kill()
		delete(h.handlers, Noop)
		h.start()
		defer h.end()
		if r := h.result(o); r.Outcome != failed {
			t.Error(r)
		}
	})
	t.Run("counts running time alone against the timeout", func(t *testing.T) {
		b := newBlocker()
		h := newHost(t)
		h.handlers[Noop] = b.handler()
		h.start()
		o := h.offer(h.order(func(o *orderv1.Order) { o.Timeout = durationpb.New(300 * time.Millisecond) }))
		<-b.runs
		h.kill()
		time.Sleep(400 * time.Millisecond) // the host was off
		close(b.goOn)
		h.start()
		defer h.end()
		if r := h.result(o); r.Outcome != succeeded {
			t.Error(r)
		}
	})
}
