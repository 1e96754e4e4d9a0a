package site

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/agent/page"
	"chom.dev/agent/php"
	"chom.dev/agent/systemd"
	"chom.dev/agent/task"
	"chom.dev/agent/unixuser"
	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
)

// What a site gets when its organization's plan says nothing else; see
// chom.site.v1.Limits.
const (
	defaultCPUPercent = 100
	defaultMemory     = 512 << 20
	defaultTasks      = 256
	defaultPHPWorkers = 5
)

// activate is the way to a served site. nginx comes last: until the application
// is complete, nobody can reach it.
func (c *converge) activate() []task.Step {
	steps := []task.Step{c.user(), c.tree(), c.slice()}
	if c.needs.NeedsArchive {
		steps = append(steps, c.archive())
	}
	if c.needs.NeedsDatabase {
		steps = append(steps, c.database())
	}
	if c.needs.NeedsPHP {
		steps = append(steps, c.fpm())
	}
	steps = append(steps, c.install())
	if len(c.needs.Crons) > 0 {
		steps = append(steps, c.cron())
	}
	return append(steps, c.certificate(), c.serve())
}

// reopen is activate for a site that was served before. Its application is asked
// while PHP starts, which it does not need for that.
func (c *converge) reopen() []task.Step {
	steps := c.activate()
	if !c.needs.NeedsPHP {
		return steps
	}
	i := slices.IndexFunc(steps, func(s task.Step) bool { return s.Name == "php" })
	steps[i+1] = beside(steps[i], steps[i+1])
	steps = slices.Delete(steps, i, i+1)
	last := &steps[len(steps)-1]
	serve := last.Do
	last.Do = func(ctx context.Context, log *task.Log) error {
		ctx, stop := context.WithCancel(ctx)
		var beside sync.WaitGroup
		defer beside.Wait()
		defer stop()
		// The first page of a fresh PHP is the slowest: it comes while nginx reads its configuration.
		beside.Go(func() { _ = php.Visit(ctx, c.handle, c.domains[0].String(), c.https()) }) // who probes finds out what is wrong
		return serve(ctx, log)
	}
	return steps
}

// beside is a step that does another one at the same time, which nobody hears.
func beside(other, s task.Step) task.Step {
	return task.Step{
		Name: s.Name,
		Probe: func(ctx context.Context) (bool, string, error) {
			done, note, err := other.Probe(ctx)
			if err != nil || !done {
				return done, note, err
			}
			return s.Probe(ctx)
		},
		Do: func(ctx context.Context, log *task.Log) error {
			var both errgroup.Group
			both.Go(func() error { return again(ctx, other, new(task.Log)) })
			err := again(ctx, s, log)
			return errors.Join(err, both.Wait())
		},
	}
}

func (c *converge) user() task.Step {
	u := unixuser.User{Name: c.handle.UnixUser(), UID: c.uid}
	return task.Step{
		Name: "user",
		Probe: func(context.Context) (bool, string, error) {
			st, err := unixuser.Probe(u)
			return err == nil && st.Complete(), "", permanentIf(err, unixuser.ErrTaken)
		},
		Do: func(ctx context.Context, log *task.Log) error {
			log.Note("user %s, uid %d", u.Name, u.UID)
			return permanentIf(unixuser.Ensure(ctx, c.systemd, u), unixuser.ErrTaken)
		},
	}
}

func (c *converge) tree() task.Step {
	return task.Step{
		Name: "tree",
		Probe: func(context.Context) (bool, string, error) {
			st, err := c.shells.Probe(c.handle, c.uid)
			return st.Complete && !c.restores.switching(c.handle), "", err
		},
		Do: func(ctx context.Context, log *task.Log) error {
			if err := c.shells.Ensure(c.handle, c.uid); err != nil {
				return err
			}
			return c.restores.finish(ctx, c.handle, log) // a restore may have ended in its middle
		},
	}
}

// slice bounds everything that will run for the site.
func (c *converge) slice() task.Step {
	return task.Step{
		Name: "slice",
		Do: func(ctx context.Context, log *task.Log) error {
			l := c.desired.GetLimits()
			memory, err := contract.NewByteSize(int64(cmp.Or(l.GetMemoryBytes(), defaultMemory)))
			if err != nil {
				return task.Permanent(err)
			}
			unit := systemd.SliceUnit(c.handle, systemd.Limits{
				CPUPercent: int(cmp.Or(l.GetCpuPercent(), defaultCPUPercent)),
				Memory:     memory,
				Tasks:      int(cmp.Or(l.GetTasks(), defaultTasks)),
				IOWeight:   100,
			})
			_, err = c.systemd.Install(ctx, unit)
			return err
		},
	}
}

func (c *converge) archive() task.Step {
	want := c.desired.GetArchive()
	return task.Step{
		Name: "archive",
		Probe: func(context.Context) (bool, string, error) {
			return c.archives.have(want), want.GetVersion(), nil
		},
		Do: func(ctx context.Context, log *task.Log) error {
			log.Note("%s %s", c.typ, want.GetVersion())
			return c.archives.fetch(ctx, want, log)
		},
	}
}

func (c *converge) database() task.Step {
	schema, user := c.handle.DBName(), c.handle.UnixUser()
	return task.Step{
		Name: "database",
		Probe: func(ctx context.Context) (bool, string, error) {
			st, err := c.mariadb.Probe(ctx, schema, user)
			return st.Complete(), "", err
		},
		Do: func(ctx context.Context, log *task.Log) error {
			log.Note("schema %s", schema)
			return c.mariadb.Ensure(ctx, schema, user)
		},
	}
}

// pool is the site's own php-fpm.
func (c *converge) pool() php.Pool {
	return php.Pool{
		Handle:  c.handle,
		Version: c.release.Version,
		Workers: int(cmp.Or(c.desired.GetLimits().GetPhpWorkers(), defaultPHPWorkers)),
	}
}

func (c *converge) fpm() task.Step {
	return task.Step{
		Name: "php",
		Probe: func(ctx context.Context) (bool, string, error) {
			running, err := c.php.Running(ctx, c.pool())
			return running, "", err
		},
		Do: func(ctx context.Context, log *task.Log) error {
			log.Note("PHP %s", c.release.Version)
			_, err := c.php.Ensure(ctx, c.pool())
			return err
		},
	}
}

// install lets the plugin bring the application to the desired settings. What
// it measured decides the probe.
func (c *converge) install() task.Step {
	return task.Step{
		Name: "application",
		Probe: func(context.Context) (bool, string, error) {
			return c.state != nil && c.state.Installed, "", nil
		},
		Do: func(ctx context.Context, log *task.Log) error {
			return c.withPlugin(ctx, func(p *host.Session) error {
				st, err := c.bring(ctx, p, log)
				if err != nil {
					return err
				}
				for _, f := range st.Findings {
					log.Printf("%s: %s", f.Code, f.Message)
				}
				log.Note("%s", strings.TrimSpace(c.typ.String()+" "+st.Version))
				c.state = &st
				return nil
			})
		},
	}
}

// bring updates or installs the application. One that was here before is not asked
// first whether it is: what is not installed can't be updated, and says so.
func (c *converge) bring(ctx context.Context, p *host.Session, log *task.Log) (sdk.State, error) {
	if c.site.Converged != 0 {
		if st, err := p.Update(ctx, c.application()); err == nil && st.Installed {
			return st, nil
		}
	}
	st, err := p.Check(ctx, c.application())
	switch {
	case err != nil && !errors.Is(err, sdk.ErrNotInstalled):
		return sdk.State{}, err
	case err == nil && st.Installed:
		return p.Update(ctx, c.application())
	}
	return p.Install(ctx, c.application(), eachStep(log))
}

// eachStep logs each step of an installation once: every line costs an event.
func eachStep(log *task.Log) func(sdk.Progress) {
	last := ""
	return func(p sdk.Progress) {
		if p.Step != last {
			last = p.Step
			log.Printf("%s: %s", p.Step, p.Message)
		}
	}
}

// cron replaces whatever the application would use to start its own work. One
// timer per site: no type has more than one script.
func (c *converge) cron() task.Step {
	return task.Step{
		Name: "cron",
		Do: func(ctx context.Context, log *task.Log) error {
			job := c.needs.Crons[0]
			service, timer, err := systemd.Cron{
				Handle: c.handle,
				Path:   c.release.CLI,
				Args:   []string{"-f", c.application().Tree + "/" + job.PHPScript},
				Every:  job.Interval,
				Limit:  job.Limit,
			}.Units()
			if err != nil {
				return task.Permanent(err)
			}
			if _, err := c.systemd.Install(ctx, service, timer); err != nil {
				return err
			}
			if err := c.systemd.Enable(timer.Name, "timers.target"); err != nil {
				return err
			}
			log.Note("every %s", job.Interval)
			return c.systemd.Start(ctx, timer.Name)
		},
	}
}

// certificate has the preview name certified, so that the site is served by HTTPS
// from its first second. A site does not wait for it: it is asked for again.
func (c *converge) certificate() task.Step {
	return task.Step{
		Name: "certificate",
		Do: func(ctx context.Context, log *task.Log) error {
			if err := c.certs.EnsurePlatform(ctx, c.site); err != nil {
				log.Printf("the preview name has no certificate yet: %v", err)
			}
			return nil
		},
	}
}

// serve opens the site to visitors, and takes that back when its home page
// does not answer as it should.
func (c *converge) serve() task.Step {
	return task.Step{
		Name: "nginx",
		Probe: func(ctx context.Context) (bool, string, error) {
			served, err := c.nginx.Serves(ctx, c.web())
			return served, "", err
		},
		Do: func(ctx context.Context, log *task.Log) error {
			report, err := c.nginx.Apply(ctx, c.web(), c.answers)
			for _, a := range report.SetAside {
				log.Printf("site %s was set aside: %s", a.Handle, a.Reason)
			}
			return err
		},
	}
}

// answerWithin is how long a fresh PHP may take to its first page.
const answerWithin = 10 * time.Second

// answers is the probe after nginx has a new configuration. A new site must show
// its home page. Later the page is the customer's: then only those answers
// count against us that say that nginx does not reach the site.
func (c *converge) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	status, body, err := c.nginx.Get(ctx, c.domains[0], "/")
	if err != nil {
		return fmt.Errorf("home page of %s: %w", c.domains[0], err)
	}
	unreachable := status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
	switch {
	case unreachable, c.site.Converged == 0 && status != http.StatusOK:
		return fmt.Errorf("home page of %s answers %d", c.domains[0], status)
	case c.site.Converged == 0 && c.state != nil && !strings.Contains(page.Title(body), html.UnescapeString(c.state.HomeTitle)):
		return fmt.Errorf("home page of %s is titled %q, without %q", c.domains[0], page.Title(body), c.state.HomeTitle)
	}
	return nil
}

// permanentIf marks an error that no retry heals.
func permanentIf(err, kind error) error {
	if errors.Is(err, kind) {
		return task.Permanent(err)
	}
	return err
}
