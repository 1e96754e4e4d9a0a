package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

func (p *program) serverWait() *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:               "wait NAME",
		Short:             "Follow a server until it is ready for sites",
		Args:              exactly(1),
		ValidArgsFunction: first(p.serverNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := c.serverID(ctx, args[0])
			if err != nil {
				return err
			}
			return p.awaitServer(ctx, c, id, time.Now().Add(limit))
		}),
	}
	cmd.Flags().DurationVar(&limit, "for", 30*time.Minute, "how long to wait for its agent at most")
	return cmd
}

// awaitServer shows a server's way from enrolment to ready. The agent must have come before the deadline.
func (p *program) awaitServer(ctx context.Context, c *client, id string, deadline time.Time) error {
	began := time.Now()
	say := func(what string) { p.note("%5.0f s  %s", time.Since(began).Seconds(), what) }
	say("waiting for the line to be pasted")
	var was fleetv1.State
	var task *taskv1.Task
	for task == nil {
		got, err := c.Servers.GetServer(ctx, &fleetv1.GetServerRequest{ServerId: id})
		if err != nil {
			return err
		}
		s := got.GetServer()
		if s.GetState() != was && was != fleetv1.State_STATE_UNSPECIFIED && s.GetState() == fleetv1.State_STATE_ACTIVE {
			say("enrolled")
		}
		was = s.GetState()
		switch {
		case was == fleetv1.State_STATE_REMOVED || was == fleetv1.State_STATE_QUARANTINED:
			return &problem{code: exitFailed, text: "the server is " + short(was, "STATE_") + ": " + plain(s.GetProblem())}
		case s.GetOnline() && s.GetPrepareTaskId() != "":
			say("online: " + hostText(s.GetFacts()))
			answer, err := c.Tasks.GetTask(ctx, &taskv1.GetTaskRequest{OrganizationId: platform, TaskId: s.GetPrepareTaskId()})
			if err != nil {
				return err
			}
			task = answer.GetTask()
			continue
		case time.Now().After(deadline):
			return &problem{code: exitFailed, text: "no agent came in time", next: "make a new line to paste with: chom server token " + plain(s.GetName())}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond): // a person waits; two looks a second are cheap
		}
	}
	task, err := p.follow(ctx, c, task, false)
	if err != nil {
		return err
	}
	if err := failure(task); err != nil {
		return err
	}
	// The agent says so with its next report; before that, no site is placed there.
	s, err := c.prepared(ctx, id)
	if err != nil {
		return err
	}
	say("ready for sites")
	return p.showServer(s, nil)
}

// prepared waits until the server's agent has found the software for sites at work.
func (c *client) prepared(ctx context.Context, id string) (*fleetv1.Server, error) {
	for deadline := time.Now().Add(reportsWithin); ; {
		got, err := c.Servers.GetServer(ctx, &fleetv1.GetServerRequest{ServerId: id})
		if err != nil {
			return nil, err
		}
		s := got.GetServer()
		switch {
		case s.GetFacts().GetPrepared() && len(s.GetFacts().GetFindings()) == 0:
			return s, nil
		case len(s.GetFacts().GetFindings()) > 0:
			return nil, &problem{code: exitFailed, text: "the server takes no sites: " + plain(strings.Join(s.GetFacts().GetFindings(), "; ")), next: "repair what it found, then: chom server prepare " + plain(s.GetName())}
		case time.Now().After(deadline):
			return nil, &problem{code: exitFailed, text: "the server was prepared, but its agent does not say so", next: "see chom server show " + plain(s.GetName())}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// reportsWithin is more than two of an agent's heartbeats.
const reportsWithin = time.Minute

func hostText(f *fleetv1.Facts) string {
	return plain(fmt.Sprintf("%s, %s, %s, %d cores, %s", f.GetHostname(), f.GetOs(), f.GetArch(), f.GetCpuCount(), bytesText(f.GetMemoryBytes())))
}
