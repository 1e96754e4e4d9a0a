package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

const (
	// hostAhead is how far a host may be ahead of us: it goes by our own clock, carried on since the last Hello.
	hostAhead = 5 * time.Minute
	// hostBehind is how late a host may tell of a backup: two of the longest intervals.
	hostBehind = 62 * 24 * time.Hour
	// reportsWithin so long there may be so many of a site: one every ten minutes, where no schedule is shorter than fifteen, and room
	// for what a host kept while we were away (agent/backup.maxUnreported).
	reportsWithin = 4 * time.Hour
	maxReports    = 24
)

// Reported takes in what came of a backup that a site's host began by itself, as its schedule has it: it is CHECKING then, or FAILED.
// Said again, it has no further effect. Who asks must have made sure that it is the site's host.
//
// It refuses a report that says nothing, an id that another backup has, and times that can't be: those never become right. ErrUnderWay,
// ErrRestoring and a fault.KindLimited do, later.
func (b *Backups) Reported(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, r *linkv1.ReportBackupRequest) error {
	if b.config.Off != "" {
		return fault.NotFound("repository")
	}
	now := time.Now()
	backup, err := claims(r, now)
	if err != nil {
		return fmt.Errorf("report of a backup of site %s: %w", id, err)
	}
	err = db.InTx(ctx, b.db, func(tx *db.Tx) error {
		of, err := site.Lock(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		known, err := load(ctx, tx, organization, id, backup)
		switch {
		case err == nil && known.Reason == Scheduled:
			return nil
		case err == nil:
			return errTaken
		case !errors.Is(err, ErrNotFound):
			return err
		}
		if g := r.GetGeneration(); g == 0 || g > of.Wanted.Generation {
			return fault.Invalid("generation", "must be one that the site has or had")
		}
		if err := bounded(ctx, tx, organization, id, now); err != nil {
			return err
		}
		return b.takeIn(ctx, tx, of, backup, r, now)
	}, db.ReadCommitted()) // the site's row is locked before anything is decided
	if err != nil {
		return fmt.Errorf("report of backup %s of site %s: %w", backup, id, err)
	}
	return nil
}

var errTaken = fault.Invalid("backup_id", "must not be that of another backup")

// claims reads which backup a report is of, and refuses one that can't be true of any.
func claims(r *linkv1.ReportBackupRequest, now time.Time) (contract.BackupID, error) {
	id, err := contract.ParseBackupID(r.GetBackupId())
	if err != nil {
		return id, fault.Invalid("backup_id", contract.RuleOf(err))
	}
	due, made := r.GetDueTime().AsTime(), r.GetReport()
	switch {
	case (made == nil) == (r.GetError() == ""):
		return id, fault.Invalid("error", "must say why there is no backup, and be empty where there is one")
	case r.GetDueTime() == nil || due.After(now.Add(hostAhead)) || due.Before(now.Add(-hostBehind)):
		return id, fault.Invalid("due_time", "must be past, and not longer than 62 days ago")
	// Ids sort by birth, and the list of a site's backups goes by them.
	case id.Born().Before(due.Add(-hostAhead)) || id.Born().After(now.Add(hostAhead)):
		return id, fault.Invalid("backup_id", "must be a UUID of version 7 that was made when the backup was due, or later")
	case made != nil && (made.GetStartTime().AsTime().Before(due.Add(-hostAhead)) || made.GetEndTime().AsTime().After(now.Add(hostAhead))):
		return id, fault.Invalid("report", "must be of a backup that was begun when it was due, or later, and that has ended")
	}
	return id, nil
}

// bounded refuses a host that tells of more than a schedule can bring.
func bounded(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID, now time.Time) error {
	var n int
	if err := tx.QueryRow(ctx, `
		SELECT COUNT(*)
		FROM backups
		WHERE organization_id = $1
		  AND site_id = $2
		  AND reason = 'scheduled'
		  AND created_at > $3
		  AND created_at <= $4`, organization, id, db.Micros(now.Add(-reportsWithin)), db.Micros(now)).Scan(&n); err != nil {
		return fmt.Errorf("count what the site's host told: %w", err)
	}
	if n >= maxReports {
		return fault.Limited("a site's schedule brings no more than 24 backups in 4 hours", reportsWithin/maxReports)
	}
	return nil
}

// takeIn makes the row of a backup that was not known. What is wanted of the site now stands for what was wanted when it was made:
// nobody keeps the latter.
func (b *Backups) takeIn(ctx context.Context, tx *db.Tx, of *site.Site, id contract.BackupID, r *linkv1.ReportBackupRequest, now time.Time) error {
	draft, err := draftOf(of)
	if err != nil {
		return err
	}
	made := Backup{
		Organization: of.Organization, ID: id, Site: of.ID, State: Checking, Reason: Scheduled, CreatedAt: db.Time(db.Micros(now)), draft: draft,
	}
	problem := r.GetError()
	if problem == "" {
		problem = unacceptable(id, r.GetReport())
	}
	if problem != "" {
		made.State = Failed
	} else {
		if err := free(ctx, tx, of.Organization, of.ID, true); err != nil {
			return err
		}
		if err := newer(ctx, tx, of, r.GetReport()); err != nil {
			return err
		}
		if _, err := b.ensure(ctx, tx, of.Organization, of.ID); err != nil {
			return err
		}
	}
	if err := insert(ctx, tx, made); err != nil {
		if db.IsUnique(err) {
			return errTaken // of another site, which this one must not learn
		}
		return err
	}
	if err := audit.Record(ctx, tx, audit.Event{
		Organization: of.Organization.String(), Action: "backup.create", Object: id.String(),
		Detail: fmt.Sprintf("of site %s, as its schedule had it for %s", of.ID, r.GetDueTime().AsTime().Format(time.RFC3339)),
	}); err != nil {
		return err
	}
	if problem != "" {
		return fail(ctx, tx, made, problem)
	}
	return toCheck(ctx, tx, made, r.GetReport(), now)
}

// newer refuses a backup that was begun before the site's newest one, but for the time that an order takes at most, while which the
// host may have waited to tell of it: what is kept of the past goes by these times, and no host adds to the past.
func newer(ctx context.Context, tx *db.Tx, of *site.Site, r *backupv1.Report) error {
	rows, err := tx.Query(ctx, columns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND state = 'ready'
		ORDER BY sequence DESC
		LIMIT 1`, of.Organization, of.ID)
	if err != nil {
		return fmt.Errorf("look for the newest backup: %w", err)
	}
	all, err := scanAll(rows)
	if err != nil {
		return fmt.Errorf("look for the newest backup: %w", err)
	}
	if len(all) == 0 {
		return nil
	}
	begun := all[0].Report.GetStartTime().AsTime() // by the host's own clock, where it was ordered
	if all[0].CheckedAt.Before(begun) {
		begun = all[0].CheckedAt
	}
	if r.GetStartTime().AsTime().Before(begun.Add(-backupWithin - startWithin)) {
		return fault.Invalid("report", "must not be of a backup that was begun long before the site's newest one")
	}
	return nil
}
