package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// teller shows a person what happens and how long it takes.
type teller struct {
	mu      sync.Mutex
	w       io.Writer
	partial bytes.Buffer
	times   []timing
}

type timing struct {
	what string
	took time.Duration
}

func newTeller(w io.Writer) *teller { return &teller{w: w} }

func (t *teller) line(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, format+"\n", args...)
}

// timed runs one part of the demo.
func (t *teller) timed(what string, do func() error) error {
	t.line("==> %s", what)
	begin := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	took := time.Since(begin)
	t.times = append(t.times, timing{what, took})
	t.line("    done in %.1f s", took.Seconds())
	return nil
}

// Write shows the output of a program, indented.
func (t *teller) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.partial.Write(p)
	for {
		line, err := t.partial.ReadString('\n')
		if err != nil {
			t.partial.WriteString(line)
			return len(p), nil
		}
		fmt.Fprintf(t.w, "    | %s", line)
	}
}

// steps shows each step of a task once it has ended.
func (t *teller) steps() func(*taskv1.WatchTaskResponse) {
	shown := map[string]bool{}
	return func(m *taskv1.WatchTaskResponse) {
		for _, s := range m.GetTask().GetSteps() {
			if s.GetEndTime() == nil || shown[s.GetName()] {
				continue
			}
			shown[s.GetName()] = true
			took := s.GetEndTime().AsTime().Sub(s.GetStartTime().AsTime())
			t.line("    %-12s %6.2f s  %s", s.GetName(), took.Seconds(), s.GetMessage())
		}
	}
}

func (t *teller) summary(begin time.Time, rows [][2]string) {
	t.line("")
	for _, r := range rows {
		t.line("%-20s %s", r[0], r[1])
	}
	t.line("")
	for _, d := range t.times {
		t.line("%6.1f s  %s", d.took.Seconds(), d.what)
	}
	t.line("%6.1f s  all of it", time.Since(begin).Seconds())
}
