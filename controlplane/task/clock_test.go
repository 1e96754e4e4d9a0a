package task

import (
	"testing"
	"time"

	"chom.dev/controlplane/clock/clocktest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

const year = 365 * 24 * time.Hour

// jumps are what somebody may set a clock by (I08).
var jumps = map[string]time.Duration{
	"an hour ahead": time.Hour, "an hour back": -time.Hour, "ten years ahead": 10 * year, "ten years back": -10 * year,
}

func TestHolds(t *testing.T) {
	start := time.Now()
	var h holds
	check := func(now time.Time, expires, prunes bool, when string) {
		t.Helper()
		h.look(now)
		if got := !now.Before(h.expire); got != expires {
			t.Errorf("%s: things expire: %t", when, got)
		}
		if got := !now.Before(h.prune); got != prunes {
			t.Errorf("%s: the past is pruned: %t", when, got)
		}
	}
	check(start, false, false, "at the start")
	check(start.Add(runLease-time.Second), false, false, "before agents had time to come back")
	check(start.Add(runLease), true, false, "after a lease")
	check(start.Add(pruneEvery), true, true, "after an hour")
	check(clocktest.Set(t, start.Add(2*time.Hour), 9*time.Second), true, true, "slewed a little")
	at := 3 * time.Hour
	for name, by := range jumps {
		check(start.Add(at), true, true, "before it is set "+name)
		check(clocktest.Set(t, start.Add(at+2*time.Second), by), false, false, name)
		check(clocktest.Set(t, start.Add(at+runLease), by), false, false, name+", soon after")
		check(clocktest.Set(t, start.Add(at+2*time.Second+runLease), by), true, false, name+", a lease later")
		check(clocktest.Set(t, start.Add(at+2*time.Second+pruneEvery), by), true, true, name+", an hour later")
		check(start.Add(at+2*time.Hour), false, false, "set right after "+name)
		at += 4 * time.Hour
	}
}

// TestClockSet is I08: no lease of an agent that is there is lost, whatever the clock is set to.
func TestClockSet(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		for name, by := range jumps {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, d)
				server := w.server()
				n := newSite(server).converge(1)
				n.Deadline = w.now.Add(20 * year) // a deadline is by the clock, and is kept by it
				made := w.enqueue(n)
				order := w.begin(server)
				running := []*linkv1.JournalEntry{entry(order, false)}

				for _, set := range []time.Duration{by, -by} { // and set right
					w.now = w.now.Add(set)
					// Run holds the sweep until every agent there is was heard of.
					if err := w.ts.Renew(t.Context(), server, running, w.now.Add(runLease/3)); err != nil {
						t.Fatal(err)
					}
					w.pass(runLease)
					w.want(made.ID, Running, "with its agent there")
				}
				w.pass(runLease)
				w.want(made.ID, Unknown, "with its agent gone")
				w.hello(server, false, entry(order, false))
				w.want(made.ID, Running, "once its agent is back")
				w.apply(server, event(order, 2, done))
				w.want(made.ID, Succeeded, "at the end")
				if len(w.ends) != 1 || order.Attempt != 1 {
					t.Errorf("it ended %d times, in attempt %d", len(w.ends), order.Attempt)
				}
			})
		}
		t.Run("a task that rests for a refusal is not forgotten", func(t *testing.T) {
			w := newWorld(t, d)
			server := w.server()
			w.enqueue(newSite(server).converge(1))
			order := w.offer(server)[0]
			w.apply(server, event(order, 1, refused))
			if orders := w.offer(server); len(orders) != 0 {
				t.Fatalf("offered at once: %v", orders)
			}
			w.now = w.now.Add(-10 * year)
			if orders := w.offer(server); len(orders) != 1 || orders[0].TaskId != order.TaskId {
				t.Errorf("ten years back came %v", orders)
			}
		})
	})
}
