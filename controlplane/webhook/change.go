package webhook

import (
	"context"
	"fmt"
	"slices"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbox"
	"chom.dev/proto/contract"
)

// Change is what an update changes; what is nil stays.
type Change struct {
	URL         *string
	Description *string
	Events      *[]string // empty means all
	Enabled     *bool
}

// CheckMask refuses an update of anything but "url", "description", "events" and "enabled".
func CheckMask(paths []string) error {
	if len(paths) == 0 {
		return fault.Invalid("update_mask", "must name what to change")
	}
	for _, path := range paths {
		if !slices.Contains([]string{"url", "description", "events", "enabled"}, path) {
			return fault.Invalid("update_mask", `must be of "url", "description", "events", "enabled"`)
		}
	}
	return nil
}

// Update changes a webhook. One that is enabled, or that gets another URL, begins anew: its failures are forgotten, and what
// waits for it is sent at once.
func (w *Webhooks) Update(ctx context.Context, organization contract.OrganizationID, id string, change Change) (Webhook, error) {
	var changed Webhook
	err := db.InTx(ctx, w.db, func(tx *db.Tx) error {
		now, err := load(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		anew := change.Enabled != nil && *change.Enabled
		if err := now.apply(change); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			UPDATE webhooks
			SET url = $3,
			    description = $4,
			    events = $5,
			    enabled = $6,
			    problem = $7,
			    updated_at = $8
			WHERE organization_id = $1
			  AND id = $2`,
			organization, id, now.URL, now.Description, join(now.Events, " "), now.Enabled, now.Problem, db.Micros(time.Now())); err != nil {
			return err
		}
		if anew || change.URL != nil {
			if _, err := tx.Exec(ctx, `DELETE FROM webhook_failures WHERE webhook_id = $1`, id); err != nil {
				return err
			}
			if err := outbox.Wake(ctx, tx, queue, id); err != nil {
				return err
			}
		}
		if changed, err = load(ctx, tx, organization, id); err != nil {
			return err
		}
		return record(ctx, tx, changed, "webhook.update")
	})
	if err != nil {
		return Webhook{}, fmt.Errorf("update webhook: %w", err)
	}
	return changed, nil
}

// apply checks a change and makes it.
func (w *Webhook) apply(c Change) error {
	if c.URL != nil {
		if err := checkURL(*c.URL); err != nil {
			return err
		}
		w.URL = *c.URL
	}
	if c.Description != nil {
		description, err := parseDescription(*c.Description)
		if err != nil {
			return err
		}
		w.Description = description
	}
	if c.Events != nil {
		events, err := parseTypes(*c.Events)
		if err != nil {
			return err
		}
		w.Events = events
	}
	if c.Enabled != nil {
		w.Enabled, w.Problem = *c.Enabled, ""
	}
	return nil
}

// Delete removes a webhook and its secrets. What still waits for it is not sent; what was, is shown to nobody any more.
func (w *Webhooks) Delete(ctx context.Context, organization contract.OrganizationID, id string) error {
	err := db.InTx(ctx, w.db, func(tx *db.Tx) error {
		gone, err := load(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM webhooks WHERE organization_id = $1 AND id = $2`, organization, id); err != nil {
			return err
		}
		if err := outbox.Wake(ctx, tx, queue, id); err != nil { // they find it gone
			return err
		}
		return record(ctx, tx, gone, "webhook.delete")
	})
	if err != nil {
		return fmt.Errorf("delete webhook: %w", err)
	}
	return nil
}
