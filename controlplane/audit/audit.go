// Package audit is who did what. Each change writes its event in the transaction of the change itself: where the event
// cannot be written, nothing has happened.
//
// An event names things by their ids and says what changed in a few words. It never holds a secret. It is not a log: what
// programs do to each other stands there.
package audit

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
)

// Platform stands for the platform itself where an organization is named.
const Platform = "00000000-0000-0000-0000-000000000000"

// Event is one line of the history.
type Event struct {
	// Organization that it happened to; Platform for servers and for the organizations themselves.
	Organization string
	// Action is what was done: noun and verb, for example "site.create".
	Action string
	// Object is the id of what it was done to.
	Object string
	// Detail is what a reader wants to know besides, in words; may be empty. At most 1,000 bytes are kept.
	Detail string
}

const maxDetail = 1000

type actorKey struct{}

// As names the account on whose behalf everything under ctx is done.
func As(ctx context.Context, account string) context.Context {
	return context.WithValue(ctx, actorKey{}, account)
}

// Actor is the account that As named; empty where the control plane acts by itself.
func Actor(ctx context.Context) string {
	account, _ := ctx.Value(actorKey{}).(string)
	return account
}

// Record writes the event. The caller's transaction must fail when it does.
func Record(ctx context.Context, tx *db.Tx, e Event) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("record %s: %w", e.Action, err)
	}
	if len(e.Detail) > maxDetail {
		e.Detail = strings.ToValidUTF8(e.Detail[:maxDetail], "")
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO audit_events (id, organization_id, happened_at, account_id, action, object, detail)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		id.String(), e.Organization, db.Micros(time.Now()), Actor(ctx), e.Action, e.Object, e.Detail); err != nil {
		return fmt.Errorf("record %s: %w", e.Action, err)
	}
	return nil
}
