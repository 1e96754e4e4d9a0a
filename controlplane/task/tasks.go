package task

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/clock"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fail"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// Ended is called in the transaction that ends a task, whichever way, so that
// the noun's row changes with it. Result is what the agent said, nil when it
// said nothing (CANCELED before it began, TIMED_OUT, a lost journal); it is
// host data: no right may follow from it. An error undoes the end, which is
// then tried again for ever: only a broken database deserves one. It is not
// called for tasks that Enqueue supersedes.
//
// The transaction is ReadCommitted: lock a row (Tx.ForUpdate) before deciding
// from it.
type Ended func(ctx context.Context, tx *db.Tx, t Task, result *orderv1.Result) error

// Tasks is the queue. Make it with NewTasks.
type Tasks struct {
	db      *db.DB
	signer  ed25519.PrivateKey
	log     *slog.Logger
	ended   map[Kind]Ended
	late    map[Kind]Ended
	metrics *metrics
	oldest  oldest

	retention time.Duration

	mu       sync.Mutex
	watchers map[string]map[chan struct{}]struct{} // by task
}

// Option completes NewTasks.
type Option func(*Tasks)

// OnEnd names who hears of the end of tasks of a kind.
func OnEnd(k Kind, fn Ended) Option { return func(ts *Tasks) { ts.ended[k] = fn } }

// OnLateEnd names who hears of it when the agent says how an attempt ended whose task had TIMED_OUT: that it still is, and what the
// host did after all.
func OnLateEnd(k Kind, fn Ended) Option { return func(ts *Tasks) { ts.late[k] = fn } }

// Retain keeps tasks for that long after their end instead of DefaultRetention.
func Retain(d time.Duration) Option { return func(ts *Tasks) { ts.retention = d } }

// NewTasks makes the queue. Signer signs the orders, and the database gets a key
// that is derived from it to seal what Enqueue writes: call it before the first
// request is served. It does nothing by itself before Run.
func NewTasks(d *db.DB, signer ed25519.PrivateKey, log *slog.Logger, reg prometheus.Registerer, opts ...Option) (*Tasks, error) {
	if len(signer) != ed25519.PrivateKeySize {
		return nil, errors.New("open tasks: the signer is not an Ed25519 key")
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, fmt.Errorf("open tasks: %w", err)
	}
	sealKey, err := sealKey(signer)
	if err != nil {
		return nil, fmt.Errorf("open tasks: %w", err)
	}
	d.SetOrderKey(sealKey)
	ts := &Tasks{
		db: d, signer: signer, log: log, metrics: m, retention: DefaultRetention,
		ended:    map[Kind]Ended{},
		late:     map[Kind]Ended{},
		oldest:   oldest{byServer: map[string]int64{}},
		watchers: map[string]map[chan struct{}]struct{}{},
	}
	for _, opt := range opts {
		opt(ts)
	}
	return ts, nil
}

// lock reads a task and keeps others from changing it until the transaction
// ends. It gives sql.ErrNoRows when the server has no such task.
func lock(ctx context.Context, tx *db.Tx, server, id string) (Task, error) {
	return scan(tx.QueryRow(ctx, `
		SELECT `+columns+`
		FROM tasks
		WHERE id = $1
		AND server_id = $2`+tx.ForUpdate(), id, server))
}

// save writes what the state machine changed, and tells whoever looks on. When
// the task has just ended it calls the noun.
func (ts *Tasks) save(ctx context.Context, tx *db.Tx, t *Task, result *orderv1.Result) error {
	fail.Point("task." + string(t.State) + ".save")
	t.version++
	_, err := tx.Exec(ctx, `
		UPDATE tasks
		SET state = $2,
			attempt = $3,
			fence = $4,
			step_count = $5,
			event_sequence = $6,
			log_sequence = $7,
			log_bytes = $8,
			not_before = $9,
			lease_expires_at = $10,
			cancel_requested_at = $11,
			error = $12,
			started_at = $13,
			ended_at = $14,
			version = $15
		WHERE id = $1`,
		t.ID, string(t.State), int64(t.Attempt), t.fence, int64(t.StepCount), t.eventSequence, t.logSequence, t.logBytes,
		db.Micros(t.notBefore), db.NullMicros(t.lease), db.NullMicros(t.CancelRequested), t.Error,
		db.NullMicros(t.Started), db.NullMicros(t.Ended), t.version)
	if err != nil {
		return fmt.Errorf("save task %s: %w", t.ID, err)
	}
	// An offer is no news: in a moment what the agent says to it is.
	if t.State != Offered || !t.CancelRequested.IsZero() {
		tx.Notify(TopicTask, t.ID)
	}
	state := t.State
	tx.AfterCommit(func() { fail.Point("task." + string(state) + ".committed") })
	if !t.State.Ended() {
		if t.State == Queued {
			tx.Notify(TopicServer, t.Server)
		}
		return nil
	}
	tx.Notify(TopicFree, t.Server)
	kind, seconds := t.Kind, t.Ended.Sub(t.Created).Seconds()
	tx.AfterCommit(func() { ts.metrics.ended.WithLabelValues(string(kind), string(state)).Observe(seconds) })
	if fn := ts.ended[t.Kind]; fn != nil {
		if err := fn(ctx, tx, *t, result); err != nil {
			return fmt.Errorf("end task %s: %w", t.ID, err)
		}
	}
	return nil
}

// change locks a task, lets decide change it, and saves it when that says so.
func (ts *Tasks) change(ctx context.Context, tx *db.Tx, server, id string, decide func(*Task) bool) error {
	t, err := lock(ctx, tx, server, id)
	if err != nil {
		return err
	}
	if !decide(&t) {
		return nil
	}
	return ts.save(ctx, tx, &t, nil)
}

// Run does what time brings: leases that end, deadlines, what is forgotten of
// the past, and the wake-ups of those who Watch. It ends with its context.
func (ts *Tasks) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	defer loops.Wait()
	loops.Go(func() {
		// Only the context or the end of the database ends it; watchers sweep too.
		_ = ts.db.Listen(ctx, ts.heard)
	})
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var h holds
	h.look(time.Now())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := time.Now()
		if jump := h.look(now); jump.Abs() > jumpMin {
			ts.log.Warn("the clock was set; nothing expires for a while", "by", jump, "for", runLease)
		}
		if err := ts.count(ctx); err != nil && ctx.Err() == nil {
			ts.log.Error("tasks were not counted", "err", err)
		}
		if now.Before(h.expire) {
			continue
		}
		if err := ts.Sweep(ctx, now); err != nil && ctx.Err() == nil {
			ts.log.Error("tasks were not swept; they are in two seconds", "err", err)
		}
		if !now.Before(h.prune) {
			h.prune = ts.pruneAndTell(ctx, now)
		}
	}
}

const (
	// sweepEvery is the net below the wake-ups, and the precision of leases.
	sweepEvery = 2 * time.Second
	// jumpMin is far above what a slewed clock differs in two seconds.
	jumpMin = 10 * time.Second
)

// holds are until when Run ends and deletes nothing. While this process was away
// agents went on and could not say so, and after somebody has set the wall clock
// leases, deadlines and ages mean nothing: in both cases the agents are heard of
// before anything expires.
type holds struct {
	watch  clock.Watch
	expire time.Time
	prune  time.Time
}

// look gives by how much the clock was set since the last look.
func (h *holds) look(now time.Time) time.Duration {
	jump := h.watch.Jump(now)
	if h.expire.IsZero() || jump.Abs() > jumpMin {
		h.expire, h.prune = now.Add(runLease), now.Add(pruneEvery)
	}
	return jump
}

// Sweep ends leases and tasks whose time is over at now. Run calls it.
func (ts *Tasks) Sweep(ctx context.Context, now time.Time) error {
	rows, err := ts.db.Reader().Query(ctx, `
		SELECT id, server_id
		FROM tasks
		WHERE state IN ('queued', 'offered', 'running', 'unknown')
		AND (deadline_at <= $1 OR lease_expires_at <= $1 AND state IN ('offered', 'running'))
		ORDER BY id
		LIMIT 1000`, db.Micros(now))
	if err != nil {
		return err
	}
	due, err := pairs(rows)
	if err != nil {
		return err
	}
	for _, d := range due {
		id, server := d[0], d[1]
		err := db.InTx(ctx, ts.db, func(tx *db.Tx) error {
			t, err := lock(ctx, tx, server, id)
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			if !t.expire(now) {
				return errNothing
			}
			if t.State == Unknown || !t.CancelRequested.IsZero() {
				tx.Notify(TopicServer, server) // the agent is to be asked, or told to stop
			}
			return ts.save(ctx, tx, &t, nil)
		}, db.ReadCommitted())
		if err != nil && !errors.Is(err, errNothing) {
			return fmt.Errorf("expire task %s: %w", id, err)
		}
	}
	return nil
}

// errNothing undoes a transaction that has nothing to change.
var errNothing = errors.New("nothing to do")

func pairs(rows *sql.Rows) ([][2]string, error) {
	defer rows.Close()
	var out [][2]string
	for rows.Next() {
		var p [2]string
		if err := rows.Scan(&p[0], &p[1]); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}
