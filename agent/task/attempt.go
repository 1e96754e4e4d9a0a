package task

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"chom.dev/agent/fail"
	"chom.dev/agent/journal"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Why an attempt was told to stop.
var (
	errCanceled   = errors.New("canceled on request")
	errSuperseded = errors.New("canceled: a newer attempt at the same task was accepted")
	errTimedOut   = errors.New("took longer than allowed")
	errStopping   = errors.New("the agent is stopping")
)

const (
	observeFor = 15 * time.Second // a home page that takes longer is measured as not answering
	abortFor   = 15 * time.Minute // what was staged is deleted, file by file
	diskPause  = 2 * time.Second  // between tries to write while the journal's disk is full
)

// attempt is one that has not ended.
type attempt struct {
	key     journal.Key
	order   Order
	plan    Plan
	planErr string                  // why a resumed one can't go on
	former  map[string]journal.Step // outcomes of a former process

	engine context.Context // done when the engine stops
	halt   context.Context // done when somebody asked it to stop, with the reason as its cause
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	rec      journal.Attempt
	sequence uint64 // of its newest event
	logged   int    // bytes of log
	began    time.Time
}

func newAttempt(o Order, p Plan, rec journal.Attempt, sequence uint64) *attempt {
	a := &attempt{key: rec.Key(), order: o, plan: p, rec: rec, sequence: sequence}
	a.halt, a.cancel = context.WithCancelCause(context.Background())
	return a
}

// resume makes an attempt of what a former process left.
func (e *Engine) resume(rec journal.Attempt) (*attempt, error) {
	key := rec.Key()
	signed, err := e.cfg.Journal.Order(key)
	if err != nil {
		return nil, err
	}
	o := new(orderv1.Order)
	if err := proto.Unmarshal(signed.GetOrder(), o); err != nil {
		return nil, fmt.Errorf("%w: order: %w", journal.ErrCorrupt, err)
	}
	order := Order{
		Task: rec.Task, Attempt: rec.Number, Fence: rec.Fence, Kind: Kind(rec.Kind), Organization: rec.Organization,
		Timeout: o.Timeout.AsDuration(), Signers: e.signers, Message: o,
	}
	if !rec.Site.IsZero() {
		site, found, err := e.cfg.Journal.Site(rec.Site)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fmt.Errorf("%w: site %s of the attempt is missing", journal.ErrCorrupt, rec.Site)
		}
		if order.Site, err = fromRecord(site); err != nil {
			return nil, err
		}
	}
	sequence, err := e.cfg.Journal.Sequence(key)
	if err != nil {
		return nil, err
	}
	rec.Resumes++
	plan, reason := e.plan(order)
	a := newAttempt(order, plan, rec, sequence)
	a.planErr = reason
	if rec.Resumes > maxResumes {
		a.planErr = fmt.Sprintf("the agent ended %d times during this attempt", maxResumes)
	}
	if a.former, err = e.cfg.Journal.Steps(key); err != nil {
		return nil, err
	}
	if rec.Canceled {
		a.cancel(errCanceled)
	}
	return a, e.cfg.Journal.Write(journal.Entry{Attempt: &rec})
}

// do brings an attempt to its end. An error means that it has not ended and
// must be left to the next process.
func (e *Engine) do(ctx context.Context, a *attempt) error {
	// ctx ends with the engine, running also with the attempt's time or on request.
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if a.halt.Err() != nil {
		stop(context.Cause(a.halt)) // AfterFunc would be a moment late
	}
	defer context.AfterFunc(a.halt, func() { stop(context.Cause(a.halt)) })()
	running, release := context.WithTimeoutCause(running, a.order.Timeout-a.rec.Spent, errTimedOut)
	defer release()
	a.mu.Lock()
	a.began, a.engine = time.Now(), ctx
	what := "started"
	if a.rec.Resumes > 0 {
		what = "resumed"
	}
	a.mu.Unlock()
	e.trace(what, a.order, "", "")

	if a.plan.End != nil {
		defer a.plan.End()
	}
	result := new(orderv1.Result)
	err := e.steps(ctx, running, a)
	if err == nil && a.plan.Report != nil {
		err = a.plan.Report(result)
	}
	cause := context.Cause(running)
	if a.plan.committed() {
		cause = nil // it was not heeded
	}
	if err != nil && ctx.Err() == nil {
		err = e.abort(ctx, a, err)
	}
	switch {
	case ctx.Err() != nil:
		return errStopping
	case err == nil:
		result.Outcome = orderv1.Outcome_OUTCOME_SUCCEEDED
	case errors.Is(cause, errTimedOut):
		result = &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_TIMED_OUT, Error: Line(fmt.Sprintf("%v: %v", errTimedOut, err), maxText)}
	case cause != nil:
		result = &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_CANCELED, Error: cause.Error()}
	default:
		result = &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_FAILED, Error: Line(err.Error(), maxText), Permanent: IsPermanent(err)}
	}
	observed := e.observe(ctx, a)
	if ctx.Err() != nil {
		return errStopping
	}
	return e.finish(a, result, observed)
}

// steps does them in order, until the attempt is told to stop, or as long as
// the engine runs once there is no way back.
func (e *Engine) steps(engine, running context.Context, a *attempt) error {
	if a.planErr != "" {
		return errors.New(a.planErr)
	}
	for _, s := range a.plan.Steps {
		ctx := running
		if a.plan.committed() {
			ctx = engine
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := e.step(ctx, a, s); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return nil
}

// abort takes back what the steps have begun. What it leaves is added to the
// reason why it was called.
func (e *Engine) abort(ctx context.Context, a *attempt, reason error) error {
	if a.plan.Abort == nil || a.plan.committed() {
		return reason
	}
	ctx, stop := context.WithTimeout(ctx, abortFor)
	defer stop()
	log := &Log{print: func(line string) { e.print(a, line) }}
	if err := e.guarded("abort", func() error { return a.plan.Abort(ctx, log) }); err != nil {
		log.Printf("what was begun is not taken back: %v", err)
		return fmt.Errorf("%w; and what was begun is not taken back: %w", reason, err)
	}
	return reason
}

// observe measures the site, however the steps went. What can't be measured
// is left out, and doesn't change the outcome.
func (e *Engine) observe(ctx context.Context, a *attempt) (st *sitev1.ObservedState) {
	if a.plan.Observe == nil || a.order.Site.ID.IsZero() {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, observeFor)
	defer stop()
	defer func() {
		if p := recover(); p != nil {
			e.cfg.Log.Error("handler panicked while observing", "kind", a.order.Kind, "panic", p)
			st = nil
		}
	}()
	st, err := a.plan.Observe(ctx)
	if err != nil {
		e.cfg.Log.Warn("site was not observed", "site", a.order.Site.ID, "err", err)
		return nil
	}
	return st
}

// finish writes down how the attempt ended, and waits out a full disk.
func (e *Engine) finish(a *attempt, result *orderv1.Result, observed *sitev1.ObservedState) error {
	fail.Point("task/" + string(a.order.Kind) + "/result/before")
	if err := e.outwait(a, func() error { return e.writeEnd(a, result, observed) }); err != nil {
		return err
	}
	fail.Point("task/" + string(a.order.Kind) + "/result/after")
	e.trace("result", a.order, "", outcomeText(result.Outcome))
	e.cfg.Log.Info("attempt ended", "task", a.key.Task, "attempt", a.key.Number, "kind", a.order.Kind,
		"outcome", outcomeText(result.Outcome), "err", result.Error)
	return nil
}

// outcomeText is an outcome as people write it.
func outcomeText(o orderv1.Outcome) string {
	return strings.ToLower(strings.TrimPrefix(o.String(), "OUTCOME_"))
}

// writeEnd writes the result, and what became of the site, at once.
func (e *Engine) writeEnd(a *attempt, result *orderv1.Result, observed *sitev1.ObservedState) error {
	return e.submit(a, func() journal.Entry {
		ev := a.next(&linkv1.TaskEvent{Event: &linkv1.TaskEvent_Result{Result: result}})
		a.rec.Ended, a.rec.ResultSequence = time.Now().UTC(), ev.Sequence
		rec := a.rec
		return journal.Entry{
			Attempt: &rec,
			Events:  []*linkv1.TaskEvent{ev},
			Decide: func(v journal.View, entry *journal.Entry) (err error) {
				if entry.Site, err = conclude(v, a.order, result, observed); err != nil {
					return err
				}
				rec.Result, err = proto.Marshal(result)
				return err
			},
		}
	}).Wait()
}

// conclude brings the site's record up to date with the outcome, and the result
// with what was observed. Nil means that there is no site.
func conclude(v journal.View, o Order, result *orderv1.Result, observed *sitev1.ObservedState) (*journal.Site, error) {
	if o.Site.ID.IsZero() {
		return nil, nil
	}
	site, found, err := v.Site(o.Site.ID)
	if err != nil || !found {
		return nil, err
	}
	if o.Kind == ConvergeSite && result.Outcome == orderv1.Outcome_OUTCOME_SUCCEEDED {
		desired := o.Message.GetConvergeSite().GetDesired()
		site.Converged, site.Gone = desired.Generation, desired.Phase == sitev1.Phase_PHASE_ABSENT
	}
	if observed != nil {
		result.Observed = fill(observed, site)
		if site.Observed, err = proto.Marshal(result.Observed); err != nil {
			return nil, err
		}
	}
	return &site, nil
}

// fill adds what the engine knows to what a handler measured.
func fill(st *sitev1.ObservedState, site journal.Site) *sitev1.ObservedState {
	st = proto.CloneOf(st)
	st.SiteId, st.Generation = site.ID.String(), site.Converged
	st.ObserveTime = timestamppb.Now()
	st.PageTitle, st.Problem = Line(st.PageTitle, 512), Line(st.Problem, 1024) // limits of chom.site.v1
	st.AppVersion, st.PhpVersion = Line(st.AppVersion, 64), Line(st.PhpVersion, 32)
	return st
}

// next numbers an event. Called with mu held.
func (a *attempt) next(ev *linkv1.TaskEvent) *linkv1.TaskEvent {
	a.sequence++
	return event(a.key, a.rec.Fence, a.sequence, ev)
}

// submit asks for an entry that make builds under the attempt's lock, so that
// its events reach the journal in the order of their numbers.
func (e *Engine) submit(a *attempt, build func() journal.Entry) *journal.Ticket {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.began.IsZero() {
		now := time.Now()
		a.rec.Spent += now.Sub(a.began)
		a.began = now
	}
	return e.cfg.Journal.Submit(build())
}

// outwait repeats a write while the journal's disk is full: an effect that is
// there must not be forgotten. Each try numbers its events anew, since others
// of the attempt may have passed meanwhile.
func (e *Engine) outwait(a *attempt, write func() error) error {
	for {
		err := write()
		if !journal.Full(err) {
			return err
		}
		e.cfg.Log.Error("journal's disk is full; the attempt waits", "task", a.key.Task, "err", err)
		if pause(a.engine, diskPause) != nil {
			return errStopping
		}
	}
}

// tell sends an event that may be lost in a crash, without waiting.
func (e *Engine) tell(a *attempt, ev *linkv1.TaskEvent) {
	e.submit(a, func() journal.Entry {
		return journal.Entry{Events: []*linkv1.TaskEvent{a.next(ev)}}
	})
}

// print sends a line of a step's log, as long as there is room.
func (e *Engine) print(a *attempt, text string) {
	a.mu.Lock()
	before := a.logged
	a.logged += len(text)
	a.mu.Unlock()
	switch {
	case before > maxLogBytes:
		return
	case before+len(text) > maxLogBytes:
		text = "further output is left out"
	}
	e.tell(a, &linkv1.TaskEvent{Event: &linkv1.TaskEvent_Log{Log: &linkv1.LogText{Text: text}}})
}

// ended makes the event of a step's end.
func ended(name string, state taskv1.StepState, message string) *linkv1.TaskEvent {
	return &linkv1.TaskEvent{Event: &linkv1.TaskEvent_StepEnded{
		StepEnded: &linkv1.StepEnded{Name: name, State: state, Message: Line(message, maxText)},
	}}
}
