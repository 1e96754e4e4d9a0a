package task

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// TestModel drives the queue and a model of an agent with a journal through a
// network that loses, doubles and reorders, in random schedules. The model
// knows what truly happened on the host; the queue must never contradict it.
func TestModel(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		rapid.Check(t, func(rt *rapid.T) {
			w := newWorld(rt, d)
			m := &model{world: w, server: w.server(), began: map[string]*attempt{}, offered: map[string]bool{}, over: map[string]State{}}
			m.sites = []site{newSite(m.server), newSite(m.server)}
			rt.Repeat(map[string]func(*rapid.T){
				"":        m.check,
				"enqueue": m.enqueueAny,
				"offer":   func(*rapid.T) { m.offerAll() },
				"deliver": m.deliver,
				"lose":    m.lose,
				"work":    m.work,
				"report":  m.report,
				"hello":   func(*rapid.T) { m.sayHello() },
				"renew":   func(*rapid.T) { m.renew() },
				"time":    func(rt *rapid.T) { w.pass(time.Duration(rapid.IntRange(1, 100).Draw(rt, "seconds")) * time.Second) },
				"cancel":  m.cancelAny,
			})
			m.settle()
		})
	})
}

// attempt is one try as the host knows it.
type attempt struct {
	order    *orderv1.Order
	started  bool // false: it was refused
	outcome  orderv1.Outcome
	sequence uint64
	events   []*linkv1.TaskEvent // told or not, oldest first
}

func (a *attempt) say(e *linkv1.TaskEvent) { a.sequence++; a.events = append(a.events, e) }

func (a *attempt) end(o orderv1.Outcome) {
	a.outcome = o
	a.say(event(a.order, a.sequence+1, result(o, "")))
}

func (a *attempt) running() bool { return a.started && a.outcome == 0 }

// model is one agent, its network, and what was seen of the queue.
type model struct {
	*world
	server     string
	sites      []site
	generation uint64

	tasks    []string            // all that were asked for
	inFlight []*orderv1.Order    // on the stream
	began    map[string]*attempt // the journal, by task and attempt
	journal  []string            // its keys, oldest first
	offered  map[string]bool     // task and attempt
	over     map[string]State    // ends that were seen
	fence    uint64
}

func key(task string, attempt uint32) string { return fmt.Sprintf("%s/%d", task, attempt) }

func (m *model) enqueueAny(rt *rapid.T) {
	n := New{Server: m.server, Kind: Noop, Parameters: &orderv1.Noop{}}
	if about := rapid.IntRange(0, 4).Draw(rt, "about"); about > 0 {
		m.generation++
		s := m.sites[about%2]
		n = s.converge(m.generation)
		if about > 2 {
			n = s.login()
		}
	}
	n.Deadline = m.now.Add(time.Duration(rapid.IntRange(60, 3600).Draw(rt, "deadline")) * time.Second)
	if open := m.count(`SELECT COUNT(*) FROM tasks WHERE server_id = $1 AND ended_at IS NULL`, m.server); open > 15 || !n.Deadline.After(time.Now()) {
		return
	}
	m.tasks = append(m.tasks, m.enqueue(n).ID)
}

// offerAll takes what is offered, and checks that it may be.
func (m *model) offerAll() {
	for _, o := range m.offer(m.server) {
		k := key(o.TaskId, o.Attempt)
		if m.offered[k] {
			m.t.Fatalf("%s was offered twice", k)
		}
		m.offered[k] = true
		if o.Fence <= m.fence {
			m.t.Fatalf("fence %d after %d", o.Fence, m.fence)
		}
		m.fence = o.Fence
		for n := uint32(1); n < o.Attempt; n++ {
			if a := m.began[key(o.TaskId, n)]; a != nil && a.started {
				m.t.Fatalf("%s was offered although attempt %d had started", k, n)
			}
		}
		if o.SiteId != "" {
			earlier := m.count(`SELECT COUNT(*) FROM tasks WHERE site_id = $1 AND ended_at IS NULL
				AND sequence < (SELECT sequence FROM tasks WHERE id = $2)`, o.SiteId, o.TaskId)
			if earlier > 0 {
				m.t.Fatalf("%s overtook %d tasks of its site", k, earlier)
			}
		}
		m.inFlight = append(m.inFlight, o)
	}
}

// deliver brings an order to the agent, which may keep a copy on the wire.
func (m *model) deliver(rt *rapid.T) {
	if len(m.inFlight) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.inFlight)-1).Draw(rt, "order")
	o := m.inFlight[i]
	if !rapid.Bool().Draw(rt, "again") {
		m.inFlight = slices.Delete(m.inFlight, i, i+1)
	}
	m.take(o, rapid.IntRange(0, 5).Draw(rt, "refuse") == 0)
}

func (m *model) take(o *orderv1.Order, refuse bool) {
	k := key(o.TaskId, o.Attempt)
	if m.began[k] != nil {
		return // known: what was said about it stays on its way
	}
	a := &attempt{order: o, started: !refuse}
	m.began[k] = a
	m.journal = append(m.journal, k)
	if refuse {
		a.end(orderv1.Outcome_OUTCOME_REFUSED)
		return
	}
	a.say(event(o, 1, &linkv1.Accepted{StepCount: 1}))
}

func (m *model) lose(rt *rapid.T) {
	if len(m.inFlight) > 0 {
		i := rapid.IntRange(0, len(m.inFlight)-1).Draw(rt, "order")
		m.inFlight = slices.Delete(m.inFlight, i, i+1)
	}
}

// work lets a running attempt go on.
func (m *model) work(rt *rapid.T) {
	k := m.one(rt, func(a *attempt) bool { return a.running() })
	if k == "" {
		return
	}
	a := m.began[k]
	switch rapid.IntRange(0, 4).Draw(rt, "what") {
	case 0:
		a.say(event(a.order, a.sequence+1, &linkv1.StepStarted{Name: "database"}))
	case 1:
		a.say(event(a.order, a.sequence+1, finished))
	case 2:
		a.say(event(a.order, a.sequence+1, &linkv1.LogText{Text: "line"}))
	case 3:
		a.end(orderv1.Outcome_OUTCOME_SUCCEEDED)
	case 4:
		a.end(rapid.SampledFrom([]orderv1.Outcome{
			orderv1.Outcome_OUTCOME_FAILED, orderv1.Outcome_OUTCOME_CANCELED, orderv1.Outcome_OUTCOME_TIMED_OUT,
		}).Draw(rt, "outcome"))
	}
}

func (m *model) one(rt *rapid.T, which func(*attempt) bool) string {
	var keys []string
	for _, k := range m.journal {
		if which(m.began[k]) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return ""
	}
	return rapid.SampledFrom(keys).Draw(rt, "attempt")
}

// report brings some events of one or two attempts, in any order, some twice.
// Nothing is crossed off: all of it may come again.
func (m *model) report(rt *rapid.T) {
	var batch []*linkv1.TaskEvent
	for range rapid.IntRange(1, 2).Draw(rt, "attempts") {
		if k := m.one(rt, func(*attempt) bool { return true }); k != "" {
			batch = append(batch, rapid.SliceOfN(rapid.SampledFrom(m.began[k].events), 1, 4).Draw(rt, "events")...)
		}
	}
	m.apply(m.server, batch...)
}

func (m *model) sayHello() {
	m.inFlight = nil // its stream is closed before it reads its journal
	var journal []*linkv1.JournalEntry
	for _, k := range m.journal {
		a := m.began[k]
		journal = append(journal, entry(a.order, !a.running()))
	}
	for _, e := range m.hello(m.server, false, journal...) {
		a := m.began[key(e.TaskId, e.Attempt)]
		m.apply(m.server, a.events[len(a.events)-1])
		if s := m.get(e.TaskId).State; !s.Ended() && s != Queued {
			m.t.Fatalf("task %s is %s after its result was asked for and given", e.TaskId, s)
		}
	}
}

func (m *model) renew() {
	var running []*linkv1.JournalEntry
	for _, k := range m.journal {
		if a := m.began[k]; a.running() {
			running = append(running, entry(a.order, false))
		}
	}
	if err := m.ts.Renew(context.Background(), m.server, running, m.now); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) cancelAny(rt *rapid.T) {
	if len(m.tasks) == 0 {
		return
	}
	t := m.get(rapid.SampledFrom(m.tasks).Draw(rt, "task"))
	if !t.State.Ended() {
		if _, err := m.cancel(t); err != nil {
			m.t.Fatal(err)
		}
	}
}

// check holds after every action.
func (m *model) check(*rapid.T) {
	m.t.Helper()
	busy, lanes := 0, map[string]int{}
	for _, id := range m.tasks {
		t := m.get(id)
		if was, ok := m.over[id]; ok && t.State != was {
			m.t.Fatalf("task %s went from %s to %s", id, was, t.State)
		}
		if t.State.Ended() {
			m.over[id] = t.State
			m.agrees(t)
			continue
		}
		if t.State != Queued {
			busy++
			lanes[t.Site]++
			if t.Site != "" && lanes[t.Site] > 1 {
				m.t.Fatalf("two tasks of site %s at once", t.Site)
			}
		}
	}
	if busy > slots {
		m.t.Fatalf("%d attempts at once", busy)
	}
}

// agrees compares an end with what truly happened on the host.
func (m *model) agrees(t Task) {
	a := m.began[key(t.ID, t.Attempt)]
	var truth orderv1.Outcome
	if a != nil {
		truth = a.outcome
	}
	ok := false
	switch t.State {
	case Succeeded:
		ok = truth == orderv1.Outcome_OUTCOME_SUCCEEDED
	case Failed:
		ok = truth == orderv1.Outcome_OUTCOME_FAILED ||
			truth == orderv1.Outcome_OUTCOME_CANCELED || // without being asked
			truth == orderv1.Outcome_OUTCOME_REFUSED // too often
	case Canceled:
		ok = a == nil || truth == orderv1.Outcome_OUTCOME_CANCELED || truth == orderv1.Outcome_OUTCOME_REFUSED
	case TimedOut:
		ok = truth == orderv1.Outcome_OUTCOME_TIMED_OUT || !m.now.Before(t.Deadline)
	}
	if !ok {
		m.t.Fatalf("task %s is %s (%q), its attempt %d on the host is %+v", t.ID, t.State, t.Error, t.Attempt, a)
	}
}

// settle heals the network; then everything must end, and rightly so.
func (m *model) settle() {
	for range 200 {
		m.sayHello()
		m.offerAll()
		for _, o := range m.inFlight {
			m.take(o, false)
		}
		for _, k := range m.journal {
			if a := m.began[k]; a.running() {
				a.end(orderv1.Outcome_OUTCOME_SUCCEEDED)
			}
			m.apply(m.server, m.began[k].events...)
		}
		m.check(nil)
		if len(m.over) == len(m.tasks) {
			break
		}
		m.pass(10 * time.Second)
	}
	if len(m.over) != len(m.tasks) {
		m.t.Fatalf("%d of %d tasks ended", len(m.over), len(m.tasks))
	}
	heard := map[string]int{}
	for _, e := range m.ends {
		if e.Server != m.server {
			continue // left behind by a schedule that failed
		}
		if heard[e.ID]++; heard[e.ID] > 1 || e.State != m.over[e.ID] {
			m.t.Fatalf("the noun heard that %s is %s, %d times; it is %s", e.ID, e.State, heard[e.ID], m.over[e.ID])
		}
	}
	for _, id := range m.tasks {
		if t := m.get(id); heard[id] == 0 && t.Generation == 0 {
			m.t.Fatalf("the noun did not hear of the end of %s", id)
		}
	}
}
