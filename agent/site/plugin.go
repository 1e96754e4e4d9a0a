package site

import (
	"context"
	"errors"
	"strings"

	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/agent/task"
	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
)

// withPlugin lets the attempt's plugin do something. It runs as the site's user
// from its first use to the attempt's end, or until it failed: another try gets
// a new one.
func (c *converge) withPlugin(ctx context.Context, do func(*host.Session) error) (err error) {
	c.awaitPlugin()
	if c.session == nil {
		if c.session, err = c.openPlugin(ctx); err != nil {
			return err
		}
	}
	if err := do(c.session); err != nil {
		c.endPlugin()
		return pluginError(err)
	}
	return nil
}

func (c *converge) openPlugin(ctx context.Context) (*host.Session, error) {
	var readable []string
	if c.needs.NeedsArchive {
		readable = append(readable, ArchiveDir)
	}
	return c.plugins.Open(ctx, host.User{Handle: c.handle, UID: c.uid, GID: c.uid}, c.typ, readable...)
}

// startPlugin has the plugin started for withPlugin while something else is done,
// which takes as long. It does nothing by itself.
func (c *converge) startPlugin(ctx context.Context) {
	if c.session != nil || c.starting != nil {
		return
	}
	starting := make(chan *host.Session, 1)
	c.starting = starting
	go func() {
		session, err := c.openPlugin(ctx)
		if err != nil {
			session = nil // withPlugin tries again, and says what is wrong
		}
		starting <- session
	}()
}

func (c *converge) awaitPlugin() {
	if c.starting != nil {
		c.session, c.starting = <-c.starting, nil
	}
}

func (c *converge) endPlugin() {
	c.awaitPlugin()
	if c.session != nil {
		c.session.Close()
		c.session = nil
	}
}

func pluginError(err error) error {
	var field *sdk.FieldError
	if errors.As(err, &field) || sdk.IsPermanent(err) || errors.Is(err, sdk.ErrUnsupported) {
		return task.Permanent(err)
	}
	return err
}

// starter runs plugins as the site's user, in a transient unit with the whole
// sandbox of a site.
type starter struct{ systemd *systemd.Host }

// Start ends an older plugin of the site, if the agent died while it ran, and
// starts the new one.
func (s starter) Start(ctx context.Context, c host.Command) (host.Process, error) {
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
	return s.systemd.Launch(ctx, unit)
}

func environment(pairs []string) map[string]string {
	env := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		env[k] = v
	}
	return env
}
