package task

import (
	"fmt"
	"math/rand/v2"
	"time"

	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// Who asked for a task that failed asks again by itself, without a human (a new
// task, not another attempt): the next try's time is in the noun's row, written
// in the transaction that ends the task, and any process that finds it due may
// give the order. How long a noun rests grows with its failures in a row:
//
//	1, 2, 4, 4, 4 ... minutes    the host is as wanted within 5 minutes after what hindered it is over
//	1 hour                       from the 20th failure on: somebody has to look
//	1, 2, 4 ... 24 hours         where trying again can't help: the agent says so, or a person stopped the task
//
// A success, and every new thing that is wanted, begins the count anew. An agent
// that says Hello may be asked at once: something has changed on its host.
const (
	quickRest    = 4 * time.Minute
	quickTries   = 20
	slowRest     = time.Hour
	hopelessRest = 24 * time.Hour
)

// LongestRest is what no next try is ever farther ahead than: one that is was
// written by a clock that has been set back since, and is due.
const LongestRest = hopelessRest

// NextTry is when an order is given again whose task has failed, as the
// failures-th in a row. Result is what Ended was given.
func NextTry(t Task, result *orderv1.Result, failures int) time.Time {
	rest := restAfter(failures, hopeless(t, result))
	return t.Ended.Add(rest - rand.N(rest/4)) // what failed together is not tried again together
}

// hopeless says that the same order would hardly end better soon.
func hopeless(t Task, result *orderv1.Result) bool {
	return t.State == Canceled || result.GetPermanent()
}

func restAfter(failures int, hopeless bool) time.Duration {
	doublings := min(max(failures-1, 0), quickTries)
	switch {
	case hopeless:
		return min(slowRest<<doublings, hopelessRest)
	case failures >= quickTries:
		return slowRest
	default:
		return min(time.Minute<<doublings, quickRest)
	}
}

// TriedAgain says to people what went wrong and when it is tried again.
func TriedAgain(problem string, at time.Time) string {
	return fmt.Sprintf("%s; it is tried again at %s", problem, at.UTC().Format("2006-01-02 15:04:05 MST"))
}
