package webhook

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// secretPrefix says what a secret is to whoever finds it lying around.
const secretPrefix = "chomhook_"

// Wanted describes a webhook to be.
type Wanted struct {
	Organization contract.OrganizationID
	URL          string
	Description  string
	Events       []string // empty means all
}

// Create makes a webhook, enabled, and the secret that signs its calls, which is shown now and never again. It says ErrTooMany
// for an organization that has Max.
func (w *Webhooks) Create(ctx context.Context, wanted Wanted) (Webhook, string, error) {
	if err := checkURL(wanted.URL); err != nil {
		return Webhook{}, "", err
	}
	description, err := parseDescription(wanted.Description)
	if err != nil {
		return Webhook{}, "", err
	}
	events, err := parseTypes(wanted.Events)
	if err != nil {
		return Webhook{}, "", err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Webhook{}, "", fmt.Errorf("create webhook: %w", err)
	}
	secret, _ := bearer.New(secretPrefix)
	sealed, err := w.config.Keys.Seal(secretPlace(wanted.Organization, id.String()), []byte(secret))
	if err != nil {
		return Webhook{}, "", fmt.Errorf("create webhook: %w", err)
	}
	var made Webhook
	err = db.InTx(ctx, w.db, func(tx *db.Tx) error {
		// The tenant's row makes those who create at the same time wait for each other; the count then is the last word.
		locked, err := tx.Exec(ctx, `UPDATE organizations SET name = name WHERE id = $1`, wanted.Organization)
		if err != nil {
			return err
		}
		if locked == 0 {
			return errNoOrganization
		}
		inserted, err := tx.Exec(ctx, `
			INSERT INTO webhooks (organization_id, id, url, description, events, enabled, problem, sealed_secret, created_at, updated_at)
			SELECT $1, $2, $3, $4, $5, TRUE, '', $6, $7, $7
			WHERE (SELECT COUNT(*) FROM webhooks WHERE organization_id = $1) < $8`,
			wanted.Organization, id.String(), wanted.URL, description, join(events, " "), sealed, db.Micros(time.Now()), Max)
		if err != nil {
			return err
		}
		if inserted == 0 {
			return ErrTooMany
		}
		if made, err = load(ctx, tx, wanted.Organization, id.String()); err != nil {
			return err
		}
		return record(ctx, tx, made, "webhook.create")
	}, db.ReadCommitted())
	if err != nil {
		return Webhook{}, "", fmt.Errorf("create webhook: %w", err)
	}
	return made, secret, nil
}

// record writes an audit event. Of the URL it holds the host only.
func record(ctx context.Context, tx *db.Tx, of Webhook, action string) error {
	return audit.Record(ctx, tx, audit.Event{
		Organization: of.Organization.String(), Action: action, Object: of.ID, Detail: hostOf(of.URL),
	})
}

// parseDescription accepts a line of text, or nothing.
func parseDescription(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	title, err := contract.ParseTitle(text)
	if err != nil {
		var wrong *contract.InvalidError
		if errors.As(err, &wrong) {
			return "", fault.Invalid("description", wrong.Rule)
		}
		return "", err
	}
	return title.String(), nil
}

// formerFor is how long both secrets sign after a rotation: receivers are many, and some are changed by hand.
const formerFor = 24 * time.Hour

// RotateSecret gives a webhook a new secret, which is shown now and never again. Its calls are signed with both for a day,
// or with the new one alone at once where the former one has leaked.
func (w *Webhooks) RotateSecret(ctx context.Context, organization contract.OrganizationID, id string, leaked bool) (Webhook, string, error) {
	secret, _ := bearer.New(secretPrefix)
	sealed, err := w.config.Keys.Seal(secretPlace(organization, id), []byte(secret))
	if err != nil {
		return Webhook{}, "", fmt.Errorf("rotate webhook's secret: %w", err)
	}
	var changed Webhook
	err = db.InTx(ctx, w.db, func(tx *db.Tx) error {
		former, until, err := w.former(ctx, tx, organization, id, leaked)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			UPDATE webhooks
			SET sealed_secret = $3,
			    sealed_former_secret = $4,
			    former_until = $5,
			    updated_at = $6
			WHERE organization_id = $1
			  AND id = $2`,
			organization, id, sealed, former, db.NullMicros(until), db.Micros(time.Now())); err != nil {
			return err
		}
		if changed, err = load(ctx, tx, organization, id); err != nil {
			return err
		}
		return record(ctx, tx, changed, "webhook.rotate_secret")
	})
	if err != nil {
		return Webhook{}, "", fmt.Errorf("rotate webhook's secret: %w", err)
	}
	return changed, secret, nil
}

// former seals the present secret for the place of the former one; nil where it must not sign any more.
func (w *Webhooks) former(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id string, leaked bool) ([]byte, time.Time, error) {
	if _, err := load(ctx, tx, organization, id); err != nil {
		return nil, time.Time{}, err
	}
	if leaked {
		return nil, time.Time{}, nil
	}
	var sealed []byte
	if err := tx.QueryRow(ctx, `SELECT sealed_secret FROM webhooks WHERE organization_id = $1 AND id = $2`, organization, id).Scan(&sealed); err != nil {
		return nil, time.Time{}, err
	}
	present, err := w.config.Keys.Open(secretPlace(organization, id), sealed)
	if err != nil {
		return nil, time.Time{}, err
	}
	again, err := w.config.Keys.Seal(formerPlace(organization, id), present)
	return again, time.Now().Add(formerFor), err
}
