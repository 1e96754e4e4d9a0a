package journal

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

// Event is one that the control plane may not have yet.
type Event struct {
	Position uint64 // grows with time
	Event    *linkv1.TaskEvent
}

func writeEvent(tx *bolt.Tx, ev *linkv1.TaskEvent, text []byte) error {
	task, err := contract.ParseTaskID(ev.TaskId)
	if err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	b := tx.Bucket(bucketEvents)
	position, err := b.NextSequence()
	if err != nil {
		return err
	}
	if err := put(b, number(position), text); err != nil {
		return err
	}
	return raise(tx.Bucket(bucketSequences), Key{task, ev.Attempt}.bytes(), ev.Sequence)
}

// Events gives the oldest undelivered events, up to a count and about a size
// in bytes, at least one if there is one. All tells whether these are all.
func (j *Journal) Events(count, size int) (out []Event, all bool, err error) {
	j.mu.Lock()
	after := j.delivered
	j.mu.Unlock()
	err = j.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketEvents).Cursor()
		for k, v := c.Seek(number(after + 1)); ; k, v = c.Next() {
			if k == nil {
				all = true
				return nil
			}
			if len(out) == count {
				return nil
			}
			text, err := open1(bucketEvents, k, v)
			if err != nil {
				return err
			}
			if size -= len(text); size < 0 && len(out) > 0 {
				return nil
			}
			ev := new(linkv1.TaskEvent)
			if err := proto.Unmarshal(text, ev); err != nil {
				return fmt.Errorf("%w: event: %w", ErrCorrupt, err)
			}
			out = append(out, Event{binary.BigEndian.Uint64(k), ev})
		}
	})
	return out, all, err
}

// noteAfter is how long the note that events were delivered waits for another
// write to go with: a transaction of its own would hold up the next order.
const noteAfter = time.Second

// Delivered says that the control plane has all events up to a position. The
// file learns of it with the next write, or a second later. Should the note be
// lost, some events are sent again and ignored.
func (j *Journal) Delivered(position uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.delivered = max(j.delivered, position)
	j.noteLater()
}

// noteLater sees to it that the note gets written. Called with mu held.
func (j *Journal) noteLater() {
	if j.delivered > j.noted && j.noting == nil {
		j.noting = time.AfterFunc(noteAfter, j.note)
	}
}

// note writes what no other write has taken along.
func (j *Journal) note() {
	j.mu.Lock()
	j.noting = nil
	due := j.delivered > j.noted
	j.mu.Unlock()
	if due {
		j.Submit(Entry{})
	}
}

// forget deletes delivered events and marks the attempts whose end was among
// them.
func forget(tx *bolt.Tx, upTo uint64) error {
	b := tx.Bucket(bucketEvents)
	var keys [][]byte
	c := b.Cursor()
	for k, v := c.First(); k != nil && binary.BigEndian.Uint64(k) <= upTo; k, v = c.Next() {
		keys = append(keys, slices.Clone(k))
		text, err := open1(bucketEvents, k, v)
		if err != nil {
			return err
		}
		ev := new(linkv1.TaskEvent)
		if err := proto.Unmarshal(text, ev); err != nil {
			return fmt.Errorf("%w: event: %w", ErrCorrupt, err)
		}
		if ev.GetResult() == nil {
			continue
		}
		task, err := contract.ParseTaskID(ev.TaskId)
		if err != nil {
			return fmt.Errorf("%w: event: %w", ErrCorrupt, err)
		}
		var a Attempt
		key := Key{task, ev.Attempt}.bytes()
		if found, err := getJSON(tx.Bucket(bucketAttempts), key, &a); err != nil {
			return err
		} else if found {
			a.Delivered = true
			if err := putJSON(tx.Bucket(bucketAttempts), key, a); err != nil {
				return err
			}
		}
	}
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
