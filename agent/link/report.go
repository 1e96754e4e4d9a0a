package link

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"connectrpc.com/connect"

	"chom.dev/agent/task"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

const (
	maxEvents    = 500       // limits of chom.link.v1.ReportRequest; sites have the same
	maxRunning   = 100       //
	maxSamples   = 2000      //
	maxBatchSize = 256 << 10 // bytes of events in one report: small enough to be over in a moment on a slow line
	reportTries  = 3         // in one session; a lost connection is noticed by Watch as well
	maxFindings  = 32        // limits of chom.fleet.v1.Facts
	maxAddresses = 64        //
	factsEvery   = 5 * time.Minute
	sampleEvery  = time.Minute          // unless the configuration says otherwise
	gatherFor    = 2 * time.Millisecond // two syncs of a quick disk
)

// report sends what happened a moment after it did, one call at a time: what
// happens during a call goes with the next. Without anything to tell it sends
// heartbeats.
func (s *session) report(ctx context.Context) error {
	beat := time.NewTimer(0) // at once: leases wait for it
	defer beat.Stop()
	facts := time.NewTicker(factsEvery)
	defer facts.Stop()
	for {
		req := &linkv1.ReportRequest{}
		due := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.cfg.Tasks.Wake():
			if err := s.gather(ctx); err != nil {
				return err
			}
		case <-beat.C:
			due = true
		case <-facts.C:
			req.Facts = bounded(s.cfg.Facts(ctx))
		case <-s.refresh:
			req.Facts = bounded(s.cfg.Facts(ctx))
		case samples := <-s.samples:
			req.Samples = samples
		}
		if err := s.tell(ctx, req, due || req.Facts != nil || req.Samples != nil); err != nil {
			return err
		}
		// Spread a little, or those that reconnected together stay together.
		beat.Reset(s.heartbeat - rand.N(s.heartbeat/10+1))
	}
}

// gather waits until everything has ended, for a moment at most: an order that
// takes no longer is told of once, not as accepted and again as ended.
func (s *session) gather(ctx context.Context) error {
	enough := time.NewTimer(gatherFor)
	defer enough.Stop()
	for s.cfg.Tasks.Busy() > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-enough.C:
			return nil
		case <-s.cfg.Tasks.Wake():
		}
	}
	return nil
}

// tell empties the outbox, in as many calls as that takes. The first call is
// made even with nothing in it, if must is set.
func (s *session) tell(ctx context.Context, req *linkv1.ReportRequest, must bool) error {
	for {
		batch, err := s.cfg.Tasks.Outbox(maxEvents, maxBatchSize)
		if err != nil {
			return localError{err}
		}
		if len(batch.Events)+len(batch.Sites)+len(batch.Progress) == 0 && !must {
			return nil
		}
		if err := s.send(ctx, req, batch); err != nil {
			return err
		}
		req, must = &linkv1.ReportRequest{}, false
	}
}

// send makes one call and marks what it delivered.
func (s *session) send(ctx context.Context, req *linkv1.ReportRequest, batch task.Batch) error {
	err := s.call(ctx, req, batch)
	for try := 1; try < reportTries && transient(err) && ctx.Err() == nil; try++ {
		if !sleep(ctx, backoff(try, rand.Float64())+min(retryAfter(err), maxRetry)) {
			return ctx.Err()
		}
		err = s.call(ctx, req, batch)
	}
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		s.cfg.Tasks.Delivered(batch)
		return nil
	}
	// Something in here will never be taken. Find it, or it blocks all else:
	// the measurements can be dropped, of the events one goes at a time.
	s.cfg.Log.Error("report was found invalid", "err", err, "events", len(batch.Events))
	if len(batch.Events) == 0 {
		s.cfg.Tasks.Delivered(batch)
		return nil
	}
	first := batch.First()
	err = s.call(ctx, &linkv1.ReportRequest{}, first)
	if connect.CodeOf(err) == connect.CodeInvalidArgument {
		ev := first.Events[0]
		s.cfg.Log.Error("event can't be told and is dropped", "task", ev.TaskId, "attempt", ev.Attempt, "sequence", ev.Sequence, "err", err)
	} else if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	s.cfg.Tasks.Delivered(first)
	return nil
}

func (s *session) call(ctx context.Context, req *linkv1.ReportRequest, batch task.Batch) error {
	ctx, stop := context.WithTimeout(ctx, callFor)
	defer stop()
	req.Epoch = s.epoch
	req.Running = s.cfg.Tasks.Running()
	req.Running = req.Running[:min(len(req.Running), maxRunning)]
	req.Events, req.Sites, req.Progress = batch.Events, batch.Sites, batch.Progress
	res, err := s.client.Report(ctx, req)
	if err != nil {
		return err
	}
	s.heard(max(s.heartbeat, silentFor) + callFor + slack)
	if t := res.ServerTime; t.IsValid() && t.Seconds > 0 {
		if by := s.cfg.Clock.SetBack(t.AsTime()); by > 0 {
			s.cfg.Log.Warn("the control plane's clock was set back", "by", by.Round(time.Second))
		}
	}
	for _, r := range res.Refused {
		s.cfg.Log.Warn("event was refused", "task", r.TaskId, "attempt", r.Attempt, "sequence", r.Sequence, "reason", r.Reason)
	}
	return nil
}

// measure gathers samples beside the reports: a file system that hangs must
// not stop the heartbeats.
func (s *session) measure(ctx context.Context) error {
	tick := time.NewTicker(cmp.Or(s.cfg.SampleEvery, sampleEvery))
	defer tick.Stop()
	for {
		samples := s.cfg.Samples(ctx)
		select {
		case <-s.samples: // not sent yet, and old by now
		default:
		}
		for part := range slices.Chunk(samples, maxSamples) {
			select {
			case s.samples <- part:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// bounded cuts facts to what may be sent.
func bounded(f *fleetv1.Facts) *fleetv1.Facts {
	f.Findings = f.Findings[:min(len(f.Findings), maxFindings)]
	f.Addresses = f.Addresses[:min(len(f.Addresses), maxAddresses)]
	return f
}
