// Package clock distrusts the machine's clock where something is deleted because its time is over. A clock that is set forward
// makes things look overdue that are not, and what is deleted is gone. So after a jump nothing is due for a while, in
// which somebody may set the clock right.
package clock

import "time"

// What counts as a jump, and how long it casts doubt on the time.
const (
	jumpMin  = 5 * time.Minute
	pauseFor = time.Hour
)

// Wall watches the wall clock of this machine. Its zero value is ready. It is for one goroutine, which asks every few minutes.
type Wall struct {
	before, pause time.Time
}

// Trust reports whether the time can be believed enough to delete by it. now must come from time.Now.
func (w *Wall) Trust(now time.Time) bool {
	if !w.before.IsZero() && jumped(w.before, now) {
		w.pause = now.Add(pauseFor)
	}
	w.before = now
	return !now.Before(w.pause)
}

// jumped says whether the wall clock went on by much more than the time that passed.
func jumped(before, now time.Time) bool {
	passed := now.Sub(before)                  // by the monotonic clock
	shown := now.Round(0).Sub(before.Round(0)) // by the wall clock
	return jumpedBy(shown - passed)
}

func jumpedBy(d time.Duration) bool { return d > jumpMin }
