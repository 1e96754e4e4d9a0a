package task

import (
	"slices"
	"time"

	"chom.dev/agent/journal"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"google.golang.org/protobuf/proto"
)

// Limits of chom.link.v1.HelloRequest.
const (
	maxHelloEntries = 2000
	maxHelloSites   = 5000
)

// Holdings is what the agent has, for Hello.
type Holdings struct {
	Journal      []*linkv1.JournalEntry
	Sites        []*sitev1.ObservedState
	HighestFence uint64
}

// Holdings reads it from the journal, once that says what became of every order
// that was offered: what it does not name will be offered anew.
func (e *Engine) Holdings() (Holdings, error) {
	e.mu.Lock()
	for len(e.undecided) > 0 {
		e.allDecided.Wait()
	}
	e.mu.Unlock()
	var h Holdings
	attempts, err := e.cfg.Journal.Attempts()
	if err != nil {
		return h, err
	}
	// What has not ended comes first: it must be named whatever the count.
	slices.SortStableFunc(attempts, func(a, b journal.Attempt) int { return rank(a) - rank(b) })
	for _, a := range attempts[:min(len(attempts), maxHelloEntries)] {
		h.Journal = append(h.Journal, entry(a.Key(), !a.Ended.IsZero()))
	}
	sites, err := e.cfg.Journal.Sites()
	if err != nil {
		return h, err
	}
	for _, gone := range []bool{false, true} {
		for _, s := range sites {
			if s.Gone != gone || len(h.Sites) >= maxHelloSites {
				continue
			}
			st := new(sitev1.ObservedState)
			if err := proto.Unmarshal(s.Observed, st); err != nil {
				e.cfg.Log.Error("observed state is unreadable", "site", s.ID, "err", err)
				st = new(sitev1.ObservedState)
			}
			st.SiteId, st.Generation, st.Certificates = s.ID.String(), s.Converged, nil
			if gone {
				st.Phase = sitev1.Phase_PHASE_ABSENT
			}
			h.Sites = append(h.Sites, st)
		}
	}
	c, err := e.cfg.Journal.Counters()
	h.HighestFence = c.HighestFence
	return h, err
}

func rank(a journal.Attempt) int {
	if a.Ended.IsZero() {
		return 0
	}
	return 1
}

func entry(key journal.Key, ended bool) *linkv1.JournalEntry {
	return &linkv1.JournalEntry{TaskId: key.Task.String(), Attempt: key.Number, Ended: ended}
}

// Running names the attempts whose leases are to be renewed.
func (e *Engine) Running() []*linkv1.JournalEntry {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*linkv1.JournalEntry
	for key := range e.live {
		out = append(out, entry(key, false))
	}
	return out
}

// Batch is a part of what is to be told. Nothing of it is lost until it was
// given back to Delivered.
type Batch struct {
	Events   []*linkv1.TaskEvent
	Sites    []*sitev1.ObservedState
	Progress []*linkv1.TaskProgress

	positions []uint64 // of the events that are in the journal, which come first
	answers   int      // how many follow that are not
}

// Outbox gives the oldest of what is to be told, up to a count and about a
// size of events in bytes. The next call gives the same until Delivered.
//
// Repeats come last: the control plane ignores what it hears after a higher
// number, so a repeated result must not overtake what led to it.
func (e *Engine) Outbox(count, size int) (Batch, error) {
	var b Batch
	e.mu.Lock()
	answers := slices.Clone(e.answers)
	for _, st := range e.sites {
		if len(b.Sites) < count {
			b.Sites = append(b.Sites, st)
		}
	}
	b.Progress = e.due(time.Now())
	e.mu.Unlock()
	// Read after the answers were: what led to one of them is in here.
	events, all, err := e.cfg.Journal.Events(count, size)
	if err != nil {
		return Batch{}, err
	}
	for _, ev := range events {
		b.Events = append(b.Events, ev.Event)
		b.positions = append(b.positions, ev.Position)
	}
	if all {
		b.answers = min(len(answers), count-len(events))
		b.Events = append(b.Events, answers[:b.answers]...)
	}
	return b, nil
}

// Delivered says that the control plane took a batch, or refused parts of it
// for good. Either way it needn't be told again.
func (e *Engine) Delivered(b Batch) {
	e.mu.Lock()
	e.answers = slices.Delete(e.answers, 0, b.answers)
	for _, st := range b.Sites {
		if e.sites[st.SiteId] == st {
			delete(e.sites, st.SiteId)
		}
	}
	e.told(b.Progress, time.Now())
	e.mu.Unlock()
	if n := len(b.positions); n > 0 {
		e.cfg.Journal.Delivered(b.positions[n-1])
	}
}

// First is the batch's first event alone, to find the one that can't be told.
func (b Batch) First() Batch {
	first := Batch{Events: b.Events[:1]}
	if len(b.positions) > 0 {
		first.positions = b.positions[:1]
	} else {
		first.answers = 1
	}
	return first
}

// Wake holds a token when there may be something new to tell.
func (e *Engine) Wake() <-chan struct{} { return e.wake }

// answer queues an event beside the journal. Called with mu held.
func (e *Engine) answer(ev *linkv1.TaskEvent) {
	if len(e.answers) >= maxRemembered {
		return // it will be asked for again
	}
	e.answers = append(e.answers, ev)
	e.ring()
}

func (e *Engine) ring() {
	select {
	case e.wake <- struct{}{}:
	default: // there is a token already
	}
}

// Resend tells results again that the control plane asked for.
func (e *Engine) Resend(entries []*linkv1.JournalEntry) {
	for _, entry := range entries {
		id, err := contract.ParseTaskID(entry.TaskId)
		if err != nil {
			e.cfg.Log.Warn("asked to resend what is no task", "err", err)
			continue
		}
		e.resend(journal.Key{Task: id, Number: entry.Attempt})
	}
}

func (e *Engine) resend(key journal.Key) {
	rec, known, err := e.cfg.Journal.Attempt(key)
	switch {
	case err != nil:
		e.cfg.Log.Error("journal can't be read", "err", err)
	case known:
		e.repeat(rec)
	default:
		e.cfg.Log.Info("asked about an attempt that is unknown here", "task", key.Task, "attempt", key.Number)
	}
}

// repeat tells again what the journal says of an attempt, under the number
// that it was told by.
func (e *Engine) repeat(rec journal.Attempt) {
	ev := &linkv1.TaskEvent{Event: &linkv1.TaskEvent_Accepted{Accepted: &linkv1.Accepted{StepCount: rec.StepCount}}}
	sequence := uint64(1)
	if !rec.Ended.IsZero() {
		result := new(orderv1.Result)
		if err := proto.Unmarshal(rec.Result, result); err != nil {
			e.cfg.Log.Error("result is unreadable", "task", rec.Task, "err", err)
			return
		}
		ev, sequence = &linkv1.TaskEvent{Event: &linkv1.TaskEvent_Result{Result: result}}, rec.ResultSequence
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer(event(rec.Key(), rec.Fence, sequence, ev))
}

// Sites gives the registry, without the sites that are gone.
func (e *Engine) Sites() ([]Site, error) {
	records, err := e.cfg.Journal.Sites()
	if err != nil {
		return nil, err
	}
	var out []Site
	for _, rec := range records {
		if rec.Gone {
			continue
		}
		s, err := fromRecord(rec)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Observed takes what was measured of a site between orders; it is told with
// the next report. Site id must be set; generation and time are filled in.
func (e *Engine) Observed(st *sitev1.ObservedState) error {
	id, err := contract.ParseSiteID(st.SiteId)
	if err != nil {
		return err
	}
	rec, found, err := e.cfg.Journal.Site(id)
	if err != nil || !found || rec.Gone {
		return err // a site that was removed meanwhile is not told of
	}
	told := fill(st, rec)
	e.mu.Lock()
	e.sites[told.SiteId] = told
	e.ring()
	e.mu.Unlock()
	former := new(sitev1.ObservedState)
	if err := proto.Unmarshal(rec.Observed, former); err != nil {
		return err
	}
	former.ObserveTime = told.ObserveTime
	if proto.Equal(former, told) {
		return nil // not worth a write
	}
	return e.cfg.Journal.Write(journal.Entry{Decide: func(v journal.View, entry *journal.Entry) error {
		rec, found, err := v.Site(id) // an order may have changed it by now
		if err != nil || !found || rec.Gone {
			return err
		}
		if rec.Observed, err = proto.Marshal(fill(st, rec)); err != nil {
			return err
		}
		entry.Site = &rec
		return nil
	}})
}
