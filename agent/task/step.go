package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"chom.dev/agent/fail"
	"chom.dev/agent/journal"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

const (
	tries      = 5                      // a host that fails five times in a row needs somebody to look
	firstPause = 500 * time.Millisecond // most transient troubles (locks, reloads) last about this long
	lastPause  = 30 * time.Second       // and those of a network seldom more
)

// errNoEffect says that a step went through and still isn't done.
var errNoEffect = errors.New("its effect is not there after it ran")

// step does one step, and writes down what came of it.
func (e *Engine) step(ctx context.Context, a *attempt, s Step) error {
	if e.overBefore(ctx, s, a.former[s.Name]) {
		return nil
	}
	e.tell(a, &linkv1.TaskEvent{Event: &linkv1.TaskEvent_StepStarted{StepStarted: &linkv1.StepStarted{Name: s.Name}}})
	state, note, err := e.tryStep(ctx, a, s)
	if err != nil {
		if errors.Is(context.Cause(ctx), errStopping) {
			return err // not its end
		}
		state, note = taskv1.StepState_STEP_STATE_FAILED, err.Error()
	}
	name := "task/" + string(a.order.Kind) + "/" + s.Name
	if state == taskv1.StepState_STEP_STATE_DONE {
		fail.Point(name + "/after")
	}
	written := e.outwait(a, func() error {
		return e.submit(a, func() journal.Entry {
			ev := a.next(ended(s.Name, state, note))
			rec := a.rec
			return journal.Entry{
				Attempt: &rec,
				Step:    &journal.Step{Attempt: a.key, Name: s.Name, State: int32(state), Message: Line(note, maxText)},
				Events:  []*linkv1.TaskEvent{ev},
			}
		}).Wait()
	})
	if written != nil {
		return written
	}
	e.trace("step", a.order, s.Name, strings.ToLower(strings.TrimPrefix(state.String(), "STEP_STATE_")))
	return err
}

// overBefore tells whether a former process ended the step and its effect is
// still there. A step without a probe is taken at the journal's word.
func (e *Engine) overBefore(ctx context.Context, s Step, former journal.Step) bool {
	switch taskv1.StepState(former.State) {
	case taskv1.StepState_STEP_STATE_DONE, taskv1.StepState_STEP_STATE_ALREADY_DONE:
	default:
		return false
	}
	if s.Probe == nil {
		return true
	}
	done, _, err := probe(ctx, e, s)
	return err == nil && done // after an error the tries that follow probe again, and say so
}

// tryStep runs the step until it is done, can't be healed, or its time is over.
func (e *Engine) tryStep(ctx context.Context, a *attempt, s Step) (state taskv1.StepState, note string, err error) {
	wait := e.cfg.Pause
	did := false
	for try := 1; ; try++ {
		state, note, err = e.once(ctx, a, s, &did)
		switch {
		case err == nil, IsPermanent(err), ctx.Err() != nil, try == tries:
			return state, note, err
		}
		e.print(a, Line(fmt.Sprintf("%s failed and is tried again: %v", s.Name, err), maxText))
		// Half fixed, half random, so that sites don't retry in step.
		if pause(ctx, wait/2+rand.N(wait/2+1)) != nil {
			return state, note, err
		}
		wait = min(2*wait, lastPause)
	}
}

// once probes, does, and probes again.
func (e *Engine) once(ctx context.Context, a *attempt, s Step, did *bool) (taskv1.StepState, string, error) {
	if s.Probe != nil {
		done, note, err := probe(ctx, e, s)
		switch {
		case err != nil:
			return 0, "", err
		case done && *did: // the effect of an earlier try came late
			return taskv1.StepState_STEP_STATE_DONE, note, nil
		case done:
			return taskv1.StepState_STEP_STATE_ALREADY_DONE, note, nil
		}
	}
	if !*did {
		fail.Point("task/" + string(a.order.Kind) + "/" + s.Name + "/before")
	}
	*did = true
	log := &Log{
		print:    func(line string) { e.print(a, line) },
		progress: func(p Progress) { e.progress(a, s.Name, p) },
	}
	if err := e.guarded(s.Name, func() error { return s.Do(ctx, log) }); err != nil {
		return 0, "", err
	}
	if s.Probe == nil {
		return taskv1.StepState_STEP_STATE_DONE, log.note, nil
	}
	done, note, err := probe(ctx, e, s)
	switch {
	case err != nil:
		return 0, "", err
	case !done:
		if note != "" {
			return 0, "", fmt.Errorf("%w: %s", errNoEffect, note)
		}
		return 0, "", errNoEffect
	}
	if log.note != "" {
		note = log.note
	}
	return taskv1.StepState_STEP_STATE_DONE, note, nil
}

func probe(ctx context.Context, e *Engine, s Step) (done bool, note string, err error) {
	err = e.guarded(s.Name, func() (err error) {
		done, note, err = s.Probe(ctx)
		return err
	})
	return done, Line(note, maxText), err
}

// guarded lets a handler's panic end its own attempt and nothing else.
func (e *Engine) guarded(step string, f func() error) (err error) {
	return guarded(e.cfg.Log, step, f)
}

func guarded(log *slog.Logger, step string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("step panicked", "step", step, "panic", p, "stack", string(debug.Stack()))
			err = Permanent(fmt.Errorf("internal error: %v", p))
		}
	}()
	return f()
}

// Perform does steps that no order asks for, each once unless its effect is there
// already. What they print nobody reads.
func Perform(ctx context.Context, log *slog.Logger, steps ...Step) error {
	for _, s := range steps {
		if err := guarded(log, s.Name, func() error { return perform(ctx, s) }); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return nil
}

func perform(ctx context.Context, s Step) error {
	if s.Probe != nil {
		if done, _, err := s.Probe(ctx); done || err != nil {
			return err
		}
	}
	if err := s.Do(ctx, new(Log)); err != nil || s.Probe == nil {
		return err
	}
	done, note, err := s.Probe(ctx)
	if err == nil && !done {
		return fmt.Errorf("%w: %s", errNoEffect, note)
	}
	return err
}
