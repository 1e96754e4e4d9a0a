package journal

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"
)

// Entry is what is written at once, or not at all. All parts are optional.
type Entry struct {
	// Decide completes the entry in the transaction that writes it, where all
	// that came before is in view. With an error nothing of the entry is written;
	// without one it may still fail. It must not block.
	Decide func(View, *Entry) error
	// Then is told what came of it, before Wait returns and in the order of
	// Submit. It must not block.
	Then func(error)

	Attempt *Attempt             // put in place of what was there; raises the host's fences
	Order   *orderv1.SignedOrder // of Attempt
	Step    *Step
	Site    *Site               // put in place of what was there; raises the next unix id
	Events  []*linkv1.TaskEvent // to be told, in this order

	order  []byte   // Order, serialized
	events [][]byte // Events, serialized
	claim  string   // server that the file belongs to from now on
	add    [][]byte // counters to add one to
	prune  *pruning
}

// Ticket is a write that was asked for.
type Ticket struct {
	entry   Entry
	refused error // why nothing of it was written, though its transaction was
	done    chan struct{}
	err     error
}

// Wait waits until the write has been synced, or has failed.
func (t *Ticket) Wait() error {
	<-t.done
	return t.err
}

func (t *Ticket) end(err error) {
	t.err = cmp.Or(err, t.refused)
	if t.entry.Then != nil {
		t.entry.Then(t.err)
	}
	close(t.done)
}

// Write writes the entry and returns once it has been synced.
func (j *Journal) Write(e Entry) error { return j.Submit(e).Wait() }

// Submit asks for the entry to be written and doesn't wait. Entries are
// written in the order of their Submit; those that come while a transaction is
// under way share the next one.
func (j *Journal) Submit(e Entry) *Ticket {
	t := &Ticket{entry: e, done: make(chan struct{})}
	if err := j.enqueue(t); err != nil {
		t.end(err)
	}
	return t
}

func (j *Journal) enqueue(t *Ticket) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.broken != nil:
		return j.broken
	case j.closed:
		return ErrClosed
	}
	j.queue = append(j.queue, t)
	if !j.writing {
		j.writing = true
		go j.drain()
	}
	return nil
}

// drain writes until nobody waits.
func (j *Journal) drain() {
	for {
		j.mu.Lock()
		batch := j.queue
		j.queue = nil
		if len(batch) == 0 {
			j.writing = false
			j.idle.Broadcast()
			j.mu.Unlock()
			return
		}
		broken, delivered := j.broken, j.delivered
		j.mu.Unlock()

		err := broken
		if err == nil {
			err = j.commit(batch, delivered)
		}
		for _, t := range batch {
			t.end(err)
		}
	}
}

// commit makes one transaction of a batch, and of the note that events up to a
// position were delivered.
func (j *Journal) commit(batch []*Ticket, delivered uint64) (err error) {
	defer guard(&err)()
	news := false
	err = j.db.Update(func(tx *bolt.Tx) error {
		if delivered > j.noted {
			if err := forget(tx, delivered); err != nil {
				return err
			}
		}
		for _, t := range batch {
			if t.refused = t.entry.complete(View{tx}); t.refused != nil {
				continue // alone: those who share its transaction must not suffer
			}
			news = news || len(t.entry.Events) > 0
			if err := t.entry.write(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		j.mu.Lock()
		j.noted = delivered
		notify := j.notify
		j.mu.Unlock()
		if news {
			notify()
		}
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if Full(err) {
		j.noteLater()                               // alone it may fit, and it makes room
		return fmt.Errorf("write journal: %w", err) // nothing was written, and it may work later
	}
	if j.broken == nil {
		j.broken = fmt.Errorf("%w: %w", ErrBroken, err)
		close(j.brokenC)
	}
	return j.broken
}

// Full reports whether a write failed for want of space, on the disk or within
// the journal's own limit, which heals by itself when there is some.
func Full(err error) bool {
	return errors.Is(err, bolterrors.ErrMaxSizeReached) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		err != nil && strings.Contains(err.Error(), syscall.ENOSPC.Error()) // bbolt flattens some errors to text
}

// complete makes the entry ready to be written.
func (e *Entry) complete(v View) (err error) {
	if e.Decide != nil {
		if err := e.Decide(v, e); err != nil {
			return err
		}
	}
	if e.Order != nil {
		if e.order, err = proto.Marshal(e.Order); err != nil {
			return fmt.Errorf("write order: %w", err)
		}
	}
	for _, ev := range e.Events {
		if _, err := contract.ParseTaskID(ev.TaskId); err != nil {
			return fmt.Errorf("write event: %w", err)
		}
		text, err := proto.Marshal(ev)
		if err != nil {
			return fmt.Errorf("write event: %w", err)
		}
		e.events = append(e.events, text)
	}
	return nil
}

func (e *Entry) write(tx *bolt.Tx) error {
	if a := e.Attempt; a != nil {
		if err := putJSON(tx.Bucket(bucketAttempts), a.Key().bytes(), a); err != nil {
			return err
		}
	}
	if e.order != nil {
		if err := e.writeOrder(tx); err != nil {
			return err
		}
	}
	if s := e.Step; s != nil {
		if err := putJSON(tx.Bucket(bucketSteps), append(s.Attempt.bytes(), s.Name...), s); err != nil {
			return err
		}
	}
	if s := e.Site; s != nil {
		if err := putJSON(tx.Bucket(bucketSites), uuidBytes(s.ID.String()), s); err != nil {
			return err
		}
		if err := raise(tx.Bucket(bucketCounters), keyNextUID, uint64(s.UID)+1); err != nil {
			return err
		}
	}
	for i, ev := range e.Events {
		if err := writeEvent(tx, ev, e.events[i]); err != nil {
			return err
		}
	}
	if e.claim != "" {
		if err := put(tx.Bucket(bucketMeta), keyServer, []byte(e.claim)); err != nil {
			return err
		}
	}
	if e.prune != nil {
		if err := e.prune.run(tx); err != nil {
			return err
		}
	}
	for _, name := range e.add {
		b := tx.Bucket(bucketCounters)
		n, err := getNumber(b, name)
		if err != nil {
			return err
		}
		if err := put(b, name, number(n+1)); err != nil {
			return err
		}
	}
	return nil
}

// writeOrder keeps an accepted order and raises the fences that it passed.
func (e *Entry) writeOrder(tx *bolt.Tx) error {
	if err := put(tx.Bucket(bucketOrders), e.Attempt.Key().bytes(), e.order); err != nil {
		return err
	}
	counters := tx.Bucket(bucketCounters)
	if e.Attempt.Site.IsZero() {
		if err := raise(counters, keyServerFence, e.Attempt.Fence); err != nil {
			return err
		}
	}
	return raise(counters, keyHighestFence, e.Attempt.Fence)
}
