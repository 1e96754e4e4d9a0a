// Package clock notices when somebody sets the machine's clock while the
// process runs. What happens by the wall clock, as leases, deadlines and times
// in the trash do, means nothing then, until it was looked at anew. It knows
// nothing of a clock that was wrong from the start: who deletes things waits a
// while after the start, in which it may be set.
package clock

import "time"

// Watch compares the wall clock with the monotonic one, which nobody can set.
// The zero value is ready; it is not for concurrent use.
type Watch struct{ last time.Time }

// Jump says by how much the wall clock went on more than the time that passed
// since the last call: below zero when it was set back. A clock that is slewed
// differs by parts of a thousand; a machine that slept shows its sleep. Now must
// come from time.Now as it is.
func (w *Watch) Jump(now time.Time) time.Duration {
	last := w.last
	w.last = now
	if last.IsZero() {
		return 0
	}
	passed := now.Sub(last)                  // by the monotonic clock
	shown := now.Round(0).Sub(last.Round(0)) // by the wall clock
	return shown - passed
}

// What counts as a jump, and how long it casts doubt on the time.
const (
	jumpMin  = 5 * time.Minute
	pauseFor = time.Hour
)

// Wall says whether the wall clock can be believed enough to end things by it: not for a while after it was set forward, in
// which somebody may set it right. The zero value is ready; it is not for concurrent use.
type Wall struct {
	watch Watch
	pause time.Time
}

// Trust is asked every few minutes. Now must come from time.Now as it is.
func (w *Wall) Trust(now time.Time) bool {
	if w.watch.Jump(now) > jumpMin {
		w.pause = now.Add(pauseFor)
	}
	return !now.Before(w.pause)
}
