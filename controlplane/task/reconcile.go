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
	open, err := openTasks(ctx, tx, server)
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
// runs. It writes only when a lease needs it, which one that is longer than any
// does too: the clock was set back since. It brings UNKNOWN ones back.
func (ts *Tasks) Renew(ctx context.Context, server string, running []*linkv1.JournalEntry, now time.Time) error {
	for _, e := range running {
		var n int
		err := ts.db.Reader().QueryRow(ctx, `
			SELECT COUNT(*)
			FROM tasks
			WHERE id = $1
			AND server_id = $2
			AND attempt = $3
			AND (state IN ('offered', 'unknown') OR state = 'running' AND (lease_expires_at < $4 OR lease_expires_at > $5))`,
			e.GetTaskId(), server, int64(e.GetAttempt()), db.Micros(now.Add(runLease*2/3)), db.Micros(now.Add(runLease))).Scan(&n)
		if err != nil {
			return fmt.Errorf("renew lease of task %s: %w", e.GetTaskId(), err)
		}
		if n == 0 {
			continue
		}
		err = db.InTx(ctx, ts.db, func(tx *db.Tx) error {
			err := ts.change(ctx, tx, server, e.GetTaskId(), func(t *Task) bool {
				return t.Attempt == e.GetAttempt() && t.run(now)
			})
			return err
		}, db.ReadCommitted())
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("renew lease of task %s: %w", e.GetTaskId(), err)
		}
	}
	return nil
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
	open, err := openTasks(ctx, tx, server)
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
