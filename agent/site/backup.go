package site

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"chom.dev/agent/backup"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// Backup handles BACKUP_SITE. Whatever state the site is in, as long as its files
// are there: visitors notice nothing.
func (s *Sites) Backup() task.Handler {
	return task.HandlerFunc(func(o task.Order) (task.Plan, error) {
		id, err := contract.ParseBackupID(o.Message.GetBackupSite().GetBackupId())
		if err != nil {
			return task.Plan{}, err
		}
		b, err := s.backup(o.Site, id, o.Timeout)
		if err != nil {
			return task.Plan{}, err
		}
		return task.Plan{
			Steps: b.steps(),
			Report: func(r *orderv1.Result) error {
				st, err := s.backups.State(b.handle, id)
				if err != nil {
					return err
				}
				r.Backup, err = st.Report(id)
				return err
			},
		}, nil
	})
}

// backingUp is one attempt at one backup.
type backingUp struct {
	*converge
	id     contract.BackupID
	within time.Duration
	idle   bool // nobody waits for it
}

// backup refuses a site of which there can be none.
func (s *Sites) backup(site task.Site, id contract.BackupID, within time.Duration) (*backingUp, error) {
	c, err := s.parse(task.Order{Site: site}, site.Desired)
	if err != nil {
		return nil, err
	}
	switch p := c.desired.GetPhase(); p {
	case sitev1.Phase_PHASE_ACTIVE, sitev1.Phase_PHASE_SUSPENDED, sitev1.Phase_PHASE_TRASHED:
	default:
		return nil, fmt.Errorf("there is nothing to back up: the site is %s", p)
	}
	if site.Converged == 0 {
		return nil, errors.New("there is nothing to back up: the site was never made")
	}
	return &backingUp{converge: c, id: id, within: within}, nil
}

func (b *backingUp) steps() []task.Step { return []task.Step{b.repository(), b.contents()} }

// repository makes the site's repository before its first backup.
func (b *backingUp) repository() task.Step {
	return task.Step{
		Name: "repository",
		Probe: func(ctx context.Context) (bool, string, error) {
			there, err := b.backups.Exists(ctx, b.site)
			return there, "", err
		},
		Do: func(ctx context.Context, _ *task.Log) error {
			return b.backups.Make(ctx, b.site)
		},
	}
}

// contents makes the snapshots. They are new ones each time that it runs; what
// counts is the state on disk.
func (b *backingUp) contents() task.Step {
	return task.Step{
		Name: "contents",
		Probe: func(context.Context) (bool, string, error) {
			st, err := b.backups.State(b.handle, b.id)
			return st.Contents != nil, "", err
		},
		Do: func(ctx context.Context, log *task.Log) error {
			if err := b.backups.Forget(b.handle, b.id); err != nil {
				return err
			}
			database, err := b.hasDatabase(ctx)
			if err != nil {
				return err
			}
			st := backup.State{Title: homeTitle(measure(ctx, b.nginx, b.domains[0])), Contents: new(backup.Contents)}
			if err := b.backups.Do(ctx, b.site, backup.Work{
				Job: "backup", Timeout: b.within, Idle: b.idle, Order: backup.ContentsOrder{Backup: b.id.String(), Database: database},
			}, showing(log, nil), st.Contents); err != nil {
				return err
			}
			log.Note("%s", st.Contents)
			return b.backups.Keep(b.handle, b.id, st)
		},
	}
}

// atOnce is above what a job does at the same time.
const atOnce = 8

// showing shows how far a job is. It does several things at the same time: what has
// an end in sight comes first. Totals are those that the job itself can't know.
func showing(log *task.Log, totals map[string]uint64) func(backup.Progress) {
	all := map[string]backup.Progress{}
	return func(p backup.Progress) {
		if _, known := all[p.What]; !known && len(all) == atOnce {
			return // it runs among a tenant's processes, and may say what it likes
		}
		p.Total = max(p.Total, totals[p.What])
		all[p.What] = p
		if shown := foremost(all, p); shown.Done > 0 {
			log.Progress(task.Progress{Doing: shown.What, Done: shown.Done, Total: shown.Total})
		}
	}
}

// foremost is, of all that goes on, what has the most before it; what was said last
// where none has an end in sight.
func foremost(all map[string]backup.Progress, last backup.Progress) backup.Progress {
	left := uint64(0)
	for _, p := range all {
		if p.Total > p.Done && p.Total-p.Done > left {
			last, left = p, p.Total-p.Done
		}
	}
	return last
}

// homeTitle is that of a home page, and not of what tells that there is none now: a
// drill will look for it.
func homeTitle(seen *sitev1.ObservedState) string {
	if seen.GetHttpStatus() != http.StatusOK {
		return ""
	}
	return seen.GetPageTitle()
}

// hasDatabase asks the server, and not the site's type: what is there is backed
// up, also when the plugin is gone that has put it there.
func (b *backingUp) hasDatabase(ctx context.Context) (bool, error) {
	st, err := b.mariadb.Probe(ctx, b.handle.DBName(), b.handle.UnixUser())
	if err != nil {
		return false, err
	}
	if b.needs.NeedsDatabase && !st.Schema {
		return false, task.Permanent(errors.New("the site's database is not there"))
	}
	return st.Schema, nil
}

// removeBackups destroys the key of the site's repository. What is in it is the
// control plane's to keep.
func (c *converge) removeBackups() task.Step {
	return task.Step{
		Name: "backups-off",
		Probe: func(context.Context) (bool, string, error) {
			gone, err := c.backups.Gone(c.handle)
			return gone, "", err
		},
		Do: func(context.Context, *task.Log) error { return c.backups.Remove(c.handle) },
	}
}
