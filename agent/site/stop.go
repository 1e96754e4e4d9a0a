package site

import (
	"context"
	"fmt"
	"net/http"

	"chom.dev/agent/task"
	"chom.dev/agent/unixuser"
)

// suspend shows visitors a 503 page and then ends everything that runs.
func (c *converge) suspend() []task.Step {
	return append([]task.Step{c.showSuspended()}, c.stop()...)
}

// trash takes the site away from visitors; files and database stay.
func (c *converge) trash() []task.Step {
	return append([]task.Step{c.unserve()}, c.stop()...)
}

// remove leaves nothing. Processes end before files go, files go by the hand of
// the site's own user, and the user goes last: its uid is never used again.
func (c *converge) remove() []task.Step {
	steps := append([]task.Step{c.unserve()}, c.stop()...)
	return append(steps, c.removeCertificates(), c.removeBackups(), c.removeTree(), c.removeDatabase(), c.removeRestore(), c.removeLogs(), c.removeSlice(), c.removeUser())
}

// stop ends timers, PHP and whatever else runs in the site's slice.
func (c *converge) stop() []task.Step {
	return []task.Step{
		{
			Name: "cron-off",
			Do: func(ctx context.Context, _ *task.Log) error {
				return c.systemd.Uninstall(ctx, c.handle.CronTimer(), c.handle.CronService())
			},
		},
		{
			Name: "php-off",
			Do:   func(ctx context.Context, _ *task.Log) error { return c.php.Remove(ctx, c.handle) },
		},
		{
			Name: "processes",
			Do: func(ctx context.Context, _ *task.Log) error {
				if err := c.systemd.Kill(ctx, c.handle.Slice()); err != nil {
					return err
				}
				if err := c.systemd.Stop(ctx, c.handle.Slice()); err != nil {
					return err
				}
				return unixuser.End(ctx, c.uid) // whoever came in another way
			},
		},
	}
}

func (c *converge) showSuspended() task.Step {
	return task.Step{
		Name: "nginx",
		Probe: func(ctx context.Context) (bool, string, error) {
			served, err := c.nginx.Serves(ctx, c.web())
			return served, "", err
		},
		Do: func(ctx context.Context, _ *task.Log) error {
			_, err := c.nginx.Apply(ctx, c.web(), c.closed)
			return err
		},
	}
}

// closed is the probe of a site that nginx answers for by itself.
func (c *converge) closed(ctx context.Context) error {
	status, _, err := c.nginx.Get(ctx, c.domains[0], "/")
	if err == nil && status != http.StatusServiceUnavailable {
		err = fmt.Errorf("%s answers %d, not 503", c.domains[0], status)
	}
	return err
}

// quiet closes the site for the moment of a restore.
func (c *converge) quiet() []task.Step {
	return append([]task.Step{{
		Name: "nginx-restoring",
		Do: func(ctx context.Context, _ *task.Log) error {
			web := c.web()
			web.Restoring = true
			_, err := c.nginx.Apply(ctx, web, c.closed)
			return err
		},
	}}, c.stop()...)
}

func (c *converge) unserve() task.Step {
	return task.Step{
		Name: "nginx-off",
		Do:   func(ctx context.Context, _ *task.Log) error { return c.nginx.Remove(ctx, c.handle) },
	}
}

// removeCertificates destroys the site's keys. nginx reads them no more.
func (c *converge) removeCertificates() task.Step {
	return task.Step{
		Name: "certificates-off",
		Do:   func(context.Context, *task.Log) error { return c.certs.Remove(c.handle) },
	}
}

func (c *converge) removeTree() task.Step {
	return task.Step{
		Name: "tree-off",
		Probe: func(context.Context) (bool, string, error) {
			st, err := c.shells.Probe(c.handle, c.uid)
			return st.Absent, "", err
		},
		Do: func(ctx context.Context, _ *task.Log) error {
			if err := c.drills.remove(ctx, c.handle); err != nil {
				return err
			}
			return c.shells.Remove(ctx, c.systemd, c.agent, c.handle)
		},
	}
}

func (c *converge) removeDatabase() task.Step {
	schema, user := c.handle.DBName(), c.handle.UnixUser()
	return task.Step{
		Name: "database-off",
		Probe: func(ctx context.Context) (bool, string, error) {
			st, err := c.mariadb.Probe(ctx, schema, user)
			if err != nil || !st.Absent() {
				return false, "", err
			}
			forgotten, err := c.mariadb.Forgotten(ctx, c.handle)
			return forgotten, "", err
		},
		Do: func(ctx context.Context, _ *task.Log) error { return c.mariadb.Remove(ctx, schema, user) },
	}
}

// removeRestore forgets a restore, of which tree and database have nothing left.
func (c *converge) removeRestore() task.Step {
	return task.Step{
		Name: "restore-off",
		Do:   func(context.Context, *task.Log) error { return c.restores.remove(c.handle) },
	}
}

func (c *converge) removeLogs() task.Step {
	return task.Step{
		Name: "logs-off",
		Do:   func(context.Context, *task.Log) error { return c.nginx.RemoveLogs(c.handle) },
	}
}

func (c *converge) removeSlice() task.Step {
	return task.Step{
		Name: "slice-off",
		Do: func(ctx context.Context, _ *task.Log) error {
			return c.systemd.Uninstall(ctx, c.handle.Slice())
		},
	}
}

func (c *converge) removeUser() task.Step {
	name := c.handle.UnixUser()
	return task.Step{
		Name: "user-off",
		Probe: func(context.Context) (bool, string, error) {
			st, err := unixuser.Probe(unixuser.User{Name: name, UID: c.uid})
			return err == nil && !st.User && !st.Group, "", err
		},
		Do: func(ctx context.Context, _ *task.Log) error { return unixuser.Remove(ctx, c.systemd, name) },
	}
}
