package api

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "chom.dev/proto/gen/chom/audit/v1"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

type auditService struct {
	db       *db.DB
	trail    *audit.Trail
	accounts *account.Accounts
}

func (s *auditService) ListAuditEvents(ctx context.Context, r *auditv1.ListAuditEventsRequest) (*auditv1.ListAuditEventsResponse, error) {
	query, err := auditQuery(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.trail.List(ctx, query, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	events, err := s.events(ctx, found)
	if err != nil {
		return nil, err
	}
	return &auditv1.ListAuditEventsResponse{Events: events, NextPageToken: next}, nil
}

func (s *auditService) ListMyAuditEvents(ctx context.Context, r *auditv1.ListMyAuditEventsRequest) (*auditv1.ListMyAuditEventsResponse, error) {
	found, next, err := s.trail.Mine(ctx, callerOf(ctx).ID, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	events, err := s.events(ctx, found)
	if err != nil {
		return nil, err
	}
	return &auditv1.ListMyAuditEventsResponse{Events: events, NextPageToken: next}, nil
}

func (s *auditService) ExportAuditEvents(ctx context.Context, r *auditv1.ExportAuditEventsRequest, stream *connect.ServerStream[auditv1.ExportAuditEventsResponse]) error {
	query, err := auditQuery(r)
	if err != nil {
		return err
	}
	format := audit.JSONLines
	if r.GetFormat() == auditv1.ExportFormat_EXPORT_FORMAT_CSV {
		format = audit.CSV
	}
	err = db.InTx(ctx, s.db, func(tx *db.Tx) error {
		return audit.Record(ctx, tx, audit.Event{
			Organization: query.Organization, Action: "audit.export", Object: query.Organization, Detail: r.GetFormat().String(),
		})
	}, db.ReadCommitted())
	if err != nil {
		return err
	}
	return s.trail.Export(ctx, query, format, func(part []byte) error {
		return stream.Send(&auditv1.ExportAuditEventsResponse{Body: &httpbody.HttpBody{ContentType: format.ContentType, Data: part}})
	})
}

// auditQuery is what list and export ask for.
func auditQuery(r interface {
	GetOrganizationId() string
	GetActorId() string
	GetAction() string
	GetObject() string
	GetOutcome() auditv1.Outcome
	GetStartTime() *timestamppb.Timestamp
	GetEndTime() *timestamppb.Timestamp
}) (audit.Query, error) {
	query := audit.Query{
		Organization: r.GetOrganizationId(), Actor: r.GetActorId(), Action: r.GetAction(), Object: r.GetObject(), Outcome: auditOutcomes[r.GetOutcome()],
	}
	var err error
	if query.From, err = auditTime("start_time", r.GetStartTime()); err != nil {
		return audit.Query{}, err
	}
	if query.To, err = auditTime("end_time", r.GetEndTime()); err != nil {
		return audit.Query{}, err
	}
	if !query.From.IsZero() && !query.To.IsZero() && !query.From.Before(query.To) {
		return audit.Query{}, fault.Invalid("end_time", "must be later than start_time")
	}
	return query, nil
}

func auditTime(field string, at *timestamppb.Timestamp) (time.Time, error) {
	if at == nil {
		return time.Time{}, nil
	}
	if !at.IsValid() {
		return time.Time{}, fault.Invalid(field, "must be a time between the years 1 and 9999")
	}
	return at.AsTime(), nil
}

// events are entries as they are shown, with who of the platform acted.
func (s *auditService) events(ctx context.Context, entries []audit.Entry) ([]*auditv1.AuditEvent, error) {
	var people []string
	for _, e := range entries {
		for _, id := range []string{e.Actor.Account(), e.Actor.Impersonator} {
			if id != "" && !slices.Contains(people, id) {
				people = append(people, id)
			}
		}
	}
	operators, err := s.accounts.OperatorsAmong(ctx, people)
	if err != nil {
		return nil, err
	}
	events := auditEvents(entries)
	for i, e := range entries {
		events[i].Actor.OperatorEmail = operators[e.Actor.Account()]
		events[i].Actor.ImpersonatorEmail = operators[e.Actor.Impersonator]
	}
	return events, nil
}

func auditEvents(entries []audit.Entry) []*auditv1.AuditEvent {
	var events []*auditv1.AuditEvent
	for _, e := range entries {
		event := &auditv1.AuditEvent{
			OrganizationId: e.Organization,
			Sequence:       e.Sequence,
			Time:           timestamppb.New(e.Time),
			Actor: &auditv1.Actor{
				Kind:           actorKinds[e.Actor.Kind],
				Id:             e.Actor.ID,
				SessionId:      e.Actor.Session,
				TokenId:        e.Actor.Token,
				ImpersonatorId: e.Actor.Impersonator,
				RequestId:      e.Actor.Request,
			},
			Action:  e.Action,
			Object:  e.Object,
			Detail:  e.Detail,
			Outcome: auditv1.Outcome_OUTCOME_DONE,
		}
		if e.Actor.Address.IsValid() {
			event.Actor.Address = e.Actor.Address.String()
		}
		if e.Refused {
			event.Outcome = auditv1.Outcome_OUTCOME_REFUSED
		}
		events = append(events, event)
	}
	return events
}

var auditOutcomes = map[auditv1.Outcome]string{
	auditv1.Outcome_OUTCOME_DONE:    audit.Done,
	auditv1.Outcome_OUTCOME_REFUSED: audit.Refused,
}

var actorKinds = map[audit.Kind]auditv1.ActorKind{
	audit.System:       auditv1.ActorKind_ACTOR_KIND_SYSTEM,
	audit.Console:      auditv1.ActorKind_ACTOR_KIND_CONSOLE,
	audit.Stranger:     auditv1.ActorKind_ACTOR_KIND_STRANGER,
	audit.Person:       auditv1.ActorKind_ACTOR_KIND_PERSON,
	audit.Organization: auditv1.ActorKind_ACTOR_KIND_ORGANIZATION,
	audit.Agent:        auditv1.ActorKind_ACTOR_KIND_AGENT,
}
