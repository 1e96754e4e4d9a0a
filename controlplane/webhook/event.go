package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbox"
	"chom.dev/proto/contract"
)

// Type is what happened: a noun and a verb.
type Type string

// Types of events. The list is closed, and a promise: a type keeps its meaning.
const (
	SiteCreated         Type = "site.created"
	SiteUpdated         Type = "site.updated"
	SiteSuspended       Type = "site.suspended"
	SiteResumed         Type = "site.resumed"
	SiteDeleted         Type = "site.deleted"
	SiteRestored        Type = "site.restored"
	TaskFailed          Type = "task.failed"
	BackupReady         Type = "backup.ready"
	BackupFailed        Type = "backup.failed"
	BackupOverdue       Type = "backup.overdue"
	BackupQuota         Type = "backup.quota"
	DrillPassed         Type = "drill.passed"
	DrillFailed         Type = "drill.failed"
	RestoreDone         Type = "restore.done"
	CertificateExpiring Type = "certificate.expiring"
	MemberAdded         Type = "member.added"
	MemberUpdated       Type = "member.updated"
	MemberRemoved       Type = "member.removed"
	TokenCreated        Type = "token.created"
	TokenRevoked        Type = "token.revoked"
	OrganizationUpdated Type = "organization.updated"
	OrganizationClosing Type = "organization.closing"

	// test is sent to one webhook only, when somebody asks for it.
	test Type = "webhook.test"
)

// Types are all that a webhook can want, in order.
var Types = []Type{
	BackupFailed, BackupOverdue, BackupQuota, BackupReady, CertificateExpiring, DrillFailed, DrillPassed, MemberAdded, MemberRemoved, MemberUpdated, OrganizationClosing, OrganizationUpdated, RestoreDone, SiteCreated, SiteDeleted, SiteRestored,
	SiteResumed, SiteSuspended, SiteUpdated, TaskFailed, TokenCreated, TokenRevoked,
}

// Event is something that happened to an organization.
type Event struct {
	Organization contract.OrganizationID
	Type         Type
	Object       Object
}

// Object is what it happened to. Receivers ask the API for the rest: an event may be old when it arrives, and it holds nothing
// that must not lie around with a receiver.
type Object struct {
	// Kind is the noun: "site", "backup", "restore", "drill", "task", "member", "token", "organization", "webhook".
	Kind string `json:"kind"`
	// ID is the one that the API knows it by.
	ID string `json:"id"`
	// Name is that for people, as it was then; of a task its kind, of a member the e-mail address, of a
	// backup, a restore and a drill that of the site.
	Name string `json:"name"`
}

// body is what is sent. It is documented in webhook.proto.
type body struct {
	ID             string    `json:"id"`
	Type           Type      `json:"type"`
	Time           time.Time `json:"time"`
	OrganizationID string    `json:"organization_id"`
	Object         Object    `json:"object"`
}

// Publish tells an organization's webhooks of an event, in the caller's transaction: they are called once it is committed, and
// only then.
func Publish(ctx context.Context, tx *db.Tx, e Event) error {
	if !slices.Contains(Types, e.Type) {
		return fmt.Errorf("publish %q: there is no such event", e.Type)
	}
	wanting, err := wanting(ctx, tx, e)
	if err != nil || len(wanting) == 0 {
		return err
	}
	event, text, err := e.body(time.Now())
	if err != nil {
		return err
	}
	for _, id := range wanting {
		if _, err := deliver(ctx, tx, e, id, event, text, outbox.New{Queue: queue, Lane: id, Life: triedFor}); err != nil {
			return err
		}
	}
	return nil
}

// wanting are the ids of the webhooks that want an event.
func wanting(ctx context.Context, tx *db.Tx, e Event) ([]string, error) {
	rows, err := tx.Query(ctx, `
		SELECT id, events
		FROM webhooks
		WHERE organization_id = $1
		ORDER BY id`, e.Organization)
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", e.Type, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var id, events string
		if err := rows.Scan(&id, &events); err != nil {
			return nil, fmt.Errorf("publish %s: %w", e.Type, err)
		}
		if wants := strings.Fields(events); len(wants) == 0 || slices.Contains(wants, string(e.Type)) {
			all = append(all, id)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("publish %s: %w", e.Type, err)
	}
	return all, nil
}

// body writes an event down, with the id that it keeps for ever.
func (e Event) body(now time.Time) (id, text string, err error) {
	made, err := uuid.NewV7()
	if err != nil {
		return "", "", fmt.Errorf("publish %s: %w", e.Type, err)
	}
	b, err := json.Marshal(body{made.String(), e.Type, now.UTC().Truncate(time.Millisecond), e.Organization.String(), e.Object})
	if err != nil {
		return "", "", fmt.Errorf("publish %s: %w", e.Type, err)
	}
	return made.String(), string(b), nil
}

// deliver makes the delivery of an event to a webhook.
func deliver(ctx context.Context, tx *db.Tx, e Event, webhook, event, text string, n outbox.New) (string, error) {
	id, err := outbox.Enqueue(ctx, tx, n)
	if err != nil {
		return "", err
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO webhook_deliveries (organization_id, id, webhook_id, event_id, type, body)
		VALUES ($1, $2, $3, $4, $5, $6)`,
		e.Organization, id, webhook, event, string(e.Type), text); err != nil {
		return "", fmt.Errorf("publish %s: %w", e.Type, err)
	}
	return id, nil
}

// parseTypes checks the types that a webhook is to want.
func parseTypes(words []string) ([]Type, error) {
	var all []Type
	for _, word := range words {
		t := Type(word)
		if !slices.Contains(Types, t) {
			return nil, fault.Invalid("events", fmt.Sprintf("must be of %s", join(Types, ", ")))
		}
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	slices.Sort(all)
	return all, nil
}

func join(types []Type, separator string) string {
	words := make([]string, len(types))
	for i, t := range types {
		words[i] = string(t)
	}
	return strings.Join(words, separator)
}
