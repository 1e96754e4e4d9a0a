package site

import (
	"context"
	"fmt"
	"io"
	"strings"

	"chom.dev/agent/run"
	"chom.dev/plugins/host"
)

// starter runs plugins as the site's user, in a transient unit with the whole
// sandbox of a site.
type starter struct{}

// Start ends an older plugin of the site, if the agent died while it ran, and
// starts the new one.
func (starter) Start(ctx context.Context, c host.Command) (host.Process, error) {
	unit, err := run.SiteUnit{
		Handle:   c.User.Handle,
		Name:     "plugin",
		Argv:     []string{c.Path},
		Env:      environment(c.Env),
		Stdin:    c.Stdin,
		Timeout:  c.Limit,
		ReadOnly: c.Readable,
	}.Unit()
	if err != nil {
		return nil, err
	}
	for _, dir := range c.Writable {
		unit.Properties = append(unit.Properties, run.Property{Key: "ReadWritePaths", Value: dir})
	}
	running, err := run.Running(ctx, unit.Service())
	if err != nil {
		return nil, err
	}
	if running {
		if err := run.Stop(ctx, unit.Service()); err != nil {
			return nil, fmt.Errorf("end older plugin: %w", err)
		}
	}
	cmd, err := unit.Command()
	if err != nil {
		return nil, err
	}
	p := &process{unit: unit.Service(), wait: cmd.Wait}
	if p.stdout, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if p.stderr, err = cmd.StderrPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

func environment(pairs []string) map[string]string {
	env := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		env[k] = v
	}
	return env
}

// process is a plugin's unit and the client that waits for it.
type process struct {
	unit           string
	wait           func() error
	stdout, stderr io.ReadCloser
}

func (p *process) Stdout() io.ReadCloser { return p.stdout }
func (p *process) Stderr() io.ReadCloser { return p.stderr }
func (p *process) Wait() error           { return p.wait() }
func (p *process) ID() string            { return p.unit }

// Kill ends the unit; its client ends with it.
func (p *process) Kill(ctx context.Context) error { return run.Stop(ctx, p.unit) }
