package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/site"
)

func (s *siteService) ListSiteEvents(ctx context.Context, r *sitev1.ListSiteEventsRequest) (*sitev1.ListSiteEventsResponse, error) {
	organization, id, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.sites.Events(ctx, organization, id, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &sitev1.ListSiteEventsResponse{NextPageToken: next}
	for _, one := range found {
		m := &sitev1.SiteEvent{
			Time: timestamppb.New(one.Began), Kind: eventKinds[one.Kind], Outcome: eventOutcomes[one.Outcome], Subject: one.Subject, Problem: one.Problem,
			Id: one.ID, TaskId: one.TaskID,
		}
		if !one.Ended.IsZero() {
			m.EndTime = timestamppb.New(one.Ended)
		}
		answer.Events = append(answer.Events, m)
	}
	return answer, nil
}

var eventKinds = map[site.EventKind]sitev1.EventKind{
	site.EventChange:          sitev1.EventKind_EVENT_KIND_CHANGE,
	site.EventBackup:          sitev1.EventKind_EVENT_KIND_BACKUP,
	site.EventDrill:           sitev1.EventKind_EVENT_KIND_DRILL,
	site.EventRestore:         sitev1.EventKind_EVENT_KIND_RESTORE,
	site.EventCertificate:     sitev1.EventKind_EVENT_KIND_CERTIFICATE,
	site.EventCertificateLost: sitev1.EventKind_EVENT_KIND_CERTIFICATE_LOST,
	site.EventDown:            sitev1.EventKind_EVENT_KIND_DOWN,
}

var eventOutcomes = map[site.EventOutcome]sitev1.EventOutcome{
	site.EventRunning: sitev1.EventOutcome_EVENT_OUTCOME_RUNNING,
	site.EventDone:    sitev1.EventOutcome_EVENT_OUTCOME_DONE,
	site.EventFailed:  sitev1.EventOutcome_EVENT_OUTCOME_FAILED,
}
