package organization

import (
	"context"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// events are what an organization's webhooks are told of what people do to it.
var events = map[string]webhook.Type{
	"organization.update":    webhook.OrganizationUpdated,
	"organization.set_quota": webhook.OrganizationUpdated,
	"organization.reopen":    webhook.OrganizationUpdated,
	"organization.close":     webhook.OrganizationClosing,
}

func publish(ctx context.Context, tx *db.Tx, o Organization, action string) error {
	return webhook.Publish(ctx, tx, webhook.Event{
		Organization: o.ID, Type: events[action], Object: webhook.Object{Kind: "organization", ID: o.ID.String(), Name: o.Name},
	})
}

func publishMember(ctx context.Context, tx *db.Tx, id contract.OrganizationID, what webhook.Type, of Person) error {
	return webhook.Publish(ctx, tx, webhook.Event{
		Organization: id, Type: what, Object: webhook.Object{Kind: "member", ID: of.Account, Name: of.Email},
	})
}
