package notify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/page"
)

// Status is what operators see of a mail: never what it says.
type Status struct {
	ID           string
	Organization string // Platform for a person's own
	Template     string
	To           string
	State        outbox.State
	Tries        int
	Problem      string // why the last try failed
	Created      time.Time
	Next         time.Time // of the next try; zero when there is none
	Ended        time.Time // zero while it is tried
}

// ErrNotFound is the answer for a mail that does not exist, or is older than 30 days.
var ErrNotFound = fault.NotFound("mail")

const columns = `
	SELECT m.id, m.organization_id, m.template, m.recipient, o.state, o.tries, o.error, o.created_at, o.due_at, o.ended_at
	FROM mails m
	JOIN outbox o ON o.id = m.id`

func scan(row interface{ Scan(...any) error }) (Status, error) {
	var s Status
	var created, due int64
	var ended sql.NullInt64
	if err := row.Scan(&s.ID, &s.Organization, &s.Template, &s.To, &s.State, &s.Tries, &s.Problem, &created, &due, &ended); err != nil {
		return Status{}, err
	}
	s.Created, s.Ended = db.Time(created), db.NullTime(ended)
	if s.State == outbox.Waiting {
		s.Next = db.Time(due)
	}
	return s, nil
}

// Get returns one mail, or ErrNotFound.
func (m *Mails) Get(ctx context.Context, id string) (Status, error) {
	return get(ctx, m.db.Reader(), id)
}

func get(ctx context.Context, q db.Querier, id string) (Status, error) {
	found, err := scan(q.QueryRow(ctx, columns+` WHERE m.id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return Status{}, ErrNotFound
	}
	if err != nil {
		return Status{}, fmt.Errorf("get mail: %w", err)
	}
	return found, nil
}

// Filter narrows a List. Its zero value shows all.
type Filter struct {
	State outbox.State
	To    string // an address
}

// List returns a page of the mails of the last 30 days, newest first.
func (m *Mails) List(ctx context.Context, size int32, token string, filter Filter) ([]Status, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"mails", string(filter.State), filter.To}
	before, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	rows, err := m.db.Reader().Query(ctx, columns+`
		WHERE ($1 = '' OR m.id < $1)
		  AND ($2 = '' OR o.state = $2)
		  AND ($3 = '' OR LOWER(m.recipient) = $3)
		ORDER BY m.id DESC
		LIMIT $4`,
		before, string(filter.State), strings.ToLower(filter.To), limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list mails: %w", err)
	}
	defer rows.Close()
	var all []Status
	for rows.Next() {
		found, err := scan(rows)
		if err != nil {
			return nil, "", fmt.Errorf("list mails: %w", err)
		}
		all = append(all, found)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list mails: %w", err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].ID })
	return all[:min(len(all), limit)], next, nil
}

// Errors of Retry.
var (
	ErrSent    = fault.Conflict("the mail was sent already")
	ErrExpired = fault.Conflict("the mail is too old: what it says is removed")
)

// Retry sends a mail anew that waits or is dead, with the life that a new one has.
func (m *Mails) Retry(ctx context.Context, id string) (Status, error) {
	var now Status
	err := db.InTx(ctx, m.db, func(tx *db.Tx) error {
		mail, err := get(ctx, tx, id)
		if err != nil {
			return err
		}
		var kept bool
		if err := tx.QueryRow(ctx, `SELECT sealed_values IS NOT NULL FROM mails WHERE id = $1`, id).Scan(&kept); err != nil {
			return err
		}
		switch {
		case mail.State == outbox.Sent:
			return ErrSent
		case !kept:
			return ErrExpired
		}
		if err := outbox.Again(ctx, tx, queue, id, catalog[mail.Template].life); err != nil {
			return err
		}
		if now, err = get(ctx, tx, id); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: audit.Platform, Action: "mail.retry", Object: id, Detail: mail.Template})
	})
	if err != nil {
		return Status{}, fmt.Errorf("retry mail: %w", err)
	}
	return now, nil
}

// Overview is how the sending of mails goes.
type Overview struct {
	Via     string // where mails go; empty when no mail server is configured
	From    string
	Waiting int       // mails that still must be sent
	Dead    int       // of the last 30 days
	Oldest  time.Time // of those that wait; zero when none does
	Problem string    // why the last try of the oldest failed
}

// Overview tells how the sending of mails goes.
func (m *Mails) Overview(ctx context.Context) (Overview, error) {
	o := Overview{From: m.config.From.String()}
	if m.config.Sender != nil {
		o.Via = m.config.Sender.String()
	}
	var oldest sql.NullInt64
	err := m.db.Reader().QueryRow(ctx, `
		SELECT COUNT(CASE WHEN state IN ('waiting', 'sending') THEN 1 END),
		       COUNT(CASE WHEN state = 'dead' THEN 1 END),
		       MIN(CASE WHEN state IN ('waiting', 'sending') THEN created_at END),
		       COALESCE((SELECT error FROM outbox WHERE queue = 'mail' AND state IN ('waiting', 'sending') ORDER BY id LIMIT 1), '')
		FROM outbox
		WHERE queue = 'mail'`).Scan(&o.Waiting, &o.Dead, &oldest, &o.Problem)
	if err != nil {
		return Overview{}, fmt.Errorf("look over mails: %w", err)
	}
	o.Oldest = db.NullTime(oldest)
	return o, nil
}
