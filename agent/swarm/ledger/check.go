package ledger

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Rules that a ledger must keep:
//
//	numbers    lines are numbered 1, 2, 3 ...: nothing is missing
//	life       only a living process acts, and only as itself
//	fence      fences of accepted attempts grow, for each site of each agent
//	once       an attempt is accepted at most once and started at most once,
//	           and nothing of it happens before that
//	order      of a site one attempt runs at a time, in the order of acceptance
//	effect     each effect of a task happens once, over all its attempts
//	end        an attempt ends at most once, and does nothing after it
//	lost       what the control plane calls succeeded has had all its effects
//	unheard    what succeeded here is known to the control plane

// Finding is a rule that was broken.
type Finding struct {
	Line uint64 // 0 for what is missing altogether
	Rule string
	Text string
}

func (f Finding) String() string { return fmt.Sprintf("line %d: %s: %s", f.Line, f.Rule, f.Text) }

// maxFindings ends a check that found enough.
const maxFindings = 100

// Summary is what a ledger holds.
type Summary struct {
	Lines, Agents, Kills, Attempts, Resumed, Effects, Succeeded int
}

// Check reads a ledger. Succeeded are the tasks that the control plane calls
// succeeded, nil to leave that comparison out. The error is of reading alone.
func Check(in io.Reader, succeeded []string) (Summary, []Finding, error) {
	c := &checker{agents: map[string]*agent{}, tasks: map[string]*taskState{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		c.line++
		var e Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			c.find("numbers", "not an entry: %v", err)
			continue
		}
		c.entry(e)
		if len(c.findings) >= maxFindings {
			break
		}
	}
	if err := lines.Err(); err != nil {
		return Summary{}, nil, fmt.Errorf("read ledger: %w", err)
	}
	c.sum.Lines, c.sum.Agents = int(c.line), len(c.agents)
	if succeeded != nil && len(c.findings) < maxFindings {
		c.compare(succeeded)
	}
	return c.sum, c.findings, nil
}

type checker struct {
	line     uint64
	sum      Summary
	findings []Finding
	agents   map[string]*agent
	tasks    map[string]*taskState
}

type agent struct {
	life     int
	alive    bool
	lanes    map[string]*lane
	attempts map[string]*attempt
}

// lane is a site of an agent.
type lane struct {
	fence   uint64
	waiting []string // accepted and not ended, in order
	running string   // in this life
}

type attempt struct {
	accepted, started, ended bool
	begunIn                  int // life of the last start or resume
}

type taskState struct {
	agent     string
	steps     int             // effects to come, 0 when not known
	effects   map[string]bool // by step
	succeeded bool            // a result says so
	lastLife  int             // of the last thing that happened to it
}

func (c *checker) find(rule, format string, args ...any) {
	c.findings = append(c.findings, Finding{c.line, rule, fmt.Sprintf(format, args...)})
}

func (c *checker) entry(e Entry) {
	if e.N != c.line {
		c.find("numbers", "it has number %d", e.N)
	}
	a := c.agents[e.Agent]
	if a == nil {
		a = &agent{lanes: map[string]*lane{}, attempts: map[string]*attempt{}}
		c.agents[e.Agent] = a
	}
	switch e.What {
	case Born:
		if a.alive || e.Life != a.life+1 {
			c.find("life", "life %d begins, and life %d was the last (alive: %v)", e.Life, a.life, a.alive)
		}
		a.life, a.alive = e.Life, true
		for _, l := range a.lanes {
			l.running = ""
		}
		return
	case Killed:
		c.sum.Kills++
		if !a.alive || e.Life != a.life {
			c.find("life", "life %d is killed, and life %d is the last (alive: %v)", e.Life, a.life, a.alive)
		}
		a.alive = false
		return
	}
	if !a.alive || e.Life != a.life {
		c.find("life", "%s by life %d, and life %d is the last (alive: %v)", e.What, e.Life, a.life, a.alive)
	}
	c.act(a, e)
}

// act checks what an agent did for an attempt.
func (c *checker) act(a *agent, e Entry) {
	key := fmt.Sprintf("%s/%d", e.Task, e.Attempt)
	at := a.attempts[key]
	if at == nil {
		at = &attempt{}
		a.attempts[key] = at
		c.sum.Attempts++
	}
	l := a.lanes[e.Site]
	if l == nil {
		l = &lane{}
		a.lanes[e.Site] = l
	}
	t := c.tasks[e.Task]
	if t == nil {
		t = &taskState{agent: e.Agent, effects: map[string]bool{}}
		c.tasks[e.Task] = t
	}
	if t.agent != e.Agent {
		c.find("once", "task %s is done by agent %s and by agent %s", e.Task, t.agent, e.Agent)
	}
	t.lastLife = a.life
	if at.ended {
		c.find("end", "%s of attempt %s, which has ended", e.What, key)
	}
	switch e.What {
	case Accepted:
		if at.accepted || at.started {
			c.find("once", "attempt %s is accepted again", key)
		}
		if e.Fence <= l.fence {
			c.find("fence", "attempt %s has fence %d, and %d was there before", key, e.Fence, l.fence)
		}
		l.fence = max(l.fence, e.Fence)
		at.accepted, t.steps = true, e.Steps
		l.waiting = append(l.waiting, key)
	case Started, Resumed:
		c.begin(a, l, at, key, e)
	case Effect:
		c.sum.Effects++
		c.mustRun(a, l, at, key, e)
		if t.effects[e.Name] {
			c.find("effect", "step %s of task %s takes effect again", e.Name, e.Task)
		}
		t.effects[e.Name] = true
	case Step:
		c.mustRun(a, l, at, key, e)
	case Result:
		c.mustRun(a, l, at, key, e)
		at.ended = true
		l.running = ""
		l.waiting = slices.DeleteFunc(l.waiting, func(k string) bool { return k == key })
		if e.Outcome == "succeeded" {
			c.sum.Succeeded++
			t.succeeded = true
			if t.steps > 0 && len(t.effects) != t.steps {
				c.find("effect", "task %s succeeded with %d of %d effects", e.Task, len(t.effects), t.steps)
			}
		}
	default:
		c.find("numbers", "%q is unknown", e.What)
	}
}

// begin checks the start of an attempt, or its going on in a later life.
func (c *checker) begin(a *agent, l *lane, at *attempt, key string, e Entry) {
	if l.running != "" {
		c.find("order", "attempt %s starts while %s of the same site runs", key, l.running)
	}
	switch {
	case e.What == Started && !at.accepted:
		c.find("once", "attempt %s starts and was not accepted", key)
	case e.What == Started && at.started:
		c.find("once", "attempt %s is started again", key)
	case e.What == Resumed && a.life == 1:
		c.find("once", "attempt %s is resumed by the first process", key)
	case e.What == Resumed && at.begunIn == a.life:
		c.find("once", "attempt %s is resumed in the life that it began in", key)
	}
	if e.What == Resumed {
		c.sum.Resumed++
		// The kill may have come between the journal and this ledger.
		if !at.accepted {
			at.accepted = true
			l.fence = max(l.fence, e.Fence)
			l.waiting = append(l.waiting, key)
		}
	}
	// Everything before it in the lane must have ended; what was killed
	// between its journal and this ledger has ended unseen, and is over once a
	// later one begins in a later life.
	for len(l.waiting) > 0 && l.waiting[0] != key {
		first := a.attempts[l.waiting[0]]
		if first.begunIn == a.life || !first.started || a.life == 1 {
			c.find("order", "attempt %s starts before %s, which was accepted earlier", key, l.waiting[0])
			break
		}
		first.ended = true
		l.waiting = l.waiting[1:]
	}
	at.started, at.begunIn, l.running = true, a.life, key
}

// mustRun checks that an attempt runs now.
func (c *checker) mustRun(a *agent, l *lane, at *attempt, key string, e Entry) {
	if at.begunIn != a.life || l.running != key {
		c.find("once", "%s of attempt %s, which does not run in this life", e.What, key)
	}
}

// compare holds the ledger against what the control plane says.
func (c *checker) compare(succeeded []string) {
	c.line = 0
	known := make(map[string]bool, len(succeeded))
	for _, id := range succeeded {
		known[id] = true
		t := c.tasks[id]
		switch {
		case t == nil:
			c.find("lost", "task %s succeeded, says the control plane, and nothing was done for it", id)
		case t.succeeded:
		case t.steps > 0 && len(t.effects) == t.steps && c.agents[t.agent].life > t.lastLife:
			// Its end was killed between the journal and this ledger.
		default:
			c.find("lost", "task %s succeeded, says the control plane, with %d of %d effects and no result", id, len(t.effects), t.steps)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.tasks)) {
		if c.tasks[id].succeeded && !known[id] {
			c.find("unheard", "task %s succeeded, and the control plane does not know", id)
		}
	}
}
