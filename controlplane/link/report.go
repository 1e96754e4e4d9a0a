package link

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fail"
	"chom.dev/controlplane/fleet"
	history "chom.dev/controlplane/metrics"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// Report takes in a batch. All of it may come twice: what was taken changes
// nothing then.
func (s *Server) Report(ctx context.Context, req *linkv1.ReportRequest) (*linkv1.ReportResponse, error) {
	c := callerOf(ctx)
	now := time.Now()
	s.fleet.Beat(c.agent.id, now)
	for _, e := range req.GetEvents() {
		e.Time = cleanTime(e.GetTime(), now)
	}
	applied, err := s.apply(ctx, c, req, now)
	if err != nil {
		return nil, err
	}
	if c.agent.renews(now) {
		if err := s.tasks.Renew(ctx, c.peer.Server, req.GetRunning(), now); err != nil {
			return nil, err
		}
	}
	if err := s.sites.Observe(ctx, c.agent.id, req.GetSites()); err != nil {
		return nil, err
	}
	if err := s.tasks.Progress(ctx, c.peer.Server, req.GetProgress()); err != nil {
		return nil, err
	}
	s.metrics.events.Add(float64(len(req.GetEvents())))
	if applied.Foreign > 0 && c.agent.speaksOfOthers(applied.Foreign, now) {
		if err := s.flag(ctx, c); err != nil {
			return nil, err
		}
	}
	s.remember(ctx, c, req, now)
	fail.Point("link.report")
	return &linkv1.ReportResponse{Refused: applied.Refused, ServerTime: timestamppb.New(now)}, nil
}

// apply writes events and facts in one transaction. A heartbeat has none of
// them and writes nothing here; what was measured is not the database's.
func (s *Server) apply(ctx context.Context, c *caller, req *linkv1.ReportRequest, now time.Time) (task.Applied, error) {
	var applied task.Applied
	if len(req.GetEvents()) == 0 && req.GetFacts() == nil {
		return applied, nil
	}
	err := db.InTx(ctx, s.db, func(tx *db.Tx) (err error) {
		if applied, err = s.tasks.Apply(ctx, tx, c.peer.Server, req.GetEvents(), now); err != nil {
			return err
		}
		if req.GetFacts() != nil {
			return fleet.SaveFacts(ctx, tx, c.agent.id, fleet.FactsFrom(req.GetFacts()))
		}
		return nil
	}, db.ReadCommitted())
	return applied, err
}

// History keeps what hosts measure. What it cannot keep is no reason to refuse a report.
type History interface {
	Append(ctx context.Context, server contract.ServerID, samples []history.Sample, now time.Time) error
}

// remember hands measurements over to the history.
func (s *Server) remember(ctx context.Context, c *caller, req *linkv1.ReportRequest, now time.Time) {
	if s.history == nil || len(req.GetSamples()) == 0 {
		return
	}
	samples := make([]history.Sample, len(req.GetSamples()))
	for i, sample := range req.GetSamples() {
		samples[i] = history.Sample{Series: sample.GetSeries(), Site: sample.GetSiteId(), Value: sample.GetValue()}
	}
	if err := s.history.Append(ctx, c.agent.id, samples, now); err != nil && s.noisy.Allow() {
		s.log.Error("what a server measured could not be kept", "server", c.agent.id, "err", err)
	}
}

// flag tells people of an agent that speaks of tasks of other servers, which no
// honest one does: it was never told of them.
func (s *Server) flag(ctx context.Context, c *caller) error {
	s.metrics.flagged.Inc()
	s.log.Error("an agent reports about tasks of other servers", "server", c.agent.id, "address", c.addr.String())
	err := db.InTx(ctx, s.db, func(tx *db.Tx) error {
		return audit.Record(ctx, tx, audit.Event{
			Organization: audit.Platform, Action: "server.foreign_events", Object: c.agent.id.String(),
			Detail: "its agent reports about tasks of other servers",
		})
	})
	if err != nil {
		return fmt.Errorf("flag server %s: %w", c.agent.id, err)
	}
	return nil
}
