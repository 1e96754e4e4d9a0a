package task

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"chom.dev/agent/clock"
	"chom.dev/agent/journal"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	defaultSlots = 4               // a small VPS has two cores, and most steps wait for a disk
	maxLive      = 100             // limit of chom.link.v1.ReportRequest.running
	maxResumes   = 20              // an attempt that kills its agent this often is given up
	pruneEvery   = time.Hour       // the journal grows by at most what an hour brings
	stopWithin   = 4 * time.Second // the unit must be gone in 5 s
)

// Config is what an Engine needs.
type Config struct {
	Server   contract.ServerID
	Journal  *journal.Journal
	Handlers map[Kind]Handler // a kind without a handler is refused
	Signers  []ed25519.PublicKey
	Clock    *clock.Clock
	Log      *slog.Logger

	Slots int           // orders done at the same time, of different sites; 0 means 4
	Pause time.Duration // first pause between tries of a step, doubled each time; 0 means 500 ms
	Ended func(Order)   // told after an attempt ended; may be nil
	Trace func(Moment)  // told of every turn that an attempt takes, after it was synced; may be nil
}

// Moment is a turn in an attempt's life, for those who prove what the engine
// promises.
type Moment struct {
	What    string // accepted, started, resumed, step, result
	Order   Order
	Name    string // of the step
	Outcome string // of the step or of the attempt
}

func (e *Engine) trace(what string, o Order, name, outcome string) {
	if e.cfg.Trace != nil {
		e.cfg.Trace(Moment{what, o, name, outcome})
	}
}

// Engine takes orders and does them.
type Engine struct {
	cfg Config

	mu         sync.Mutex
	signers    []ed25519.PublicKey
	ctx        context.Context // of running attempts; nil before Run
	stop       context.CancelCauseFunc
	undecided  map[journal.Key]int      // how many times it was offered and is on the way through the journal
	allDecided *sync.Cond               // told when undecided shrinks
	promised   int                      // accepted, and not synced yet
	live       map[journal.Key]*attempt // accepted and not ended
	lanes      map[string]*lane         // by Order.lane
	canceled   map[journal.Key]bool     // asked to stop before the order came
	answers    []*linkv1.TaskEvent      // told again, or told without the journal
	answered   map[journal.Key]bool     // refused without the journal: stays refused
	sites      map[string]*sitev1.ObservedState
	paces      map[journal.Key]*pace // of live attempts
	wake       chan struct{}

	turns  turns // of lanes, between their attempts and Between
	slots  chan struct{}
	work   sync.WaitGroup
	failed chan error // holds the first reason why attempts can't be brought to an end
}

// lane is a queue of orders. Its first attempt is the one that runs.
type lane struct {
	queue  []*attempt
	active bool
}

// New makes an engine and reads from the journal what has not ended. It
// starts nothing.
func New(cfg Config) (*Engine, error) {
	cfg.Slots = cmp.Or(cfg.Slots, defaultSlots)
	cfg.Pause = cmp.Or(cfg.Pause, firstPause)
	e := &Engine{
		cfg:       cfg,
		signers:   cfg.Signers,
		undecided: make(map[journal.Key]int),
		live:      make(map[journal.Key]*attempt),
		lanes:     make(map[string]*lane),
		canceled:  make(map[journal.Key]bool),
		answered:  make(map[journal.Key]bool),
		sites:     make(map[string]*sitev1.ObservedState),
		paces:     make(map[journal.Key]*pace),
		wake:      make(chan struct{}, 1),
		slots:     make(chan struct{}, cfg.Slots),
		failed:    make(chan error, 1),
	}
	e.allDecided = sync.NewCond(&e.mu)
	all, err := cfg.Journal.Attempts()
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	slices.Reverse(all) // oldest fence first, as they were accepted
	for _, rec := range all {
		if !rec.Ended.IsZero() {
			continue
		}
		a, err := e.resume(rec)
		if err != nil {
			return nil, fmt.Errorf("resume task %s: %w", rec.Key(), err)
		}
		e.admit(a)
	}
	cfg.Journal.Notify(e.ring)
	e.ring() // for what a former process could not tell
	return e, nil
}

// Run does accepted orders until the context ends, those of a former process
// first. Steps under way are then told to stop and left for the next process;
// Run returns when they did, after 4 s at the latest. It fails only when the
// journal does.
func (e *Engine) Run(ctx context.Context) error {
	running, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	e.mu.Lock()
	e.ctx, e.stop = running, stop
	for key, l := range e.lanes {
		e.start(key, l)
	}
	e.mu.Unlock()

	err := e.wait(ctx)

	e.mu.Lock()
	stop(errStopping)
	e.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		e.work.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(stopWithin):
		e.cfg.Log.Warn("steps did not stop in time; they are left to resume")
	}
	return err
}

// wait prunes the journal now and then until the end.
func (e *Engine) wait(ctx context.Context) error {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		now, confirmed := e.cfg.Clock.Now()
		if !confirmed {
			now = time.Time{}
		}
		if err := e.cfg.Journal.Prune(now); err != nil && !journal.Full(err) {
			return fmt.Errorf("prune journal: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.cfg.Journal.Broken():
			return journal.ErrBroken
		case err := <-e.failed:
			return err
		case <-tick.C:
		}
	}
}

// admit puts an accepted attempt into its site's lane.
func (e *Engine) admit(a *attempt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live[a.key] = a
	if e.canceled[a.key] {
		a.cancel(errCanceled)
	}
	for key, other := range e.live {
		if key.Task == a.key.Task && key.Number < a.key.Number {
			other.cancel(errSuperseded)
		}
	}
	name := a.order.lane()
	l := e.lanes[name]
	if l == nil {
		l = new(lane)
		e.lanes[name] = l
	}
	l.queue = append(l.queue, a)
	e.start(name, l)
}

// lane names the queue of an order: that of its site, or of the server. Orders
// that change nothing need not wait for each other.
func (o Order) lane() string {
	switch {
	case !o.Site.ID.IsZero():
		return o.Site.ID.String()
	case o.Kind == Noop:
		return o.Task.String()
	}
	return ""
}

// start lets somebody work on a lane. Called with mu held.
func (e *Engine) start(name string, l *lane) {
	if l.active || len(l.queue) == 0 || e.ctx == nil || e.ctx.Err() != nil {
		return
	}
	l.active = true
	e.work.Add(1)
	go func() {
		defer e.work.Done()
		e.workOff(e.ctx, name, l)
	}()
}

// workOff does one lane's attempts, one at a time, in order.
func (e *Engine) workOff(ctx context.Context, name string, l *lane) {
	for {
		e.mu.Lock()
		if len(l.queue) == 0 {
			delete(e.lanes, name)
			e.mu.Unlock()
			return
		}
		a := l.queue[0]
		e.mu.Unlock()

		select {
		case <-ctx.Done():
			return
		case e.slots <- struct{}{}:
		}
		err := e.inTurn(ctx, name, func() error { return e.do(ctx, a) })
		<-e.slots
		if err != nil {
			if !errors.Is(err, errStopping) {
				select {
				case e.failed <- fmt.Errorf("task %s: %w", a.key, err):
				default: // there is a reason already
				}
			}
			return
		}

		e.mu.Lock()
		l.queue = l.queue[1:]
		delete(e.live, a.key)
		delete(e.paces, a.key)
		if len(e.live) == 0 {
			e.ring() // who waited for more to tell need not
		}
		e.mu.Unlock()
		if e.cfg.Ended != nil {
			e.cfg.Ended(a.order)
		}
	}
}

// Cancel asks an attempt to stop. One that ended already tells its result
// again; one that is not known is remembered, should its order come late.
func (e *Engine) Cancel(task string, number uint32) {
	id, err := contract.ParseTaskID(task)
	if err != nil {
		e.cfg.Log.Warn("cancel names no task", "err", err)
		return
	}
	key := journal.Key{Task: id, Number: number}
	e.mu.Lock()
	a := e.live[key]
	if a == nil {
		if len(e.canceled) >= maxRemembered {
			clear(e.canceled)
		}
		e.canceled[key] = true
	}
	e.mu.Unlock()
	if a == nil {
		e.resend(key)
		return
	}
	ended := false
	e.submit(a, func() journal.Entry {
		if ended = !a.rec.Ended.IsZero(); ended {
			return journal.Entry{} // its end is in the journal, or on the way there
		}
		a.rec.Canceled = true
		rec := a.rec
		return journal.Entry{Attempt: &rec} // not waited for: it is asked again if it is lost
	})
	if ended {
		e.resend(key)
		return
	}
	a.cancel(errCanceled)
}

// SetSigners changes whose orders are accepted from now on.
func (e *Engine) SetSigners(keys []ed25519.PublicKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.signers = keys
}

// Busy is how many attempts are accepted and have not ended.
func (e *Engine) Busy() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.live) + e.promised
}

// maxRemembered bounds what is kept of orders that are not ours, or not yet.
const maxRemembered = 1000
