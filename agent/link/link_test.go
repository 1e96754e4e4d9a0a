package link_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"chom.dev/agent/link"
	"chom.dev/agent/link/linktest"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

func TestLink(t *testing.T) {
	t.Run("says hello, sends heartbeats and measurements, and does what it is told", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s).start().connected()
		o := a.does("over a stream")
		var kinds []string
		for i, ev := range s.Events(a.id, o.TaskId, 1) {
			kinds = append(kinds, strings.TrimPrefix(fmt.Sprintf("%T", ev.Event), "*linkv1.TaskEvent_"))
			if ev.Sequence != uint64(i+1) || ev.Fence != o.Fence {
				t.Errorf("event %d has number %d and fence %d", i, ev.Sequence, ev.Fence)
			}
		}
		if got := strings.Join(kinds, " "); got != "Accepted StepStarted StepEnded StepStarted StepEnded Result" {
			t.Error("events are", got)
		}
		a.saw("three heartbeats and a sample", func(rec *linktest.Agent) bool {
			return rec.Beats >= 3 && rec.Samples > 0 && rec.Facts.GetHostname() == "h"
		})
		if err := a.link.Alive(); err != nil {
			t.Error(err)
		}
	})

	t.Run("says hello again when its epoch is over", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s).start().connected()
		s.Look(a.id, func(rec *linktest.Agent) { rec.Epoch += 7 })
		a.saw("a second hello", func(rec *linktest.Agent) bool { return len(rec.Hellos) == 2 })
		a.does("in the new epoch")
	})

	t.Run("leaves when asked to, comes back within the window, and works on meanwhile", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s).start().connected()
		o := &orderv1.Order{TaskId: contract.NewTaskID().String(), Attempt: 1,
			Kind: &orderv1.Order_Noop{Noop: &orderv1.Noop{Steps: 2, StepDuration: durationpb.New(100 * time.Millisecond)}}}
		s.Offer(a.id, o)
		s.Send(a.id, &linkv1.LinkMessage{Message: &linkv1.LinkMessage_Drain{Drain: &linkv1.Drain{Window: durationpb.New(1500 * time.Millisecond)}}})
		began := time.Now()
		a.saw("a second hello", func(rec *linktest.Agent) bool { return len(rec.Hellos) == 2 })
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("it came back after %s", d)
		}
		a.until("the order is done", func() bool { return s.Result(a.id, o.TaskId, 1) != nil })
	})

	t.Run("polls when streams break, and tries them again later", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		s.BreakStreams(true)
		a := enrolled(t, s).start()
		a.saw("a poll", func(rec *linktest.Agent) bool { return rec.Polls > 0 })
		a.does("over polls")
		if st := a.link.State(); !st.Polling || st.Phase != link.Connected {
			t.Errorf("state is %+v", st)
		}
		s.Look(a.id, func(rec *linktest.Agent) {
			if rec.Watches != 3 {
				t.Errorf("%d streams were tried", rec.Watches)
			}
		})
	})

	t.Run("comes back by itself after the control plane was away", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s).start().connected()
		s.Stop()
		a.until("it notices", func() bool { return a.link.State().Phase != link.Connected })
		if err := s.Start(s.Address); err != nil {
			t.Fatal(err)
		}
		a.saw("a second hello", func(rec *linktest.Agent) bool { return len(rec.Hellos) == 2 })
		a.does("after the restart")
	})

	t.Run("notices a connection that is dead without a sign, and makes a new one", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		s.Heartbeat = 30 * time.Second // no call is under way that would notice by itself
		a := enrolled(t, s)
		var black atomic.Bool
		a.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, address)
			return hole{c, &black}, err
		}
		a.start().connected()
		time.Sleep(time.Second)
		black.Store(true)
		began := time.Now()
		a.until("it notices", func() bool { return a.link.State().Phase != link.Connected })
		if d := time.Since(began); d > 35*time.Second {
			t.Errorf("that took %s", d)
		}
		black.Store(false)
		a.saw("a second hello", func(rec *linktest.Agent) bool { return len(rec.Hellos) == 2 })
	})

	t.Run("waits a minute and more when it is refused, and says why", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s).start().connected()
		s.Look(a.id, func(rec *linktest.Agent) {
			rec.Refuse = connect.NewError(connect.CodePermissionDenied, errors.New("the server is quarantined"))
		})
		a.until("it waits", func() bool { return a.link.State().Phase == link.Waiting })
		st := a.link.State()
		if d := time.Until(st.NextTry); d < 50*time.Second || d > 2*time.Minute {
			t.Errorf("the next try is in %s", d)
		}
		if !strings.Contains(st.Problem, "quarantined") {
			t.Errorf("the problem is %q", st.Problem)
		}
		if err := a.link.Alive(); err != nil {
			t.Error("waiting as designed counts as hanging:", err)
		}
	})

	t.Run("tells everything once in order, whatever calls and answers get lost", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s).start().connected()
		var n atomic.Int32
		s.SetFault(func(procedure string, answered bool) error {
			if procedure == "Report" && n.Add(1)%3 == 0 {
				return connect.NewError(connect.CodeUnavailable, errors.New("lost"))
			}
			return nil
		})
		var orders []*orderv1.Order
		for range 10 {
			o := &orderv1.Order{TaskId: contract.NewTaskID().String(), Attempt: 1}
			so := s.Sign(a.id, o)
			s.Send(a.id, linktest.OfferOf(so))
			s.Send(a.id, linktest.OfferOf(so)) // doubled on the way
			orders = append(orders, o)
		}
		for _, o := range orders {
			a.until("an order succeeds", func() bool {
				return s.Result(a.id, o.TaskId, 1).GetOutcome() == orderv1.Outcome_OUTCOME_SUCCEEDED
			})
			if got := len(s.Events(a.id, o.TaskId, 1)); got != 6 {
				t.Errorf("order has %d events", got)
			}
		}
	})

	t.Run("doesn't repeat an event that was refused for good", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s).start().connected()
		o := &orderv1.Order{TaskId: contract.NewTaskID().String(), Attempt: 1}
		s.RefuseEvent(a.id, o.TaskId, 1, 2, "not wanted")
		s.Offer(a.id, o)
		a.until("the order ends", func() bool { return s.Result(a.id, o.TaskId, 1) != nil })
		a.does("after it")
		sent := 0
		for _, ev := range s.Arrivals(a.id) {
			if ev.TaskId == o.TaskId && ev.Sequence == 2 {
				sent++
			}
		}
		if sent != 1 {
			t.Errorf("it was sent %d times", sent)
		}
	})

	t.Run("drops an event that can't be told rather than everything behind it", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s).start().connected()
		o := &orderv1.Order{TaskId: contract.NewTaskID().String(), Attempt: 1}
		s.Look(a.id, func(rec *linktest.Agent) {
			rec.Invalid = func(ev *linkv1.TaskEvent) bool { return ev.TaskId == o.TaskId && ev.Sequence == 3 }
		})
		s.Offer(a.id, o)
		a.until("the order's end is told", func() bool { return s.Result(a.id, o.TaskId, 1) != nil })
		if got := len(s.Events(a.id, o.TaskId, 1)); got != 5 {
			t.Errorf("%d of 6 events arrived", got)
		}
	})

	t.Run("tells a result again when Hello asks for it", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s).start().connected()
		o := a.does("first")
		before := len(s.Arrivals(a.id))
		s.Look(a.id, func(rec *linktest.Agent) {
			rec.Epoch++ // forces a hello
			rec.Resend = []*linkv1.JournalEntry{{TaskId: o.TaskId, Attempt: 1, Ended: true}}
		})
		a.until("the result comes again", func() bool {
			all := s.Arrivals(a.id)
			return len(all) > before && all[len(all)-1].GetResult() != nil && all[len(all)-1].Sequence == 6
		})
		s.Look(a.id, func(rec *linktest.Agent) {
			h := rec.Hellos[len(rec.Hellos)-1]
			if len(h.Journal) != 1 || !h.Journal[0].Ended || h.HighestFence != 1 || h.ProtocolVersion != 1 {
				t.Errorf("hello holds %v", h)
			}
		})
	})

	t.Run("resumes after a kill what it had accepted, and tells what it could not", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s).start().connected()
		o := &orderv1.Order{TaskId: contract.NewTaskID().String(), Attempt: 1,
			Kind: &orderv1.Order_Noop{Noop: &orderv1.Noop{Steps: 3, StepDuration: durationpb.New(200 * time.Millisecond)}}}
		s.Offer(a.id, o)
		a.until("its first step is over", func() bool { return len(s.Events(a.id, o.TaskId, 1)) >= 3 })
		a.kill()
		s.Stop() // the control plane is away too
		a.start()
		time.Sleep(700 * time.Millisecond)
		if err := s.Start(s.Address); err != nil {
			t.Fatal(err)
		}
		a.until("the order ends", func() bool { return s.Result(a.id, o.TaskId, 1) != nil })
		starts := 0
		for _, ev := range s.Events(a.id, o.TaskId, 1) {
			if ev.GetAccepted() != nil {
				starts++
			}
			if e := ev.GetStepStarted(); e != nil && e.Name == "noop-1" && ev.Sequence > 3 {
				t.Error("a step that had ended was done again")
			}
		}
		if starts != 1 {
			t.Errorf("the attempt was accepted %d times", starts)
		}
	})

	t.Run("goes by the control plane's clock when that is set back under way, and not when it jumps ahead", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		var set atomic.Int64
		s.ServerTime = func() time.Time { return time.Now().Add(time.Duration(set.Load())) }
		a := enrolled(t, s).start().connected()
		reports := func() {
			t.Helper()
			var before int
			s.Look(a.id, func(rec *linktest.Agent) { before = rec.Beats })
			a.saw("two more reports", func(rec *linktest.Agent) bool { return rec.Beats >= before+2 })
		}
		set.Store(int64(10 * 365 * 24 * time.Hour))
		reports()
		if d := a.clock.Skew(); d.Abs() > time.Minute {
			t.Errorf("by the clock that jumped ahead its certificate is over: skew is %s", d)
		}
		set.Store(int64(-3 * time.Hour))
		reports()
		if d := a.clock.Skew(); d < 2*time.Hour {
			t.Errorf("skew is %s", d)
		}
		a.does("signed after the control plane's clock was set back")
		s.Look(a.id, func(rec *linktest.Agent) {
			if len(rec.Hellos) != 1 {
				t.Errorf("it took %d times Hello", len(rec.Hellos))
			}
		})
	})

	t.Run("judges orders by the control plane's clock", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		s.ServerTime = func() time.Time { return time.Now().Add(-3 * time.Hour) }
		a := enrolled(t, s).start().connected()
		a.does("hours ago by this host's clock") // its expiry is hours ago too
		if d := a.clock.Skew(); d < 2*time.Hour {
			t.Errorf("skew is %s", d)
		}
	})
}
