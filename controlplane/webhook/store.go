package webhook

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

const columns = `
	SELECT w.organization_id, w.id, w.url, w.description, w.events, w.enabled, w.problem, f.since,
	       w.former_until, w.created_at, w.updated_at
	FROM webhooks w
	LEFT JOIN webhook_failures f ON f.webhook_id = w.id`

func scan(row interface{ Scan(...any) error }) (Webhook, error) {
	var w Webhook
	var events string
	var since, former sql.NullInt64
	var created, updated int64
	if err := row.Scan(&w.Organization, &w.ID, &w.URL, &w.Description, &events, &w.Enabled, &w.Problem, &since, &former, &created, &updated); err != nil {
		return Webhook{}, err
	}
	for _, word := range strings.Fields(events) {
		w.Events = append(w.Events, Type(word))
	}
	w.FailingSince, w.FormerUntil = db.NullTime(since), db.NullTime(former)
	w.CreatedAt, w.UpdatedAt = db.Time(created), db.Time(updated)
	return w, nil
}

// load finds one webhook of an organization.
func load(ctx context.Context, q db.Querier, organization contract.OrganizationID, id string) (Webhook, error) {
	found, err := scan(q.QueryRow(ctx, columns+` WHERE w.organization_id = $1 AND w.id = $2`, organization, id))
	if errors.Is(err, sql.ErrNoRows) {
		return Webhook{}, ErrNotFound
	}
	if err != nil {
		return Webhook{}, fmt.Errorf("read webhook: %w", err)
	}
	return found, nil
}
