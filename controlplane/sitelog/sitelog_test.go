package sitelog

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"chom.dev/proto/contract"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	access = sitev1.LogSource_LOG_SOURCE_ACCESS
	faults = sitev1.LogSource_LOG_SOURCE_ERROR
)

// seen is what one look brought.
type seen struct {
	lines   []string
	leftOut uint32
	sends   int
	ended   chan error
	leave   context.CancelFunc
}

func watch(h *Hub, w Wanted) *seen {
	ctx, leave := context.WithCancel(context.Background())
	s := &seen{ended: make(chan error, 1), leave: leave}
	go func() {
		s.ended <- h.Watch(ctx, w, func(lines []*sitev1.LogLine) error {
			s.sends++
			for _, line := range lines {
				s.lines = append(s.lines, line.GetText())
				s.leftOut += line.GetLeftOut()
			}
			return nil
		})
	}()
	synctest.Wait()
	return s
}

func line(source sitev1.LogSource, text string) *sitev1.LogLine {
	return &sitev1.LogLine{Source: source, Text: text}
}

func newWanted(server contract.ServerID) Wanted {
	return Wanted{Organization: contract.NewOrganizationID(), Site: contract.NewSiteID(), Server: server, Sources: []sitev1.LogSource{access}}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, other := contract.NewServerID(), contract.NewServerID()
		h := New()
		here := true
		h.Connect(func(id contract.ServerID) bool { return here && id == server })

		s := watch(h, newWanted(server))
		asked := h.Asked(server)
		if len(asked) != 1 || asked[0].GetLines() != defaultLines {
			t.Fatalf("the server is asked %v", asked)
		}
		id := asked[0].GetWatchId()
		if len(h.Asked(other)) != 0 {
			t.Error("another server is asked")
		}
		if h.Report(other, id, []*sitev1.LogLine{line(access, "forged")}, time.Now()) {
			t.Error("another server's word is wanted")
		}
		if h.Report(server, "none", nil, time.Now()) {
			t.Error("a look that is none is wanted")
		}
		if !h.Report(server, id, []*sitev1.LogLine{line(access, "a"), line(faults, "not asked for")}, time.Now()) {
			t.Error("it is not wanted")
		}
		synctest.Wait()
		if fmt.Sprint(s.lines) != "[a]" {
			t.Errorf("seen: %q", s.lines)
		}
		if len(h.Asked(server)) != 0 {
			t.Error("the server is asked again, which has answered")
		}

		// Nothing new is no reason to end, and shows now and then.
		for range 30 {
			time.Sleep(time.Second)
			h.Report(server, id, nil, time.Now())
		}
		synctest.Wait()
		if s.sends < 2 || s.sends > 3 {
			t.Errorf("%d messages in half a minute of quiet", s.sends)
		}

		s.leave()
		if err := <-s.ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if h.Report(server, id, nil, time.Now()) {
			t.Error("it is wanted although nobody looks")
		}
	})
}

func TestWatchEnds(t *testing.T) {
	server := contract.NewServerID()
	answer := func(h *Hub) bool { return h.Report(server, h.Asked(server)[0].GetWatchId(), nil, time.Now()) }
	for name, test := range map[string]struct {
		here   bool
		after  time.Duration
		happen func(h *Hub)
		want   error
	}{
		"at once, where the server is not here": {false, 0, func(*Hub) {}, ErrAway},
		"where the server never answers":        {true, awayAfter, func(*Hub) {}, ErrSilent},
		"where the server falls silent":         {true, awayAfter, func(h *Hub) { answer(h) }, ErrAway},
		"where the server goes away unheard":    {true, askAgain, func(h *Hub) { h.Connect(func(contract.ServerID) bool { return false }) }, ErrAway},
		"where the server begins anew":          {true, 0, func(h *Hub) { answer(h); h.Lost(server) }, ErrAway},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := New()
				h.Connect(func(contract.ServerID) bool { return test.here })
				s := watch(h, newWanted(server))
				if test.here {
					test.happen(h)
				}
				began := time.Now()
				if err := <-s.ended; !errors.Is(err, test.want) {
					t.Error(err)
				}
				if took := time.Since(began); took < test.after || took > test.after+askAgain {
					t.Errorf("it took %s", took)
				}
				if len(h.looks) != 0 {
					t.Error("it is still kept")
				}
			})
		})
	}
}

func TestWatchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := contract.NewServerID()
		h := New()
		h.Connect(func(contract.ServerID) bool { return true })
		one := newWanted(server)
		var all []*seen
		for range maxOfOrganization {
			all = append(all, watch(h, one))
		}
		if err := <-watch(h, one).ended; !errors.Is(err, ErrMany) {
			t.Errorf("one more of an organization: %v", err)
		}
		for range maxOfServer - maxOfOrganization {
			all = append(all, watch(h, newWanted(server)))
		}
		if err := <-watch(h, newWanted(server)).ended; !errors.Is(err, ErrMany) {
			t.Errorf("one more of a server: %v", err)
		}
		all[0].leave()
		<-all[0].ended
		s := watch(h, one)
		for _, s := range append(all[1:], s) {
			s.leave()
			<-s.ended
		}
	})
	t.Run("what waits for a slow reader", func(t *testing.T) {
		h := New()
		server := contract.NewServerID()
		l, err := h.open(newWanted(server))
		if err != nil {
			t.Fatal(err)
		}
		for i := range maxKept + 10 {
			h.Report(server, l.id, []*sitev1.LogLine{line(access, fmt.Sprint(i))}, time.Now())
		}
		lines, more := h.take(l)
		if len(lines) != maxSent || !more || lines[0].GetText() != "10" || lines[0].GetLeftOut() != 10 {
			t.Errorf("%d lines, the first %v, more: %t", len(lines), lines[0], more)
		}
	})
}
