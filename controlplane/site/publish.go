package site

import (
	"context"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/task"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// events are what an organization's webhooks are told of what people do to a site.
var events = map[string]webhook.Type{
	"site.create":  webhook.SiteCreated,
	"site.update":  webhook.SiteUpdated,
	"site.suspend": webhook.SiteSuspended,
	"site.resume":  webhook.SiteResumed,
	"site.delete":  webhook.SiteDeleted,
	"site.restore": webhook.SiteRestored,
}

func publish(ctx context.Context, tx *db.Tx, s *Site, action string) error {
	return webhook.Publish(ctx, tx, webhook.Event{
		Organization: s.Organization, Type: events[action], Object: webhook.Object{Kind: "site", ID: s.ID.String(), Name: s.Name},
	})
}

// publishFailure tells of a task that did not bring a site to where it is wanted.
func publishFailure(ctx context.Context, tx *db.Tx, t task.Task) error {
	if t.State != task.Failed && t.State != task.TimedOut {
		return nil // canceled: somebody wanted that
	}
	organization, err := contract.ParseOrganizationID(t.Organization)
	if err != nil {
		return err
	}
	return webhook.Publish(ctx, tx, webhook.Event{
		Organization: organization, Type: webhook.TaskFailed, Object: webhook.Object{Kind: "task", ID: t.ID, Name: string(t.Kind)},
	})
}
