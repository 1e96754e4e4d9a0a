package api

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	webhookv1 "chom.dev/proto/gen/chom/webhook/v1"

	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

type webhookService struct{ webhooks *webhook.Webhooks }

// tenantOf parses the organization that every request about webhooks names.
func tenantOf(r interface{ GetOrganizationId() string }) (contract.OrganizationID, error) {
	id, err := contract.ParseOrganizationID(r.GetOrganizationId())
	if err != nil {
		return id, invalid("organization_id", err)
	}
	return id, nil
}

func (s *webhookService) CreateWebhook(ctx context.Context, r *webhookv1.CreateWebhookRequest) (*webhookv1.CreateWebhookResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	made, secret, err := s.webhooks.Create(ctx, webhook.Wanted{
		Organization: organization, URL: r.GetUrl(), Description: r.GetDescription(), Events: r.GetEvents(),
	})
	if err != nil {
		return nil, err
	}
	return &webhookv1.CreateWebhookResponse{Webhook: webhookMessage(made), Secret: secret}, nil
}

func (s *webhookService) GetWebhook(ctx context.Context, r *webhookv1.GetWebhookRequest) (*webhookv1.GetWebhookResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, err := s.webhooks.Get(ctx, organization, r.GetWebhookId())
	if err != nil {
		return nil, err
	}
	return &webhookv1.GetWebhookResponse{Webhook: webhookMessage(found)}, nil
}

func (s *webhookService) ListWebhooks(ctx context.Context, r *webhookv1.ListWebhooksRequest) (*webhookv1.ListWebhooksResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, err := s.webhooks.List(ctx, organization)
	if err != nil {
		return nil, err
	}
	answer := &webhookv1.ListWebhooksResponse{}
	for _, one := range found {
		answer.Webhooks = append(answer.Webhooks, webhookMessage(one))
	}
	return answer, nil
}

func (s *webhookService) UpdateWebhook(ctx context.Context, r *webhookv1.UpdateWebhookRequest) (*webhookv1.UpdateWebhookResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	if err := webhook.CheckMask(r.GetUpdateMask().GetPaths()); err != nil {
		return nil, err
	}
	var change webhook.Change
	for _, path := range r.GetUpdateMask().GetPaths() {
		switch path {
		case "url":
			change.URL = new(r.GetUrl())
		case "description":
			change.Description = new(r.GetDescription())
		case "events":
			change.Events = new(r.GetEvents())
		case "enabled":
			change.Enabled = new(r.GetEnabled())
		}
	}
	changed, err := s.webhooks.Update(ctx, organization, r.GetWebhookId(), change)
	if err != nil {
		return nil, err
	}
	return &webhookv1.UpdateWebhookResponse{Webhook: webhookMessage(changed)}, nil
}

func (s *webhookService) DeleteWebhook(ctx context.Context, r *webhookv1.DeleteWebhookRequest) (*webhookv1.DeleteWebhookResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	if err := s.webhooks.Delete(ctx, organization, r.GetWebhookId()); err != nil {
		return nil, err
	}
	return &webhookv1.DeleteWebhookResponse{}, nil
}

func (s *webhookService) RotateWebhookSecret(ctx context.Context, r *webhookv1.RotateWebhookSecretRequest) (*webhookv1.RotateWebhookSecretResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	changed, secret, err := s.webhooks.RotateSecret(ctx, organization, r.GetWebhookId(), r.GetLeaked())
	if err != nil {
		return nil, err
	}
	return &webhookv1.RotateWebhookSecretResponse{Webhook: webhookMessage(changed), Secret: secret}, nil
}

func (s *webhookService) TestWebhook(ctx context.Context, r *webhookv1.TestWebhookRequest) (*webhookv1.TestWebhookResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	made, err := s.webhooks.Test(ctx, organization, r.GetWebhookId())
	if err != nil {
		return nil, err
	}
	return &webhookv1.TestWebhookResponse{Delivery: deliveryMessage(made)}, nil
}

func (s *webhookService) ListDeliveries(ctx context.Context, r *webhookv1.ListDeliveriesRequest) (*webhookv1.ListDeliveriesResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.webhooks.ListDeliveries(ctx, organization, r.GetWebhookId(), r.GetPageSize(), r.GetPageToken(),
		webhook.Filter{State: stateOfDelivery[r.GetState()]})
	if err != nil {
		return nil, err
	}
	answer := &webhookv1.ListDeliveriesResponse{NextPageToken: next}
	for _, one := range found {
		answer.Deliveries = append(answer.Deliveries, deliveryMessage(one))
	}
	return answer, nil
}

func (s *webhookService) GetDelivery(ctx context.Context, r *webhookv1.GetDeliveryRequest) (*webhookv1.GetDeliveryResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, err := s.webhooks.GetDelivery(ctx, organization, r.GetWebhookId(), r.GetDeliveryId())
	if err != nil {
		return nil, err
	}
	return &webhookv1.GetDeliveryResponse{Delivery: deliveryMessage(found)}, nil
}

func (s *webhookService) ReplayDelivery(ctx context.Context, r *webhookv1.ReplayDeliveryRequest) (*webhookv1.ReplayDeliveryResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	again, err := s.webhooks.Replay(ctx, organization, r.GetWebhookId(), r.GetDeliveryId())
	if err != nil {
		return nil, err
	}
	return &webhookv1.ReplayDeliveryResponse{Delivery: deliveryMessage(again)}, nil
}

func webhookMessage(w webhook.Webhook) *webhookv1.Webhook {
	m := &webhookv1.Webhook{
		Id: w.ID, OrganizationId: w.Organization.String(), Url: w.URL, Description: w.Description, Enabled: w.Enabled, Problem: w.Problem,
		CreateTime: timestamppb.New(w.CreatedAt), UpdateTime: timestamppb.New(w.UpdatedAt),
	}
	for _, one := range w.Events {
		m.Events = append(m.Events, string(one))
	}
	if !w.FailingSince.IsZero() {
		m.FailingTime = timestamppb.New(w.FailingSince)
	}
	if !w.FormerUntil.IsZero() {
		m.FormerSecretExpireTime = timestamppb.New(w.FormerUntil)
	}
	return m
}

func deliveryMessage(d webhook.Delivery) *webhookv1.Delivery {
	m := &webhookv1.Delivery{
		Id: d.ID, WebhookId: d.Webhook, EventId: d.Event, Type: string(d.Type), State: deliveryStates[d.State], Tries: int32(d.Tries),
		Problem: d.Problem, CreateTime: timestamppb.New(d.Created), Payload: d.Body,
	}
	if !d.Next.IsZero() {
		m.NextTryTime = timestamppb.New(d.Next)
	}
	if !d.Ended.IsZero() {
		m.EndTime = timestamppb.New(d.Ended)
	}
	for _, a := range d.Attempts {
		one := &webhookv1.Attempt{StartTime: timestamppb.New(a.Started), Status: int32(a.Status), Problem: a.Problem}
		if a.Duration > 0 {
			one.Duration = durationpb.New(a.Duration)
		}
		m.Attempts = append(m.Attempts, one)
	}
	return m
}

var deliveryStates = map[outbox.State]webhookv1.DeliveryState{
	outbox.Waiting: webhookv1.DeliveryState_DELIVERY_STATE_WAITING,
	outbox.Sending: webhookv1.DeliveryState_DELIVERY_STATE_SENDING,
	outbox.Sent:    webhookv1.DeliveryState_DELIVERY_STATE_SENT,
	outbox.Dead:    webhookv1.DeliveryState_DELIVERY_STATE_DEAD,
}

// stateOfDelivery is the reverse; UNSPECIFIED is no state.
var stateOfDelivery = reversed(deliveryStates)
