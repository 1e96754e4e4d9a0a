package link

import (
	"context"
	"time"

	"chom.dev/controlplane/sitelog"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// ReportLogs passes lines of a site's logs on to who looks at them. What nobody looks at, or what this server was not asked for, is
// not wanted.
func (s *Server) ReportLogs(ctx context.Context, req *linkv1.ReportLogsRequest) (*linkv1.ReportLogsResponse, error) {
	if s.logs == nil {
		return &linkv1.ReportLogsResponse{}, nil
	}
	now := time.Now()
	for _, line := range req.GetLines() {
		line.Time = cleanTime(line.GetTime(), now)
	}
	return &linkv1.ReportLogsResponse{Wanted: s.logs.Report(callerOf(ctx).agent.id, req.GetWatchId(), req.GetLines(), now)}, nil
}

// hears wakes a server's hold, and says whether the server is connected here.
func (s *Server) hears(id contract.ServerID) bool {
	a := s.agents.find(id)
	if a == nil || !a.connected() {
		return false
	}
	s.wake(id)
	return true
}

// asked are the looks at logs that a server is to hear of, less those that were told just now.
func asked(logs *sitelog.Hub, a *agent, now time.Time) []*linkv1.LinkMessage {
	if logs == nil {
		return nil
	}
	var messages []*linkv1.LinkMessage
	for _, show := range logs.Asked(a.id) {
		if a.tell("logs/"+show.GetWatchId(), now) {
			messages = append(messages, &linkv1.LinkMessage{Message: &linkv1.LinkMessage_ShowLogs{ShowLogs: show}})
		}
	}
	return messages
}
