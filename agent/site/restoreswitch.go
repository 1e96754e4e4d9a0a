package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"chom.dev/agent/fail"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
)

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

// makesNothing is what mariadb-dump writes where there is nothing to make: comments,
// and settings of the session. What is not known for that is carried out.
var makesNothing = regexp.MustCompile(`^(?:(?:--(?: [^\n]*)?|/\*M?!\d+ SET [^*;\n]*\*/;|/\*M!999999\\- enable the sandbox mode \*/ ?)?\n)*$`)

// makeOfDump carries out what a dump has behind its tables, as the site's own
// account: the text is the tenant's.
func (s *restores) makeOfDump(ctx context.Context, h contract.Handle, sql []byte) error {
	if makesNothing.Match(sql) { // the site is closed while a program starts
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
