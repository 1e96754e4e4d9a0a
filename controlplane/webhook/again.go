package webhook

import (
	"context"
	"fmt"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/outbox"
	"chom.dev/proto/contract"
)

// Test sends an event of the type "webhook.test" to a webhook, also to one that is disabled. It is tried for a minute, and
// does not count as a failure.
func (w *Webhooks) Test(ctx context.Context, organization contract.OrganizationID, id string) (Delivery, error) {
	var made Delivery
	err := db.InTx(ctx, w.db, func(tx *db.Tx) error {
		to, err := load(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		e := Event{Organization: organization, Type: test, Object: Object{Kind: "webhook", ID: id, Name: hostOf(to.URL)}}
		event, text, err := e.body(time.Now())
		if err != nil {
			return err
		}
		// In a lane of its own it does not wait behind what waits.
		delivery, err := deliver(ctx, tx, e, id, event, text, outbox.New{Queue: queue, Life: testedFor})
		if err != nil {
			return err
		}
		if made, err = loadDelivery(ctx, tx, organization, id, delivery); err != nil {
			return err
		}
		return record(ctx, tx, to, "webhook.test")
	})
	if err != nil {
		return Delivery{}, fmt.Errorf("test webhook: %w", err)
	}
	return made, nil
}

// Replay sends a delivery again, whatever became of it: the same event with the same id, as long as a new one would be tried.
// It says ErrDisabled where the webhook is.
func (w *Webhooks) Replay(ctx context.Context, organization contract.OrganizationID, id, delivery string) (Delivery, error) {
	var again Delivery
	err := db.InTx(ctx, w.db, func(tx *db.Tx) error {
		to, err := load(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		before, err := loadDelivery(ctx, tx, organization, id, delivery)
		if err != nil {
			return err
		}
		life := triedFor
		if before.Type == test {
			life = testedFor
		} else if !to.Enabled {
			return ErrDisabled
		}
		if err := outbox.Again(ctx, tx, queue, delivery, life); err != nil {
			return err
		}
		if again, err = loadDelivery(ctx, tx, organization, id, delivery); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: organization.String(), Action: "webhook.replay", Object: id, Detail: "delivery " + delivery,
		})
	})
	if err != nil {
		return Delivery{}, fmt.Errorf("replay delivery: %w", err)
	}
	return again, nil
}
