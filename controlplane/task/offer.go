package task

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fail"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

const (
	// slots is how many attempts a server has at once. Its agent works on a few
	// of them, and holds the others in its journal: when one ends, the next does
	// not wait for the network.
	slots = 16
	// lookAhead bounds how far behind a blocked site others are looked for.
	lookAhead = 2000
)

// ErrStale says that a link's epoch is over, or that its server is not in
// service any more: nothing may be sent over it.
var ErrStale = errors.New("the link's epoch is over")

// Outbox is what an agent is to be told now.
type Outbox struct {
	Offers  []*orderv1.SignedOrder
	Cancels []*linkv1.Cancel // of attempts that were asked to stop, told or not
	// Lost says that an attempt became UNKNOWN after since (see Offer): the
	// agent should be made to say Hello again, since only its journal knows.
	Lost bool
	// Waiting says that tasks wait for others to end (TopicFree), or rest.
	Waiting bool
}

// waiting is what the choice of the next offers needs of an open task.
type waiting struct {
	id        string
	sequence  int64
	site      string
	kind      Kind
	state     State
	attempt   uint32
	notBefore time.Time
	deadline  time.Time
	cancel    bool
	lost      time.Time
}

// pick chooses which tasks to offer next, from a server's open ones in their
// order: one at a time per site, and for PREPARE_SERVER; a task never overtakes
// an earlier one of its site, even one that rests.
func pick(open []waiting, now time.Time) []string {
	free := slots
	busy := map[string]bool{}
	for _, w := range open {
		if w.state != Queued {
			free--
			busy[w.lane()] = w.lane() != ""
		}
	}
	var picked []string
	for _, w := range open {
		if w.state != Queued || busy[w.lane()] {
			continue
		}
		busy[w.lane()] = w.lane() != "" // taken, or rests: in both cases no other one of its lane passes
		if len(picked) < free && !rests(w.notBefore, now) && now.Before(w.deadline) {
			picked = append(picked, w.id)
		}
	}
	return picked
}

// lane is where only one task runs at a time; empty for those without order.
func (w waiting) lane() string {
	switch {
	case w.site != "":
		return w.site
	case w.kind == PrepareServer:
		return string(PrepareServer)
	default:
		return ""
	}
}

// rests says that an agent refused a task and is not asked again yet. A rest
// that is longer than any was set by a clock that has been set back since.
func rests(notBefore, now time.Time) bool {
	left := notBefore.Sub(now)
	return left > 0 && left <= refusalsMax*refusalPause
}

// Offer gives what the agent of a server is to be told over the link of an
// epoch, and moves what it offers to OFFERED. Since is when that epoch began. It
// writes nothing when there is nothing to offer. ErrStale ends the link.
//
// Whoever calls it must send what it gives: an offer that is lost on the way is
// UNKNOWN after 30 s.
func (ts *Tasks) Offer(ctx context.Context, server string, epoch int64, since time.Time) (Outbox, error) {
	return ts.offerAt(ctx, server, epoch, since, time.Now())
}

func (ts *Tasks) offerAt(ctx context.Context, server string, epoch int64, since, now time.Time) (Outbox, error) {
	open, err := openTasks(ctx, ts.db.Reader(), server, ts.oldest.of(server))
	if err != nil {
		return Outbox{}, fmt.Errorf("offer to server %s: %w", server, err)
	}
	if len(open) > 0 {
		ts.oldest.is(server, open[0].sequence)
	}
	var out Outbox
	queued := 0
	for _, w := range open {
		if w.cancel && w.state != Queued {
			out.Cancels = append(out.Cancels, &linkv1.Cancel{TaskId: w.id, Attempt: w.attempt})
		}
		out.Lost = out.Lost || w.state == Unknown && w.lost.After(since)
		if w.state == Queued {
			queued++
		}
	}
	picked := pick(open, now)
	out.Waiting = queued > len(picked)
	if len(picked) == 0 {
		return out, nil
	}
	fail.Point("task.offer")
	var created []time.Time
	err = db.InTx(ctx, ts.db, func(tx *db.Tx) error {
		out.Offers, created = nil, nil
		return ts.offer(ctx, tx, server, epoch, picked, now, func(t Task, so *orderv1.SignedOrder) {
			out.Offers = append(out.Offers, so)
			if t.Attempt == 1 {
				created = append(created, t.Created)
			}
		})
	}, db.ReadCommitted())
	if errors.Is(err, errNothing) {
		return out, nil
	}
	if err != nil {
		return Outbox{}, fmt.Errorf("offer to server %s: %w", server, err)
	}
	for _, c := range created {
		ts.metrics.offered.Observe(time.Since(c).Seconds())
	}
	return out, nil
}

// offer takes the server's link, on which all of its offers and its Hello wait
// for each other, and offers what was picked. That it was picked before the link
// was ours does no harm: what stood before a task in its lane has ended for good,
// and whether the task itself still waits shows when it is locked.
func (ts *Tasks) offer(ctx context.Context, tx *db.Tx, server string, epoch int64, picked []string, now time.Time, give func(Task, *orderv1.SignedOrder)) error {
	var fence int64
	err := tx.QueryRow(ctx, `
		UPDATE server_links
		SET fence = fence + $2
		WHERE server_id = $1
		RETURNING fence`, server, len(picked)).Scan(&fence)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrStale
	}
	if err != nil {
		return err
	}
	fence -= int64(len(picked))
	changed := false
	for _, id := range picked {
		t, parameters, seal, err := lockOrder(ctx, tx, server, epoch, id)
		if err != nil {
			return err
		}
		fence++
		if !t.offer(fence, now) {
			continue // it was canceled or offered a moment ago
		}
		changed = true
		var so *orderv1.SignedOrder
		if !tx.CheckOrder(seal, t.sealed(parameters)...) {
			ts.log.Error("task was made or changed outside of CHOM and is not sent", "task", id, "server", server)
			t.end(Failed, "its order was made or changed outside of CHOM", now)
		} else if so, err = t.sign(ts.signer, parameters, now); err != nil {
			// Nobody could ever do it: better an end than a queue that stands.
			ts.log.Error("order can't be made", "task", id, "err", err)
			t.end(Failed, "its order can't be made", now)
		}
		if err := ts.save(ctx, tx, &t, nil); err != nil {
			return err
		}
		if so != nil {
			give(t, so)
		}
	}
	if !changed {
		return errNothing
	}
	return nil
}

// lockOrder is lock, with what the order is made of. It says ErrStale when the
// epoch is over or the server not in service; only after the link is ours can
// that not change any more.
func lockOrder(ctx context.Context, tx *db.Tx, server string, epoch int64, id string) (t Task, parameters, seal []byte, err error) {
	var serves int
	t, err = scan(tx.QueryRow(ctx, `
		SELECT `+columns+`, parameters, seal,
			(SELECT COUNT(*) FROM servers WHERE id = tasks.server_id AND epoch = $3 AND state IN ('active', 'draining'))
		FROM tasks
		WHERE id = $1
		AND server_id = $2`+tx.ForUpdate(), id, server, epoch), &parameters, &seal, &serves)
	if err == nil && serves == 0 {
		err = ErrStale
	}
	return t, parameters, seal, err
}

// openTasks gives a server's tasks that have not ended, from a sequence on, in
// their order.
func openTasks(ctx context.Context, q db.Querier, server string, from int64) ([]waiting, error) {
	rows, err := q.Query(ctx, `
		SELECT id, sequence, site_id, kind, state, attempt, not_before, deadline_at, cancel_requested_at, lease_expires_at
		FROM tasks
		WHERE server_id = $1
		AND sequence >= $2
		AND state IN ('queued', 'offered', 'running', 'unknown')
		ORDER BY sequence
		LIMIT $3`, server, from, lookAhead)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var open []waiting
	for rows.Next() {
		var w waiting
		var notBefore, deadline int64
		var cancel, lease sql.NullInt64
		if err := rows.Scan(&w.id, &w.sequence, &w.site, &w.kind, &w.state, &w.attempt, &notBefore, &deadline, &cancel, &lease); err != nil {
			return nil, err
		}
		w.notBefore, w.deadline, w.cancel, w.lost = db.Time(notBefore), db.Time(deadline), cancel.Valid, db.NullTime(lease)
		open = append(open, w)
	}
	return open, rows.Err()
}

// oldest remembers where each server's open tasks begin. PostgreSQL keeps what
// has ended in its indexes for a minute or so, and would else pass thousands of
// dead entries in search of the first one that lives. It never moves back: an
// end is for ever, and sequences become visible in their order.
type oldest struct {
	mu       sync.Mutex
	byServer map[string]int64
}

func (o *oldest) of(server string) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.byServer[server]
}

func (o *oldest) is(server string, sequence int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.byServer[server] = max(o.byServer[server], sequence)
}

// Due gives the servers that have something to be told, or attempts that are
// UNKNOWN. A process asks it every few seconds, for wake-ups may be lost.
func (ts *Tasks) Due(ctx context.Context) ([]string, error) {
	rows, err := ts.db.Reader().Query(ctx, `
		SELECT DISTINCT server_id
		FROM tasks
		WHERE state IN ('queued', 'offered', 'running', 'unknown')
		AND (state IN ('queued', 'unknown') OR cancel_requested_at IS NOT NULL)`)
	if err != nil {
		return nil, fmt.Errorf("find servers with tasks: %w", err)
	}
	defer rows.Close()
	var servers []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		servers = append(servers, id)
	}
	return servers, rows.Err()
}
