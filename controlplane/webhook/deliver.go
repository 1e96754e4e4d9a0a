package webhook

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/outbox"
	"chom.dev/proto/contract"
)

var (
	errGone     = errors.New("the webhook was removed")
	errDisabled = errors.New("the webhook is disabled")
)

// enablePause is how long a delivery to a disabled webhook waits before it looks again. Enabling it does not wait for that.
const enablePause = time.Hour

// call is what is needed to make one.
type call struct {
	organization contract.OrganizationID
	webhook      string
	url          string
	enabled      bool
	secrets      []string
	event        string
	kind         Type
	body         []byte
}

// carry makes one call.
func (w *Webhooks) carry(ctx context.Context, item outbox.Item) outbox.Result {
	c, err := w.read(ctx, item.ID)
	switch {
	case errors.Is(err, errGone):
		return outbox.Result{Err: outbox.Permanent(errGone)}
	case err != nil:
		w.log.Error("a webhook could not be read; it is tried again", "delivery", item.ID, "err", err)
		return outbox.Result{Err: errors.New("internal error; the control plane's log has it")}
	case !c.enabled && c.kind != test:
		return outbox.Result{Err: outbox.Later(errDisabled, enablePause)}
	}
	made := w.post(ctx, item, c)
	if made.Problem != "" {
		err = errors.New(made.Problem)
	}
	return outbox.Result{Err: err, Record: func(ctx context.Context, tx *db.Tx, now outbox.State) error {
		return w.attempted(ctx, tx, item, c, made, now)
	}}
}

// read gathers what a call needs.
func (w *Webhooks) read(ctx context.Context, delivery string) (call, error) {
	var c call
	var body string
	var sealed, former []byte
	var until sql.NullInt64
	err := w.db.Reader().QueryRow(ctx, `
		SELECT d.organization_id, d.webhook_id, d.event_id, d.type, d.body, w.url, w.enabled, w.sealed_secret, w.sealed_former_secret, w.former_until
		FROM webhook_deliveries d
		JOIN webhooks w ON w.organization_id = d.organization_id AND w.id = d.webhook_id
		WHERE d.id = $1`, delivery).
		Scan(&c.organization, &c.webhook, &c.event, &c.kind, &body, &c.url, &c.enabled, &sealed, &former, &until)
	if errors.Is(err, sql.ErrNoRows) {
		return call{}, errGone
	}
	if err != nil {
		return call{}, err
	}
	c.body = []byte(body)
	secret, err := w.config.Keys.Open(secretPlace(c.organization, c.webhook), sealed)
	if err != nil {
		return call{}, err
	}
	c.secrets = []string{string(secret)}
	if former != nil && time.Now().Before(db.NullTime(until)) {
		if secret, err = w.config.Keys.Open(formerPlace(c.organization, c.webhook), former); err != nil {
			return call{}, err
		}
		c.secrets = append(c.secrets, string(secret))
	}
	return c, nil
}

// post calls the receiver. Its answer's body is not read.
func (w *Webhooks) post(ctx context.Context, item outbox.Item, c call) Attempt {
	began := time.Now()
	made := Attempt{Started: db.Time(db.Micros(began))}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(c.body))
	if err != nil {
		made.Problem = "the URL is not valid"
		return made
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "CHOM-Webhook")
	request.Header.Set("Chom-Event-Id", c.event)
	request.Header.Set("Chom-Delivery-Id", item.ID)
	request.Header.Set(SignatureHeader, sign(c.secrets, c.body, began))
	answer, err := w.client.Do(request)
	if err != nil {
		made.Problem = outbound.Explain(err)
		if !outbound.IsRefused(err) {
			made.Duration = time.Since(began)
		}
		return made
	}
	_ = answer.Body.Close() // nothing in it matters
	made.Duration, made.Status = time.Since(began), answer.StatusCode
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		made.Problem = fmt.Sprintf("it answered %d", answer.StatusCode)
	}
	return made
}

// attempted notes a call: in the log of the delivery, and in the webhook's row of failures.
func (w *Webhooks) attempted(ctx context.Context, tx *db.Tx, item outbox.Item, c call, made Attempt, now outbox.State) error {
	if _, err := tx.Exec(ctx, `
		INSERT INTO webhook_attempts (delivery_id, started_at, duration_us, status, problem)
		VALUES ($1, $2, $3, $4, $5)`,
		item.ID, db.Micros(made.Started), made.Duration.Microseconds(), made.Status, made.Problem); err != nil {
		return fmt.Errorf("note attempt of %s: %w", item.ID, err)
	}
	if c.kind == test {
		return nil
	}
	if now == outbox.Sent {
		if _, err := tx.Exec(ctx, `DELETE FROM webhook_failures WHERE webhook_id = $1`, c.webhook); err != nil {
			return fmt.Errorf("note success of webhook %s: %w", c.webhook, err)
		}
		return nil
	}
	return w.failed(ctx, tx, c, made)
}

const (
	// failuresMax is after how many failures without a success between them a webhook is disabled.
	failuresMax = 20
	// failingFor is for how long they must have gone on: many events in a minute of maintenance are no reason.
	failingFor = time.Hour
)

// hopeless says whether a webhook that failed so often since then is disabled now.
func hopeless(failures int, since, now time.Time) bool {
	return failures >= failuresMax && now.Sub(since) >= failingFor
}

// failed counts a failure, and disables the webhook after too many.
func (w *Webhooks) failed(ctx context.Context, tx *db.Tx, c call, made Attempt) error {
	var failures int
	var since int64
	err := tx.QueryRow(ctx, `
		INSERT INTO webhook_failures (webhook_id, failures, since)
		SELECT id, 1, $2
		FROM webhooks
		WHERE id = $1
		ON CONFLICT (webhook_id) DO UPDATE
		SET failures = webhook_failures.failures + 1
		RETURNING failures, since`,
		c.webhook, db.Micros(made.Started)).Scan(&failures, &since)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it was removed meanwhile
	}
	if err != nil {
		return fmt.Errorf("note failure of webhook %s: %w", c.webhook, err)
	}
	if !hopeless(failures, db.Time(since), made.Started) {
		return nil
	}
	problem := fmt.Sprintf("it failed %d times in a row since %s; the last time: %s", failures, db.Time(since).Format(time.RFC3339), made.Problem)
	disabled, err := tx.Exec(ctx, `
		UPDATE webhooks
		SET enabled = FALSE,
		    problem = $2,
		    updated_at = $3
		WHERE id = $1
		  AND enabled`,
		c.webhook, problem, db.Micros(time.Now()))
	if err != nil || disabled == 0 {
		return err
	}
	if err := audit.Record(ctx, tx, audit.Event{
		Organization: c.organization.String(), Action: "webhook.disable", Object: c.webhook, Detail: hostOf(c.url) + ": " + problem,
	}); err != nil {
		return err
	}
	return w.tell(ctx, tx, c, made.Problem, db.Time(since))
}

// tell mails those who can do something about it.
func (w *Webhooks) tell(ctx context.Context, tx *db.Tx, c call, problem string, since time.Time) error {
	name, to, err := w.config.Organizations.Contacts(ctx, tx, c.organization)
	if err != nil {
		return err
	}
	for _, address := range to {
		if err := w.config.Mails.Enqueue(ctx, tx, notify.Mail{
			To: address, Template: notify.TemplateWebhookFailing, Organization: c.organization.String(),
			Values: map[string]string{
				"organization": name, "receiver": hostOf(c.url), "problem": problem, "time": since.Format(time.RFC3339),
				"link": w.config.PublicURL + "/organizations/" + c.organization.String() + "/webhooks/" + c.webhook,
			},
		}); err != nil {
			return err
		}
	}
	return nil
}
