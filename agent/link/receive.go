package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

const (
	silentFor   = 45 * time.Second // two keep-alives of 20 s and some
	pollFor     = 40 * time.Second // the control plane answers after 25 s
	streamTries = 3                // Watch calls that bring nothing before Poll is used
	pollPeriod  = 10 * time.Minute // before Watch is tried again
)

// receive takes messages until the session ends.
func (s *session) receive(ctx context.Context) error {
	for {
		s.mu.Lock()
		until := s.pollUntil
		s.mu.Unlock()
		if time.Now().Before(until) {
			if err := s.pollUntilThen(ctx, until); err != nil {
				return err
			}
		}
		if err := s.watch(ctx); err != nil {
			return err
		}
	}
}

// watch holds the stream. It always ends with an error. A stream that ends
// without having brought anything counts against streams: some proxies hold
// everything back until the end.
func (s *session) watch(ctx context.Context) (err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	silence := time.AfterFunc(silentFor, func() { stop(errSilent) })
	defer silence.Stop()
	brought := false
	defer func() { s.judgeStream(brought, err) }()

	stream, err := s.client.Watch(ctx, &linkv1.WatchRequest{Epoch: s.epoch})
	if err != nil {
		return watchErr(ctx, err)
	}
	defer func() { _ = stream.Close() }() // its error says nothing that Err didn't
	for stream.Receive() {
		brought = true
		silence.Reset(silentFor)
		s.heard(silentFor + slack)
		if err := s.handle(stream.Msg().GetMessage()); err != nil {
			return err
		}
	}
	return watchErr(ctx, stream.Err())
}

func watchErr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		return cause
	}
	if err == nil {
		return errEnded
	}
	return fmt.Errorf("watch: %w", err)
}

// judgeStream decides on Poll after some streams in a row brought nothing.
func (s *session) judgeStream(brought bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case brought:
		s.streamFails = 0
		return
	case stale(err), refused(err), errors.Is(err, context.Canceled):
		return // says nothing about streams
	}
	s.streamFails++
	if s.streamFails >= streamTries {
		s.streamFails = 0
		s.pollUntil = time.Now().Add(pollPeriod)
		s.cfg.Log.Warn("streams break on the way to the control plane; polling instead", "for", pollPeriod)
	}
}

// pollUntilThen asks again and again, until it is time to try a stream.
func (s *session) pollUntilThen(ctx context.Context, until time.Time) error {
	s.set(State{Phase: Connected, Polling: true})
	for time.Now().Before(until) {
		res, err := s.poll(ctx)
		if err != nil {
			return fmt.Errorf("poll: %w", err)
		}
		s.heard(pollFor + slack)
		for _, m := range res.Messages {
			if err := s.handle(m); err != nil {
				return err
			}
		}
	}
	s.set(State{Phase: Connected})
	return nil
}

func (s *session) poll(ctx context.Context) (*linkv1.PollResponse, error) {
	ctx, stop := context.WithTimeout(ctx, pollFor)
	defer stop()
	return s.client.Poll(ctx, &linkv1.PollRequest{Epoch: s.epoch})
}

// handle does what a message asks for. Kinds that a newer control plane may
// have are passed over.
func (s *session) handle(m *linkv1.LinkMessage) error {
	switch m := m.GetMessage().(type) {
	case *linkv1.LinkMessage_Offer:
		s.cfg.Tasks.Offer(m.Offer)
	case *linkv1.LinkMessage_Cancel:
		s.cfg.Tasks.Cancel(m.Cancel.GetTaskId(), m.Cancel.GetAttempt())
	case *linkv1.LinkMessage_Drain:
		return drained{m.Drain.GetWindow().AsDuration()}
	case *linkv1.LinkMessage_ShowLogs:
		s.show(m.ShowLogs)
	}
	return nil
}
