package swarm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"time"

	"chom.dev/agent/clock"
	"chom.dev/agent/identity"
	"chom.dev/agent/journal"
	"chom.dev/agent/link"
	"chom.dev/agent/swarm/ledger"
	"chom.dev/agent/task"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// agent is one simulated server: files that last, a host that lasts, and one
// process after the other.
//
//	enrol -> life 1 -> killed -> dead for a while -> life 2 -> ...
type agent struct {
	swarm *Swarm
	index int
	dir   string
	host  *host
	lives int

	mu   sync.Mutex
	life *life // nil while it is dead or not enrolled
	id   *identity.Identity
}

// life is one process of an agent.
type life struct {
	number  int
	journal *journal.Journal
	engine  *task.Engine
	link    *link.Link
	stop    context.CancelFunc
	killed  chan struct{} // closed by kill

	// Held while the world or the ledger are changed, so that a dead process
	// changes neither.
	mu    sync.Mutex
	dead  bool
	conns []net.Conn
}

func newAgent(s *Swarm, index int, dir string) *agent {
	return &agent{swarm: s, index: index, dir: dir, host: newHost()}
}

// run enrols, if need be, and then lives and dies until the context ends.
func (a *agent) run(ctx context.Context) error {
	store, err := identity.NewStore(filepath.Join(a.dir, "identity"))
	if err != nil {
		return err
	}
	id, err := store.Current()
	if errors.Is(err, identity.ErrNone) {
		id, err = a.enrol(ctx, store)
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	a.mu.Lock()
	a.id = id
	a.mu.Unlock()
	for ctx.Err() == nil {
		if err := a.live(ctx, store); err != nil {
			return err
		}
		if !sleep(ctx, rand.N(a.swarm.cfg.DeadFor)) {
			return nil
		}
	}
	return nil
}

// enrol asks until it is an agent, or is told no.
func (a *agent) enrol(ctx context.Context, store *identity.Store) (*identity.Identity, error) {
	select {
	case a.swarm.enrolling <- struct{}{}:
		defer func() { <-a.swarm.enrolling }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	text, err := a.swarm.tokens.next()
	if err != nil {
		return nil, err
	}
	token, err := identity.ParseToken(text)
	if err != nil {
		return nil, err
	}
	return link.Enroll(ctx, store, a.swarm.cfg.Server, token, a.facts(ctx), a.swarm.cfg.Log)
}

// live is one process, from its start to its kill.
func (a *agent) live(ctx context.Context, store *identity.Store) error {
	l := &life{number: a.lives + 1, killed: make(chan struct{})}
	var err error
	server := a.id.Server
	if l.journal, err = journal.Open(filepath.Join(a.dir, "journal.db"), server.String(), a.swarm.cfg.Log); err != nil {
		return err
	}
	a.lives++
	a.append(l, ledger.Entry{What: ledger.Born})
	now := &clock.Clock{}
	l.engine, err = task.New(task.Config{
		Server: server, Journal: l.journal, Handlers: a.handlers(l), Signers: a.id.Signers, Clock: now, Log: a.swarm.cfg.Log,
		Trace: func(m task.Moment) { a.trace(l, m) },
	})
	if err != nil {
		return err
	}
	l.link = link.New(link.Config{
		Address: a.swarm.cfg.Server, Identity: store, Tasks: l.engine, Clock: now, Log: a.swarm.cfg.Log,
		Facts: a.facts, Samples: a.samples(), Dial: l.dial, SampleEvery: a.swarm.cfg.SampleEvery, Logs: logs{},
	})
	running, stop := context.WithCancel(context.Background())
	l.stop = stop
	a.mu.Lock()
	a.life = l
	a.mu.Unlock()
	// What these return is of no interest: both end by being killed, and a
	// journal that was cut off under them is part of that.
	var work sync.WaitGroup
	var linkErr error
	work.Go(func() { _ = l.engine.Run(running) })
	work.Go(func() { linkErr = l.link.Run(running) })
	select {
	case <-ctx.Done():
		a.kill()
	case <-l.killed:
	case <-l.journal.Broken():
		a.kill()
		work.Wait()
		return fmt.Errorf("journal in %s is broken: is the disk full, or too few files allowed?", a.dir)
	}
	work.Wait()
	if linkErr != nil && !errors.Is(linkErr, journal.ErrClosed) {
		return linkErr
	}
	return nil
}

// kill ends the agent's process without a warning, if it has one.
func (a *agent) kill() {
	a.mu.Lock()
	l := a.life
	a.life = nil
	a.mu.Unlock()
	if l == nil {
		return
	}
	l.journal.Abandon() // from here on nothing it does is remembered
	l.mu.Lock()
	l.dead = true
	a.swarm.cfg.Ledger.Append(ledger.Entry{Agent: a.id.Server.String(), Life: l.number, What: ledger.Killed})
	for _, c := range l.conns {
		c.Close() // there is nothing left to lose
	}
	l.mu.Unlock()
	l.stop()
	close(l.killed)
	a.swarm.kills.Add(1)
}

// append writes for a life, unless it is dead.
func (a *agent) append(l *life, e ledger.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return
	}
	e.Agent, e.Life = a.id.Server.String(), l.number
	a.swarm.cfg.Ledger.Append(e)
}

// trace keeps the turns of an attempt.
func (a *agent) trace(l *life, m task.Moment) {
	e := entryOf(m.Order)
	e.What, e.Name, e.Outcome = m.What, m.Name, m.Outcome
	switch m.What {
	case ledger.Accepted:
		e.Steps = effectsOf(m.Order)
		a.swarm.accepted.Add(1)
	case ledger.Result:
		a.swarm.ended.Add(1)
	}
	a.append(l, e)
}

func entryOf(o task.Order) ledger.Entry {
	return ledger.Entry{Task: o.Task.String(), Attempt: o.Attempt, Fence: o.Fence, Site: o.Site.ID.String()}
}

// dial remembers the connection, so that a kill can cut it.
func (l *life) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: 15 * time.Second}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		c.Close() // nobody is left to use it
		return nil, net.ErrClosed
	}
	l.conns = append(l.conns[:0:0], c) // the former one is closed by now
	return c, nil
}

func (a *agent) count(c *Counts) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.id != nil {
		c.Enrolled++
	}
	if a.life == nil {
		return
	}
	c.Busy += a.life.engine.Busy()
	if st := a.life.link.State(); st.Phase == link.Connected {
		c.Connected++
		if st.Polling {
			c.Polling++
		}
	}
}

func (a *agent) facts(context.Context) *fleetv1.Facts {
	return &fleetv1.Facts{
		Hostname: fmt.Sprintf("swarm-%05d", a.index+1), Os: "debian 12", Arch: "amd64", Kernel: "6.1.0", AgentVersion: "0.0.0-swarm",
		CpuCount: 2, MemoryBytes: 2 << 30, DiskBytes: 40 << 30, DiskFreeBytes: 30 << 30, Addresses: []string{"192.0.2.1"},
		PhpVersion: "8.2", NginxVersion: "1.22.1", MariadbVersion: "10.11", Prepared: true,
	}
}

// samples makes as many as asked for, that change a little each time, and what the host measures.
func (a *agent) samples() func(context.Context) []*linkv1.Sample {
	n := a.swarm.cfg.Samples
	if n == 0 && !a.swarm.cfg.Measure {
		return nil
	}
	return func(context.Context) []*linkv1.Sample {
		var out []*linkv1.Sample
		for i := range n {
			out = append(out, &linkv1.Sample{Series: fmt.Sprintf("swarm_metric{number=\"%d\"}", i), Value: rand.Float64()})
		}
		if a.swarm.cfg.Measure {
			out = append(out, a.host.measure(time.Now())...)
		}
		return out
	}
}
