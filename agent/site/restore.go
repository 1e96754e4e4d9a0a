package site

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chom.dev/agent/backup"
	"chom.dev/agent/fail"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/proto/contract"
	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// fetcher reads a site's backups out of its repository. Package backup does, as
// the site's user.
type fetcher interface {
	// Fetch writes files below a place, modes and times as they were, and carries out
	// the tables of a dump, as the account of an import and nobody else; it gives back
	// the rest of the dump, and fails for one that is not complete. Progress may be
	// told any number of times.
	Fetch(ctx context.Context, site task.Site, o backup.FetchOrder, progress func(backup.Progress)) (backup.Fetched, error)
}

const (
	objectsWithin = 5 * time.Minute  // the server checks each against tables that are there
	listWithin    = 10 * time.Minute // millions of files, one look at each
	keepReplaced  = 24 * time.Hour   // as long as the control plane offers an undo
	reserve       = 256 << 20        // bytes that must stay free: the site goes on, and so do its neighbours
	// blockOverhead is what a small file, directory or row takes besides its bytes.
	blockOverhead = 4096
)

// restores is the host's part of all restores.
type restores struct {
	restoreJournal
	shells  tree.Shells
	mariadb *mariadb.Server
	socket  string // of mariadb
	systemd runner // runs what is done as a site's user
	agent   string // our own program, for its helpers
}

// runner runs a program as a site's user.
type runner interface {
	Run(ctx context.Context, u run.Unit) (run.Result, error)
}

// restore is one attempt at one site.
type restore struct {
	*restores
	fetch    fetcher
	site     task.Site
	handle   contract.Handle
	uid      int
	id       contract.RestoreID
	contents *backupv1.Contents // nil for an undo
	files    bool
	database bool
	tables   []string // the only ones of the database; nil for all

	// quiet closes the site and ends all that runs for it; wake is the way back.
	// Both are steps that can be done anew.
	quiet, wake []task.Step
	// early begins what wake will need and what touches nothing of the site; nil is
	// nothing. The site's files are those that stay by then.
	early func(context.Context)
}

// Restore handles RESTORE_SITE. All is fetched and compared while the site goes
// on; then it is closed for the moment of the change:
//
//	make-room, stage, compare                           the site goes on
//	nginx-restoring, cron-off, php-off, processes       it is closed
//	compare-again, commit                               the last way back
//	switch-files, switch-database, switched             it goes through, whoever is killed
//	as for a site that is ACTIVE or SUSPENDED           it opens
func (s *Sites) Restore() task.Handler {
	return task.HandlerFunc(func(o task.Order) (task.Plan, error) {
		c, r, err := s.parseRestore(o, o.Message.GetRestoreSite().GetHandle(), o.Message.GetRestoreSite().GetRestoreId())
		if err != nil {
			return task.Plan{}, err
		}
		r.fetch = s.backups
		if err := r.read(o.Message.GetRestoreSite(), o); err != nil {
			return task.Plan{}, err
		}
		plan := r.plan()
		plan.Observe, plan.End = c.observe, c.endPlugin
		return plan, nil
	})
}

// UndoRestore handles UNDO_RESTORE: the site has again what the restore replaced,
// or what was restored, and the other is kept.
func (s *Sites) UndoRestore() task.Handler {
	return task.HandlerFunc(func(o task.Order) (task.Plan, error) {
		order := o.Message.GetUndoRestore()
		c, r, err := s.parseRestore(o, order.GetHandle(), order.GetRestoreId())
		if err != nil {
			return task.Plan{}, err
		}
		plan := r.undoPlan(!order.GetUndone())
		plan.Observe, plan.End = c.observe, c.endPlugin
		return plan, nil
	})
}

// parseRestore is what both orders have in common.
func (s *Sites) parseRestore(o task.Order, handle, id string) (*converge, *restore, error) {
	c, err := s.parse(o, o.Site.Desired)
	if err != nil {
		return nil, nil, err
	}
	if handle != c.handle.String() {
		return nil, nil, errors.New("the order names another site")
	}
	r := &restore{restores: s.restores, site: o.Site, handle: c.handle, uid: c.uid, quiet: c.quiet()}
	if r.id, err = contract.ParseRestoreID(id); err != nil {
		return nil, nil, err
	}
	switch p := c.desired.GetPhase(); p {
	case sitev1.Phase_PHASE_ACTIVE:
		r.wake, r.early = c.reopen(), c.startPlugin
	case sitev1.Phase_PHASE_SUSPENDED:
		r.wake = []task.Step{c.showSuspended()}
	default:
		return nil, nil, fmt.Errorf("the site is %s", p)
	}
	return c, r, nil
}

// read takes from the order what is to be restored. Nothing is believed that is
// not signed for this very site.
func (r *restore) read(order *orderv1.RestoreSite, o task.Order) error {
	m, err := contract.VerifyManifest(o.Signers, order.GetManifest())
	switch {
	case err != nil:
		return err
	case m.GetOrganizationId() != r.site.Organization.String() || m.GetSiteId() != r.site.ID.String():
		return errors.New("the backup is of another site")
	case !order.GetFiles() && !order.GetDatabase():
		return errors.New("the order names nothing to restore")
	case order.GetDatabase() && m.GetContents().GetDatabaseSnapshot() == "":
		return errors.New("the backup holds no database")
	case len(order.GetTables()) > 0 && !order.GetDatabase():
		return errors.New("the order names tables, and no database")
	}
	for _, name := range order.GetTables() {
		if !slices.ContainsFunc(m.GetContents().GetTables(), func(t *backupv1.Table) bool { return t.GetName() == name }) {
			return fmt.Errorf("the backup holds no table %q", name)
		}
	}
	r.contents, r.files, r.database, r.tables = m.GetContents(), order.GetFiles(), order.GetDatabase(), order.GetTables()
	return nil
}

func (r *restore) plan() task.Plan {
	steps := []task.Step{
		{Name: "make-room", Do: r.makeRoom},
		{Name: "stage", Do: r.unlessAhead(r.stage)},
		{Name: "compare", Do: r.unlessAhead(r.compare)},
	}
	steps = append(steps, r.closing(r.ahead)...)
	// Who can write as the site's user could until now change what was staged.
	steps = append(steps, task.Step{Name: "compare-again", Do: r.unlessAhead(r.compareFiles)})
	steps = append(steps, task.Step{Name: "commit", Do: r.unlessAhead(r.commit)})
	steps = append(steps, r.switching(true)...)
	return task.Plan{Steps: append(steps, r.opening()...), Committed: r.committed, Abort: r.abort}
}

// undoPlan gives the site what was restored, or what that replaced.
func (r *restore) undoPlan(restored bool) task.Plan {
	there := func() (bool, error) {
		rec, err := r.mine()
		return rec != nil && (rec.State == restoreSwitching || rec.State == restoreKept && rec.Restored == restored), err
	}
	steps := []task.Step{{Name: "find", Do: func(ctx context.Context, log *task.Log) error { return r.find(ctx, log, restored) }}}
	steps = append(steps, r.closing(there)...)
	steps = append(steps, task.Step{Name: "commit", Do: func(ctx context.Context, log *task.Log) error {
		if is, err := there(); is || err != nil {
			return err
		}
		return r.commitUndo(ctx, restored)
	}})
	steps = append(steps, r.switching(restored)...)
	return task.Plan{Steps: append(steps, r.opening()...), Committed: r.committed, Abort: r.abort}
}

// closing takes the site from its visitors, unless that is over already.
func (r *restore) closing(over func() (bool, error)) []task.Step {
	var steps []task.Step
	for i, s := range r.quiet {
		steps = append(steps, task.Step{Name: s.Name, Do: func(ctx context.Context, log *task.Log) error {
			if is, err := over(); is || err != nil {
				return err
			}
			if i == 0 {
				if err := r.change(func(rec *restoreRecord) { rec.Quiet = true }); err != nil {
					return err
				}
				fail.Point("restore.quiet")
			}
			return s.Do(ctx, log)
		}})
	}
	return steps
}

func (r *restore) switching(restored bool) []task.Step {
	through := func(do func(context.Context, *task.Log, *restoreRecord) error) func(context.Context, *task.Log) error {
		return patient(func(ctx context.Context, log *task.Log) error {
			rec, err := r.mine()
			switch {
			case err != nil:
				return err
			case rec == nil:
				return task.Permanent(errors.New("nothing of this restore is left"))
			case rec.State == restoreKept && rec.Restored == restored:
				return nil
			case rec.State != restoreSwitching:
				return task.Permanent(fmt.Errorf("the restore is %s", rec.State))
			case rec.Restored != restored:
				return r.takeBack(ctx, log, rec)
			}
			return do(ctx, log, rec)
		})
	}
	return []task.Step{
		{Name: "switch-files", Do: through(func(_ context.Context, _ *task.Log, rec *restoreRecord) error { return r.switchFiles(r.handle, rec) })},
		{Name: "switch-database", Do: through(func(ctx context.Context, log *task.Log, rec *restoreRecord) error {
			if r.early != nil {
				r.early(ctx)
			}
			err := r.switchDatabase(ctx, r.handle, rec, log)
			var wrong *objectsError
			if errors.As(err, &wrong) {
				rec.Restored, rec.ObjectsMade, rec.Problem = false, false, err.Error()
				if err := r.store(r.handle, rec); err != nil {
					return err
				}
				fail.Point("restore.taking-back")
				return r.takeBack(ctx, log, rec)
			}
			return err
		})},
		{Name: "switched", Do: through(func(_ context.Context, _ *task.Log, rec *restoreRecord) error {
			return r.keep(r.handle, rec)
		})},
	}
}

// patient does a step of a switch until it goes through, however long that takes: a
// server that is away must not end it in its middle, where the site is closed. The
// order lasts as long, so that nobody is told of an end that is none.
func patient(do func(context.Context, *task.Log) error) func(context.Context, *task.Log) error {
	return func(ctx context.Context, log *task.Log) error {
		for wait := 500 * time.Millisecond; ; wait = min(2*wait, 30*time.Second) {
			err := do(ctx, log)
			switch {
			case err == nil, task.IsPermanent(err), ctx.Err() != nil, errors.Is(err, tree.ErrExchanged):
				return err
			}
			log.Printf("the change has to go through, and is tried again: %v", err)
			select {
			case <-ctx.Done():
				return err
			case <-time.After(wait):
			}
		}
	}
}

// opening gives the site back to its visitors.
func (r *restore) opening() []task.Step {
	return append(slices.Clone(r.wake), task.Step{Name: "settle", Do: func(context.Context, *task.Log) error {
		return r.change(func(rec *restoreRecord) { rec.Quiet, rec.Through = false, false })
	}})
}

// mine gives the record if it is of this restore.
func (r *restore) mine() (*restoreRecord, error) {
	rec, err := r.load(r.handle)
	if err != nil || rec == nil || rec.Restore != r.id {
		return nil, err
	}
	return rec, nil
}

// ahead says that the site has the backup, or will: an earlier attempt went that far.
func (r *restore) ahead() (bool, error) {
	rec, err := r.mine()
	return rec != nil && (rec.State == restoreSwitching || rec.State == restoreKept && rec.Restored), err
}

// unlessAhead is for what is done before the commit.
func (r *restore) unlessAhead(do func(context.Context, *task.Log) error) func(context.Context, *task.Log) error {
	return func(ctx context.Context, log *task.Log) error {
		if is, err := r.ahead(); is || err != nil {
			return err
		}
		if rec, err := r.mine(); err != nil || rec == nil || rec.State != restoreStaging {
			return task.Permanent(errors.Join(err, errors.New("what was staged is gone, or going")))
		}
		return do(ctx, log)
	}
}

// committed says that there is no way back.
func (r *restore) committed() bool {
	rec, err := r.mine()
	return err == nil && rec != nil && rec.Through
}

func (r *restore) change(edit func(*restoreRecord)) error {
	rec, err := r.mine()
	if err != nil {
		return err
	}
	if rec == nil {
		return task.Permanent(errors.New("nothing of this restore is left"))
	}
	edit(rec)
	return r.store(r.handle, rec)
}
