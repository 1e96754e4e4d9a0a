package task

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"chom.dev/controlplane/db"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// Progress is how far the step is that runs. It is host data; nothing follows from it.
type Progress struct {
	Doing       string // a word or two; empty when the step does not say
	Done, Total uint64 // bytes; a Total of 0 is not known
}

// doingMax is the limit of chom.task.v1.Progress.
const doingMax = 64

// Progress takes what the agent of a server says of how far its attempts are,
// and wakes who watches them. What it says of others is not heard. The caller
// has made sure that it is valid by its proto.
func (ts *Tasks) Progress(ctx context.Context, server string, all []*linkv1.TaskProgress) error {
	if len(all) == 0 {
		return nil
	}
	return db.InTx(ctx, ts.db, func(tx *db.Tx) error {
		for _, p := range all {
			id, said := strings.ToLower(p.GetTaskId()), p.GetProgress()
			// An attempt that is not known to run yet will be in a second.
			n, err := tx.Exec(ctx, `
				INSERT INTO task_progress (task_id, attempt, step, done_bytes, total_bytes, doing)
				SELECT id, attempt, $4, $5, $6, $7
				FROM tasks
				WHERE id = $1
				AND server_id = $2
				AND attempt = $3
				AND state = 'running'
				ON CONFLICT (task_id) DO UPDATE
				SET attempt = excluded.attempt,
					step = excluded.step,
					done_bytes = excluded.done_bytes,
					total_bytes = excluded.total_bytes,
					doing = excluded.doing`,
				id, server, int64(p.GetAttempt()), p.GetStep(), int64(said.GetDoneBytes()), int64(said.GetTotalBytes()), Text(said.GetDoing(), doingMax))
			if err != nil {
				return fmt.Errorf("write progress of task %s: %w", id, err)
			}
			if n > 0 {
				tx.Notify(TopicTask, id)
			}
		}
		return nil
	}, db.ReadCommitted())
}

// readProgress gives how far the last of a running task's steps is, if that runs
// and says so.
func readProgress(ctx context.Context, q db.Querier, t Task) (p Progress, err error) {
	if t.State != Running || len(t.Steps) == 0 || t.Steps[len(t.Steps)-1].State != StepRunning {
		return Progress{}, nil
	}
	err = q.QueryRow(ctx, `
		SELECT doing, done_bytes, total_bytes
		FROM task_progress
		WHERE task_id = $1
		AND attempt = $2
		AND step = $3`, t.ID, int64(t.Attempt), t.Steps[len(t.Steps)-1].Name).Scan(&p.Doing, &p.Done, &p.Total)
	if errors.Is(err, sql.ErrNoRows) {
		return Progress{}, nil
	}
	return p, err
}
