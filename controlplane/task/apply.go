package task

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chom.dev/controlplane/db"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// Applied says what became of an agent's events.
type Applied struct {
	// Refused are those that were not taken, for good.
	Refused []*linkv1.RefusedEvent
	// Foreign counts those about a task of another server: no honest agent
	// sends one.
	Foreign int
}

// Apply takes what the agent of a server says happened to its attempts, in the
// caller's transaction (ReadCommitted will do). Each event counts once however
// often it comes; events of one attempt that come out of order lose nothing but
// steps and log lines. The caller has made sure that the agent is who it says
// and that the events are valid by their proto.
func (ts *Tasks) Apply(ctx context.Context, tx *db.Tx, server string, events []*linkv1.TaskEvent, now time.Time) (Applied, error) {
	byTask := map[string][]*linkv1.TaskEvent{}
	for _, e := range events {
		byTask[e.GetTaskId()] = append(byTask[e.GetTaskId()], e)
	}
	ids := make([]string, 0, len(byTask))
	for id := range byTask {
		ids = append(ids, id)
	}
	slices.Sort(ids) // all take their locks in one order
	var a Applied
	for _, id := range ids {
		if err := ts.applyTask(ctx, tx, server, strings.ToLower(id), byTask[id], now, &a); err != nil {
			return Applied{}, fmt.Errorf("apply events of task %s: %w", id, err)
		}
	}
	return a, nil
}

func (ts *Tasks) applyTask(ctx context.Context, tx *db.Tx, server, id string, events []*linkv1.TaskEvent, now time.Time, a *Applied) error {
	refuse := func(e *linkv1.TaskEvent, label, reason string) {
		a.Refused = append(a.Refused, &linkv1.RefusedEvent{
			TaskId: e.GetTaskId(), Attempt: e.GetAttempt(), Sequence: e.GetSequence(), Reason: reason,
		})
		tx.AfterCommit(func() { ts.metrics.refused.WithLabelValues(label).Inc() })
	}
	t, err := lock(ctx, tx, server, id)
	if errors.Is(err, sql.ErrNoRows) {
		label, err := ts.absentLabel(ctx, tx, id)
		if err != nil {
			return err
		}
		for _, e := range events {
			if label == labelForeign {
				a.Foreign++
			}
			// Somebody else's task looks like none.
			refuse(e, label, "there is no such task")
		}
		return nil
	}
	if err != nil {
		return err
	}
	before := t
	c := change{t: &t, server: server, now: now}
	for _, e := range events {
		if label, reason := c.take(e); label != "" {
			refuse(e, label, reason)
		}
	}
	if err := c.write(ctx, tx); err != nil {
		return err
	}
	if !c.changed {
		return nil
	}
	if t.State.Ended() && before.State.Ended() {
		if late := ts.late[t.Kind]; late != nil && c.late != nil {
			if err := late(ctx, tx, t, c.late); err != nil {
				return err
			}
		}
		return ts.saveLate(ctx, tx, &t) // the noun has heard of its end
	}
	if before.Started.IsZero() && !t.Started.IsZero() && t.Attempt == 1 {
		created := t.Created
		tx.AfterCommit(func() { ts.metrics.accepted.Observe(now.Sub(created).Seconds()) })
	}
	return ts.save(ctx, tx, &t, c.result)
}

// Why an event is not taken, for the metric.
const (
	labelForeign = "foreign"
	labelUnknown = "unknown"
	labelAttempt = "attempt"
	labelEnded   = "ended"
)

func (ts *Tasks) absentLabel(ctx context.Context, tx *db.Tx, id string) (string, error) {
	var n int
	err := tx.QueryRow(ctx, `
		SELECT COUNT(*)
		FROM tasks
		WHERE id = $1`, id).Scan(&n)
	if n > 0 {
		return labelForeign, err
	}
	return labelUnknown, err
}

// change gathers what events do to one task.
type change struct {
	t       *Task
	server  string
	now     time.Time
	changed bool
	steps   []*linkv1.TaskEvent
	lines   []LogLine
	result  *orderv1.Result
	late    *orderv1.Result // of a task that was TIMED_OUT before
}

// take applies one event in memory; a label says that it was refused.
func (c *change) take(e *linkv1.TaskEvent) (label, reason string) {
	t := c.t
	switch {
	case e.GetAttempt() < t.Attempt:
		return labelAttempt, "it is of an older attempt"
	case e.GetAttempt() > t.Attempt:
		return labelAttempt, "the attempt was never offered"
	case t.fence != 0 && e.GetFence() != 0 && int64(e.GetFence()) != t.fence:
		return labelAttempt, "the fence is of another offer"
	case e.GetSequence() > maxSequence:
		return labelAttempt, "the event's number is too large"
	case int64(e.GetSequence()) <= t.eventSequence:
		return "", "" // a repeat
	case t.State == Queued:
		// It was offered, and then given up as never accepted, or refused.
		return labelAttempt, "the attempt is over"
	case t.State.Ended():
		return c.afterEnd(e)
	}
	t.eventSequence = int64(e.GetSequence())
	c.changed = true
	switch ev := e.GetEvent().(type) {
	case *linkv1.TaskEvent_Accepted:
		t.run(c.now)
		t.StepCount = ev.Accepted.GetStepCount()
	case *linkv1.TaskEvent_StepStarted, *linkv1.TaskEvent_StepEnded:
		t.run(c.now)
		c.steps = append(c.steps, e)
	case *linkv1.TaskEvent_Log:
		t.run(c.now)
		c.line(e, ev.Log.GetText())
	case *linkv1.TaskEvent_Result:
		r := ev.Result
		if r.GetObserved() != nil && r.GetObserved().GetSiteId() != t.Site {
			r.Observed = nil // about something that this task is not about
		}
		t.result(r.GetOutcome(), Text(r.GetError(), textMax), c.now)
		if t.State.Ended() {
			c.result = r
		}
	}
	return "", ""
}

// afterEnd is an event after the end: of a TIMED_OUT task it is worth a log line, and the noun may want to know.
func (c *change) afterEnd(e *linkv1.TaskEvent) (label, reason string) {
	if r := e.GetResult(); r != nil && c.t.State == TimedOut {
		c.t.eventSequence = int64(e.GetSequence())
		c.changed, c.late = true, r
		outcome := strings.ToLower(strings.TrimPrefix(r.GetOutcome().String(), "OUTCOME_"))
		c.line(e, strings.TrimSuffix("after its deadline the agent says: "+outcome+": "+r.GetError(), ": "))
	}
	return labelEnded, "the task has ended"
}

// maxSequence keeps event numbers within a BIGINT, far from its end.
const maxSequence = 1 << 53

// write stores steps and log lines.
func (c *change) write(ctx context.Context, tx *db.Tx) error {
	for _, e := range c.steps {
		if err := writeStep(ctx, tx, c.t, e, c.now); err != nil {
			return err
		}
	}
	for _, l := range c.lines {
		_, err := tx.Exec(ctx, `
			INSERT INTO task_logs (task_id, sequence, logged_at, text)
			VALUES ($1, $2, $3, $4)`, c.t.ID, int64(l.Sequence), db.Micros(l.Time), l.Text)
		if err != nil {
			return err
		}
	}
	return nil
}

// saveLate writes the few columns that may change after the end.
func (ts *Tasks) saveLate(ctx context.Context, tx *db.Tx, t *Task) error {
	_, err := tx.Exec(ctx, `
		UPDATE tasks
		SET event_sequence = $2,
			log_sequence = $3,
			log_bytes = $4,
			version = version + 1
		WHERE id = $1`, t.ID, t.eventSequence, t.logSequence, t.logBytes)
	if err != nil {
		return err
	}
	tx.Notify(TopicTask, t.ID)
	return nil
}

var stepStates = map[taskv1.StepState]StepState{
	taskv1.StepState_STEP_STATE_RUNNING:      StepRunning,
	taskv1.StepState_STEP_STATE_DONE:         StepDone,
	taskv1.StepState_STEP_STATE_ALREADY_DONE: StepAlreadyDone,
	taskv1.StepState_STEP_STATE_FAILED:       StepFailed,
}

// stepsMax is the limit of Accepted.step_count.
const stepsMax = 1000

// writeStep stores a step's beginning or end. A step that begins again after a
// crash of the agent keeps its place; its end may come without its beginning.
func writeStep(ctx context.Context, tx *db.Tx, t *Task, e *linkv1.TaskEvent, now time.Time) error {
	at := agentTime(e.GetTime(), now)
	s := Step{Name: e.GetStepStarted().GetName(), State: StepRunning, Started: at}
	if end := e.GetStepEnded(); end != nil {
		s = Step{Name: end.GetName(), State: stepStates[end.GetState()], Started: at, Ended: at, Message: Text(end.GetMessage(), textMax)}
	}
	if s.State == "" {
		return nil // a state of a later release
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO task_steps (task_id, attempt, position, name, state, started_at, ended_at, message)
		SELECT $1, $2, COUNT(*), $3, $4, $5, $6, $7
		FROM task_steps
		WHERE task_id = $1
		AND attempt = $2
		HAVING COUNT(*) <= $8
		ON CONFLICT (task_id, attempt, name) DO UPDATE
		SET state = excluded.state,
			ended_at = excluded.ended_at,
			message = excluded.message`,
		t.ID, int64(t.Attempt), s.Name, string(s.State), db.Micros(s.Started), db.NullMicros(s.Ended), s.Message, stepsMax)
	return err
}
