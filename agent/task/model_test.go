package task

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"chom.dev/agent/journal"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// schedules is how many random schedules TestBadNetwork walks; more of them by
// CHOM_SCHEDULES.
const schedules = 1000

// TestBadNetwork drops, doubles, delays and reorders messages in both
// directions and kills the agent, by a random schedule per seed. Whatever
// happens, each task must take effect once, in the order of its site, and the
// control plane must learn of it.
func TestBadNetwork(t *testing.T) {
	n := schedules
	if s := os.Getenv("CHOM_SCHEDULES"); s != "" {
		n = must(strconv.Atoi(s))
	}
	seeds := make(chan uint64)
	var wg sync.WaitGroup
	for range 4 { // the walks mostly wait
		wg.Go(func() {
			for seed := range seeds {
				if !t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { walk(t, seed) }) {
					return
				}
			}
		})
	}
	for seed := range uint64(n) {
		if t.Failed() {
			break
		}
		seeds <- seed
	}
	close(seeds)
	wg.Wait()
}

// world is what the orders change on the host; it outlives the agent.
type world struct {
	mu      sync.Mutex
	effects map[string][]uint64 // generations that took effect, by site
}

func (w *world) has(site string, generation uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.effects[site] {
		if g == generation {
			return true
		}
	}
	return false
}

func (w *world) handler() Handler {
	return HandlerFunc(func(o Order) (Plan, error) {
		site, generation := o.Site.ID.String(), o.Message.GetConvergeSite().GetDesired().GetGeneration()
		return Plan{Steps: []Step{
			{Name: "look", Do: func(context.Context, *Log) error { return nil }},
			{
				Name:  "act",
				Probe: func(context.Context) (bool, string, error) { return w.has(site, generation), "", nil },
				Do: func(_ context.Context, log *Log) error {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.effects[site] = append(w.effects[site], generation)
					log.Printf("acted")
					return nil
				},
			},
		}}, nil
	})
}

// modelTask is a task in the model of the control plane.
type modelTask struct {
	id      string
	desired *sitev1.DesiredState
	attempt uint32
	open    bool // offered or running
	done    bool
}

// model is the control plane and the network.
type model struct {
	*host
	rng      *rand.Rand
	tasks    []*modelTask // of a site in order of generation
	bag      []func()     // messages on their way to the agent
	accepted map[string]int
}

func walk(t *testing.T, seed uint64) {
	w := &world{effects: map[string][]uint64{}}
	h := newHost(t)
	h.handlers[ConvergeSite] = w.handler()
	m := &model{host: h, rng: rand.New(rand.NewPCG(seed, 1)), accepted: map[string]int{}}
	for range 2 {
		d := desired()
		for g := range uint64(3) {
			d := clone(d)
			d.Generation = g + 1
			m.tasks = append(m.tasks, &modelTask{id: contract.NewTaskID().String(), desired: d})
		}
	}
	h.start()
	for deadline := time.Now().Add(20 * time.Second); !m.over(); {
		if time.Now().After(deadline) {
			t.Fatalf("tasks don't end: %+v", m.tasks)
		}
		m.act()
	}
	// Whatever is still on its way arrives too, late.
	for len(m.bag) > 0 {
		m.deliver()
	}
	for h.engine.Busy() > 0 {
		time.Sleep(time.Millisecond)
	}
	h.end()
	for site, done := range w.effects {
		for i, g := range done {
			if g != uint64(i+1) {
				t.Fatalf("site %s: generations took effect as %v", site, done)
			}
		}
	}
	if len(w.effects) != 2 || len(w.effects[m.tasks[0].desired.SiteId]) != 3 || len(w.effects[m.tasks[3].desired.SiteId]) != 3 {
		t.Fatalf("effects are %v", w.effects)
	}
}

func (m *model) over() bool {
	for _, task := range m.tasks {
		if !task.done {
			return false
		}
	}
	return true
}

// act lets one random thing happen.
func (m *model) act() {
	switch n := m.rng.IntN(100); {
	case n < 25:
		m.offerNext()
	case n < 55:
		m.deliver()
	case n < 90:
		m.report()
	case n < 95:
		m.hello()
	case n < 97:
		m.host.kill()
		m.host.start()
		m.hello()
	default:
		time.Sleep(time.Duration(m.rng.IntN(1000)) * time.Microsecond)
	}
}

// offerNext offers what is at the head of a site's queue.
func (m *model) offerNext() {
	for _, i := range m.rng.Perm(len(m.tasks)) {
		task := m.tasks[i]
		head := i%3 == 0 || m.tasks[i-1].done
		if task.done || task.open || !head {
			continue
		}
		task.attempt++
		task.open = true
		so := m.sign(m.order(converge(task.desired), func(o *orderv1.Order) { o.TaskId, o.Attempt = task.id, task.attempt }))
		m.put(func() { m.engine.Offer(so) })
		return
	}
}

// put sends a message to the agent, which may lose or double it.
func (m *model) put(message func()) {
	switch n := m.rng.IntN(10); {
	case n < 2:
	case n < 4:
		m.bag = append(m.bag, message, message)
	default:
		m.bag = append(m.bag, message)
	}
}

// deliver hands over any message, the newest as well as the oldest.
func (m *model) deliver() {
	if len(m.bag) == 0 {
		return
	}
	i := m.rng.IntN(len(m.bag))
	message := m.bag[i]
	m.bag[i] = m.bag[len(m.bag)-1]
	m.bag = m.bag[:len(m.bag)-1]
	message()
}

// report takes a batch; the request or the answer may get lost.
func (m *model) report() {
	b, err := m.engine.Outbox(1+m.rng.IntN(5), 1<<20)
	if err != nil {
		m.t.Fatal(err)
	}
	lost := m.rng.IntN(10)
	if lost == 0 {
		return
	}
	for _, ev := range b.Events {
		m.learn(ev)
	}
	if lost != 1 {
		m.engine.Delivered(b)
	}
}

// learn takes an event as the control plane does: each number once.
func (m *model) learn(ev *linkv1.TaskEvent) {
	key := attemptOf(ev.TaskId, ev.Attempt)
	had := len(m.events[key])
	m.heard(ev)
	if len(m.events[key]) == had {
		return
	}
	if ev.GetAccepted() != nil {
		if m.accepted[key]++; m.accepted[key] > 1 {
			m.t.Fatalf("attempt %s was accepted twice", key)
		}
	}
	for _, task := range m.tasks {
		if r := ev.GetResult(); r != nil && task.id == ev.TaskId && task.attempt == ev.Attempt {
			task.open = false
			task.done = task.done || r.Outcome == orderv1.Outcome_OUTCOME_SUCCEEDED
		}
	}
}

// hello compares the journal with the open tasks, as after each reconnect and
// each lost lease.
func (m *model) hello() {
	held, err := m.engine.Holdings()
	if err != nil {
		m.t.Fatal(err)
	}
	known := map[journal.Key]*linkv1.JournalEntry{}
	for _, e := range held.Journal {
		known[journal.Key{Task: must(contract.ParseTaskID(e.TaskId)), Number: e.Attempt}] = e
	}
	for _, task := range m.tasks {
		if !task.open {
			continue
		}
		e := known[journal.Key{Task: must(contract.ParseTaskID(task.id)), Number: task.attempt}]
		switch {
		case e == nil:
			task.open = false // it may be offered again, as the next attempt
		case e.Ended:
			m.engine.Resend([]*linkv1.JournalEntry{e})
		}
	}
}
