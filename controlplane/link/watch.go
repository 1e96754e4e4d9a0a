package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/task"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

const (
	// keepAliveEvery is promised in the proto; agents give up after two of them.
	keepAliveEvery = 20 * time.Second
	// pollFor is below the shortest limit that proxies have on a call, 30 s.
	pollFor = 25 * time.Second
)

// Watch tells the agent what there is, as soon as there is something.
func (s *Server) Watch(ctx context.Context, req *linkv1.WatchRequest, stream *connect.ServerStream[linkv1.WatchResponse]) error {
	c := callerOf(ctx)
	h, err := s.attach(ctx, c, req.GetEpoch())
	if err != nil {
		return err
	}
	defer c.agent.detach(h)
	send := func(m *linkv1.LinkMessage) error { return stream.Send(&linkv1.WatchResponse{Message: m}) }
	// The first message shows the agent that streams come through.
	if err := send(keepAlive()); err != nil {
		return err
	}
	tick := time.NewTicker(keepAliveEvery)
	defer tick.Stop()
	for {
		messages, end := s.take(ctx, c, h)
		for _, m := range messages {
			if err := send(m); err != nil {
				return err
			}
		}
		if end != nil {
			return end
		}
		for quiet := true; quiet; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-h.ended:
				return h.reason
			case <-s.draining:
				return send(s.drain())
			case <-h.wake:
				quiet = false
			case now := <-tick.C:
				if now.After(c.peer.Expires) {
					return errExpired
				}
				if err := send(keepAlive()); err != nil {
					return err
				}
			}
		}
	}
}

// Poll is Watch for networks that break streams.
func (s *Server) Poll(ctx context.Context, req *linkv1.PollRequest) (*linkv1.PollResponse, error) {
	c := callerOf(ctx)
	h, err := s.attach(ctx, c, req.GetEpoch())
	if err != nil {
		return nil, err
	}
	defer c.agent.detach(h)
	enough := time.NewTimer(pollFor)
	defer enough.Stop()
	for {
		messages, end := s.take(ctx, c, h)
		if len(messages) > 0 {
			return &linkv1.PollResponse{Messages: messages}, nil // the next Poll meets the end
		}
		if end != nil {
			return nil, end
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-h.ended:
			return nil, h.reason
		case <-s.draining:
			return &linkv1.PollResponse{Messages: []*linkv1.LinkMessage{s.drain()}}, nil
		case <-enough.C:
			return &linkv1.PollResponse{}, nil
		case <-h.wake:
		}
	}
}

// attach makes this call the one that hears what the agent is to be told. What
// was decided about the server before that did not reach it, so it looks again.
func (s *Server) attach(ctx context.Context, c *caller, epoch uint64) (*hold, error) {
	h := newHold(c.peer, epoch)
	if err := c.agent.attach(h); err != nil {
		return nil, err
	}
	if err := s.wanted(ctx, c, epoch); err != nil {
		c.agent.detach(h)
		return nil, err
	}
	return h, nil
}

// take gives what there is to tell, and why the hold must end after that, if it
// must. An offer is made in a transaction that looks at the server's state and
// epoch, so only where nothing is offered it is left to ask whether the agent is
// still wanted: orders don't wait for a second look. A database that does not
// answer is no reason to end: the agent could do nothing about it, and the sweep
// comes back.
func (s *Server) take(ctx context.Context, c *caller, h *hold) ([]*linkv1.LinkMessage, error) {
	h.wait.Store(true) // whatever ends from here on may be what others wait for
	box, err := s.tasks.Offer(ctx, c.peer.Server, int64(h.epoch), c.agent.openedAt(h.epoch))
	if err == nil && len(box.Offers) == 0 {
		err = s.wanted(ctx, c, h.epoch)
	}
	switch {
	case err == nil:
		h.wait.Store(box.Waiting)
		return s.messages(c, box, time.Now())
	case errors.Is(err, task.ErrStale):
		// Which of the two it is, Check says; both end the hold.
		return nil, cmp.Or(s.wanted(ctx, c, h.epoch), error(fleet.ErrStaleEpoch))
	case fault.KindOf(err) == fault.KindDenied, fault.KindOf(err) == fault.KindConflict, ctx.Err() != nil:
		return nil, err
	}
	if s.noisy.Allow() {
		s.log.Warn("there may be something to tell an agent, but it could not be read", "server", c.agent.id, "err", withCause(err))
	}
	return nil, nil
}

// messages are what the outbox holds, less the cancels that were told just now.
func (s *Server) messages(c *caller, box task.Outbox, now time.Time) ([]*linkv1.LinkMessage, error) {
	var messages []*linkv1.LinkMessage
	for _, cancel := range box.Cancels {
		if c.agent.tell(fmt.Sprintf("%s/%d", cancel.GetTaskId(), cancel.GetAttempt()), now) {
			messages = append(messages, &linkv1.LinkMessage{Message: &linkv1.LinkMessage_Cancel{Cancel: cancel}})
		}
	}
	for _, offer := range box.Offers {
		messages = append(messages, &linkv1.LinkMessage{Message: &linkv1.LinkMessage_Offer{Offer: offer}})
	}
	s.metrics.offers.Add(float64(len(box.Offers)))
	messages = append(messages, asked(s.logs, c.agent, now)...)
	if box.Lost {
		return messages, errLost
	}
	return messages, nil
}

func keepAlive() *linkv1.LinkMessage {
	return &linkv1.LinkMessage{Message: &linkv1.LinkMessage_KeepAlive{KeepAlive: &linkv1.KeepAlive{}}}
}

func (s *Server) drain() *linkv1.LinkMessage {
	return &linkv1.LinkMessage{Message: &linkv1.LinkMessage_Drain{
		Drain: &linkv1.Drain{Window: durationpb.New(time.Duration(s.window.Load()))},
	}}
}
