package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

// freshLimit is far beyond the bar, so that a miss has a number.
const freshLimit = 15 * time.Minute

// freshServer pastes the line on a minimal VPS of each release, once: what apt
// fetches comes over the network and would only be warm the second time.
func freshServer(ctx context.Context, b *bench) ([]row, error) {
	var rows []row
	for _, release := range lab.Releases {
		of, err := fresh(ctx, b, release)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", release, err)
		}
		rows = append(rows, of...)
	}
	return rows, nil
}

func fresh(ctx context.Context, b *bench, release lab.Release) (_ []row, err error) {
	base, err := lab.EnsureBase(ctx, release, lab.Fresh, nil)
	if err != nil {
		return nil, err
	}
	s, err := b.build(ctx, rig.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	h, err := s.Lab.Boot(ctx, lab.Config{Name: "vps1", Base: base})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, freshLimit)
	defer cancel()
	created, err := s.Servers.CreateServer(ctx, &fleetv1.CreateServerRequest{Name: h.Name()})
	if err != nil {
		return nil, fmt.Errorf("create server: %w", err)
	}
	id := created.GetServer().GetId()

	begin := time.Now()
	pasted := make(chan error, 1)
	go func() {
		pasted <- s.Paste(ctx, h, created.GetJoinToken().GetInstallCommand(), nil)
	}()
	if err := s.online(ctx, id, pasted); err != nil {
		return nil, err
	}
	online := time.Since(begin)
	server, err := s.Prepared(ctx, id, nil)
	if err != nil {
		return nil, err
	}
	ready := time.Since(begin)
	if err := <-pasted; err != nil {
		return nil, err
	}
	b.detail("%s: PHP %s, nginx %s, MariaDB %s", release,
		server.GetFacts().GetPhpVersion(), server.GetFacts().GetNginxVersion(), server.GetFacts().GetMariadbVersion())

	res, err := s.Tasks.GetTask(ctx, &taskv1.GetTaskRequest{OrganizationId: rig.Platform, TaskId: server.GetPrepareTaskId()})
	if err != nil {
		return nil, err
	}
	b.steps(res.GetTask(), nil)
	apt, err := aptTime(res.GetTask())
	if err != nil {
		return nil, err
	}
	rows := []row{{
		Name: "pasted line to agent online", Value: online.Seconds(), Bar: atMost(20),
	}, {
		Name: "pasted line to stack ready", Value: ready.Seconds(), Bar: atMost((4 * time.Minute).Seconds()),
		Comparison: &comparison{With: "apt alone, within it", Value: apt.Seconds()},
	}, {
		Name: "stack ready without apt's own time", Value: (ready - apt).Seconds(),
	}}
	for i := range rows {
		rows[i].Name = fmt.Sprintf("%s: %s", release, rows[i].Name)
		rows[i].Unit, rows[i].Statistic, rows[i].Runs = "s", "once", 1
	}
	return rows, nil
}

// online waits until the API shows the server's agent as connected, or the
// line has ended badly.
func (s *stage) online(ctx context.Context, id string, pasted chan error) error {
	for {
		res, err := s.Servers.GetServer(ctx, &fleetv1.GetServerRequest{ServerId: id})
		if err != nil {
			return err
		}
		if res.GetServer().GetOnline() {
			return nil
		}
		select {
		case err := <-pasted:
			if err != nil {
				return err
			}
			pasted <- nil // it has ended well; the caller asks again
		case <-ctx.Done():
			return fmt.Errorf("wait for the agent: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// aptTime is how long apt ran while the server was prepared: its step.
func aptTime(t *taskv1.Task) (time.Duration, error) {
	var seen []string
	for _, s := range t.GetSteps() {
		if s.GetName() == "packages" {
			return s.GetEndTime().AsTime().Sub(s.GetStartTime().AsTime()), nil
		}
		seen = append(seen, s.GetName())
	}
	return 0, fmt.Errorf("no step of the task is apt's: %s", strings.Join(seen, ", "))
}
