package site

import (
	"context"
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
	started, err := unit.Start(ctx)
	if err != nil {
		return nil, err
	}
	return process{started, unit.Service()}, nil
}

func environment(pairs []string) map[string]string {
	env := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		env[k] = v
	}
	return env
}

// process is a plugin's unit.
type process struct {
	*run.Started
	id string
}

func (p process) Stdout() io.ReadCloser { return p.Started.Stdout }
func (p process) Stderr() io.ReadCloser { return p.Started.Stderr }
func (p process) ID() string            { return p.id }
