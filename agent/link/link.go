// Package link is the agent's one outgoing connection to the control plane:
// what it is told comes down, what happened goes up. It decides nothing about
// orders and keeps nothing: what is to be told stays in the journal until the
// control plane has it.
//
//	          +--------------------- any error, Drain, new certificate ----------------------+
//	          v                                                                              |
//	WAITING (backoff, drain window, 60 s and more when refused) -> Hello -> CONNECTED -------+
//	                                                                  |        Watch, or Poll where streams break
//	                                                                  |        Report: heartbeats and all that happened
//	                                                                  |        Renew, once half of the certificate's life is over
//	                                                                  v
//	                                             stale epoch: Hello again at once
//
// The backoff ends at 20 s, not at a minute: an agent is to be back 30 s after
// its control plane, and who comes too early is turned away before TLS, which
// costs next to nothing.
//
// There is one connection at a time, over HTTP/2 and TLS 1.3 with the agent's
// certificate. A proxy from the environment is not used: it would see who
// speaks with whom, and could not speak mutual TLS for us anyway.
package link

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"chom.dev/agent/clock"
	"chom.dev/agent/identity"
	"chom.dev/agent/task"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// Tasks is what the link needs of the task engine.
type Tasks interface {
	Holdings() (task.Holdings, error)
	Offer(*orderv1.SignedOrder)
	Cancel(task string, attempt uint32)
	Resend([]*linkv1.JournalEntry)
	Running() []*linkv1.JournalEntry
	Outbox(count, size int) (task.Batch, error)
	Delivered(task.Batch)
	Busy() int
	Wake() <-chan struct{}
	SetSigners([]ed25519.PublicKey)
}

// Config is what a Link needs.
type Config struct {
	Address  string // host:port of the agents' door
	Identity *identity.Store
	Tasks    Tasks
	Clock    *clock.Clock // set from each Hello
	Log      *slog.Logger

	Facts   func(context.Context) *fleetv1.Facts                    // what the host is; must not be nil
	Samples func(context.Context) []*linkv1.Sample                  // newest metrics; nil sends none
	Dial    func(context.Context, string, string) (net.Conn, error) // nil dials TCP

	SampleEvery time.Duration // between two gatherings of samples; 0 means a minute

	Issuance func(*linkv1.Issuance) error // takes in where certificates come from; nil for nobody who asks

	Logs Logs // of sites, for who looks at them; nil shows none
}

// Link keeps the connection. Make it with New.
type Link struct {
	cfg      Config
	instance string        // of this process, for Hello
	refresh  chan struct{} // holds a token when the facts are to be told anew

	brokers brokers

	// Only Run's own goroutine uses these.
	failures  int  // in a row, for the backoff
	avoidNext bool // the next identity was refused, try the current one

	mu          sync.Mutex
	state       State
	aliveUntil  time.Time // Run shows progress until then, or hangs
	streamFails int       // Watch calls in a row that brought nothing
	pollUntil   time.Time // Watch is not tried before
	current     *session  // nil while the link is down
}

// Phase is where the link is in its life.
type Phase string

// The phases.
const (
	Connecting Phase = "connecting"
	Connected  Phase = "connected"
	Waiting    Phase = "waiting" // until the next try
)

// State is the link as people see it.
type State struct {
	Phase       Phase     `json:"phase"`
	Since       time.Time `json:"since"`
	Polling     bool      `json:"polling,omitempty"` // streams break on the way here
	LastContact time.Time `json:"last_contact,omitzero"`
	NextTry     time.Time `json:"next_try,omitzero"`
	Problem     string    `json:"problem,omitempty"` // why it is not connected
}

const (
	firstWait   = time.Second
	longestWait = 20 * time.Second // with a dial that hangs meanwhile: back within 30 s of the control plane
	refusedWait = time.Minute      // a revoked or quarantined agent waits for an operator, who is not that fast
	maxDrain    = 10 * time.Minute
	maxRetry    = 10 * time.Minute // a longer retry_after is a mistake
	steady      = 10 * time.Second // a connection that lasts this long was a good one
	maxShort    = 3                // failures that count on after a Hello: who answers is not overwhelmed
	slack       = 15 * time.Second // beyond a phase's own limit before it counts as hung
)

// New makes a link. It does nothing before Run.
func New(cfg Config) *Link {
	return &Link{
		cfg: cfg, instance: identity.NewInstance(), refresh: make(chan struct{}, 1), brokers: newBrokers(),
		state:      State{Phase: Connecting, Since: time.Now()},
		aliveUntil: time.Now().Add(time.Minute),
	}
}

// Run keeps the link up until the context ends. Only a broken identity or
// journal on the host's own disk ends it early.
func (l *Link) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		began := time.Now()
		err := l.session(ctx)
		if local := (localError{}); errors.As(err, &local) {
			return local.error
		}
		if time.Since(began) > steady {
			l.failures = 0
		}
		wait, why := l.after(err)
		if why != "" && ctx.Err() == nil {
			l.cfg.Log.Warn("link is down", "err", why, "retry_in", wait.Round(time.Millisecond))
		}
		if wait > 0 {
			l.progress(wait + slack)
			l.set(State{Phase: Waiting, NextTry: time.Now().Add(wait), Problem: why})
			sleep(ctx, wait)
		}
	}
	return nil
}

// localError is one of this host, which no reconnect can heal.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// after says how long to wait after a session's end, and what to show people.
func (l *Link) after(err error) (wait time.Duration, why string) {
	var drain drained
	switch {
	case errors.Is(err, errTryOther):
		return 0, ""
	case l.failures == 0 && (errors.Is(err, errStale) || errors.Is(err, errRenewed)):
		l.failures++ // once at once; a second time in a row something is wrong
		return 0, ""
	case errors.As(err, &drain):
		l.failures = 0
		return rand.N(min(max(drain.window, firstWait), maxDrain)), ""
	case refused(err):
		return refusedWait + rand.N(refusedWait), err.Error()
	}
	wait = backoff(l.failures, rand.Float64())
	l.failures++
	// Somebody who says when to come back knows better; the jitter stays, for
	// the others were told the same.
	if after := retryAfter(err); after > 0 {
		wait += min(after, maxRetry)
	}
	return wait, err.Error()
}

// backoff is exponential with full jitter; random is from 0 to 1.
func backoff(failures int, random float64) time.Duration {
	limit := longestWait
	if failures < 6 { // 2^6 s is above the longest
		limit = min(firstWait<<failures, longestWait)
	}
	return max(time.Duration(random*float64(limit)), 50*time.Millisecond)
}

// RefreshFacts has the facts told again soon, because something about the host
// has changed.
func (l *Link) RefreshFacts() {
	select {
	case l.refresh <- struct{}{}:
	default: // there is a token already
	}
}

// State gives the link as people see it.
func (l *Link) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Alive tells whether Run made progress or waits as designed. False means that
// it hangs, which nothing but a new process heals.
func (l *Link) Alive() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if late := time.Since(l.aliveUntil); late > 0 {
		return fmt.Errorf("link hangs in phase %s for %s", l.state.Phase, late.Round(time.Second))
	}
	return nil
}

// progress says that Run moves, and does so again within d.
func (l *Link) progress(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.aliveUntil = time.Now().Add(d)
}

func (l *Link) set(s State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Since = time.Now()
	if s.Phase == l.state.Phase {
		s.Since = l.state.Since
	}
	if s.LastContact.IsZero() {
		s.LastContact = l.state.LastContact
	}
	if s.Phase == Connecting {
		s.Problem = l.state.Problem // until it is known to be over
	}
	l.state = s
}

// heard notes that the control plane spoke.
func (l *Link) heard(within time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.state.LastContact, l.aliveUntil = now, now.Add(within)
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
