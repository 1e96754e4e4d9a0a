package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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
		r.wake = c.activate()
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

// makeRoom discards what an older restore left, or an older attempt at this one,
// and sees that there is space.
func (r *restore) makeRoom(ctx context.Context, log *task.Log) error {
	if is, err := r.ahead(); is || err != nil {
		return err
	}
	if err := r.finish(ctx, r.handle, log); err != nil {
		return err
	}
	next := &restoreRecord{Restore: r.id, State: restoreStaging, Files: r.files, Database: r.database, Tables: r.tables, Made: time.Now()}
	if before, err := r.load(r.handle); err != nil {
		return err
	} else if before != nil {
		next.Quiet = before.Quiet // whatever becomes of this one has to open the site
	}
	if err := r.discard(ctx, r.handle); err != nil {
		return err
	}
	if err := r.store(r.handle, next); err != nil {
		return err
	}
	return r.space(ctx, log)
}

// space refuses what would fill the disk, before anything is fetched.
func (r *restore) space(ctx context.Context, log *task.Log) error {
	var files, database uint64
	if r.files {
		files = r.contents.GetFileBytes() + r.contents.GetFileCount()*blockOverhead
	}
	if r.database {
		database = 2 * r.contents.GetDumpBytes() // with its indexes
	}
	fits, device, err := r.shells.Free()
	if err != nil {
		return err
	}
	fitsThere, deviceThere, err := r.mariadb.Free(ctx)
	if err != nil {
		return err
	}
	if device == deviceThere {
		files, database = files+database, 0
	}
	log.Note("%s needed, %s free", megabytes(files+database), megabytes(fits))
	if files+reserve > fits {
		return task.Permanent(fmt.Errorf("the disk of the sites has %s free, and %s are needed beside the site; nothing was changed", megabytes(fits), megabytes(files+reserve)))
	}
	if database > 0 && database+reserve > fitsThere {
		return task.Permanent(fmt.Errorf("the disk of the database has %s free, and %s are needed beside the site's; nothing was changed", megabytes(fitsThere), megabytes(database+reserve)))
	}
	return nil
}

func megabytes(n uint64) string { return fmt.Sprintf("%d MB", (n+999_999)/1_000_000) }

// stage fetches all of it beside the site. Half of it is of no use: done again, it
// begins anew.
func (r *restore) stage(ctx context.Context, log *task.Log) (err error) {
	var o backup.FetchOrder
	if r.files {
		if err := r.shells.RemoveStaging(ctx, r.systemd, r.agent, r.handle); err != nil { // of a try before
			return err
		}
		if err := r.shells.EnsureStaging(r.handle, r.uid); err != nil {
			return err
		}
		o.Files, o.Dir = r.contents.GetFilesSnapshot(), r.shells.Staging(r.handle)
		fail.Point("restore.files-to-come")
	}
	if r.database {
		if o.Import, err = r.mariadb.OpenImport(ctx, r.handle); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.mariadb.CloseImport(context.WithoutCancel(ctx), r.handle)) }()
		o.Database = r.contents.GetDatabaseSnapshot()
		fail.Point("restore.database-to-come")
	}
	fetched, err := r.fetch.Fetch(ctx, r.site, o, showing(log, map[string]uint64{"database": r.contents.GetDumpBytes()}))
	if err != nil {
		return fmt.Errorf("fetch the backup: %w", err)
	}
	fail.Point("restore.staged")
	if !r.database {
		return nil
	}
	if !bytes.Equal(fetched.SHA256, r.contents.GetDumpSha256()) || fetched.Bytes != r.contents.GetDumpBytes() {
		return errors.New("fetch the backup: the dump is not the one that the backup is signed for")
	}
	return r.change(func(rec *restoreRecord) { rec.NewSQL = fetched.Objects })
}

// compare holds what was staged against what the backup is signed for.
func (r *restore) compare(ctx context.Context, log *task.Log) error {
	if err := r.compareFiles(ctx, log); err != nil || !r.database {
		return err
	}
	staged, err := r.mariadb.Count(ctx, r.handle.ScratchDB())
	if err != nil {
		return err
	}
	want := make(map[string]uint64, len(r.contents.GetTables()))
	for _, t := range r.contents.GetTables() {
		want[t.GetName()] = t.GetRows()
	}
	if !maps.Equal(staged, want) {
		return task.Permanent(fmt.Errorf("the restored database is not what was backed up: %s; nothing was changed", difference(staged, want)))
	}
	return nil
}

// difference names the first table that is not as it should be.
func difference(have, want map[string]uint64) string {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		n, ok := have[name]
		switch {
		case !ok:
			return fmt.Sprintf("table %q is missing", name)
		case n != want[name]:
			return fmt.Sprintf("table %q has %d rows, not %d", name, n, want[name])
		}
	}
	return fmt.Sprintf("it has %d tables, not %d", len(have), len(want))
}

// listed is what the helper that lists a site's files says of them.
type listed struct {
	Count, Bytes  uint64
	SHA256, Links []byte
}

// compareFiles has the site's user look at every file: root never walks through
// a tenant's tree.
func (r *restore) compareFiles(ctx context.Context, _ *task.Log) error {
	if !r.files {
		return nil
	}
	res, err := r.asUser(ctx, r.handle, "list", nil, listWithin, r.agent, "sandbox", "list-tree", r.shells.Staging(r.handle))
	if err != nil {
		return fmt.Errorf("list restored files: %w", err)
	}
	var got listed
	if err := json.Unmarshal(res.Stdout, &got); err != nil {
		return fmt.Errorf("list restored files: %w", err)
	}
	want := r.contents
	if got.Count != want.GetFileCount() || got.Bytes != want.GetFileBytes() || !bytes.Equal(got.SHA256, want.GetListingSha256()) {
		return task.Permanent(fmt.Errorf("the restored files are not what was backed up: %d files of %d bytes, not %d of %d, or other ones; nothing was changed",
			got.Count, got.Bytes, want.GetFileCount(), want.GetFileBytes()))
	}
	if links := want.GetLinksSha256(); len(links) > 0 && !bytes.Equal(got.Links, links) {
		return task.Permanent(errors.New("the restored links do not lead where those led that were backed up; nothing was changed"))
	}
	return nil
}

// commit writes down what is to be exchanged. From then on there is a way forward
// only, but for SQL of the backup that the server refuses.
func (r *restore) commit(ctx context.Context, _ *task.Log) error {
	rec, err := r.mine()
	if err != nil || rec == nil || rec.State != restoreStaging {
		return errors.Join(err, errors.New("what was staged is gone"))
	}
	if r.files {
		id, err := r.shells.Identify(r.handle, r.uid)
		if err != nil {
			return err
		}
		rec.Old, rec.New = id.Live, id.Staged
	}
	if r.database {
		if rec.OldObjects, err = r.mariadb.Objects(ctx, r.handle.DBName()); err != nil {
			return err
		}
		if len(rec.Tables) > 0 {
			if err := r.whole(ctx, rec.Tables); err != nil {
				return err
			}
			rec.NewSQL, rec.NewObjects = nil, rec.OldObjects // the site's stay
		}
		if err := r.mariadb.Prepare(ctx, r.handle, r.id); err != nil {
			return err
		}
	}
	rec.State, rec.Restored, rec.ObjectsMade, rec.Through = restoreSwitching, true, false, true
	fail.Point("restore.before-commit")
	if err := r.store(r.handle, rec); err != nil {
		return err
	}
	fail.Point("restore.committed")
	return nil
}

// whole refuses to part tables that belong together.
func (r *restore) whole(ctx context.Context, tables []string) error {
	torn, err := r.mariadb.Torn(ctx, r.handle, tables)
	if err != nil {
		return err
	}
	if torn != "" {
		return task.Permanent(fmt.Errorf("%s: both are restored, or none; nothing was changed", torn))
	}
	return nil
}

// find sees that there is something to give back.
func (r *restore) find(ctx context.Context, log *task.Log, restored bool) error {
	rec, err := r.mine()
	switch {
	case err != nil:
		return err
	case rec == nil || rec.State != restoreKept && rec.State != restoreSwitching:
		return task.Permanent(errors.New("what the restore replaced is no longer kept"))
	case rec.State == restoreSwitching && rec.Restored != restored: // left in the middle of the way there
		return r.finish(ctx, r.handle, log)
	}
	return nil
}

// commitUndo is commit for an undo, or the undo of one.
func (r *restore) commitUndo(ctx context.Context, restored bool) error {
	rec, err := r.mine()
	if err != nil || rec == nil {
		return errors.Join(err, errors.New("nothing of this restore is left"))
	}
	if rec.Database {
		objects, err := r.mariadb.Objects(ctx, r.handle.DBName())
		if err != nil {
			return err
		}
		switch {
		case len(rec.Tables) > 0:
			if err := r.whole(ctx, rec.Tables); err != nil {
				return err
			}
			rec.OldObjects, rec.NewObjects = objects, objects // they stay
		case rec.Restored:
			rec.NewObjects, rec.NewSQL = objects, nil
		default:
			rec.OldObjects = objects
		}
	}
	rec.State, rec.Restored, rec.ObjectsMade, rec.Through = restoreSwitching, restored, false, true
	fail.Point("restore.before-commit")
	if err := r.store(r.handle, rec); err != nil {
		return err
	}
	fail.Point("restore.committed")
	return nil
}

// takeBack ends a switch to a backup whose SQL the server refused: the site gets
// back what it had, and the restore is as before its commit.
func (r *restore) takeBack(ctx context.Context, log *task.Log, rec *restoreRecord) error {
	problem := rec.Problem
	if err := r.bring(ctx, r.handle, rec, log); err != nil {
		return err
	}
	rec.State, rec.Through = restoreStaging, false
	if err := r.store(r.handle, rec); err != nil {
		return err
	}
	return task.Permanent(fmt.Errorf("%s; the site is as it was", problem))
}

// abort takes back what was begun before the commit: the site opens, if it was
// closed, and what was staged goes.
func (r *restore) abort(ctx context.Context, log *task.Log) error {
	rec, err := r.mine()
	if err != nil || rec == nil {
		return err
	}
	if rec.Quiet {
		for _, s := range r.wake {
			if err := again(ctx, s, log); err != nil {
				return fmt.Errorf("open the site: %s: %w", s.Name, err)
			}
		}
		if err := r.change(func(rec *restoreRecord) { rec.Quiet = false }); err != nil {
			return err
		}
	}
	if rec.State == restoreKept {
		return nil
	}
	return r.discard(ctx, r.handle)
}

// again does a step outside of a plan's order.
func again(ctx context.Context, s task.Step, log *task.Log) error {
	if s.Probe != nil {
		if done, _, err := s.Probe(ctx); done && err == nil {
			return nil
		}
	}
	return s.Do(ctx, log)
}

// objectsError says that the server refused a backup's views, triggers or
// routines.
type objectsError struct{ cause error }

func (e *objectsError) Error() string {
	return "the database's views, triggers and routines can't be made: " + e.cause.Error()
}

func (e *objectsError) Unwrap() error { return e.cause }

// bring makes the site what the record says that it is to have.
func (s *restores) bring(ctx context.Context, h contract.Handle, rec *restoreRecord, log *task.Log) error {
	if err := s.switchFiles(h, rec); err != nil {
		return err
	}
	return s.switchDatabase(ctx, h, rec, log)
}

// finish brings a site to an end of a switch that was left in its middle. What is
// left of it is in one of the other states.
func (s *restores) finish(ctx context.Context, h contract.Handle, log *task.Log) error {
	rec, err := s.load(h)
	if err != nil || rec == nil || rec.State != restoreSwitching {
		return err
	}
	err = s.bring(ctx, h, rec, log)
	var wrong *objectsError
	if errors.As(err, &wrong) {
		log.Printf("%v; the site gets back what it had", err)
		rec.Restored, rec.ObjectsMade = false, false
		if err := s.store(h, rec); err != nil {
			return err
		}
		err = s.bring(ctx, h, rec, log)
	}
	if err != nil {
		return fmt.Errorf("finish restore %s: %w", rec.Restore, err)
	}
	rec.Through = false // what comes next is for the order at hand
	return s.keep(h, rec)
}

// keep ends a switch: the site is whole.
func (s *restores) keep(h contract.Handle, rec *restoreRecord) error {
	rec.State, rec.Until = restoreKept, time.Time{}
	fail.Point("restore.before-kept")
	if err := s.store(h, rec); err != nil {
		return err
	}
	fail.Point("restore.kept")
	return nil
}

func (s *restores) switchFiles(h contract.Handle, rec *restoreRecord) error {
	if !rec.Files {
		return nil
	}
	wanted, other := rec.Old, rec.New
	if rec.Restored {
		wanted, other = rec.New, rec.Old
	}
	if err := s.shells.Exchange(h, wanted, other); err != nil {
		return err
	}
	fail.Point("restore.files-switched")
	return nil
}

func (s *restores) switchDatabase(ctx context.Context, h contract.Handle, rec *restoreRecord, log *task.Log) error {
	if !rec.Database || rec.ObjectsMade {
		return nil
	}
	if err := s.mariadb.Switch(ctx, h, rec.Restore, rec.Tables, rec.Restored); err != nil {
		return err
	}
	fail.Point("restore.tables-switched")
	if err := s.mariadb.DropObjects(ctx, h.DBName()); err != nil { // of a try before
		return err
	}
	if err := s.makeObjects(ctx, h, rec, log); err != nil {
		return err
	}
	fail.Point("restore.objects-made")
	rec.ObjectsMade = true
	return s.store(h, rec)
}

// makeObjects gives the tables their views, triggers and routines.
func (s *restores) makeObjects(ctx context.Context, h contract.Handle, rec *restoreRecord, log *task.Log) error {
	if rec.Restored && rec.NewObjects == nil {
		return s.makeOfDump(ctx, h, rec.NewSQL)
	}
	objects := rec.OldObjects
	if rec.Restored {
		objects = rec.NewObjects
	}
	if len(objects) == 0 {
		return nil
	}
	in, err := json.Marshal(mariadb.Definitions{Socket: s.socket, Schema: h.DBName(), User: h.UnixUser(), Objects: objects})
	if err != nil {
		return err
	}
	res, err := s.asUser(ctx, h, "objects", in, objectsWithin, s.agent, "sandbox", "define-objects")
	if err != nil {
		return fmt.Errorf("define objects: %w", err)
	}
	var left []string
	if err := json.Unmarshal(res.Stdout, &left); err != nil {
		return fmt.Errorf("define objects: %w", err)
	}
	for _, l := range left { // it was as broken before, or root's; the site is not held up by it
		log.Printf("not made again: %s", l)
	}
	return nil
}

// makeOfDump carries out what a dump has behind its tables, as the site's own
// account: the text is the tenant's.
func (s *restores) makeOfDump(ctx context.Context, h contract.Handle, sql []byte) error {
	if len(bytes.TrimSpace(sql)) == 0 {
		return nil
	}
	_, err := s.asUser(ctx, h, "objects", sql, objectsWithin,
		"/usr/bin/mariadb", "--no-defaults", "--socket="+s.socket, "--user="+h.UnixUser().String(), "--default-character-set=utf8mb4", "--sandbox", "--batch", "--database="+h.DBName().String())
	var exit *run.ExitError
	if errors.As(err, &exit) && exit.Cause == nil && exit.Signal == 0 && !unreachable(exit.Stderr) {
		return &objectsError{err}
	}
	return err
}

// unreachable says that a client's words are not about what it was told to do.
func unreachable(words string) bool {
	return slices.ContainsFunc([]string{"ERROR 2002", "ERROR 2006", "ERROR 2013", "ERROR 2026", "ERROR 1053", "ERROR 1040", "ERROR 1205", "ERROR 1021"},
		func(code string) bool { return strings.Contains(words, code) })
}

// asUser runs a program as the site's user, walled in.
func (s *restores) asUser(ctx context.Context, h contract.Handle, name string, stdin []byte, within time.Duration, argv ...string) (run.Result, error) {
	unit := run.SiteUnit{Handle: h, Name: name, Argv: argv, Dir: "/", Timeout: within}
	if stdin != nil {
		unit.Stdin = bytes.NewReader(stdin)
	}
	u, err := unit.Unit()
	if err != nil {
		return run.Result{}, err
	}
	return s.systemd.Run(ctx, u)
}

// discard removes what a restore has left beside a site, and then forgets it.
func (s *restores) discard(ctx context.Context, h contract.Handle) error {
	rec, err := s.load(h)
	if err != nil {
		return err
	}
	if rec != nil && rec.State != restoreDiscarding {
		if rec.State == restoreSwitching {
			return errors.New("discard restore: the site is in the middle of it")
		}
		rec.State = restoreDiscarding
		if err := s.store(h, rec); err != nil {
			return err
		}
		fail.Point("restore.discarding")
	}
	if err := s.shells.RemoveStaging(ctx, s.systemd, s.agent, h); err != nil {
		return err
	}
	forgotten, err := s.mariadb.Forgotten(ctx, h)
	if err == nil && !forgotten {
		err = s.mariadb.Forget(ctx, h)
	}
	if err != nil {
		return err
	}
	fail.Point("restore.discarded")
	return s.remove(h)
}
