package task

import (
	"context"
	"time"
)

const (
	// watchSweep is the net below the wake-ups.
	watchSweep = 2 * time.Second
	// watchLines keeps a message well below a megabyte.
	watchLines = 200
)

// Watch calls send with a task of an organization and its new log lines, now
// and whenever something changed, until the task has ended, send fails or the
// context ends. Lines up to after were seen already. Changes that come close
// together are shown as one.
func (ts *Tasks) Watch(ctx context.Context, organization, id string, after uint64, send func(Task, []LogLine) error) error {
	wake, stop := ts.subscribe(id)
	defer stop()
	sweep := time.NewTicker(watchSweep)
	defer sweep.Stop()
	seen, far := int64(-1), Progress{}
	for {
		// First the row, then the lines: what an ended task has printed is all there.
		t, err := ts.Get(ctx, organization, id)
		if err != nil {
			return err
		}
		var lines []LogLine
		if uint64(t.logSequence) > after {
			if lines, err = readLog(ctx, ts.db.Reader(), id, after, watchLines); err != nil {
				return err
			}
		}
		more := len(lines) == watchLines
		if t.version != seen || len(lines) > 0 || t.Progress != far {
			seen, far = t.version, t.Progress
			show := t
			if more && t.State.Ended() {
				show, seen = unfinished(t), -1
			}
			if err := send(show, lines); err != nil {
				return err
			}
		}
		if len(lines) > 0 {
			after = lines[len(lines)-1].Sequence
		}
		if more {
			continue
		}
		if t.State.Ended() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-sweep.C:
		}
	}
}

// unfinished shows an ended task whose log is still being sent as running,
// since a stream ends after the message that shows a final state.
func unfinished(t Task) Task {
	t.State, t.Ended, t.Error = Running, time.Time{}, ""
	return t
}

// subscribe gives a channel that holds a token when the task may have changed.
func (ts *Tasks) subscribe(id string) (wake <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.watchers[id] == nil {
		ts.watchers[id] = map[chan struct{}]struct{}{}
	}
	ts.watchers[id][ch] = struct{}{}
	return ch, func() {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		delete(ts.watchers[id], ch)
		if len(ts.watchers[id]) == 0 {
			delete(ts.watchers, id)
		}
	}
}

// heard wakes those who watch a task, or everyone when hints were lost.
func (ts *Tasks) heard(topic, payload string) {
	if topic != TopicTask && topic != "" {
		return
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for id, channels := range ts.watchers {
		if topic == TopicTask && id != payload {
			continue
		}
		for ch := range channels {
			select {
			case ch <- struct{}{}:
			default: // there is a token already
			}
		}
	}
}
