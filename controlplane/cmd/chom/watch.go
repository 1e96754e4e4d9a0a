package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"connectrpc.com/connect"
)

// giveUpWatching is how long a watch tries to come back to a control plane that went away: longer than its restart.
const giveUpWatching = 60 * time.Second

// follow shows a task until it ends and returns it as it ended. A broken stream is taken up again where it was.
func (p *program) follow(ctx context.Context, c *client, task *taskv1.Task, showLog bool) (*taskv1.Task, error) {
	if task == nil {
		return nil, errors.New("the control plane named no task")
	}
	show := &progress{w: p.err, redraw: p.terminal()}
	if p.quiet {
		show.w = io.Discard
	}
	defer show.end()
	var seen uint64
	var lost time.Time
	for {
		last, err := p.watchOnce(ctx, c, task, &seen, show, showLog, &lost)
		if err == nil || ended(last) {
			return last, err
		}
		if code := connect.CodeOf(err); ctx.Err() != nil || code != connect.CodeUnavailable && code != connect.CodeUnknown && code != connect.CodeInternal {
			return last, err
		}
		if lost.IsZero() {
			lost = time.Now()
			show.message("the control plane is gone; trying to come back to it")
		} else if time.Since(lost) > giveUpWatching {
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (p *program) watchOnce(ctx context.Context, c *client, task *taskv1.Task, seen *uint64, show *progress, showLog bool, lost *time.Time) (*taskv1.Task, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Tasks.WatchTask(ctx, &taskv1.WatchTaskRequest{OrganizationId: task.GetOrganizationId(), TaskId: task.GetId(), AfterLogSequence: *seen})
	if err != nil {
		return task, err
	}
	ticker := time.NewTicker(150 * time.Millisecond) // a spinner's turn
	defer ticker.Stop()
	type message struct {
		*taskv1.WatchTaskResponse
		err error
	}
	messages := make(chan message)
	go func() {
		defer close(messages)
		for stream.Receive() {
			select {
			case messages <- message{stream.Msg(), nil}:
			case <-ctx.Done():
				return
			}
		}
		select {
		case messages <- message{nil, stream.Err()}:
		case <-ctx.Done():
		}
	}()
	defer stream.Close() //nolint:errcheck // the stream is over; there is nobody to tell
	for {
		select {
		case <-ctx.Done():
			return task, ctx.Err()
		case <-ticker.C:
			show.turn(task)
		case m, open := <-messages:
			switch {
			case !open:
				return task, ctx.Err()
			case m.WatchTaskResponse == nil:
				if m.err == nil && !ended(task) {
					m.err = connect.NewError(connect.CodeUnavailable, errors.New("the stream ended before the task did"))
				}
				return task, m.err
			}
			*lost = time.Time{}
			task = m.GetTask()
			for _, line := range m.GetLogLines() {
				*seen = line.GetSequence()
				if showLog {
					show.message("  | " + plain(line.GetText()))
				}
			}
			show.task(task)
			if ended(task) {
				return task, nil
			}
		}
	}
}

func ended(t *taskv1.Task) bool {
	switch t.GetState() {
	case taskv1.State_STATE_SUCCEEDED, taskv1.State_STATE_FAILED, taskv1.State_STATE_CANCELED, taskv1.State_STATE_TIMED_OUT:
		return true
	}
	return false
}

// failure is the error of a task that ended in any way but well.
func failure(t *taskv1.Task) error {
	if t.GetState() == taskv1.State_STATE_SUCCEEDED {
		return nil
	}
	text := "the task " + short(t.GetState(), "STATE_")
	if t.GetError() != "" {
		text += ": " + plain(t.GetError())
	}
	return &problem{code: exitTaskFailed, text: text, next: "its steps and output: chom task show " + t.GetId()}
}

// progress shows a task's steps: in place on a terminal, else a line for each beginning and end.
type progress struct {
	w      io.Writer
	redraw bool

	drawn   int // lines on the terminal that the next drawing replaces
	frame   int
	printed map[string]taskv1.StepState
	attempt uint32
	state   taskv1.State
	moved   rate
	told    time.Time // when a line was last printed of how far a step is
}

const spinner = "|/-\\"

func (s *progress) turn(t *taskv1.Task) {
	s.frame++
	if s.redraw {
		s.draw(t)
	}
}

func (s *progress) task(t *taskv1.Task) {
	s.moved.heard(t.GetProgress(), time.Now())
	if s.redraw {
		s.draw(t)
		return
	}
	if s.printed == nil || s.attempt != t.GetAttempt() {
		if s.attempt > 0 && t.GetAttempt() > s.attempt {
			fmt.Fprintf(s.w, "attempt %d\n", t.GetAttempt())
		}
		s.printed, s.attempt = map[string]taskv1.StepState{}, t.GetAttempt()
	}
	if t.GetState() != s.state {
		s.state = t.GetState()
		if word := waiting(t); word != "" {
			fmt.Fprintln(s.w, word)
		}
	}
	for _, step := range t.GetSteps() {
		if before, known := s.printed[step.GetName()]; known && before == step.GetState() {
			continue
		}
		s.printed[step.GetName()] = step.GetState()
		fmt.Fprintln(s.w, stepLine(step, "..."))
		s.told = time.Now()
	}
	if p := t.GetProgress(); p != nil && time.Since(s.told) >= tellEvery {
		s.told = time.Now()
		fmt.Fprintln(s.w, "      "+progressText(p, s.moved.perSecond()))
	}
}

// tellEvery is how often a line is printed of how far a step is, where none can be drawn anew.
const tellEvery = 10 * time.Second

// waiting says what a task that has no running step waits for.
func waiting(t *taskv1.Task) string {
	switch t.GetState() {
	case taskv1.State_STATE_QUEUED:
		return "waiting for the server's agent"
	case taskv1.State_STATE_OFFERED:
		return "offered to the server's agent"
	case taskv1.State_STATE_UNKNOWN:
		return "the server was lost from sight; waiting until its agent says how far it came"
	}
	return ""
}

func (s *progress) draw(t *taskv1.Task) {
	s.erase()
	var lines []string
	for _, step := range t.GetSteps() {
		lines = append(lines, stepLine(step, string(spinner[s.frame%len(spinner)])))
	}
	if p := t.GetProgress(); p != nil {
		lines = append(lines, "      "+bar(p)+progressText(p, s.moved.perSecond()))
	}
	if word := waiting(t); word != "" {
		lines = append(lines, fmt.Sprintf("  %c %s", spinner[s.frame%len(spinner)], word))
	}
	for _, line := range lines {
		fmt.Fprintln(s.w, line)
	}
	s.drawn = len(lines)
}

func (s *progress) erase() {
	if s.drawn > 0 {
		fmt.Fprintf(s.w, "\x1b[%dA\x1b[J", s.drawn) // up, and clear what is below
		s.drawn = 0
	}
}

// message prints a line above what is redrawn.
func (s *progress) message(text string) {
	s.erase()
	fmt.Fprintln(s.w, text)
}

func (s *progress) end() { s.drawn = 0 }

func stepLine(step *taskv1.Step, running string) string {
	mark, took, note := running, "", ""
	if step.GetEndTime() != nil && step.GetStartTime() != nil {
		took = fmt.Sprintf("%6.1f s", max(0, step.GetEndTime().AsTime().Sub(step.GetStartTime().AsTime()).Seconds()))
	}
	switch step.GetState() {
	case taskv1.StepState_STEP_STATE_DONE:
		mark = "ok"
	case taskv1.StepState_STEP_STATE_ALREADY_DONE:
		mark, note = "ok", "was done already"
	case taskv1.StepState_STEP_STATE_FAILED:
		mark, note = "!!", plain(step.GetMessage())
	}
	line := fmt.Sprintf("  %-3s %-24s %s", mark, plain(step.GetName()), took)
	if note != "" {
		line += "  " + note
	}
	return strings.TrimRight(line, " ")
}
