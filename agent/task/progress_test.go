package task

import (
	"context"
	"strings"
	"testing"
	"time"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// listener is a link that hears of progress.
type listener struct {
	h     *host
	heard []*linkv1.TaskProgress
}

// listen takes what is to be told, as the link does.
func (l *listener) listen(until func() bool) {
	l.h.t.Helper()
	for end := time.After(20 * time.Second); !until(); {
		select {
		case <-l.h.engine.Wake():
		case <-end:
			l.h.t.Fatal("nothing more is told")
		}
		b, err := l.h.engine.Outbox(500, 1<<20)
		if err != nil {
			l.h.t.Fatal(err)
		}
		l.heard = append(l.heard, b.Progress...)
		for _, ev := range b.Events {
			key := attemptOf(ev.TaskId, ev.Attempt)
			l.h.events[key] = append(l.h.events[key], ev)
		}
		l.h.engine.Delivered(b)
	}
}

func TestProgress(t *testing.T) {
	t.Run("is told once a second at most, the newest of it, and is in no journal", func(t *testing.T) {
		const all = 2500
		h := newHost(t)
		h.handlers[Noop] = steps(Step{Name: "copy", Do: func(ctx context.Context, log *Log) error {
			for done := range uint64(all) {
				log.Progress(Progress{Doing: "files", Done: done + 1, Total: all})
				if err := pause(ctx, time.Millisecond); err != nil {
					return err
				}
			}
			return pause(ctx, 1100*time.Millisecond) // time for the last word
		}})
		h.start()
		defer h.end()
		o := h.offer(h.order())
		began := time.Now()
		l := &listener{h: h}
		l.listen(func() bool { return strings.Contains(h.story(o), "succeeded") })
		seconds := int(time.Since(began)/time.Second) + 1
		if n := len(l.heard); n < 3 || n > seconds {
			t.Fatalf("in %d seconds it was told %d times", seconds, n)
		}
		for i, p := range l.heard {
			if p.TaskId != o.TaskId || p.Attempt != 1 || p.Step != "copy" || p.Progress.Doing != "files" || p.Progress.TotalBytes != all {
				t.Errorf("it is told %v", p)
			}
			if i > 0 && p.Progress.DoneBytes <= l.heard[i-1].Progress.DoneBytes {
				t.Errorf("%d bytes come after %d", p.Progress.DoneBytes, l.heard[i-1].Progress.DoneBytes)
			}
		}
		if last := l.heard[len(l.heard)-1].Progress.DoneBytes; last != all {
			t.Errorf("the last word is of %d bytes", last)
		}
		if want := "accepted 1, start copy, done copy, succeeded"; h.story(o) != want {
			t.Errorf("story is %q, want %q", h.story(o), want)
		}
	})

	t.Run("is not told of an attempt that has ended", func(t *testing.T) {
		h := newHost(t)
		var kept *Log
		h.handlers[Noop] = steps(Step{Name: "copy", Do: func(_ context.Context, log *Log) error {
			kept = log
			log.Progress(Progress{Doing: "files", Done: 1})
			return nil
		}})
		h.start()
		defer h.end()
		h.result(h.offer(h.order()))
		for h.engine.Busy() > 0 {
			time.Sleep(time.Millisecond)
		}
		kept.Progress(Progress{Doing: "files", Done: 2})
		b, err := h.engine.Outbox(500, 1<<20)
		if err != nil || len(b.Progress) > 0 || len(h.engine.paces) > 0 {
			t.Errorf("it is told %v, %d are kept, %v", b.Progress, len(h.engine.paces), err)
		}
	})

	t.Run("is what can be true", func(t *testing.T) {
		for name, c := range map[string]struct {
			said        Progress
			doing       string
			done, total uint64
		}{
			"more than there is":    {Progress{Doing: "files", Done: 5, Total: 3}, "files", 5, 0},
			"more than anybody has": {Progress{Doing: "files", Done: 1 << 60, Total: 1 << 61}, "files", maxMoved, maxMoved},
			"a text that is none":   {Progress{Doing: "\x1b[2J" + strings.Repeat("x", 100), Done: 1}, "[2J" + strings.Repeat("x", 61), 1, 0},
			"nothing":               {Progress{Done: 1}, "", 0, 0},
		} {
			t.Run(name, func(t *testing.T) {
				h := newHost(t)
				said := make(chan struct{})
				h.handlers[Noop] = steps(Step{Name: "copy", Do: func(ctx context.Context, log *Log) error {
					log.Progress(c.said)
					close(said)
					<-ctx.Done()
					return ctx.Err()
				}})
				h.start()
				defer h.end()
				h.offer(h.order())
				<-said
				b, err := h.engine.Outbox(500, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				if c.doing == "" {
					if len(b.Progress) > 0 {
						t.Errorf("it is told %v", b.Progress)
					}
					return
				}
				if len(b.Progress) != 1 {
					t.Fatalf("it is told %v", b.Progress)
				}
				if p := b.Progress[0].Progress; p.Doing != c.doing || p.DoneBytes != c.done || p.TotalBytes != c.total {
					t.Errorf("it is told %v", p)
				}
			})
		}
	})
}
