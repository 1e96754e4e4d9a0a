package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

const (
	// prepareFor is for a slow mirror and a small host; a fresh one takes 2 to 4 minutes.
	prepareFor = 30 * time.Minute
	// prepareBy is when somebody should look at a host that was never heard of since.
	prepareBy = 24 * time.Hour
)

// Prepare orders the software that sites need onto a server, now, whatever came of it before.
func (f *Fleet) Prepare(ctx context.Context, id contract.ServerID) (task.Task, error) {
	var ordered task.Task
	err := db.InTx(ctx, f.db, func(tx *db.Tx) (err error) {
		if ordered, err = orderPrepare(ctx, tx, id); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: audit.Platform, Action: "server.prepare", Object: id.String()})
	}, db.ReadCommitted()) // Enqueue locks the server's row before anything is decided
	if err != nil {
		return task.Task{}, fmt.Errorf("prepare server %s: %w", id, err)
	}
	return ordered, nil
}

// orderPrepare begins anew: what failed before is forgotten.
func orderPrepare(ctx context.Context, tx *db.Tx, id contract.ServerID) (task.Task, error) {
	ordered, err := enqueuePrepare(ctx, tx, id)
	if err != nil {
		return task.Task{}, err
	}
	_, err = tx.Exec(ctx, `
		UPDATE servers
		SET prepare_task_id = $2,
		    prepare_problem = '',
		    prepare_failures = 0,
		    prepare_again_at = NULL
		WHERE id = $1`,
		id, ordered.ID)
	return ordered, err
}

func enqueuePrepare(ctx context.Context, tx *db.Tx, id contract.ServerID) (task.Task, error) {
	return task.Enqueue(ctx, tx, task.New{
		Server:     id.String(),
		Kind:       task.PrepareServer,
		Parameters: &orderv1.PrepareServer{},
		Timeout:    prepareFor,
		Deadline:   time.Now().Add(prepareBy),
		CreatedBy:  audit.ActorOf(ctx).Account(),
	})
}

// PrepareEnded is what follows from the end of a task that prepared a server, in the transaction of that end: for one that
// failed the next try is set. Package task calls it (task.OnEnd). That a server is prepared is a fact that its agent measures.
func PrepareEnded(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
	if err := prepareEnded(ctx, tx, t, result); err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	return nil
}

func prepareEnded(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
	if t.State == task.Succeeded {
		_, err := tx.Exec(ctx, `
			UPDATE servers
			SET prepare_problem = '',
			    prepare_failures = 0,
			    prepare_again_at = NULL
			WHERE id = $1
			  AND prepare_task_id = $2`,
			t.Server, t.ID)
		return err
	}
	problem := t.Error
	if problem == "" {
		problem = "its task ended as " + string(t.State)
	}
	var failures int
	err := tx.QueryRow(ctx, `
		UPDATE servers
		SET prepare_problem = $3,
		    prepare_failures = prepare_failures + 1
		WHERE id = $1
		  AND prepare_task_id = $2
		  AND state <> 'removed'
		RETURNING prepare_failures`,
		t.Server, t.ID, problem).Scan(&failures)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // a newer one was ordered since
	}
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE servers
		SET prepare_again_at = $2
		WHERE id = $1`,
		t.Server, db.Micros(task.NextTry(t, result, failures)))
	return err
}

const (
	// prepareLookEvery is how often servers are looked for that are to be prepared again.
	prepareLookEvery = 10 * time.Second
	// prepareBatch bounds how many hosts are given work at once.
	prepareBatch = 100
)

// runPrepares orders again what failed, until ctx ends.
func (f *Fleet) runPrepares(ctx context.Context) {
	tick := time.NewTicker(prepareLookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			n, err := f.PrepareAgain(ctx, now)
			if err != nil && ctx.Err() == nil {
				f.log.Error("servers cannot be prepared again", "err", err)
			}
			if n > 0 {
				f.log.Info("servers whose preparation failed are prepared again", "count", n)
			}
		}
	}
}

// PrepareAgain orders the software again onto the servers whose next try is due at a moment, and says how many. One that is
// not heard of is not asked: it is when it is back.
func (f *Fleet) PrepareAgain(ctx context.Context, now time.Time) (int, error) {
	due, err := f.prepareDue(ctx, now)
	if err != nil {
		return 0, fmt.Errorf("find servers to prepare again: %w", err)
	}
	n := 0
	var broken error
	for _, id := range due {
		ordered, err := f.prepareAgain(ctx, id, now)
		if err != nil { // the others may well be ordered
			broken = errors.Join(broken, fmt.Errorf("prepare server %s again: %w", id, err))
		}
		if ordered {
			n++
		}
	}
	return n, broken
}

func (f *Fleet) prepareDue(ctx context.Context, now time.Time) ([]contract.ServerID, error) {
	rows, err := f.db.Reader().Query(ctx, `
		SELECT s.id
		FROM servers s
		JOIN server_links l ON l.server_id = s.id
		WHERE s.prepare_again_at IS NOT NULL
		  AND (s.prepare_again_at <= $1 OR s.prepare_again_at > $2)
		  AND s.state IN ('active', 'draining')
		  AND l.last_seen_at BETWEEN $3 AND $4
		ORDER BY s.prepare_again_at
		LIMIT $5`,
		db.Micros(now), db.Micros(now.Add(task.LongestRest)), db.Micros(now.Add(-OnlineFor)), db.Micros(now.Add(OnlineFor)), prepareBatch)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var due []contract.ServerID
	for rows.Next() {
		var id contract.ServerID
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		due = append(due, id)
	}
	return due, rows.Err()
}

// prepareAgain gives the order, unless somebody else has done so since it was found due.
func (f *Fleet) prepareAgain(ctx context.Context, id contract.ServerID, now time.Time) (bool, error) {
	ordered := false
	err := db.InTx(ctx, f.db, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `
			UPDATE servers
			SET prepare_again_at = NULL
			WHERE id = $1
			  AND prepare_again_at IS NOT NULL
			  AND (prepare_again_at <= $2 OR prepare_again_at > $3)`,
			id, db.Micros(now), db.Micros(now.Add(task.LongestRest)))
		if ordered = n > 0; err != nil || !ordered {
			return err
		}
		t, err := enqueuePrepare(ctx, tx, id)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE servers
			SET prepare_task_id = $2
			WHERE id = $1`,
			id, t.ID)
		return err
	}, db.ReadCommitted())
	return ordered && err == nil, err
}
