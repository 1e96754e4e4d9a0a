package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

const (
	dispatchRate   = 100             // tasks a second
	dispatchRounds = 4               // of each kind, in turns
	dispatchRound  = 5 * time.Second // together 20 s and 2,000 of each
	dispatchWarmUp = 200             // of each, not counted
	// dispatchLimit ends a round whose tasks do not.
	dispatchLimit = 2 * time.Minute
)

func dispatchSQLite(ctx context.Context, b *bench) ([]row, error) {
	return dispatch(ctx, b, "")
}

func dispatchPostgres(ctx context.Context, b *bench) (_ []row, err error) {
	p, err := rig.StartPostgres(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	return dispatch(ctx, b, p.URL)
}

// dispatched is one task that does nothing, and how long after it was created
// each thing was known.
type dispatched struct {
	accepted time.Duration // chomd had the agent's word that it is in its journal
	visible  time.Duration // the client had the result, in its Watch stream
	call     time.Duration // the same, from before the client's first call
}

func dispatch(ctx context.Context, b *bench, database string) (_ []row, err error) {
	s, err := b.build(ctx, rig.Options{Database: database})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	host, server, err := s.server(ctx)
	if err != nil {
		return nil, err
	}
	pool, err := dialSSH(ctx, s.Lab, host)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pool.close()) }()

	chom := func(ctx context.Context) (dispatched, error) { return ping(ctx, s.Rig, server.GetId()) }
	ssh := func(ctx context.Context) (time.Duration, error) {
		begin := time.Now()
		err := pool.run(ctx, "true")
		return time.Since(begin), err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*dispatchRounds*dispatchLimit)
	defer cancel()
	if _, _, err := offer(ctx, dispatchRate, dispatchWarmUp, chom); err != nil {
		return nil, err
	}
	if _, _, err := offer(ctx, dispatchRate, dispatchWarmUp, ssh); err != nil {
		return nil, err
	}
	var accepted, visible, call, sessions []time.Duration
	var refused []error
	count := int(dispatchRound.Seconds() * dispatchRate)
	for i := range dispatchRounds {
		before, err := s.cpu(ctx, host)
		if err != nil {
			return nil, err
		}
		begin := time.Now()
		tasks, failed, err := offer(ctx, dispatchRate, count, chom)
		if err != nil {
			return nil, err
		}
		if refused = append(refused, failed...); len(tasks) == 0 {
			return nil, fmt.Errorf("not one task came through: %w", failed[0])
		}
		round := make([]time.Duration, 0, count)
		for _, t := range tasks {
			accepted, visible, call = append(accepted, t.accepted), append(visible, t.visible), append(call, t.call)
			round = append(round, t.visible)
		}
		after, err := s.cpu(ctx, host)
		if err != nil {
			return nil, err
		}
		window := time.Since(begin).Seconds()
		b.detail("round %d: %.0f tasks/s; chomd used %.0f %% of a core, the agent %.0f %%, the client %.0f %%", i+1, float64(len(tasks))/window,
			100*(after.chomd-before.chomd).Seconds()/window, 100*(after.agent-before.agent).Seconds()/window,
			100*(after.client-before.client).Seconds()/window)
		runs, broken, err := offer(ctx, dispatchRate, count, ssh)
		if err == nil && len(broken) > 0 {
			err = broken[0]
		}
		if err != nil {
			return nil, err
		}
		sessions = append(sessions, runs...)
		b.detail("         result visible p50 %.1f ms, p99 %.1f ms; ssh p50 %.1f ms, p99 %.1f ms",
			ms(median(round)), ms(percentile(round, 99)), ms(median(runs)), ms(percentile(runs, 99)))
	}
	if len(refused) > 0 {
		b.say("    %d tasks were refused or failed, the first: %v", len(refused), refused[0])
	}
	rows := []row{{
		Name: "tasks refused or failed", Value: float64(len(refused)), Unit: "tasks", Bar: exactly(0),
		Statistic: "sum", Runs: dispatchRounds * count,
	}}
	for _, of := range []struct {
		what     string
		runs     []time.Duration
		promised bool
	}{
		{"API commit to agent ACCEPTED", accepted, true},
		{"API commit to result in Watch", visible, true},
		{"client's call to result in Watch", call, false},
	} {
		for _, p := range []struct {
			percent float64
			bar     *bar
		}{{50, atMost(10)}, {99, atMost(100)}} {
			if !of.promised {
				p.bar = nil
			}
			rows = append(rows, row{
				Name: of.what, Value: ms(percentile(of.runs, p.percent)), Unit: "ms",
				Statistic: fmt.Sprintf("p%.0f", p.percent), Runs: len(of.runs), Bar: p.bar,
				Comparison: &comparison{With: "`true` over a pooled SSH connection", Value: ms(percentile(sessions, p.percent))},
			})
		}
	}
	return rows, nil
}

// cpuTimes are what the processes that an order passes have used so far.
type cpuTimes struct{ chomd, agent, client time.Duration }

func (s *stage) cpu(ctx context.Context, h *lab.Host) (c cpuTimes, err error) {
	for _, of := range []struct {
		pid  int
		time *time.Duration
	}{{s.Pid(), &c.chomd}, {os.Getpid(), &c.client}} {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", of.pid))
		if err != nil {
			return c, err
		}
		if *of.time, err = cpuOf(string(stat)); err != nil {
			return c, err
		}
	}
	agent, err := mainPID(ctx, h, agentUnit)
	if err != nil {
		return c, err
	}
	c.agent, err = cpuTime(ctx, h, agent)
	return c, err
}

// ping sends one task that does nothing and follows it to its end. All clocks
// are the one of this machine's kernel: chomd's, the agent's and ours.
func ping(ctx context.Context, r *rig.Rig, server string) (dispatched, error) {
	begin := time.Now()
	res, err := r.Servers.PingServer(ctx, &fleetv1.PingServerRequest{ServerId: server})
	if err != nil {
		return dispatched{}, fmt.Errorf("ping server: %w", err)
	}
	var arrived time.Time
	t, err := r.Wait(ctx, res.GetTask(), func(*taskv1.WatchTaskResponse) { arrived = time.Now() })
	if err != nil {
		return dispatched{}, err
	}
	if t.GetState() != taskv1.State_STATE_SUCCEEDED || t.GetStartTime() == nil {
		return dispatched{}, fmt.Errorf("task %s ended %s: %s", t.GetId(), t.GetState(), t.GetError())
	}
	created := t.GetCreateTime().AsTime()
	return dispatched{
		accepted: t.GetStartTime().AsTime().Sub(created),
		visible:  arrived.Sub(created),
		call:     arrived.Sub(begin),
	}, nil
}
