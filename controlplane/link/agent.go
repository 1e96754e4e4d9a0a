package link

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
)

// agent is what this process knows of one that has connected: what it holds
// open, and how much it may ask for. It is no source of rights.
type agent struct {
	id    contract.ServerID
	calls *rate.Limiter
	bytes *rate.Limiter

	backups     chan struct{} // a token for each request to a repository that is under way
	backupCalls *rate.Limiter

	mu       sync.Mutex
	conns    []*guest // oldest first
	inflight int
	hold     *hold // its Watch or Poll, nil when it has none
	epoch    uint64
	renewed  time.Time            // when its leases were last looked at
	since    time.Time            // when epoch was opened here; zero when elsewhere
	told     map[string]time.Time // what was sent that may have to be repeated, by what it is about
	foreign  int                  // events about tasks of others since flaggedAt
	flagged  time.Time
	usedAt   time.Time
}

const (
	// An agent that does 100 tasks a second, which is more than any host has to
	// do, reports twice for each. One that asks more is slowed down before it is
	// refused: it makes one call at a time, and what happens during a call goes
	// with the next.
	callsPerSecond = 250
	callsBurst     = 500
	// What a report of a host with a thousand sites has is far below.
	bytesPerSecond = 1 << 20
	bytesBurst     = 16 << 20
	// inflightMax is for calls with one answer, Poll aside.
	inflightMax = 4
	// connsMax is one that works, one for backups, one that is coming, and one that died unseen.
	connsMax = 4
	// patience is how long a call may be held back.
	patience = 2 * time.Second
)

func newAgent(id contract.ServerID) *agent {
	return &agent{
		id:     id,
		calls:  rate.NewLimiter(callsPerSecond, callsBurst),
		bytes:  rate.NewLimiter(bytesPerSecond, bytesBurst),
		usedAt: time.Now(),

		backups:     make(chan struct{}, backupsMax),
		backupCalls: rate.NewLimiter(backupsPerSecond, backupsBurst),
	}
}

// hold is a Watch or a Poll that waits for something to tell.
type hold struct {
	peer   pki.Peer
	epoch  uint64
	wake   chan struct{} // holds a token when there may be something to tell
	wait   atomic.Bool   // tasks may wait for others to end
	ended  chan struct{} // closed when it must end
	reason error         // valid once ended is closed
	once   sync.Once
}

func newHold(peer pki.Peer, epoch uint64) *hold {
	return &hold{peer: peer, epoch: epoch, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (h *hold) cut(reason error) {
	h.once.Do(func() {
		h.reason = reason
		close(h.ended)
	})
}

func (h *hold) nudge() {
	select {
	case h.wake <- struct{}{}:
	default: // there is a token already
	}
}

// connect takes a connection in. Beyond connsMax the oldest is closed: the
// newest is the one that the agent uses.
func (a *agent) connect(c *guest) {
	a.mu.Lock()
	a.conns = append(a.conns, c)
	var oldest *guest
	if len(a.conns) > connsMax {
		oldest = a.conns[0]
		a.conns = slices.Delete(a.conns, 0, 1)
	}
	a.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close() // its agent has others
	}
}

func (a *agent) connected() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.conns) > 0
}

func (a *agent) disconnect(c *guest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns = slices.DeleteFunc(a.conns, func(have *guest) bool { return have == c })
	a.usedAt = time.Now()
}

// closeAll closes the connections that were made with a certificate.
func (a *agent) closeAll(serial string) {
	a.mu.Lock()
	conns := slices.Clone(a.conns)
	a.mu.Unlock()
	for _, c := range conns {
		if c.peer.Serial == serial {
			_ = c.Close() // there is nothing more to say
		}
	}
}

// enter lets a call in, later when the agent asks much. Leave must be called
// once it is over, with the bytes that it read.
func (a *agent) enter(ctx context.Context, counts bool) error {
	if counts {
		a.mu.Lock()
		full := a.inflight >= inflightMax
		if !full {
			a.inflight++
		}
		a.mu.Unlock()
		if full {
			return tooMuch("too many calls at once", time.Second)
		}
	}
	if err := a.throttle(ctx); err != nil {
		if counts {
			a.mu.Lock()
			a.inflight--
			a.mu.Unlock()
		}
		return err
	}
	return nil
}

func (a *agent) leave(counts bool, read int) {
	a.bytes.ReserveN(time.Now(), min(read, bytesBurst)) // a debt, which the next call waits for
	if counts {
		a.mu.Lock()
		a.inflight--
		a.mu.Unlock()
	}
}

// throttle waits until the agent's calls and bytes are within their rates.
func (a *agent) throttle(ctx context.Context) error {
	now := time.Now()
	call := a.calls.ReserveN(now, 1)
	wait := call.DelayFrom(now)
	if debt := -a.bytes.TokensAt(now); debt > 0 {
		wait = max(wait, time.Duration(debt/bytesPerSecond*float64(time.Second)))
	}
	if wait <= 0 {
		return nil
	}
	if wait > patience {
		call.CancelAt(now)
		return tooMuch("this agent asks too much", wait)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// opened notes a new epoch; what is held open of an older one must end.
func (a *agent) opened(epoch uint64, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if epoch < a.epoch {
		return // another Hello was faster
	}
	a.epoch, a.since = epoch, at
	clear(a.told)
	if a.hold != nil && a.hold.epoch < epoch {
		a.hold.cut(fleet.ErrStaleEpoch)
	}
}

// openedAt is when an epoch was opened here; zero when it was not.
func (a *agent) openedAt(epoch uint64) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.epoch != epoch {
		return time.Time{}
	}
	return a.since
}

// attach makes h the one that hears what the agent is to be told.
func (a *agent) attach(h *hold) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.hold; old != nil {
		if old.epoch > h.epoch {
			return fleet.ErrStaleEpoch
		}
		reason := errReplaced
		if old.epoch < h.epoch {
			reason = fleet.ErrStaleEpoch
		}
		old.cut(reason)
	}
	a.hold = h
	return nil
}

func (a *agent) detach(h *hold) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hold == h {
		a.hold = nil
	}
}

func (a *agent) held() *hold {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hold
}

// renewEvery is how often an agent's leases are looked at: more often than
// heartbeats come, and not with each of a hundred reports a second.
const renewEvery = 5 * time.Second

// renews says whether the agent's leases are to be looked at now.
func (a *agent) renews(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.renewed) < renewEvery {
		return false
	}
	a.renewed = now
	return true
}

const (
	// tellAgain is when a cancel is repeated that has had no effect yet.
	tellAgain = 10 * time.Second
	// foreignMax is above what a mistake could be: the agent is told each time.
	foreignMax = 3
	// flagAgain keeps one agent from filling the audit.
	flagAgain = time.Hour
)

// tell says whether a cancel, or a look at logs, should be sent now.
func (a *agent) tell(key string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.told[key]) < tellAgain {
		return false
	}
	for old, at := range a.told {
		if now.Sub(at) >= tellAgain {
			delete(a.told, old)
		}
	}
	if a.told == nil {
		a.told = map[string]time.Time{}
	}
	a.told[key] = now
	return true
}

// speaksOfOthers counts events about tasks of other agents, and says whether
// the agent is to be flagged for them now.
func (a *agent) speaksOfOthers(events int, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.foreign += events
	if a.foreign < foreignMax || now.Sub(a.flagged) < flagAgain {
		return false
	}
	a.foreign, a.flagged = 0, now
	return true
}

// agents are those that have connected to this process.
type agents struct {
	mu   sync.Mutex
	byID map[contract.ServerID]*agent
}

func (all *agents) get(id contract.ServerID) *agent {
	all.mu.Lock()
	defer all.mu.Unlock()
	a := all.byID[id]
	if a == nil {
		a = newAgent(id)
		all.byID[id] = a
	}
	a.mu.Lock()
	a.usedAt = time.Now()
	a.mu.Unlock()
	return a
}

// find gives an agent that has connected, or nil.
func (all *agents) find(id contract.ServerID) *agent {
	all.mu.Lock()
	defer all.mu.Unlock()
	return all.byID[id]
}

func (all *agents) list() []*agent {
	all.mu.Lock()
	defer all.mu.Unlock()
	list := make([]*agent, 0, len(all.byID))
	for _, a := range all.byID {
		list = append(list, a)
	}
	return list
}

// holding counts those that hold Watch or Poll.
func (all *agents) holding() int {
	n := 0
	for _, a := range all.list() {
		if a.held() != nil {
			n++
		}
	}
	return n
}

// forgetAfter is long enough for nobody to gain anything by reconnecting.
const forgetAfter = 2 * time.Hour

// forget drops agents that have not been here for long.
func (all *agents) forget(now time.Time) {
	all.mu.Lock()
	defer all.mu.Unlock()
	for id, a := range all.byID {
		a.mu.Lock()
		if len(a.conns) == 0 && a.hold == nil && now.Sub(a.usedAt) > forgetAfter {
			delete(all.byID, id)
		}
		a.mu.Unlock()
	}
}
