package token

import (
	"context"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// publish tells an organization's webhooks of a token of its own.
func publish(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, what webhook.Type, id, name string) error {
	return webhook.Publish(ctx, tx, webhook.Event{
		Organization: organization, Type: what, Object: webhook.Object{Kind: "token", ID: id, Name: name},
	})
}
