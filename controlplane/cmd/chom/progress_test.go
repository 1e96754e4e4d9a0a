package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// moving is a task whose step has done so much.
func moving(done, total uint64) *taskv1.Task {
	return &taskv1.Task{
		State: taskv1.State_STATE_RUNNING, Attempt: 1, Steps: []*taskv1.Step{{Name: "contents", State: taskv1.StepState_STEP_STATE_RUNNING, Attempt: 1}},
		Progress: &taskv1.Progress{Doing: "files\x1b[2J", DoneBytes: done, TotalBytes: total},
	}
}

func TestProgress(t *testing.T) {
	t.Run("is a bar that is drawn anew on a terminal", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var out strings.Builder
			s := &progress{w: &out, redraw: true}
			s.task(moving(0, 10<<30))
			time.Sleep(2 * time.Second)
			s.task(moving(5<<30, 10<<30))
			if want := "\x1b[2A\x1b[J  |   contents\n      [############------------] 50 %, 5 GiB of 10 GiB, 2.5 GiB/s, files\uFFFD[2J\n"; !strings.HasSuffix(out.String(), want) {
				t.Errorf("it is %q, and should end with %q", out.String(), want)
			}
			s.task(moving(11<<30, 0))
			if want := "\n      11 GiB, 5.5 GiB/s, files\uFFFD[2J\n"; !strings.HasSuffix(out.String(), want) {
				t.Errorf("it is %q, and should end with %q", out.String(), want)
			}
		})
	})

	t.Run("is a line now and then elsewhere", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var out strings.Builder
			s := &progress{w: &out}
			for i := range uint64(25) {
				s.task(moving(i<<20, 100<<20))
				time.Sleep(time.Second)
			}
			want := "  ... contents\n      10 %, 10 MiB of 100 MiB, 1 MiB/s, files\uFFFD[2J\n      20 %, 20 MiB of 100 MiB, 1 MiB/s, files\uFFFD[2J\n"
			if out.String() != want {
				t.Errorf("it is %q, not %q", out.String(), want)
			}
		})
	})

	t.Run("has no rate before there are two moments, nor over a new beginning", func(t *testing.T) {
		now := time.Now()
		var r rate
		r.heard(moving(5<<20, 0).GetProgress(), now)
		if n := r.perSecond(); n != 0 {
			t.Errorf("after one it is %d", n)
		}
		r.heard(moving(7<<20, 0).GetProgress(), now.Add(time.Second))
		if n := r.perSecond(); n != 2<<20 {
			t.Errorf("after two it is %d", n)
		}
		r.heard(moving(1<<20, 0).GetProgress(), now.Add(2*time.Second))
		if n := r.perSecond(); n != 0 {
			t.Errorf("begun anew it is %d", n)
		}
		r.heard(nil, now.Add(3*time.Second))
		if n := r.perSecond(); n != 0 {
			t.Errorf("without a word it is %d", n)
		}
	})
}
