package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
)

// insider visits sites from inside of their host, where no cable is between.
type insider struct {
	stop  context.CancelFunc
	ended chan error
	out   bytes.Buffer
	began time.Time
}

// insiders begin to ask for sites ten times a second each.
func insiders(t *testing.T, h *host, sites ...*sitev1.Site) *insider {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	p := &insider{stop: stop, ended: make(chan error, 1), began: time.Now()}
	var loops []string
	for _, s := range sites {
		loops = append(loops, fmt.Sprintf(
			`(while sleep 0.1; do curl --silent --output /dev/null --max-time 10 --write-out '%%{http_code} %[1]s\n' --header 'Host: %[1]s' http://127.0.0.1/; done) &`, s.GetDomains()[0]))
	}
	go func() {
		_, err := h.Run(ctx, lab.Command{Argv: []string{"/bin/bash", "-c", strings.Join(loops, "\n") + "\nwait"}, Stdout: &p.out})
		p.ended <- err
	}()
	t.Cleanup(stop)
	return p
}

// unharmed ends the visits: all must have been answered well.
func (p *insider) unharmed(t *testing.T) {
	t.Helper()
	lasted := time.Since(p.began)
	p.stop()
	if err := <-p.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the visits ended by themselves: %v", err)
	}
	asked, wrong := 0, []string{}
	for line := range strings.Lines(p.out.String()) {
		asked++
		if !strings.HasPrefix(line, "200 ") {
			wrong = append(wrong, line)
		}
	}
	if len(wrong) > 0 {
		t.Errorf("%d of %d visits went wrong: %s", len(wrong), asked, strings.Join(wrong[:min(len(wrong), 5)], ""))
	}
	if asked < int(lasted/time.Second) {
		t.Errorf("only %d visits in %s, which proves nothing", asked, lasted)
	}
	t.Logf("%d visits in %s, %d wrong", asked, lasted.Round(time.Second), len(wrong))
}

// cutNetwork breaks the way between host and control plane in every way that
// the lab knows, while nothing happens and while a site is made.
func cutNetwork(t *testing.T, w *shared, h *host, waste *rubbish) {
	static, _ := w.create(t, h, "static")
	wordpress, _ := w.create(t, h, "wordpress")
	ctx := context.WithoutCancel(t.Context())
	cut := func(on bool) error { return h.Partition(ctx, on) }
	unplug := func(on bool) error { return h.Unplug(ctx, on) }
	lose := func(d lab.Direction, percent int) func(bool) error {
		return func(on bool) error {
			if !on {
				return h.Lose(ctx, lab.Inbound|lab.Outbound, 0)
			}
			return h.Lose(ctx, d, percent)
		}
	}
	short, long := 5*time.Second, 5*time.Second
	if proving {
		short, long = 40*time.Second, 10*time.Minute
	}
	for _, trouble := range []struct {
		name  string
		spoil func(on bool) error
		lasts time.Duration
	}{
		{"partition", cut, long},
		{"unplugged", unplug, short},
		{"nothing comes in", lose(lab.Inbound, 100), short},
		{"nothing goes out", lose(lab.Outbound, 100), short},
		{"a third is lost", lose(lab.Inbound|lab.Outbound, 33), short},
	} {
		t.Run(trouble.name, func(t *testing.T) {
			visits := insiders(t, h, static, wordpress)
			defer func() {
				if err := trouble.spoil(false); err != nil {
					t.Error(err)
				}
			}()
			res, err := w.rig.Sites.CreateSite(timeout(t, time.Minute), w.request(h, "static"))
			if err != nil {
				t.Fatal(err)
			}
			begun := false
			healed := make(chan time.Time, 1)
			task, err := w.rig.Wait(timeout(t, trouble.lasts+2*time.Minute), res.GetTask(), func(m *taskv1.WatchTaskResponse) {
				if begun || len(m.GetTask().GetSteps()) == 0 {
					return
				}
				begun = true
				if err := trouble.spoil(true); err != nil {
					t.Error(err)
				}
				go func() {
					time.Sleep(trouble.lasts)
					if err := trouble.spoil(false); err != nil {
						t.Error(err)
					}
					healed <- time.Now()
				}()
			})
			if err != nil || !begun {
				t.Fatalf("%v, %v", task, err)
			}
			at := <-healed
			if task.GetState() != taskv1.State_STATE_SUCCEEDED || task.GetAttempt() != 1 {
				t.Errorf("the task ended %s in attempt %d: %s", task.GetState(), task.GetAttempt(), task.GetError())
			}
			once(t, task)
			w.ping(t, h, max(time.Second, backWithin-time.Since(at)))
			back := time.Since(at)
			if tasks := w.tasks(t, res.GetSite()); len(tasks) != 1 {
				t.Errorf("the site has %d tasks", len(tasks))
			}
			waste.bin(t, w.settled(t, h, res.GetSite(), converges))
			visits.unharmed(t)
			t.Logf("back %s after %s were over", back.Round(10*time.Millisecond), trouble.lasts)
		})
	}
	waste.bin(t, static)
	waste.bin(t, wordpress)
	waste.empty(t)
}

// cancelBetweenSteps stops a task that has steps left, and one that is too late.
func cancelBetweenSteps(t *testing.T, w *shared, h *host, waste *rubbish) {
	ctx := timeout(t, time.Minute)
	task, err := pingSlowly(ctx, w, h, 10, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	task, err = w.rig.Wait(ctx, task, func(m *taskv1.WatchTaskResponse) {
		if asked || !slices.ContainsFunc(m.GetTask().GetSteps(), func(s *taskv1.Step) bool { return s.GetState() == taskv1.StepState_STEP_STATE_DONE }) {
			return
		}
		asked = true
		if _, err := w.rig.Tasks.CancelTask(ctx, &taskv1.CancelTaskRequest{OrganizationId: task.GetOrganizationId(), TaskId: task.GetId()}); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	for _, s := range task.GetSteps() {
		if s.GetState() == taskv1.StepState_STEP_STATE_DONE {
			done++
		}
	}
	if task.GetState() != taskv1.State_STATE_CANCELED || done == 0 || done > 5 {
		t.Errorf("a task that was canceled between its steps ended %s after %d steps: %s", task.GetState(), done, task.GetError())
	}
	w.ping(t, h, 5*time.Second)
}
