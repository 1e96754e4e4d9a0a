// Package swarm runs thousands of agents in one process: the real identity,
// journal, task engine and link, each with its own files and its own
// connection, on fake hosts. It is how the control plane is loaded, and how
// the agent's promises are proved: agents are killed at random, and what they
// did is kept in a ledger (package ledger) that neither side writes.
//
// A kill is as near to SIGKILL as one process allows: the journal is cut off,
// all memory is dropped, connections are closed, and the next life reads what
// is on disk.
package swarm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/agent/swarm/ledger"
)

// Config is what a swarm is made of.
type Config struct {
	Server string        // host:port of the agents' door
	Dir    string        // a directory per agent; identities in it are used again
	Agents int           // how many
	Tokens io.Reader     // a join token per line, read as they are needed; nil when all agents are enrolled
	Ramp   time.Duration // the agents start evenly over this time
	Ledger *ledger.Writer
	Log    *slog.Logger

	KillEvery time.Duration // mean time between two kills over the whole swarm; 0 kills nobody
	DeadFor   time.Duration // longest time that a killed agent stays away; 0 means 2 s
	StepTime  time.Duration // longest time that a step of a site's order takes
	Samples   int           // metrics without a meaning that each agent reports
	Measure   bool          // each agent also reports what a web server would measure of itself and of its sites
	// SampleEvery is the time between two reports of metrics; 0 means a minute.
	SampleEvery time.Duration
	Seed        uint64 // of the schedule of kills
}

// Swarm is a running swarm.
type Swarm struct {
	cfg    Config
	agents []*agent

	enrolling chan struct{} // slots: a token's half hour is long, a control plane's patience is not
	tokens    *tokens

	accepted, ended, effects, kills atomic.Int64
}

// Counts is the swarm at a moment.
type Counts struct {
	Agents    int   `json:"agents"`
	Enrolled  int   `json:"enrolled"`
	Connected int   `json:"connected"`
	Polling   int   `json:"polling"`
	Busy      int   `json:"busy"` // attempts under way
	Accepted  int64 `json:"accepted"`
	Ended     int64 `json:"ended"`
	Effects   int64 `json:"effects"`
	Kills     int64 `json:"kills"`
}

const enrolAtOnce = 16

// New makes a swarm. Nothing happens before Run.
func New(cfg Config) (*Swarm, error) {
	if cfg.DeadFor == 0 {
		cfg.DeadFor = 2 * time.Second
	}
	s := &Swarm{cfg: cfg, enrolling: make(chan struct{}, enrolAtOnce), tokens: &tokens{}}
	if cfg.Tokens != nil {
		s.tokens.lines = bufio.NewScanner(cfg.Tokens)
	}
	for i := range cfg.Agents {
		dir := filepath.Join(cfg.Dir, fmt.Sprintf("agent-%05d", i+1))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make agent's directory: %w", err)
		}
		s.agents = append(s.agents, newAgent(s, i, dir))
	}
	return s, nil
}

// Run lives until the context ends, and kills every agent then. An error is
// one of this machine; a control plane that is away is none.
func (s *Swarm) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, a := range s.agents {
		g.Go(func() error {
			delay := time.Duration(0)
			if s.cfg.Agents > 1 {
				delay = s.cfg.Ramp * time.Duration(i) / time.Duration(s.cfg.Agents)
			}
			if !sleep(ctx, delay) {
				return nil
			}
			if err := a.run(ctx); err != nil {
				return fmt.Errorf("agent %d: %w", i+1, err)
			}
			return nil
		})
	}
	if s.cfg.KillEvery > 0 {
		g.Go(func() error { return s.killer(ctx) })
	}
	return g.Wait()
}

// killer kills agents by a schedule that its seed decides.
func (s *Swarm) killer(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(s.cfg.Seed, 0))
	for {
		pause := time.Duration(rng.ExpFloat64() * float64(s.cfg.KillEvery))
		victim := s.agents[rng.IntN(len(s.agents))]
		if !sleep(ctx, pause) {
			return nil
		}
		victim.kill()
	}
}

// KillAll kills every agent at once.
func (s *Swarm) KillAll() {
	var all sync.WaitGroup
	for _, a := range s.agents {
		all.Go(a.kill)
	}
	all.Wait()
}

// Counts counts.
func (s *Swarm) Counts() Counts {
	c := Counts{
		Agents: len(s.agents), Accepted: s.accepted.Load(), Ended: s.ended.Load(), Effects: s.effects.Load(), Kills: s.kills.Load(),
	}
	for _, a := range s.agents {
		a.count(&c)
	}
	return c
}

// tokens gives join tokens out, one at a time.
type tokens struct {
	mu    sync.Mutex
	lines *bufio.Scanner
}

var errNoToken = errors.New("there are fewer join tokens than agents")

func (t *tokens) next() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.lines != nil && t.lines.Scan() {
		if line := strings.TrimSpace(t.lines.Text()); line != "" {
			return line, nil
		}
	}
	if t.lines != nil && t.lines.Err() != nil {
		return "", fmt.Errorf("read join tokens: %w", t.lines.Err())
	}
	return "", errNoToken
}

// sleep waits, and tells whether it did so to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
