package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/rig"
)

const (
	faultAgents = 200 // of the swarm: few enough that each is killed now and then
	faultRounds = 6   // of four tasks for each agent, after the one that creates its site
	faultKills  = 100 * time.Millisecond
	faultLimit  = 10 * time.Minute
	// chomdKills is how often chomd is killed while there is work.
	chomdKills = 3
	killPause  = 5 * time.Second // between them
)

// faults gives part of the swarm work, kills agents and chomd meanwhile, waits
// until every task has ended, and lets the ledger's checker judge: it knows
// what each agent accepted, began, did and ended, in order and with its fences.
func (s *swarmed) faults(ctx context.Context) (_ []row, err error) {
	ctx, cancel := context.WithTimeout(ctx, faultLimit)
	defer cancel()
	since := time.Now()
	p, err := s.start(ctx, "faults", "--agents="+strconv.Itoa(faultAgents), "--tokens=", "--ramp=2s",
		"--kill-every="+faultKills.String(), "--step-time=20ms")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	org, err := s.organization(ctx)
	if err != nil {
		return nil, err
	}
	g, working := errgroup.WithContext(ctx)
	for i := range faultAgents {
		g.Go(func() error { return s.work(working, org, i) })
	}
	killer, stop := context.WithCancel(ctx)
	killed := make(chan error, 1)
	go func() { killed <- s.killChomd(killer) }()
	err = g.Wait()
	stop()
	if err := errors.Join(err, <-killed); err != nil {
		return nil, err
	}
	tasks, err := s.ended(ctx, since, org, rig.Platform)
	if err != nil {
		return nil, err
	}
	c, err := p.counts()
	if err != nil {
		return nil, err
	}
	if err := p.stop(); err != nil {
		return nil, err
	}
	var succeeded []string
	open, failed, superseded := 0, 0, 0
	for _, t := range tasks {
		switch {
		case t.GetState() == taskv1.State_STATE_SUCCEEDED:
			succeeded = append(succeeded, t.GetId())
		case !rig.Ended(t.GetState()):
			open++
			s.b.say("    task %s (%s) is still %s", t.GetId(), t.GetKind(), t.GetState())
		case t.GetState() == taskv1.State_STATE_CANCELED && strings.HasPrefix(t.GetError(), "superseded by generation"):
			superseded++ // its call was repeated since the answer was lost with chomd; the repeat replaced it
		default:
			failed++
			s.b.say("    task %s (%s) ended %s: %s", t.GetId(), t.GetKind(), t.GetState(), t.GetError())
		}
	}
	findings, err := s.check(ctx, p.ledger, succeeded)
	if err != nil {
		return nil, err
	}
	s.b.say("    %d tasks under %d kills of agents and %d of chomd; %d waited and gave way to a newer one", len(tasks), c.Kills, chomdKills, superseded)
	rows := []row{
		{Name: "lost, run twice, out of order: findings of the ledger's checker", Value: float64(findings), Unit: "findings", Bar: exactly(0)},
		{Name: "tasks without an end", Value: float64(open), Unit: "tasks", Bar: exactly(0)},
		{Name: "tasks that failed", Value: float64(failed), Unit: "tasks", Bar: exactly(0)},
	}
	for i := range rows {
		rows[i].Statistic, rows[i].Runs = "sum", len(tasks)
	}
	return rows, nil
}

// work is a customer of one agent: a site that is created, suspended and
// resumed, and pings between, each waited for. Chomd may be gone at any moment.
func (s *swarmed) work(ctx context.Context, org string, n int) error {
	var site *sitev1.Site
	err := s.through(ctx, func() (*taskv1.Task, error) {
		res, err := s.Sites.CreateSite(ctx, &sitev1.CreateSiteRequest{
			OrganizationId: org, Name: fmt.Sprintf("site%d", n), Type: "static", ServerId: s.ids[n],
			Domains: []string{fmt.Sprintf("site%d.bench.example", n)}, Settings: map[string]string{"title": "Site"},
			RequestId: fmt.Sprintf("site%d", n),
		})
		site = res.GetSite()
		return res.GetTask(), err
	})
	if err != nil {
		return fmt.Errorf("create site %d: %w", n, err)
	}
	ping := func() (*taskv1.Task, error) {
		res, err := s.Servers.PingServer(ctx, &fleetv1.PingServerRequest{
			ServerId: s.ids[n], Steps: 3, StepDuration: durationpb.New(10 * time.Millisecond),
		})
		return res.GetTask(), err
	}
	suspend := func() (*taskv1.Task, error) {
		res, err := s.Sites.SuspendSite(ctx, &sitev1.SuspendSiteRequest{OrganizationId: org, SiteId: site.GetId()})
		return res.GetTask(), err
	}
	resume := func() (*taskv1.Task, error) {
		res, err := s.Sites.ResumeSite(ctx, &sitev1.ResumeSiteRequest{OrganizationId: org, SiteId: site.GetId()})
		return res.GetTask(), err
	}
	for range faultRounds {
		for _, ask := range []func() (*taskv1.Task, error){ping, suspend, ping, resume} {
			if err := s.through(ctx, ask); err != nil {
				return fmt.Errorf("work on server %d: %w", n, err)
			}
		}
	}
	return nil
}

// through asks until chomd answers, and waits for the task's end. An answer
// that was lost may have had its effect: the repeat is then a second task, or
// is refused since there is nothing left to do; both are right.
func (s *swarmed) through(ctx context.Context, ask func() (*taskv1.Task, error)) error {
	for lost := false; ; lost = true {
		t, err := ask()
		switch {
		case err == nil:
			_, err := s.Wait(ctx, t, nil)
			return err
		case ctx.Err() != nil:
			return err
		case !connect.IsWireError(err), connect.CodeOf(err) == connect.CodeUnavailable: // chomd is away, or busy
		case lost:
			return nil
		default:
			return err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// killChomd kills it a few times while there is work; the last start stays.
func (s *swarmed) killChomd(ctx context.Context) error {
	for range chomdKills {
		if pause(ctx, killPause) != nil {
			return errors.New("the work was done before chomd was killed often enough")
		}
		s.Kill()
		if err := s.Restart(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// ended gives all tasks of the organizations that were created since, once they
// have ended; what has not ended when time is up is given as it is.
func (s *swarmed) ended(ctx context.Context, since time.Time, orgs ...string) ([]*taskv1.Task, error) {
	limit, cancel := context.WithTimeout(ctx, swarmLimit)
	defer cancel()
	for {
		var all []*taskv1.Task
		open := 0
		for _, org := range orgs {
			tasks, err := s.tasks(ctx, org, since)
			if err != nil {
				return nil, err
			}
			for _, t := range tasks {
				if !rig.Ended(t.GetState()) {
					open++
				}
			}
			all = append(all, tasks...)
		}
		if open == 0 || pause(limit, time.Second) != nil {
			return all, ctx.Err()
		}
	}
}

// tasks lists an organization's tasks back to a moment.
func (s *swarmed) tasks(ctx context.Context, org string, since time.Time) ([]*taskv1.Task, error) {
	var all []*taskv1.Task
	for token := ""; ; {
		res, err := s.Tasks.ListTasks(ctx, &taskv1.ListTasksRequest{OrganizationId: org, PageSize: 500, PageToken: token})
		if err != nil {
			return nil, fmt.Errorf("list tasks: %w", err)
		}
		for _, t := range res.GetTasks() {
			if t.GetCreateTime().AsTime().Before(since) {
				return all, nil
			}
			all = append(all, t)
		}
		if token = res.GetNextPageToken(); token == "" {
			return all, nil
		}
	}
}

// check runs the checker and counts what it finds.
func (s *swarmed) check(ctx context.Context, ledger string, succeeded []string) (int, error) {
	file := filepath.Join(s.dir, "succeeded")
	if err := os.WriteFile(file, []byte(strings.Join(succeeded, "\n")+"\n"), 0o600); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.b.bin, "chom-swarm"), "check", "--ledger="+ledger, "--succeeded="+file)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	out, err := cmd.Output()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == foundSome {
		for _, l := range lines[:min(len(lines), 10)] {
			s.b.say("    %s", l)
		}
		return len(lines) - 1, nil // the last one is the summary
	}
	if err != nil {
		return 0, fmt.Errorf("check ledger: %w", err)
	}
	s.b.detail("%s", lines[len(lines)-1])
	return 0, nil
}

// foundSome is the exit status of a check that has findings.
const foundSome = 3
