package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	mailv1 "chom.dev/proto/gen/chom/mail/v1"

	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/outbox"
	"chom.dev/proto/contract"
)

type mailService struct{ mails *notify.Mails }

func (s *mailService) GetMailQueue(ctx context.Context, _ *mailv1.GetMailQueueRequest) (*mailv1.GetMailQueueResponse, error) {
	now, err := s.mails.Overview(ctx)
	if err != nil {
		return nil, err
	}
	answer := &mailv1.GetMailQueueResponse{
		Server: now.Via, From: now.From, WaitingCount: int32(now.Waiting), DeadCount: int32(now.Dead), Warning: now.Problem,
	}
	if !now.Oldest.IsZero() {
		answer.OldestWaitingTime = timestamppb.New(now.Oldest)
	}
	if now.Via == "" {
		answer.Warning = "no mail server is configured: nobody gets mails (smtp-server)"
	}
	return answer, nil
}

func (s *mailService) ListMails(ctx context.Context, r *mailv1.ListMailsRequest) (*mailv1.ListMailsResponse, error) {
	found, next, err := s.mails.List(ctx, r.GetPageSize(), r.GetPageToken(), notify.Filter{State: stateOfMail[r.GetState()], To: r.GetRecipient()})
	if err != nil {
		return nil, err
	}
	answer := &mailv1.ListMailsResponse{NextPageToken: next}
	for _, one := range found {
		answer.Mails = append(answer.Mails, mailMessage(one))
	}
	return answer, nil
}

func (s *mailService) GetMail(ctx context.Context, r *mailv1.GetMailRequest) (*mailv1.GetMailResponse, error) {
	found, err := s.mails.Get(ctx, r.GetMailId())
	if err != nil {
		return nil, err
	}
	return &mailv1.GetMailResponse{Mail: mailMessage(found)}, nil
}

func (s *mailService) RetryMail(ctx context.Context, r *mailv1.RetryMailRequest) (*mailv1.RetryMailResponse, error) {
	again, err := s.mails.Retry(ctx, r.GetMailId())
	if err != nil {
		return nil, err
	}
	return &mailv1.RetryMailResponse{Mail: mailMessage(again)}, nil
}

func (s *mailService) TestMail(ctx context.Context, _ *mailv1.TestMailRequest) (*mailv1.TestMailResponse, error) {
	to, err := contract.ParseEmail(callerOf(ctx).Email)
	if err != nil {
		return nil, err
	}
	made, err := s.mails.Test(ctx, to)
	if err != nil {
		return nil, err
	}
	return &mailv1.TestMailResponse{Mail: mailMessage(made)}, nil
}

func mailMessage(s notify.Status) *mailv1.Mail {
	m := &mailv1.Mail{
		Id: s.ID, Template: s.Template, Recipient: s.To, OrganizationId: s.Organization, State: mailStates[s.State], Tries: int32(s.Tries),
		Problem: s.Problem, CreateTime: timestamppb.New(s.Created),
	}
	if !s.Next.IsZero() {
		m.NextTryTime = timestamppb.New(s.Next)
	}
	if !s.Ended.IsZero() {
		m.EndTime = timestamppb.New(s.Ended)
	}
	return m
}

var mailStates = map[outbox.State]mailv1.MailState{
	outbox.Waiting: mailv1.MailState_MAIL_STATE_WAITING,
	outbox.Sending: mailv1.MailState_MAIL_STATE_SENDING,
	outbox.Sent:    mailv1.MailState_MAIL_STATE_SENT,
	outbox.Dead:    mailv1.MailState_MAIL_STATE_DEAD,
}

// stateOfMail is the reverse; UNSPECIFIED is no state.
var stateOfMail = reversed(mailStates)

func reversed[K, V comparable](m map[K]V) map[V]K {
	r := make(map[V]K, len(m))
	for k, v := range m {
		r[v] = k
	}
	return r
}
