package webhook

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// Get returns one webhook, or ErrNotFound.
func (w *Webhooks) Get(ctx context.Context, organization contract.OrganizationID, id string) (Webhook, error) {
	return load(ctx, w.db.Reader(), organization, id)
}

// List returns all webhooks of an organization, oldest first. They are Max at most.
func (w *Webhooks) List(ctx context.Context, organization contract.OrganizationID) ([]Webhook, error) {
	rows, err := w.db.Reader().Query(ctx, columns+` WHERE w.organization_id = $1 ORDER BY w.id`, organization)
	if err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	defer rows.Close()
	var all []Webhook
	for rows.Next() {
		found, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("list webhooks: %w", err)
		}
		all = append(all, found)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	return all, nil
}

// Delivery is an event on its way to a webhook.
type Delivery struct {
	ID      string // a UUID
	Webhook string
	Event   string // id of the event, the same for all webhooks that got it
	Type    Type
	State   outbox.State
	Tries   int
	Problem string // why the last try failed
	Body    string // read by GetDelivery only
	Created time.Time
	Next    time.Time // of the next try; zero when there is none
	Ended   time.Time // zero while it is tried
	// Attempts are all that were made, oldest first; read by GetDelivery only.
	Attempts []Attempt
}

// Attempt is one call.
type Attempt struct {
	Started  time.Time
	Duration time.Duration // 0 when no public address was called
	Status   int           // of HTTP; 0 when there was no answer
	Problem  string        // empty when it succeeded
}

const deliveryColumns = `
	SELECT d.id, d.webhook_id, d.event_id, d.type, o.state, o.tries, o.error, o.created_at, o.due_at, o.ended_at
	FROM webhook_deliveries d
	JOIN outbox o ON o.id = d.id`

func scanDelivery(row interface{ Scan(...any) error }) (Delivery, error) {
	var d Delivery
	var created, due int64
	var ended sql.NullInt64
	if err := row.Scan(&d.ID, &d.Webhook, &d.Event, &d.Type, &d.State, &d.Tries, &d.Problem, &created, &due, &ended); err != nil {
		return Delivery{}, err
	}
	d.Created, d.Ended = db.Time(created), db.NullTime(ended)
	if d.State == outbox.Waiting {
		d.Next = db.Time(due)
	}
	return d, nil
}

// Filter narrows ListDeliveries. Its zero value shows all.
type Filter struct{ State outbox.State }

// ListDeliveries returns a page of what a webhook was, or is to be, told in the last 30 days, newest first.
func (w *Webhooks) ListDeliveries(ctx context.Context, organization contract.OrganizationID, id string, size int32, token string, filter Filter) ([]Delivery, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"webhook deliveries", organization.String(), id, string(filter.State)}
	before, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	if _, err := w.Get(ctx, organization, id); err != nil {
		return nil, "", err
	}
	rows, err := w.db.Reader().Query(ctx, deliveryColumns+`
		WHERE d.organization_id = $1
		  AND d.webhook_id = $2
		  AND ($3 = '' OR d.id < $3)
		  AND ($4 = '' OR o.state = $4)
		ORDER BY d.id DESC
		LIMIT $5`,
		organization, id, before, string(filter.State), limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list deliveries: %w", err)
	}
	defer rows.Close()
	var all []Delivery
	for rows.Next() {
		found, err := scanDelivery(rows)
		if err != nil {
			return nil, "", fmt.Errorf("list deliveries: %w", err)
		}
		all = append(all, found)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list deliveries: %w", err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].ID })
	return all[:min(len(all), limit)], next, nil
}

// GetDelivery returns one delivery with all of its attempts, ErrNotFound or ErrDeliveryNotFound.
func (w *Webhooks) GetDelivery(ctx context.Context, organization contract.OrganizationID, id, delivery string) (Delivery, error) {
	return loadDelivery(ctx, w.db.Reader(), organization, id, delivery)
}

func loadDelivery(ctx context.Context, q db.Querier, organization contract.OrganizationID, id, delivery string) (Delivery, error) {
	if _, err := load(ctx, q, organization, id); err != nil {
		return Delivery{}, err
	}
	found, err := scanDelivery(q.QueryRow(ctx, deliveryColumns+`
		WHERE d.organization_id = $1
		  AND d.webhook_id = $2
		  AND d.id = $3`, organization, id, delivery))
	if errors.Is(err, sql.ErrNoRows) {
		return Delivery{}, ErrDeliveryNotFound
	}
	if err != nil {
		return Delivery{}, fmt.Errorf("get delivery: %w", err)
	}
	if err := q.QueryRow(ctx, `SELECT body FROM webhook_deliveries WHERE id = $1`, delivery).Scan(&found.Body); err != nil {
		return Delivery{}, fmt.Errorf("get delivery: %w", err)
	}
	if found.Attempts, err = attempts(ctx, q, delivery); err != nil {
		return Delivery{}, fmt.Errorf("get delivery: %w", err)
	}
	return found, nil
}

func attempts(ctx context.Context, q db.Querier, delivery string) ([]Attempt, error) {
	rows, err := q.Query(ctx, `
		SELECT started_at, duration_us, status, problem
		FROM webhook_attempts
		WHERE delivery_id = $1
		ORDER BY started_at`, delivery)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Attempt
	for rows.Next() {
		var a Attempt
		var started, duration int64
		if err := rows.Scan(&started, &duration, &a.Status, &a.Problem); err != nil {
			return nil, err
		}
		a.Started, a.Duration = db.Time(started), time.Duration(duration)*time.Microsecond
		all = append(all, a)
	}
	return all, rows.Err()
}
