package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/clock"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fail"
)

// Item is something that is carried.
type Item struct {
	ID       string
	Lane     string
	Tries    int // with this one
	Created  time.Time
	Deadline time.Time // no try begins after it
}

// Result is how a try ended.
type Result struct {
	// Err is nil when the item arrived. Permanent and Later say more of it; any other error is tried again. Its text is kept:
	// it holds no secret.
	Err error
	// Record, where it is set, runs in the transaction that notes the end of the try, with the state that the item has from
	// then on. The transaction is ReadCommitted, may run several times, and does not run if another process has the item by now.
	Record func(ctx context.Context, tx *db.Tx, now State) error
}

// Queue is how one kind of items is carried.
type Queue struct {
	Name string
	// Workers is how many items are carried at once, by each process.
	Workers int
	// Timeout ends a try.
	Timeout time.Duration
	Backoff Backoff
	// Carry tries to bring an item to its receiver. It must return soon after its context ends.
	Carry func(ctx context.Context, item Item) Result
	// Keep, where it is set, is called every minute to remove what is of no use any more.
	Keep func(ctx context.Context, now time.Time) error
}

// Outbox carries the items of its queues. Make it with Open.
type Outbox struct {
	db      *db.DB
	log     *slog.Logger
	metrics *metrics
	queues  []*queue
}

// Open prepares the outbox of a database. It does nothing by itself before Run.
func Open(d *db.DB, log *slog.Logger, reg prometheus.Registerer) (*Outbox, error) {
	m, err := newMetrics(reg)
	if err != nil {
		return nil, fmt.Errorf("open outbox: %w", err)
	}
	return &Outbox{db: d, log: log, metrics: m}, nil
}

// Add adds a queue, before Run.
func (o *Outbox) Add(q Queue) {
	o.queues = append(o.queues, &queue{
		Queue: q, db: o.db, log: o.log.With("queue", q.Name), metrics: o.metrics,
		lanes: map[string]bool{}, wake: make(chan struct{}, 1),
	})
}

const (
	// sweepEvery is the net below the wake-ups, and the precision of due times.
	sweepEvery = 2 * time.Second
	// leaseSlack is what a try may take beyond its timeout before others take its process for dead.
	leaseSlack = 30 * time.Second
	// grace is what tries under way get to end by themselves when the process stops: a mail that is cut off after its last
	// line arrives twice.
	grace = 2 * time.Second
	// noteWithin bounds one go at noting the end of a try, also after everything else stopped.
	noteWithin = 2 * time.Second
)

// Run carries until ctx ends, and then waits for the tries under way, 4 seconds at most.
func (o *Outbox) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	defer loops.Wait()
	for _, q := range o.queues {
		loops.Go(func() { q.run(ctx) })
	}
	loops.Go(func() {
		// Only the context or the end of the database ends it; the queues sweep too.
		_ = o.db.Listen(ctx, o.heard)
	})
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	var wall clock.Wall
	for {
		now := time.Now()
		if err := o.keep(ctx, now, wall.Trust(now)); err != nil && ctx.Err() == nil {
			o.log.Error("the outbox was not counted and pruned; it is in a minute", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (o *Outbox) heard(topic, payload string) {
	for _, q := range o.queues {
		if topic == "" || topic == Topic && payload == q.Name {
			q.hint()
		}
	}
}

// queue is one that runs.
type queue struct {
	Queue
	db      *db.DB
	log     *slog.Logger
	metrics *metrics
	wake    chan struct{} // holds a token when there may be something to do

	mu    sync.Mutex
	lanes map[string]bool // those of the items that are carried now
}

func (q *queue) hint() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) run(ctx context.Context) {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var tries sync.WaitGroup
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var wall clock.Wall
	for ctx.Err() == nil {
		now := time.Now()
		trusted := wall.Trust(now)
		items, err := q.claim(ctx, now)
		if err != nil && ctx.Err() == nil {
			q.log.Error("the outbox was not read; it is in two seconds", "err", err)
		}
		for _, item := range items {
			tries.Go(func() {
				q.try(work, item, trusted)
				q.leave(item)
				q.hint() // its worker is free
			})
		}
		select {
		case <-ctx.Done():
		case <-q.wake:
		case <-tick.C:
		}
	}
	defer time.AfterFunc(grace, stop).Stop()
	tries.Wait()
}

// claim leases as many due items as there are free workers, each of a lane that is free. Two processes that pick the same
// item are told apart by its row: the second finds it leased.
func (q *queue) claim(ctx context.Context, now time.Time) ([]Item, error) {
	picked, err := q.pick(ctx, now)
	if err != nil || len(picked) == 0 {
		return nil, err
	}
	args := []any{db.Micros(now), db.Micros(now.Add(q.Timeout + leaseSlack))}
	for _, id := range picked {
		args = append(args, id)
	}
	var items []Item
	err = db.InTx(ctx, q.db, func(tx *db.Tx) error {
		items = nil
		rows, err := tx.Query(ctx, `
			UPDATE outbox
			SET state = 'sending',
			    due_at = $2,
			    tries = tries + 1
			WHERE id IN (`+db.Placeholders(3, len(picked))+`)
			  AND state IN ('waiting', 'sending')
			  AND due_at <= $1
			RETURNING id, lane, tries, created_at, deadline_at`, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var item Item
			var created, deadline int64
			if err := rows.Scan(&item.ID, &item.Lane, &item.Tries, &created, &deadline); err != nil {
				return err
			}
			item.Created, item.Deadline = db.Time(created), db.Time(deadline)
			items = append(items, item)
		}
		return rows.Err()
	}, db.ReadCommitted())
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, item := range items {
		q.lanes[item.Lane] = true
	}
	return items, nil
}

// pick finds the ids of due items: the oldest of each free lane, for the free workers.
func (q *queue) pick(ctx context.Context, now time.Time) ([]string, error) {
	q.mu.Lock()
	free := q.Workers - len(q.lanes)
	q.mu.Unlock()
	if free <= 0 {
		return nil, nil
	}
	// At most Workers lanes are busy, so that twice as many rows hold enough free ones.
	rows, err := q.db.Reader().Query(ctx, `
		SELECT id, lane
		FROM (
			SELECT id, lane, due_at, ROW_NUMBER() OVER (PARTITION BY lane ORDER BY due_at, id) AS place
			FROM outbox
			WHERE queue = $1
			  AND state IN ('waiting', 'sending')
			  AND due_at <= $2) AS due
		WHERE place = 1
		ORDER BY due_at, id
		LIMIT $3`,
		q.Name, db.Micros(now), 2*q.Workers)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	q.mu.Lock()
	defer q.mu.Unlock()
	var picked []string
	for rows.Next() {
		var id, lane string
		if err := rows.Scan(&id, &lane); err != nil {
			return nil, err
		}
		if len(picked) < free && !q.lanes[lane] {
			picked = append(picked, id)
		}
	}
	return picked, rows.Err()
}

// leave gives the item's lane free.
func (q *queue) leave(item Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.lanes, item.Lane)
}

var (
	errTooLate = errors.New("its time was over before it could be sent")
	errStopped = errors.New("the control plane stopped while it was sent")
)

// try carries one item and notes what became of it. Only a trusted clock says that it is too late for it.
func (q *queue) try(ctx context.Context, item Item, trusted bool) {
	began := time.Now()
	result := Result{Err: Permanent(errTooLate)}
	if began.Before(item.Deadline) || !trusted {
		result = q.carry(ctx, item)
		fail.Point("outbox." + q.Name + ".carried")
	}
	if result.Err != nil && ctx.Err() != nil {
		result = Result{Err: Later(errStopped, 0)}
	}
	d := decide(item, result.Err, q.Backoff, time.Now(), trusted, rand.Float64())
	if err := q.note(ctx, item, d, result.Record, began.Add(q.Timeout+leaseSlack)); err != nil {
		q.log.Error("the end of a try was not noted; the item is tried again", "id", item.ID, "state", string(d.state), "err", err)
		return
	}
	q.metrics.tries.WithLabelValues(q.Name, string(d.state)).Observe(time.Since(began).Seconds())
	if d.state == Dead {
		q.log.Warn("an item of the outbox is dead", "id", item.ID, "tries", item.Tries, "err", d.text)
	}
}

// carry calls Carry within its time. A panic is a failed try: others go on.
func (q *queue) carry(ctx context.Context, item Item) (result Result) {
	ctx, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	defer func() {
		if caught := recover(); caught != nil {
			q.log.Error("panic while carrying", "id", item.ID, "panic", fmt.Sprint(caught), "stack", string(debug.Stack()))
			result = Result{Err: errors.New("internal error; the control plane's log has it")}
		}
	}()
	return q.Carry(ctx, item)
}

// note writes the decision, as long as the lease lasts: an item that arrived and is not noted arrives twice.
func (q *queue) note(ctx context.Context, item Item, d decision, record func(context.Context, *db.Tx, State) error, until time.Time) error {
	for {
		err := q.noteOnce(ctx, item, d, record)
		if err == nil || ctx.Err() != nil || time.Now().Add(sweepEvery).After(until) {
			return err
		}
		q.log.Warn("the end of a try is not noted yet", "id", item.ID, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(sweepEvery):
		}
	}
}

func (q *queue) noteOnce(ctx context.Context, item Item, d decision, record func(context.Context, *db.Tx, State) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteWithin)
	defer cancel()
	counted := 0
	if !d.counted {
		counted = -1
	}
	var ended sql.NullInt64
	if d.state != Waiting {
		ended = db.NullMicros(time.Now())
	}
	return db.InTx(ctx, q.db, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `
			UPDATE outbox
			SET state = $3,
			    due_at = $4,
			    tries = tries + $5,
			    error = $6,
			    ended_at = $7
			WHERE id = $1
			  AND tries = $2
			  AND state = 'sending'`,
			item.ID, item.Tries, string(d.state), db.Micros(d.due), counted, d.text, ended)
		if err != nil {
			return fmt.Errorf("note %s %s: %w", q.Name, item.ID, err)
		}
		if n == 0 || record == nil {
			return nil // another process has it, or has noted it: a commit whose answer was lost
		}
		return record(ctx, tx, d.state)
	}, db.ReadCommitted())
}
