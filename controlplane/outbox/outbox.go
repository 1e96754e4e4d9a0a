// Package outbox carries what must reach somebody outside: mails and calls of webhooks. A noun puts an item in with the
// transaction of the change that it tells of; the outbox tries until it arrived, or until its time is over. It knows when to
// try, not what is carried: that stands with its noun, in a row with the item's id.
//
// The life of an item:
//
//	Enqueue -> WAITING --due, leased--> SENDING --arrived--------------------------> SENT
//	              ^                        |                                           |
//	              +-- failed: later again -+--- refused for good, or past its time --> DEAD
//	              |                                                                    |
//	              +------------------------------- Again ------------------------------+
//
// An item that is carried by a process that died is due again when its lease ends. So each arrives at least once, and
// whoever receives one twice must be able to tell: the id stays the same.
//
// Items of one lane are carried one at a time by each process, so that a receiver who is slow holds up nobody else. Any
// number of processes may share a database: an item is claimed by a conditional UPDATE of its row.
//
// # Why not River
//
// River, a queue for Go, was considered. What it inserts must go through a *sql.Tx or pgx.Tx; here many transactions of SQLite
// share one commit (package db), so that no *sql.Tx exists, and giving that up costs every noun more than the four
// statements of this package. Its rescue of lost jobs is tuned for hours; mails are waited for.
package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

// Topic is that of db.Listen by which new items are heard of; the payload is the queue.
const Topic = "outbox"

// State is where an item is in its life; see the drawing in the package comment.
type State string

// The states.
const (
	Waiting State = "waiting"
	Sending State = "sending"
	Sent    State = "sent"
	Dead    State = "dead"
)

// New describes an item to be.
type New struct {
	// Queue is the name of the one that it goes to.
	Queue string
	// Lane keeps items apart that must not be carried at the same time; empty for a lane of its own.
	Lane string
	// Life is how long it is tried. An item that was never tried by then is dead as well.
	Life time.Duration
}

// Enqueue adds an item in the caller's transaction and returns its id, a UUID that grows with time. Once that is committed, it
// is due. The caller writes what is to be carried under the same id in the same transaction.
func Enqueue(ctx context.Context, tx *db.Tx, n New) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("enqueue %s: %w", n.Queue, err)
	}
	lane := n.Lane
	if lane == "" {
		lane = id.String()
	}
	now := time.Now()
	if _, err := tx.Exec(ctx, `
		INSERT INTO outbox (id, queue, lane, state, due_at, deadline_at, tries, error, created_at)
		VALUES ($1, $2, $3, 'waiting', $4, $5, 0, '', $4)`,
		id.String(), n.Queue, lane, db.Micros(now), db.Micros(now.Add(n.Life))); err != nil {
		return "", fmt.Errorf("enqueue %s: %w", n.Queue, err)
	}
	tx.Notify(Topic, n.Queue)
	return id.String(), nil
}

// ErrSending is the answer to Again for an item that is just being carried.
var ErrSending = fault.Conflict("it is being sent at this moment")

// Again makes an item due now and gives it a new life, whatever became of it. It says ErrSending for one that is just being
// carried. That the item exists is the caller's to check.
func Again(ctx context.Context, tx *db.Tx, queue, id string, life time.Duration) error {
	now := time.Now()
	n, err := tx.Exec(ctx, `
		UPDATE outbox
		SET state = 'waiting',
		    due_at = $3,
		    deadline_at = $4,
		    tries = 0,
		    ended_at = NULL
		WHERE id = $1
		  AND queue = $2
		  AND state <> 'sending'`,
		id, queue, db.Micros(now), db.Micros(now.Add(life)))
	if err != nil {
		return fmt.Errorf("send %s %s again: %w", queue, id, err)
	}
	if n == 0 {
		return ErrSending
	}
	tx.Notify(Topic, queue)
	return nil
}

// Wake makes all waiting items of a lane due now: whatever kept them from arriving is believed to be over.
func Wake(ctx context.Context, tx *db.Tx, queue, lane string) error {
	if _, err := tx.Exec(ctx, `
		UPDATE outbox
		SET due_at = $3
		WHERE queue = $1
		  AND lane = $2
		  AND state = 'waiting'`,
		queue, lane, db.Micros(time.Now())); err != nil {
		return fmt.Errorf("wake %s lane %s: %w", queue, lane, err)
	}
	tx.Notify(Topic, queue)
	return nil
}
