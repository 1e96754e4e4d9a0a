package task

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"chom.dev/controlplane/db"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// journalMax is the limit of HelloRequest.journal: a journal of that length may
// have been cut, so what it does not name may still exist.
const journalMax = 2000

// Reconcile compares a server's open tasks with the journal that its agent sent
// in Hello, in the transaction that opens the epoch; the package comment says
// what follows from what. It gives the attempts whose results must be reported
// again. The caller holds the server's link (its row of server_links), so that
// no offer runs beside it, and the agent has closed its former stream before it
// read its journal.
//
// Older says that the agent has accepted a higher fence than this database has
// ever given: the database was restored from a backup. Only then may the journal
// tell of attempts that the database does not know.
func (ts *Tasks) Reconcile(ctx context.Context, tx *db.Tx, server string, journal []*linkv1.JournalEntry, older bool, now time.Time) ([]*linkv1.JournalEntry, error) {
	known := make(map[string]*linkv1.JournalEntry, len(journal)) // the newest attempt of each task
	for _, e := range journal {
		if have := known[e.GetTaskId()]; have == nil || e.GetAttempt() > have.GetAttempt() {
			known[e.GetTaskId()] = e
		}
	}
	complete := len(journal) < journalMax
	open, err := openTasks(ctx, tx, server, 0)
	if err != nil {
		return nil, fmt.Errorf("reconcile server %s: %w", server, err)
	}
	slices.SortFunc(open, func(a, b waiting) int { // all take their locks in one order
		if a.id < b.id {
			return -1
		}
		return 1
	})
	var resend []*linkv1.JournalEntry
	for _, w := range open {
		e := known[w.id]
		if w.state == Queued && e == nil {
			continue
		}
		ended := false
		err := ts.change(ctx, tx, server, w.id, func(t *Task) bool {
			switch {
			case t.State.Ended():
				return false
			case e == nil || e.GetAttempt() < t.Attempt:
				return complete && t.absent(now)
			case e.GetAttempt() > t.Attempt && !older:
				return complete && t.absent(now) // it tells of what was never offered
			case t.State == Queued && !older:
				// Refused, or given up as never accepted: its end is known.
				return false
			case e.GetAttempt() > t.Attempt || t.State == Queued:
				ended = e.GetEnded()
				return t.adopt(e.GetAttempt(), now)
			default:
				ended = e.GetEnded()
				return t.run(now)
			}
		})
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, fmt.Errorf("reconcile task %s: %w", w.id, err)
		}
		if ended {
			resend = append(resend, e)
		}
	}
	tx.Notify(TopicServer, server)
	return resend, nil
}

// Renew keeps the leases of the attempts that the agent of a server says it
// runs. It writes only when a lease needs it, and brings UNKNOWN ones back. An
// OFFERED one has time: its acceptance is on the way, in a report of its own.
func (ts *Tasks) Renew(ctx context.Context, server string, running []*linkv1.JournalEntry, now time.Time) error {
	if len(running) == 0 {
		return nil
	}
	due, err := ts.due(ctx, server, now)
	if err != nil {
		return fmt.Errorf("renew leases of server %s: %w", server, err)
	}
	for _, e := range running {
		if attempt, ok := due[e.GetTaskId()]; !ok || attempt != e.GetAttempt() {
			continue
		}
		err := db.InTx(ctx, ts.db, func(tx *db.Tx) error {
			return ts.change(ctx, tx, server, e.GetTaskId(), func(t *Task) bool {
				return t.Attempt == e.GetAttempt() && t.run(now)
			})
		}, db.ReadCommitted())
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("renew lease of task %s: %w", e.GetTaskId(), err)
		}
	}
	return nil
}

// due gives a server's attempts whose leases are lost, have less than two thirds
// left, or are longer than any (the clock was set back since), by task.
func (ts *Tasks) due(ctx context.Context, server string, now time.Time) (map[string]uint32, error) {
	rows, err := ts.db.Reader().Query(ctx, `
		SELECT id, attempt
		FROM tasks
		WHERE server_id = $1
		AND state IN ('queued', 'offered', 'running', 'unknown')
		AND (state = 'unknown' OR state = 'offered' AND lease_expires_at < $2 OR state = 'running' AND (lease_expires_at < $3 OR lease_expires_at > $4))`,
		server, db.Micros(now.Add(offerLease*2/3)), db.Micros(now.Add(runLease*2/3)), db.Micros(now.Add(runLease)))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	due := map[string]uint32{}
	for rows.Next() {
		var id string
		var attempt uint32
		if err := rows.Scan(&id, &attempt); err != nil {
			return nil, err
		}
		due[id] = attempt
	}
	return due, rows.Err()
}

// Replaced ends what a server's former host had begun, when another host enrols
// in its place. What waits stays.
func (ts *Tasks) Replaced(ctx context.Context, tx *db.Tx, server string, now time.Time) error {
	return ts.endAll(ctx, tx, server, false, "the server was enrolled again; what its former host did is not known", now)
}

// Removed ends everything of a server that is taken out.
func (ts *Tasks) Removed(ctx context.Context, tx *db.Tx, server string, now time.Time) error {
	return ts.endAll(ctx, tx, server, true, "the server was removed", now)
}

func (ts *Tasks) endAll(ctx context.Context, tx *db.Tx, server string, queued bool, text string, now time.Time) error {
	open, err := openTasks(ctx, tx, server, 0)
	if err != nil {
		return fmt.Errorf("end tasks of server %s: %w", server, err)
	}
	for _, w := range open {
		err := ts.change(ctx, tx, server, w.id, func(t *Task) bool {
			if t.State.Ended() || t.State == Queued && !queued {
				return false
			}
			t.end(Failed, text, now)
			return true
		})
		if err != nil {
			return fmt.Errorf("end task %s: %w", w.id, err)
		}
	}
	return nil
}
