package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/agent/backup"
	"chom.dev/agent/fail"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
)

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
		return r.change(func(rec *restoreRecord) { rec.Staged = fetched.Files })
	}
	if !bytes.Equal(fetched.SHA256, r.contents.GetDumpSha256()) || fetched.Bytes != r.contents.GetDumpBytes() {
		return errors.New("fetch the backup: the dump is not the one that the backup is signed for")
	}
	return r.change(func(rec *restoreRecord) { rec.Staged, rec.NewSQL = fetched.Files, fetched.Objects })
}

// compare holds what was staged against what the backup is signed for.
func (r *restore) compare(ctx context.Context, log *task.Log) error {
	rec, err := r.mine()
	if err != nil {
		return err
	}
	var both errgroup.Group
	both.Go(func() error {
		if rec != nil && rec.Staged != nil {
			return r.compareFound(rec.Staged)
		}
		return r.compareFiles(ctx, log)
	})
	if r.database {
		both.Go(func() error { return r.compareTables(ctx) })
	}
	return both.Wait()
}

func (r *restore) compareTables(ctx context.Context) error {
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
	got := new(tree.Found)
	if err := json.Unmarshal(res.Stdout, got); err != nil {
		return fmt.Errorf("list restored files: %w", err)
	}
	return r.compareFound(got)
}

func (r *restore) compareFound(got *tree.Found) error {
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
