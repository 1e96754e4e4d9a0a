package task

import (
	"context"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
)

// DefaultRetention is how long a task is remembered after its end, with its
// steps and its log: a quarter of a year, for "since when?".
const DefaultRetention = 90 * 24 * time.Hour

const (
	// pruneEvery is also how long nothing is pruned after the start and after a
	// jump of the clock, which may be years ahead until somebody sets it.
	pruneEvery = time.Hour
	// A batch is over in a moment: others wait for SQLite's one writer.
	pruneTasks = 500
	pruneLines = 10_000
)

// prunable are the tasks up to the id $1 that have ended before $2. The newest
// one of a site or server stays for as long as that is there: what is shown of
// both leans on it.
const prunable = `
	FROM tasks
	WHERE id <= $1
	AND ended_at < $2
	AND NOT EXISTS (
		SELECT 1
		FROM sites
		WHERE sites.organization_id = tasks.organization_id
		AND sites.id = tasks.site_id
		AND sites.last_task_id = tasks.id)
	AND NOT EXISTS (
		SELECT 1
		FROM servers
		WHERE servers.id = tasks.server_id
		AND servers.prepare_task_id = tasks.id)`

// Prune deletes a batch of the oldest tasks that ended longer ago than they are
// kept, with their steps and logs, and says how many, and whether there may be
// more. Run calls it.
func (ts *Tasks) Prune(ctx context.Context, now time.Time) (pruned int64, more bool, err error) {
	before := now.Add(-ts.retention)
	last, more, err := ts.pruneUntil(ctx, before)
	if last == "" || err != nil {
		return 0, false, err
	}
	err = db.InTx(ctx, ts.db, func(tx *db.Tx) error {
		for _, statement := range []string{
			`DELETE FROM task_logs WHERE task_id IN (SELECT id ` + prunable + `)`,
			`DELETE FROM task_steps WHERE task_id IN (SELECT id ` + prunable + `)`,
			`DELETE ` + prunable,
		} {
			if pruned, err = tx.Exec(ctx, statement, last, db.Micros(before)); err != nil {
				return err
			}
		}
		return nil
	}, db.ReadCommitted())
	if err != nil {
		return 0, false, fmt.Errorf("prune tasks: %w", err)
	}
	return pruned, more, nil
}

// pruneUntil gives the last id of the next batch; empty when there is none.
func (ts *Tasks) pruneUntil(ctx context.Context, before time.Time) (last string, more bool, err error) {
	rows, err := ts.db.Reader().Query(ctx, `
		SELECT id, log_sequence `+prunable+`
		ORDER BY id
		LIMIT $3`, firstID(before), db.Micros(before), pruneTasks)
	if err != nil {
		return "", false, fmt.Errorf("find tasks to prune: %w", err)
	}
	defer rows.Close()
	tasks, lines := 0, int64(0)
	for rows.Next() {
		var printed int64
		if err := rows.Scan(&last, &printed); err != nil {
			return "", false, fmt.Errorf("find tasks to prune: %w", err)
		}
		tasks++
		if lines += printed; lines >= pruneLines {
			return last, true, nil
		}
	}
	return last, tasks == pruneTasks, rows.Err()
}

// firstID is not above the id of any task made from a moment on: ids are UUIDs
// of version 7, which begin with the milliseconds of their birth.
func firstID(t time.Time) string {
	ms := max(t.UnixMilli(), 0)
	return fmt.Sprintf("%08x-%04x-7000-8000-000000000000", ms>>16, ms&0xffff)
}

// pruneAndTell prunes a batch, and says when to prune again.
func (ts *Tasks) pruneAndTell(ctx context.Context, now time.Time) (again time.Time) {
	pruned, more, err := ts.Prune(ctx, now)
	if err != nil && ctx.Err() == nil {
		ts.log.Error("old tasks were not pruned", "err", err)
	}
	if pruned > 0 {
		ts.log.Info("old tasks were pruned", "count", pruned)
	}
	if more {
		return now
	}
	return now.Add(pruneEvery)
}
