package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
)

// ready and fail end what a restore waits for that is to begin after a backup of what it replaces. Both are called in the transaction
// that ends the backup, so that a restore neither waits for nothing nor is ordered twice.

// goOn orders the restore that waits for a backup, which is READY now. The site's row is locked.
func (b *Backups) goOn(ctx context.Context, tx *db.Tx, of *site.Site, before Backup) error {
	r, err := waitingFor(ctx, tx, before)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	problem, err := b.orderNow(ctx, tx, of, &r)
	if err != nil {
		return err
	}
	if problem != "" {
		r.State, r.Problem = RestoreFailed, problem
		return r.save(ctx, tx, "backup.restore_fail")
	}
	return r.save(ctx, tx, "backup.restore_order")
}

// orderNow orders a restore that has waited, and says why it can't be any more.
func (b *Backups) orderNow(ctx context.Context, tx *db.Tx, of *site.Site, r *Restoration) (problem string, err error) {
	var refused *fault.Fault
	if err := of.Changeable(); errors.As(err, &refused) {
		return "it could not begin: " + refused.Error(), nil
	} else if err != nil {
		return "", err
	}
	from, err := load(ctx, tx, r.Organization, r.Site, r.Backup)
	switch {
	case errors.Is(err, ErrNotFound) || err == nil && from.State != Ready:
		return "it could not begin: the backup is gone", nil
	case err != nil:
		return "", err
	}
	signed, _, err := b.verified(from)
	if err != nil {
		b.log.ErrorContext(ctx, "the manifest of a backup is not what was signed", "backup", from.ID, "site", from.Site, "err", err)
		return ErrForged.Error(), nil
	}
	var by sql.NullString
	err = tx.QueryRow(ctx, `
		SELECT created_by
		FROM tasks
		WHERE organization_id = $1
		  AND id = $2`, r.Organization, r.TaskID).Scan(&by)
	if err != nil {
		return "", fmt.Errorf("read who asked for restore %s: %w", r.ID, err)
	}
	r.TaskID, err = order(ctx, tx, of, *r, signed, by.String)
	return "", err
}

// endWith ends the restore that waits for a backup of which there is none.
func endWith(ctx context.Context, tx *db.Tx, before Backup, problem string) error {
	r, err := waitingFor(ctx, tx, before)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	r.State, r.Problem = RestoreFailed, "the backup before it failed: "+problem+"; nothing was changed: try again, or restore with --without-backup"
	return r.save(ctx, tx, "backup.restore_fail")
}

// waitingFor is the restore whose order is to follow a backup.
func waitingFor(ctx context.Context, tx *db.Tx, before Backup) (Restoration, error) {
	return scanRestore(tx.QueryRow(ctx, restoreColumns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND before_backup_id = $3
		  AND task_id = $4
		  AND state = 'running'`+tx.ForUpdate(), before.Organization, before.Site, before.ID, before.TaskID))
}
