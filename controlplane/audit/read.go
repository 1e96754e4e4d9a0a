package audit

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/page"
)

// Trail reads what was recorded. It is safe for concurrent use.
type Trail struct{ db *db.DB }

// New reads the events of a database.
func New(d *db.DB) *Trail { return &Trail{db: d} }

// Query narrows what is read. Zero fields don't.
type Query struct {
	Organization string // always; Platform for the platform's own
	Actor        string // id of the account, the organization or the server that acted
	Action       string // how the action begins: "site." for all that happened to sites
	Object       string // id of what it was done to
	Outcome      string // Done or Refused
	From, To     time.Time
}

// List gives a page of events, the newest first, and the token of the next page; it is empty on the last. Size and token are
// those of page.
func (t *Trail) List(ctx context.Context, query Query, size int32, token string) ([]Entry, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	list := page.Query{
		"audit events", query.Organization, query.Actor, query.Action, query.Object, query.Outcome, fmt.Sprint(db.Micros(query.From)), fmt.Sprint(db.Micros(query.To)),
	}
	before, err := list.After(token)
	if err != nil {
		return nil, "", err
	}
	where, args := query.where()
	if before != "" {
		at, sequence := placeOf(before)
		where += fmt.Sprintf(" AND (happened_at, sequence) < ($%d, $%d)", len(args)+1, len(args)+2)
		args = append(args, at, sequence)
	}
	rows, err := read(ctx, t.db.Reader(), `
		SELECT`+columns+`
		FROM audit_events
		WHERE `+where+`
		ORDER BY happened_at DESC, sequence DESC
		LIMIT `+fmt.Sprint(limit+1), args...)
	if err != nil {
		return nil, "", fmt.Errorf("list audit events: %w", err)
	}
	entries, next := pageOf(rows, list, limit)
	return entries, next, nil
}

// Mine gives a page of the platform's events that an account did, or that were done to it: who signed in, who failed to, who
// acted in its place. The newest come first.
func (t *Trail) Mine(ctx context.Context, account string, size int32, token string) ([]Entry, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	list := page.Query{"own audit events", account}
	before, err := list.After(token)
	if err != nil {
		return nil, "", err
	}
	at, sequence := int64(1<<62), int64(0)
	if before != "" {
		at, sequence = placeOf(before)
	}
	// Each half comes from an index of its own, and ends after a page.
	rows, err := read(ctx, t.db.Reader(), `
		SELECT * FROM (
			SELECT`+columns+`
			FROM audit_events
			WHERE organization_id = $1
			AND actor_id = $2
			AND (happened_at, sequence) < ($3, $4)
			ORDER BY happened_at DESC, sequence DESC
			LIMIT $5) done
		UNION
		SELECT * FROM (
			SELECT`+columns+`
			FROM audit_events
			WHERE organization_id = $1
			AND object = $2
			AND (happened_at, sequence) < ($3, $4)
			ORDER BY happened_at DESC, sequence DESC
			LIMIT $5) suffered
		ORDER BY happened_at DESC, sequence DESC
		LIMIT $5`, Platform, account, at, sequence, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list audit events of account %s: %w", account, err)
	}
	entries, next := pageOf(rows, list, limit)
	return entries, next, nil
}

func pageOf(rows []*row, list page.Query, limit int) (entries []Entry, next string) {
	next = list.Next(len(rows), limit, func() string { return rows[limit-1].place() })
	for _, r := range rows[:min(len(rows), limit)] {
		entries = append(entries, r.entry())
	}
	return entries, next
}

// where is the condition for a query's rows, and its arguments.
func (q *Query) where() (string, []any) {
	conditions, args := []string{"organization_id = $1"}, []any{q.Organization}
	add := func(condition string, arg any) {
		args = append(args, arg)
		conditions = append(conditions, strings.ReplaceAll(condition, "?", fmt.Sprintf("$%d", len(args))))
	}
	if q.Actor != "" {
		add("actor_id = ?", q.Actor)
	}
	if q.Action != "" {
		add("substr(action, 1, length(?)) = ?", q.Action)
	}
	if q.Object != "" {
		add("object = ?", q.Object)
	}
	if q.Outcome != "" {
		add("outcome = ?", q.Outcome)
	}
	if !q.From.IsZero() {
		add("happened_at >= ?", db.Micros(q.From))
	}
	if !q.To.IsZero() {
		add("happened_at < ?", db.Micros(q.To))
	}
	return strings.Join(conditions, " AND "), args
}

// place is where a row lies in a list, in the form of a UUID, as page wants it: its time and its sequence.
func (r *row) place() string {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(r.at))
	binary.BigEndian.PutUint64(id[8:], uint64(r.sequence))
	return id.String()
}

func placeOf(place string) (at, sequence int64) {
	id, err := uuid.Parse(place)
	if err != nil {
		return 0, 0 // page made a UUID of it
	}
	return int64(binary.BigEndian.Uint64(id[:8])), int64(binary.BigEndian.Uint64(id[8:]))
}
