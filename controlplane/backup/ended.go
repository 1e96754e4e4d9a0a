package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// topic is what Run listens to: something is to be checked.
const topic = "backup"

// Ended takes in, in the transaction that ends the task, what a host made: it is CHECKING then. Package task calls it
// (task.OnEnd).
func Ended(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
	b, err := scan(tx.QueryRow(ctx, columns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND task_id = $3
		  AND state = 'running'`+tx.ForUpdate(), t.Organization, t.Site, t.ID))
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it left with its site
	}
	if err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	problem := ""
	if t.State != task.Succeeded {
		problem = wordsOf(t)
	} else {
		problem = unacceptable(b.ID, result.GetBackup())
	}
	if problem != "" {
		if err := fail(ctx, tx, b, problem); err != nil {
			return fmt.Errorf("end of task %s: %w", t.ID, err)
		}
		return nil
	}
	if err := toCheck(ctx, tx, b, result.GetBackup(), t.Ended); err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	return nil
}

// toCheck has a backup checked that is made.
func toCheck(ctx context.Context, tx *db.Tx, b Backup, made *backupv1.Report, now time.Time) error {
	report, err := proto.Marshal(made)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		UPDATE backups
		SET state = 'checking',
		    report = $3,
		    checking_at = $4,
		    check_at = $4
		WHERE organization_id = $1
		  AND id = $2`, b.Organization, b.ID, report, db.Micros(now)); err != nil {
		return err
	}
	tx.Notify(topic, b.ID.String())
	return nil
}

// wordsOf says how a task ended that did not succeed.
func wordsOf(t task.Task) string {
	if t.Error != "" {
		return t.Error
	}
	return "its task ended as " + string(t.State)
}

var snapshotPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// unacceptable says why a host's report is not one of a backup; empty when it is. What it says of the backup is checked later.
func unacceptable(id contract.BackupID, r *backupv1.Report) string {
	c := r.GetContents()
	switch {
	case r == nil || c == nil:
		return "the host did not say what it made"
	case r.GetBackupId() != id.String():
		return "the host reported another backup than the one that was asked for"
	case !snapshotPattern.MatchString(c.GetFilesSnapshot()),
		c.GetDatabaseSnapshot() != "" && !snapshotPattern.MatchString(c.GetDatabaseSnapshot()):
		return "the host did not say what it made in a way that could be checked"
	case r.GetStartTime() == nil || r.GetEndTime() == nil || r.GetEndTime().AsTime().Before(r.GetStartTime().AsTime()):
		return "the host did not say when it began and ended"
	}
	return ""
}

// fail ends a backup that there is none of. What is known to be wrong with the target that it was to lie in is said besides.
func fail(ctx context.Context, tx *db.Tx, b Backup, problem string) error {
	words, err := targetProblem(ctx, tx, b.Organization, b.Site)
	if err != nil {
		return err
	}
	if words != "" {
		problem += ". " + words
	}
	if _, err := tx.Exec(ctx, `
		UPDATE backups
		SET state = 'failed',
		    problem = $3,
		    check_at = NULL,
		    claim = ''
		WHERE organization_id = $1
		  AND id = $2`, b.Organization, b.ID, problem); err != nil {
		return err
	}
	if err := audit.Record(ctx, tx, audit.Event{
		Organization: b.Organization.String(), Action: "backup.fail", Object: b.ID.String(), Detail: problem,
	}); err != nil {
		return err
	}
	if err := decideSoon(ctx, tx, b.Organization, b.Site); err != nil {
		return err
	}
	if err := endWith(ctx, tx, b, problem); err != nil {
		return err
	}
	of, err := site.Load(ctx, tx, b.Organization, b.Site)
	if err != nil {
		return err
	}
	if err := follow(ctx, tx, of); err != nil {
		return err
	}
	return publish(ctx, tx, b.Organization, b.Site, webhook.BackupFailed, "backup", b.ID.String())
}

// publish tells webhooks of something that belongs to a site.
func publish(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID, what webhook.Type, kind, id string) error {
	name, err := nameOf(ctx, tx, organization, site)
	if err != nil {
		return err
	}
	return webhook.Publish(ctx, tx, webhook.Event{Organization: organization, Type: what, Object: webhook.Object{Kind: kind, ID: id, Name: name}})
}

func nameOf(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID) (name string, err error) {
	if err := tx.QueryRow(ctx, `
		SELECT name
		FROM sites
		WHERE organization_id = $1
		  AND id = $2`, organization, site).Scan(&name); err != nil {
		return "", fmt.Errorf("read the name of site %s: %w", site, err)
	}
	return name, nil
}

// RestoreEnded takes in how the task of a restore ended. Package task calls it (task.OnEnd).
func RestoreEnded(ctx context.Context, tx *db.Tx, t task.Task, _ *orderv1.Result) error {
	r, err := restoreOf(ctx, tx, t, Restoring)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it left with its site
	}
	if err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	action := "backup.restored"
	if t.State == task.Succeeded {
		r.State, r.EndedAt, r.UndoUntil = Restored, t.Ended, t.Ended.Add(undoFor)
		err = publish(ctx, tx, r.Organization, r.Site, webhook.RestoreDone, "restore", r.ID.String())
	} else {
		r.State, r.Problem, action = RestoreFailed, wordsOf(t), "backup.restore_fail"
		if t.State == task.TimedOut {
			r.Problem += "; whether the host goes on is not known before it says so"
		}
	}
	if err := errors.Join(err, r.save(ctx, tx, action)); err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	return nil
}

// UndoEnded takes in how the task of an undoing ended. Package task calls it (task.OnEnd).
func UndoEnded(ctx context.Context, tx *db.Tx, t task.Task, _ *orderv1.Result) error {
	r, err := restoreOf(ctx, tx, t, Undoing)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it left with its site
	}
	if err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	action := "restore.undone"
	r.State = Restored
	if t.State == task.Succeeded {
		r.Undone, r.Problem = !r.Undone, ""
	} else {
		r.Problem, action = "it could not be undone: "+wordsOf(t), "restore.undo_fail"
	}
	if err := r.save(ctx, tx, action); err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	return nil
}

// RestoreLate takes in how a restore ended on a host that was given up: one in the middle of a switch goes on until it is through.
// Package task calls it (task.OnLateEnd).
func RestoreLate(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
	r, err := restoreOf(ctx, tx, t, RestoreFailed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it left with its site
	}
	if err != nil {
		return fmt.Errorf("late end of task %s: %w", t.ID, err)
	}
	action, now := "backup.restored", time.Now()
	if result.GetOutcome() == orderv1.Outcome_OUTCOME_SUCCEEDED {
		r.State, r.Problem, r.EndedAt, r.UndoUntil = Restored, "", now, now.Add(undoFor)
		err = publish(ctx, tx, r.Organization, r.Site, webhook.RestoreDone, "restore", r.ID.String())
	} else {
		r.Problem, action = wordsOf(t)+lateWords(result), "backup.restore_fail"
	}
	if err := errors.Join(err, r.save(ctx, tx, action)); err != nil {
		return fmt.Errorf("late end of task %s: %w", t.ID, err)
	}
	return nil
}

// UndoLate is RestoreLate of an undoing.
func UndoLate(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
	r, err := restoreOf(ctx, tx, t, Restored)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it left with its site, or was asked for again
	}
	if err != nil {
		return fmt.Errorf("late end of task %s: %w", t.ID, err)
	}
	action := "restore.undone"
	if result.GetOutcome() == orderv1.Outcome_OUTCOME_SUCCEEDED {
		r.Undone, r.Problem = !r.Undone, ""
	} else {
		r.Problem, action = "it could not be undone: "+wordsOf(t)+lateWords(result), "restore.undo_fail"
	}
	if err := r.save(ctx, tx, action); err != nil {
		return fmt.Errorf("late end of task %s: %w", t.ID, err)
	}
	return nil
}

func lateWords(result *orderv1.Result) string {
	return "; the host said later that it did not do it: " + task.Text(result.GetError(), lateShown)
}

// lateShown is how many bytes of a host's late words are kept.
const lateShown = 1024

// restoreOf finds the restore whose newest task has ended, and keeps others from changing it.
func restoreOf(ctx context.Context, tx *db.Tx, t task.Task, state RestoreState) (Restoration, error) {
	return scanRestore(tx.QueryRow(ctx, restoreColumns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND task_id = $3
		  AND state = $4`+tx.ForUpdate(), t.Organization, t.Site, t.ID, string(state)))
}

// save writes what became of a restore.
func (r Restoration) save(ctx context.Context, tx *db.Tx, action string) error {
	if _, err := tx.Exec(ctx, `
		UPDATE restores
		SET state = $3,
		    undone = $4,
		    problem = $5,
		    task_id = $6,
		    ended_at = $7,
		    undo_until = $8
		WHERE organization_id = $1
		  AND id = $2`,
		r.Organization, r.ID, string(r.State), r.Undone, r.Problem, r.TaskID, db.NullMicros(r.EndedAt), db.NullMicros(r.UndoUntil)); err != nil {
		return fmt.Errorf("save restore %s: %w", r.ID, err)
	}
	return audit.Record(ctx, tx, audit.Event{
		Organization: r.Organization.String(), Action: action, Object: r.ID.String(), Detail: fmt.Sprintf("backup %s, site %s", r.Backup, r.Site),
	})
}
