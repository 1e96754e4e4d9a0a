package task

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// Get gives a task of an organization with the steps of its newest attempt.
func (ts *Tasks) Get(ctx context.Context, organization, id string) (Task, error) {
	return read(ctx, ts.db.Reader(), organization, id)
}

// read gives the row, and then the steps where there are any: they may be newer
// than the row, never older.
func read(ctx context.Context, q db.Querier, organization, id string) (Task, error) {
	var steps int
	t, err := scan(q.QueryRow(ctx, `
		SELECT `+columns+`,
			(SELECT COUNT(*) FROM task_steps WHERE task_id = tasks.id AND attempt = tasks.attempt)
		FROM tasks
		WHERE organization_id = $1
		AND id = $2`, organization, id), &steps)
	if errors.Is(err, sql.ErrNoRows) {
		return Task{}, fault.NotFound("task")
	}
	if err != nil {
		return Task{}, fmt.Errorf("read task %s: %w", id, err)
	}
	if steps == 0 {
		return t, nil
	}
	if t.Steps, err = readSteps(ctx, q, t); err != nil {
		return Task{}, fmt.Errorf("read steps of task %s: %w", id, err)
	}
	if t.Progress, err = readProgress(ctx, q, t); err != nil {
		return Task{}, fmt.Errorf("read progress of task %s: %w", id, err)
	}
	return t, nil
}

func readSteps(ctx context.Context, q db.Querier, t Task) ([]Step, error) {
	rows, err := q.Query(ctx, `
		SELECT name, state, attempt, started_at, ended_at, message
		FROM task_steps
		WHERE task_id = $1
		AND attempt = $2
		ORDER BY position`, t.ID, int64(t.Attempt))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var steps []Step
	for rows.Next() {
		var s Step
		var started int64
		var ended sql.NullInt64
		if err := rows.Scan(&s.Name, &s.State, &s.Attempt, &started, &ended, &s.Message); err != nil {
			return nil, err
		}
		s.Started, s.Ended = db.Time(started), db.NullTime(ended)
		steps = append(steps, s)
	}
	return steps, rows.Err()
}

// Query narrows a List. Zero fields don't.
type Query struct {
	Organization string // always: Platform for work on servers themselves
	Site         string
	Server       string
	Sites        []string // only those about these; nil for all
	States       []State  // only those in one of these; nil for all
	Kinds        []Kind   // only those of one of these; nil for all
	Before       string   // a task's id: only older ones
	Limit        int      // 0 means 50, at most 500
}

// List gives an organization's tasks, newest first, without their steps. The
// next page is Before the last one's ID; there is one when len equals the limit.
func (ts *Tasks) List(ctx context.Context, query Query) ([]Task, error) {
	limit := query.Limit
	if limit <= 0 {
		limit = 50
	}
	// Ids are UUIDv7: in the order of creation.
	rows, err := ts.db.Reader().Query(ctx, `
		SELECT `+columns+`
		FROM tasks
		WHERE organization_id = $1
		AND ($2 = '' OR site_id = $2)
		AND ($3 = '' OR server_id = $3)
		AND ($4 = '' OR id < $4)
		AND ($5 OR site_id <> '' AND $6 LIKE '%' || site_id || '%')
		AND ($7 = '' OR $7 LIKE '% ' || state || ' %')
		AND ($8 = '' OR $8 LIKE '% ' || kind || ' %')
		ORDER BY id DESC
		LIMIT $9`, query.Organization, query.Site, query.Server, query.Before,
		query.Sites == nil, strings.Join(query.Sites, " "), page.Words(query.States), page.Words(query.Kinds), min(limit, 500))
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	defer rows.Close()
	var tasks []Task
	for rows.Next() {
		t, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("list tasks: %w", err)
		}
		tasks = append(tasks, t)
	}
	return tasks, rows.Err()
}

// Asked is a task of a server, whosever it is.
type Asked struct {
	Task
	OrganizationName, SiteName string // empty for work on the server itself; the latter also once the site is gone
}

// AskedOf gives a page of what was asked of a server's agent, newest first and without steps, and the token of the next page. It
// asks for no organization: whoever calls is an operator.
func (ts *Tasks) AskedOf(ctx context.Context, server contract.ServerID, size int32, token string) ([]Asked, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"tasks of a server", server.String()}
	before, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	// In the order of the sequence, which a server's tasks are found by.
	rows, err := ts.db.Reader().Query(ctx, `
		SELECT `+columns+`,
			COALESCE((SELECT name FROM organizations WHERE organizations.id = tasks.organization_id), ''),
			COALESCE((SELECT name FROM sites WHERE sites.organization_id = tasks.organization_id AND sites.id = tasks.site_id), '')
		FROM tasks
		WHERE server_id = $1
		AND ($2 = '' OR sequence < (SELECT sequence FROM tasks WHERE id = $2))
		ORDER BY sequence DESC
		LIMIT $3`, server, before, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list the tasks of server %s: %w", server, err)
	}
	defer rows.Close()
	var all []Asked
	for rows.Next() {
		var one Asked
		if one.Task, err = scan(rows, &one.OrganizationName, &one.SiteName); err != nil {
			return nil, "", fmt.Errorf("list the tasks of server %s: %w", server, err)
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list the tasks of server %s: %w", server, err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].ID })
	return all[:min(len(all), limit)], next, nil
}

// Cancel asks a task of an organization to stop, in the caller's transaction: a
// queued one is CANCELED at once, another one stops between two steps. A task
// that has ended is a fault.Conflict.
func (ts *Tasks) Cancel(ctx context.Context, tx *db.Tx, organization, id string) (Task, error) {
	t, err := scan(tx.QueryRow(ctx, `
		SELECT `+columns+`
		FROM tasks
		WHERE organization_id = $1
		AND id = $2`+tx.ForUpdate(), organization, id))
	if errors.Is(err, sql.ErrNoRows) {
		return Task{}, fault.NotFound("task")
	}
	if err != nil {
		return Task{}, fmt.Errorf("cancel task %s: %w", id, err)
	}
	if !t.cancel("canceled on request", time.Now()) {
		return Task{}, fault.Conflict("the task has ended")
	}
	tx.Notify(TopicServer, t.Server)
	return t, ts.save(ctx, tx, &t, nil)
}

// readLog gives the lines of a task after a sequence, oldest first.
func readLog(ctx context.Context, q db.Querier, id string, after uint64, limit int) ([]LogLine, error) {
	rows, err := q.Query(ctx, `
		SELECT sequence, logged_at, text
		FROM task_logs
		WHERE task_id = $1
		AND sequence > $2
		ORDER BY sequence
		LIMIT $3`, id, int64(min(after, maxSequence)), limit)
	if err != nil {
		return nil, fmt.Errorf("read log of task %s: %w", id, err)
	}
	defer rows.Close()
	var lines []LogLine
	for rows.Next() {
		var l LogLine
		var at int64
		if err := rows.Scan(&l.Sequence, &at, &l.Text); err != nil {
			return nil, fmt.Errorf("read log of task %s: %w", id, err)
		}
		l.Time = db.Time(at)
		lines = append(lines, l)
	}
	return lines, rows.Err()
}
