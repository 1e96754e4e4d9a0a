package task

import (
	"time"

	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

const (
	// offerLease is how long an agent has to say that it accepted.
	offerLease = 30 * time.Second
	// runLease is at least three missed heartbeats.
	runLease = 90 * time.Second
	// deadlineGrace is what a running attempt gets to stop between two steps.
	deadlineGrace = 30 * time.Second
	// refusalsMax ends a task that its agent refuses again and again.
	refusalsMax = 5
	// refusalPause grows with each refusal: a full disk or a wrong clock may pass.
	refusalPause = 5 * time.Second
)

// The functions of this file are the whole state machine: they change a Task in
// memory and touch nothing else. Each says whether it was allowed.

// offer starts the next attempt, unless the task rests.
func (t *Task) offer(fence int64, now time.Time) bool {
	if t.State != Queued || rests(t.notBefore, now) {
		return false
	}
	t.State = Offered
	t.Attempt++
	t.fence = fence
	t.lease = now.Add(offerLease)
	t.Started = time.Time{}
	t.StepCount = 0
	t.eventSequence = 0
	return true
}

// run notes that the agent has the attempt: it said so, or its journal does.
func (t *Task) run(now time.Time) bool {
	switch t.State {
	case Offered, Running, Unknown:
	default:
		return false
	}
	t.State = Running
	t.lease = now.Add(runLease)
	if t.Started.IsZero() {
		t.Started = now
	}
	return true
}

// lose notes that nothing is heard of the attempt.
func (t *Task) lose() bool {
	if t.State != Offered && t.State != Running {
		return false
	}
	t.State = Unknown // lease keeps the moment
	return true
}

// absent notes that the agent's complete journal does not know the attempt.
func (t *Task) absent(now time.Time) bool {
	switch {
	case t.State != Offered && t.State != Running && t.State != Unknown:
		return false
	case !t.Started.IsZero():
		t.end(Failed, "the agent accepted this task and its journal does not know it any more", now)
	case !t.CancelRequested.IsZero():
		t.end(Canceled, "", now)
	default:
		t.State = Queued
		t.lease = time.Time{}
	}
	return true
}

// adopt takes over from the agent's journal an attempt that this database does
// not know: it is older than the agent, restored from a backup.
func (t *Task) adopt(attempt uint32, now time.Time) bool {
	if t.State.Ended() || attempt < t.Attempt {
		return false
	}
	t.State = Running
	t.Attempt = attempt
	t.Started = now
	t.lease = now.Add(runLease)
	t.fence = 0
	t.eventSequence = 0
	t.StepCount = 0
	return true
}

// result ends the attempt as its agent says.
func (t *Task) result(outcome orderv1.Outcome, text string, now time.Time) bool {
	switch t.State {
	case Offered, Running, Unknown:
	default:
		return false
	}
	accepted := !t.Started.IsZero()
	canceled := !t.CancelRequested.IsZero()
	switch outcome {
	case orderv1.Outcome_OUTCOME_SUCCEEDED:
		t.end(Succeeded, "", now)
	case orderv1.Outcome_OUTCOME_TIMED_OUT:
		t.end(TimedOut, orElse(text, "it ran longer than allowed"), now)
	case orderv1.Outcome_OUTCOME_CANCELED:
		if !canceled {
			t.end(Failed, orElse(text, "the agent stopped it without being asked"), now)
			break
		}
		t.end(Canceled, text, now)
	case orderv1.Outcome_OUTCOME_REFUSED:
		switch {
		case accepted:
			t.end(Failed, orElse(text, "the agent refused it after it had accepted it"), now)
		case canceled:
			t.end(Canceled, text, now)
		case t.Attempt >= refusalsMax:
			t.end(Failed, "the agent refuses it: "+orElse(text, "it does not say why"), now)
		default:
			t.State = Queued
			t.lease = time.Time{}
			t.notBefore = now.Add(time.Duration(t.Attempt) * refusalPause)
			t.Error = "the agent refused it and is asked again: " + orElse(text, "it did not say why")
		}
	default:
		t.end(Failed, orElse(text, "the agent does not say why"), now)
	}
	return true
}

// cancel asks the task to stop: at once when it waits, else between two steps.
func (t *Task) cancel(text string, now time.Time) bool {
	switch {
	case t.State.Ended():
		return false
	case t.State == Queued:
		t.CancelRequested = now
		t.end(Canceled, text, now)
	case t.CancelRequested.IsZero():
		t.CancelRequested = now
	}
	return true
}

// expire does what is due when time passes, and says whether anything was.
func (t *Task) expire(now time.Time) bool {
	late := now.Sub(t.Deadline)
	switch {
	case t.State.Ended():
		return false
	case late >= 0 && t.State != Running, late >= deadlineGrace:
		t.end(TimedOut, timedOut(t.State), now)
		return true
	case late >= 0 && t.CancelRequested.IsZero():
		t.CancelRequested = now
		return true
	case (t.State == Offered || t.State == Running) && !now.Before(t.lease):
		return t.lose()
	}
	return false
}

func timedOut(s State) string {
	switch s {
	case Queued:
		return "its turn did not come before its deadline"
	case Running:
		return "it still ran at its deadline"
	default:
		return "its agent was not heard of before its deadline"
	}
}

func (t *Task) end(s State, text string, now time.Time) {
	t.State = s
	t.Error = text
	t.Ended = now
	t.lease = time.Time{}
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
