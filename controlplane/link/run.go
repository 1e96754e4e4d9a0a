package link

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

const (
	// dueEvery is the net below the wake-ups.
	dueEvery = 2 * time.Second
	// cutsEvery is the net below the word that a server is not wanted any more,
	// which must reach open streams within 2 s.
	cutsEvery   = time.Second
	forgetEvery = 10 * time.Minute
	// lastWord is what a refused agent gets to read why, before its connections
	// are closed.
	lastWord = 500 * time.Millisecond
)

// Run wakes those who wait and cuts those who are not wanted any more, until
// ctx or the database ends. Serve needs it beside itself.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.db.Listen(ctx, s.heard) })
	g.Go(func() error { return s.wakeDue(ctx) })
	g.Go(func() error { return s.cutUnwanted(ctx) })
	g.Go(func() error {
		return every(ctx, forgetEvery, func(now time.Time) { s.agents.forget(now) })
	})
	return g.Wait()
}

func every(ctx context.Context, d time.Duration, do func(now time.Time)) error {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			do(now)
		}
	}
}

// heard wakes the hold of a server of which something was decided: it has
// something to do or to stop, can do what waits, or is not wanted any more. It
// returns at once.
func (s *Server) heard(topic, payload string) {
	switch {
	case topic == fleet.Topic || topic == task.TopicServer:
		if id, err := contract.ParseServerID(payload); err == nil {
			s.wake(id)
		}
	case topic == task.TopicFree:
		if id, err := contract.ParseServerID(payload); err == nil && s.waits(id) {
			s.wake(id)
		}
	case topic == "": // some were lost
		for _, a := range s.agents.list() {
			if h := a.held(); h != nil {
				h.nudge()
			}
		}
	}
}

func (s *Server) wake(id contract.ServerID) {
	if a := s.agents.find(id); a != nil {
		if h := a.held(); h != nil {
			h.nudge()
		}
	}
}

// waits says whether tasks wait for others of the server to end, as far as its
// hold has seen.
func (s *Server) waits(id contract.ServerID) bool {
	a := s.agents.find(id)
	if a == nil {
		return false
	}
	h := a.held()
	return h != nil && h.wait.Load()
}

// wakeDue finds what a lost wake-up left behind.
func (s *Server) wakeDue(ctx context.Context) error {
	failing := false
	return every(ctx, dueEvery, func(time.Time) {
		due, err := s.tasks.Due(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			s.log.Warn("tasks that wait can't be looked for", "err", withCause(err))
		}
		failing = err != nil
		for _, server := range due {
			if id, err := contract.ParseServerID(server); err == nil {
				s.wake(id)
			}
		}
	})
}

// cutUnwanted ends the holds of servers of which something was decided, here or
// in another process, whatever they are busy with.
func (s *Server) cutUnwanted(ctx context.Context) error {
	var since time.Time // the zero time asks for all
	return every(ctx, cutsEvery, func(now time.Time) {
		held := map[contract.ServerID]fleet.Held{}
		holds := map[contract.ServerID]*hold{}
		for _, a := range s.agents.list() {
			if h := a.held(); h != nil {
				held[a.id] = fleet.Held{Serial: h.peer.Serial, Epoch: h.epoch}
				holds[a.id] = h
			}
		}
		if len(held) == 0 {
			since = now
			return
		}
		cuts, err := s.fleet.Cuts(ctx, held, since)
		if err != nil {
			if ctx.Err() == nil && s.noisy.Allow() {
				s.log.Warn("streams to cut can't be looked for", "err", withCause(err))
			}
			return // and since stays
		}
		since = now
		for _, cut := range cuts {
			holds[cut.Server].cut(cut.Reason)
			if fault.KindOf(cut.Reason) == fault.KindDenied {
				s.banish(s.agents.find(cut.Server), held[cut.Server].Serial, cut.Reason)
			}
		}
	})
}

// banish ends what was opened with a certificate that is refused: its hold at
// once, its connections after a last word.
func (s *Server) banish(a *agent, serial string, reason error) {
	if a == nil {
		return
	}
	if h := a.held(); h != nil && h.peer.Serial == serial {
		h.cut(reason)
		s.metrics.cut.WithLabelValues("revoked").Inc()
	}
	time.AfterFunc(lastWord, func() { a.closeAll(serial) })
}
