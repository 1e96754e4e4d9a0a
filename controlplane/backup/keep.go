package backup

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

const (
	// keepEvery is how often a repository is looked after. Removing rewrites data: once a day is enough.
	keepEvery = 24 * time.Hour
	// removeAfter is how long a backup that nothing keeps is still there: who made the retention too short on a Friday finds all of
	// it on Monday.
	removeAfter = 72 * time.Hour
	// strayAfter is how long a snapshot that belongs to no backup is left alone: its host may still be to report it.
	strayAfter = 7 * 24 * time.Hour
	// keepFor bounds one look after a repository: hosts wait meanwhile.
	keepFor = 6 * time.Hour
	// busyRest is when a repository is looked after again that somebody works with.
	busyRest = 10 * time.Minute
)

// ErrHeld says that data is being removed from the site's repository.
var ErrHeld = fault.Unavailable("backups of the site that have expired are being removed: try again in some minutes", time.Minute, nil)

// Admit says whether a host may put an object into its site's repository now: not while data is removed from it. A host that is told
// so asks again.
func (b *Backups) Admit(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) error {
	held, err := held(ctx, b.db.Reader(), organization, id, time.Now())
	if err == nil && held {
		return ErrHeld
	}
	return err
}

func held(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID, now time.Time) (bool, error) {
	var n int
	err := q.QueryRow(ctx, `
		SELECT COUNT(*)
		FROM repositories
		WHERE organization_id = $1
		  AND site_id = $2
		  AND held_until > $3
		  AND held_until <= $4`, organization, id, db.Micros(now), db.Micros(now.Add(2*claimFor))).Scan(&n) // what is later was written by a clock that has been set back
	if err != nil {
		return false, fmt.Errorf("look whether the repository of site %s is held: %w", id, err)
	}
	return n > 0, nil
}

// kept is a repository that this process looks after.
type kept struct {
	Organization contract.OrganizationID
	Site         contract.SiteID
	claim        string
	tries        int
	parts        int  // that were read in this round
	damaged      bool // as far as was known
}

// keepNext looks after the repository that is due first, and says whether there was one.
func (b *Backups) keepNext(ctx context.Context, now time.Time) (bool, error) {
	if b.config.Off != "" || !b.trusts(now) {
		return false, nil
	}
	k, err := b.take(ctx, now)
	if err != nil || k == nil {
		return false, err
	}
	working, done := context.WithTimeout(ctx, keepFor)
	var renewing errgroup.Group
	renewing.Go(func() error { defer done(); b.keepOn(working, *k); return nil })
	broken := b.lookAfter(working, *k, now)
	done()
	_ = renewing.Wait() // it has no errors of its own
	rest, end := keepEvery, context.WithoutCancel(ctx)
	switch {
	case ctx.Err() != nil: // the process ends: another one goes on at once
		rest, broken = 0, fmt.Errorf("stopped: %w", ctx.Err())
		var cancel context.CancelFunc
		end, cancel = context.WithTimeout(end, time.Second)
		defer cancel()
	case errors.Is(broken, errLost):
		return true, nil
	case errors.Is(broken, ErrBusy), errors.Is(broken, ErrUnderWay), errors.Is(broken, ErrRestoring), errors.Is(broken, ErrDrilling):
		rest, broken = busyRest, nil // somebody will be done
	case broken != nil:
		rest = min(busyRest<<min(k.tries, 10), keepEvery)
		b.log.WarnContext(ctx, "a repository can't be looked after", "site", k.Site, "again_at", now.Add(rest), "err", broken)
	}
	tries := 0
	if broken != nil {
		tries = k.tries + 1
	}
	if err := b.put(end, `
		UPDATE repositories
		SET keep_at = $4,
		    keep_claim = '',
		    keep_tries = $5,
		    held_until = 0
		WHERE organization_id = $1
		  AND site_id = $2
		  AND keep_claim = $3`, k.Organization, k.Site, k.claim, db.Micros(now.Add(rest)), tries); err != nil {
		return false, err
	}
	return ctx.Err() == nil, ctx.Err()
}

// take claims the repository that is due first; nil when none is.
func (b *Backups) take(ctx context.Context, now time.Time) (*kept, error) {
	k := kept{claim: rand.Text()}
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		err := tx.QueryRow(ctx, `
			SELECT organization_id,
			       site_id,
			       keep_tries,
			       parts_read,
			       damaged_at IS NOT NULL
			FROM repositories
			WHERE (keep_at <= $1 OR keep_at > $2)
			  AND sequence > 0
			ORDER BY keep_at
			LIMIT 1`+skipLocked(tx), db.Micros(now), db.Micros(now.Add(keepEvery+claimFor))).Scan(&k.Organization, &k.Site, &k.tries, &k.parts, &k.damaged)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE repositories
			SET keep_at = $3,
			    keep_claim = $4,
			    held_until = 0
			WHERE organization_id = $1
			  AND site_id = $2`, k.Organization, k.Site, db.Micros(now.Add(claimFor)), k.claim)
		return err
	}, db.ReadCommitted())
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take a repository: %w", err)
	}
	return &k, nil
}

// keepOn keeps a repository for this process until ctx ends, or until it can't be kept any more.
func (b *Backups) keepOn(ctx context.Context, k kept) {
	tick := time.NewTicker(claimFor / 6)
	defer tick.Stop()
	until := time.Now().Add(claimFor)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		err := b.renewKept(ctx, k, now)
		switch {
		case err == nil:
			until = now.Add(claimFor)
		case errors.Is(err, errLost), now.After(until.Add(-claimFor / 3)): // before anybody else begins
			b.log.WarnContext(ctx, "a repository is not looked after to the end", "site", k.Site, "err", err)
			return
		}
	}
}

func (b *Backups) renewKept(ctx context.Context, k kept, now time.Time) error {
	return b.ofClaim(ctx, k, `
		UPDATE repositories
		SET keep_at = $4,
		    held_until = CASE WHEN held_until > 0 THEN $4 ELSE 0 END
		WHERE organization_id = $1
		  AND site_id = $2
		  AND keep_claim = $3`, db.Micros(now.Add(claimFor)))
}

// ofClaim changes the row of a repository that this process still looks after, or says errLost.
func (b *Backups) ofClaim(ctx context.Context, k kept, query string, args ...any) error {
	return db.InTx(ctx, b.db, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, query, append([]any{k.Organization, k.Site, k.claim}, args...)...)
		if err == nil && n == 0 {
			err = errLost
		}
		return err
	}, db.ReadCommitted())
}

// lookAfter does what is to be done with a repository once a day.
func (b *Backups) lookAfter(ctx context.Context, k kept, now time.Time) error {
	repository, err := b.open(ctx, k.Organization, k.Site)
	if err != nil {
		return fmt.Errorf("open the repository: %w", err)
	}
	if err := b.expire(ctx, k, now); err != nil {
		return err
	}
	if err := b.remove(ctx, k, repository, now); err != nil {
		if errors.Is(err, ErrDamaged) {
			return errors.Join(err, b.found(ctx, k, now, err))
		}
		return err
	}
	return b.verify(ctx, k, repository, now)
}

// expire marks the backups that nothing keeps any more, and takes the mark from those that something does again. Those whose time
// has come are backups no more: what is to be removed of them is written down in their place.
func (b *Backups) expire(ctx context.Context, k kept, now time.Time) error {
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		if _, err := site.Lock(ctx, tx, k.Organization, k.Site); err != nil { // nobody begins to restore one
			return err
		}
		policy, err := b.PolicyOf(ctx, tx, k.Organization, k.Site)
		if err != nil {
			return err
		}
		all, marks, err := b.agedOf(ctx, tx, k, now)
		if err != nil {
			return err
		}
		gone := expired(now, all, policy.Retention)
		for _, a := range all {
			is, at := slices.Contains(gone, a.ID), marks[a.ID]
			switch {
			case is && at.IsZero(), is && at.After(now.Add(removeAfter)): // the clock was set back
				at = now.Add(removeAfter)
			case is && !now.Before(at) && !k.damaged: // of a damaged one nothing more is taken
				if err := b.giveUp(ctx, tx, a.ID, k, now); err != nil {
					return err
				}
				continue
			case !is:
				at = time.Time{}
			}
			if at.Equal(marks[a.ID]) {
				continue
			}
			if _, err := tx.Exec(ctx, `
				UPDATE backups
				SET expire_at = $3
				WHERE organization_id = $1
				  AND id = $2`, k.Organization, a.ID, db.NullMicros(at)); err != nil {
				return err
			}
		}
		return nil
	}, db.ReadCommitted()) // the site's row is locked before anything is decided
	if errors.Is(err, site.ErrNotFound) {
		return errLost // the repository goes as a whole
	}
	if err != nil {
		return fmt.Errorf("find what has expired: %w", err)
	}
	return nil
}

// agedOf gives a site's READY backups, and when those that expire are to be removed.
func (b *Backups) agedOf(ctx context.Context, tx *db.Tx, k kept, now time.Time) (all []aged, marks map[contract.BackupID]time.Time, err error) {
	_, passed, err := LastDrills(ctx, tx, k.Organization, k.Site)
	if err != nil {
		return nil, nil, err
	}
	var proven contract.BackupID
	if passed != nil {
		proven = passed.Backup
	}
	restored, err := restoredFrom(ctx, tx, k, now)
	if err != nil {
		return nil, nil, err
	}
	rows, err := tx.Query(ctx, `
		SELECT id,
		       sequence,
		       report,
		       checked_at,
		       expire_at
		FROM backups
		WHERE organization_id = $1
		  AND site_id = $2
		  AND state = 'ready'
		ORDER BY sequence`, k.Organization, k.Site)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	marks = map[contract.BackupID]time.Time{}
	for rows.Next() {
		var a aged
		var report []byte
		var sequence int64
		var checked, expires sql.NullInt64
		if err := rows.Scan(&a.ID, &sequence, &report, &checked, &expires); err != nil {
			return nil, nil, err
		}
		at, err := startOf(report)
		if err != nil {
			return nil, nil, fmt.Errorf("backup %s: %w", a.ID, err)
		}
		a.Sequence, a.At, a.Checked = uint64(sequence), at, db.NullTime(checked)
		a.Needed = a.ID == proven || slices.Contains(restored, a.ID)
		all, marks[a.ID] = append(all, a), db.NullTime(expires)
	}
	return all, marks, rows.Err()
}

// restoredFrom are the backups that restores go back to which are under way, or can still be undone, and those that are being copied.
func restoredFrom(ctx context.Context, tx *db.Tx, k kept, now time.Time) ([]contract.BackupID, error) {
	rows, err := tx.Query(ctx, `
		SELECT backup_id
		FROM restores
		WHERE organization_id = $1
		  AND site_id = $2
		  AND (state IN ('running', 'undoing') OR undo_until > $3)
		UNION
		SELECT source_backup_id
		FROM backups
		WHERE organization_id = $1
		  AND source_site_id = $2
		  AND state = 'running'`, k.Organization, k.Site, db.Micros(now))
	if err != nil {
		return nil, err
	}
	return idsOf(rows)
}

func idsOf(rows *sql.Rows) (all []contract.BackupID, err error) {
	defer rows.Close()
	for rows.Next() {
		var id contract.BackupID
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		all = append(all, id)
	}
	return all, rows.Err()
}

// giveUp takes a backup from those that there are, and notes what is to be removed of it.
func (b *Backups) giveUp(ctx context.Context, tx *db.Tx, id contract.BackupID, k kept, now time.Time) error {
	gone, err := load(ctx, tx, k.Organization, k.Site, id)
	if err != nil {
		return err
	}
	contents := gone.Report.GetContents()
	if _, err := tx.Exec(ctx, `
		INSERT INTO removals (organization_id, backup_id, site_id, sequence, files_snapshot, database_snapshot, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		k.Organization, id, k.Site, int64(gone.Sequence), contents.GetFilesSnapshot(), contents.GetDatabaseSnapshot(), db.Micros(now)); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		DELETE FROM backups
		WHERE organization_id = $1
		  AND id = $2`, k.Organization, id); err != nil {
		return err
	}
	return audit.Record(ctx, tx, audit.Event{
		Organization: k.Organization.String(), Action: "backup.expire", Object: id.String(), Detail: fmt.Sprintf("number %d of site %s", gone.Sequence, k.Site),
	})
}

// remove takes out of the repository what is written down to be removed, if anything is. Nobody else works with it meanwhile, and
// what is left is whole afterwards. Broken off at any point it goes on the next time.
func (b *Backups) remove(ctx context.Context, k kept, repository Repository, now time.Time) error {
	snapshots, sequences, err := b.removals(ctx, k)
	if err != nil {
		return fmt.Errorf("find what is to be removed: %w", err)
	}
	strays, err := b.strays(ctx, k, repository, now)
	if err != nil {
		return fmt.Errorf("find snapshots of no backup: %w", err)
	}
	if len(sequences)+len(strays) == 0 {
		return nil
	}
	if err := b.holdRepository(ctx, k); err != nil {
		return err
	}
	// Only now nobody adds a backup of the same snapshot.
	needed, err := b.snapshots(ctx, k)
	if err != nil {
		return err
	}
	snapshots = slices.DeleteFunc(append(snapshots, strays...), func(s string) bool { return needed[s] })
	if err := b.config.Repositories.Forget(ctx, repository, snapshots, sequences); err != nil {
		return fmt.Errorf("remove what has expired: %w", err)
	}
	if err := b.config.Repositories.Check(ctx, repository); err != nil {
		return fmt.Errorf("check what is left: %w", err)
	}
	usage, err := b.config.Repositories.Usage(ctx, repository)
	if err != nil {
		return fmt.Errorf("measure the repository: %w", err)
	}
	if err := b.ofClaim(ctx, k, `
		UPDATE repositories
		SET bytes = $4,
		    held_until = 0
		WHERE organization_id = $1
		  AND site_id = $2
		  AND keep_claim = $3`, int64(min(usage, maxBytes))); err != nil {
		return err
	}
	b.log.InfoContext(ctx, "backups that have expired are removed", "site", k.Site, "backups", len(sequences), "snapshots", len(snapshots))
	return b.put(ctx, `
		DELETE FROM removals
		WHERE organization_id = $1
		  AND site_id = $2`, k.Organization, k.Site)
}

// holdRepository keeps all others from a repository of which nobody makes, reads or restores a backup now.
func (b *Backups) holdRepository(ctx context.Context, k kept) error {
	return db.InTx(ctx, b.db, func(tx *db.Tx) error {
		if _, err := site.Lock(ctx, tx, k.Organization, k.Site); err != nil {
			return err
		}
		if err := free(ctx, tx, k.Organization, k.Site, true); err != nil {
			return err
		}
		if _, running, err := drilling(ctx, tx, k.Organization, k.Site); err != nil || running {
			return cmp.Or(err, error(ErrDrilling))
		}
		if copying, err := copyingFrom(ctx, tx, k.Organization, k.Site); err != nil || copying {
			return cmp.Or(err, error(ErrUnderWay))
		}
		n, err := tx.Exec(ctx, `
			UPDATE repositories
			SET held_until = $4
			WHERE organization_id = $1
			  AND site_id = $2
			  AND keep_claim = $3`, k.Organization, k.Site, k.claim, db.Micros(time.Now().Add(claimFor)))
		if err == nil && n == 0 {
			err = errLost
		}
		return err
	}, db.ReadCommitted())
}

// removals are the snapshots and the manifests that are to be removed.
func (b *Backups) removals(ctx context.Context, k kept) (snapshots []string, sequences []uint64, err error) {
	rows, err := b.db.Reader().Query(ctx, `
		SELECT sequence,
		       files_snapshot,
		       database_snapshot
		FROM removals
		WHERE organization_id = $1
		  AND site_id = $2
		ORDER BY sequence`, k.Organization, k.Site)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var sequence int64
		var files, database string
		if err := rows.Scan(&sequence, &files, &database); err != nil {
			return nil, nil, err
		}
		snapshots, sequences = append(snapshots, files), append(sequences, uint64(sequence))
		if database != "" {
			snapshots = append(snapshots, database)
		}
	}
	return snapshots, sequences, rows.Err()
}

// snapshots are those that the site's backups name, in whatever state.
func (b *Backups) snapshots(ctx context.Context, k kept) (map[string]bool, error) {
	rows, err := b.db.Reader().Query(ctx, columns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND state <> 'failed'`, k.Organization, k.Site)
	if err != nil {
		return nil, err
	}
	all, err := scanAll(rows)
	if err != nil {
		return nil, err
	}
	named := map[string]bool{}
	for _, one := range all {
		named[one.Report.GetContents().GetFilesSnapshot()] = true
		named[one.Report.GetContents().GetDatabaseSnapshot()] = true
	}
	return named, nil
}

// strays are snapshots that belong to no backup and did not a week ago either: those of backups that failed, of which nobody will
// hear any more.
func (b *Backups) strays(ctx context.Context, k kept, repository Repository, now time.Time) ([]string, error) {
	there, err := b.config.Repositories.Snapshots(ctx, repository)
	if err != nil {
		return nil, err
	}
	named, err := b.snapshots(ctx, k)
	if err != nil {
		return nil, err
	}
	var old []string
	err = db.InTx(ctx, b.db, func(tx *db.Tx) error {
		old = nil
		seen, err := strayTimes(ctx, tx, k)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			DELETE FROM stray_snapshots
			WHERE organization_id = $1
			  AND site_id = $2`, k.Organization, k.Site); err != nil {
			return err
		}
		for _, id := range there {
			if named[id] {
				continue
			}
			at := seen[id]
			if at.IsZero() || at.After(now) {
				at = now
			}
			if now.Sub(at) >= strayAfter {
				old = append(old, id)
			}
			if _, err := tx.Exec(ctx, `
				INSERT INTO stray_snapshots (organization_id, site_id, snapshot, seen_at)
				VALUES ($1, $2, $3, $4)`, k.Organization, k.Site, id, db.Micros(at)); err != nil {
				return err
			}
		}
		return nil
	}, db.ReadCommitted())
	return old, err
}

// strayTimes say since when snapshots are known that belong to no backup.
func strayTimes(ctx context.Context, tx *db.Tx, k kept) (map[string]time.Time, error) {
	rows, err := tx.Query(ctx, `
		SELECT snapshot,
		       seen_at
		FROM stray_snapshots
		WHERE organization_id = $1
		  AND site_id = $2`, k.Organization, k.Site)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	seen := map[string]time.Time{}
	for rows.Next() {
		var id string
		var at int64
		if err := rows.Scan(&id, &at); err != nil {
			return nil, err
		}
		seen[id] = db.Time(at)
	}
	return seen, rows.Err()
}

// startOf is when a host says that it began to read, in a serialized report; zero where it does not.
func startOf(report []byte) (time.Time, error) {
	r := &backupv1.Report{}
	if err := proto.Unmarshal(report, r); err != nil {
		return time.Time{}, fmt.Errorf("read report: %w", err)
	}
	if r.GetStartTime() == nil {
		return time.Time{}, nil
	}
	return r.GetStartTime().AsTime(), nil
}
