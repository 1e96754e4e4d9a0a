package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// maker brings a backup from elsewhere into its site's repository, which is there, and says what it brought, as a host would. It may be
// broken off at any point and called again, by another process too: what it brought before does no harm. An error that is a wrong, or
// ErrDamaged, ends the backup; after others it is called again.
type maker func(ctx context.Context, b Backup, into Repository) (*backupv1.Report, error)

// received says that no host made it.
func (b Backup) received() bool { return b.Reason == Copied || b.Reason == Imported }

// ErrNotCancelled says that a backup is none that Cancel could end.
var ErrNotCancelled = fault.Conflict("only a backup that comes from elsewhere and is running can be cancelled; that of a site's host is by its task")

// expect makes the row of a backup that comes from elsewhere: it is RUNNING until its maker has brought it. The site's row is locked.
// The caller fills in reason, draft and source, and says in words from where it comes.
func (b *Backups) expect(ctx context.Context, tx *db.Tx, of *site.Site, made Backup, from string) (Backup, error) {
	if err := of.Living(); err != nil {
		return Backup{}, err
	}
	if err := free(ctx, tx, of.Organization, of.ID, true); err != nil {
		return Backup{}, err
	}
	if _, err := b.ensure(ctx, tx, of.Organization, of.ID); err != nil {
		return Backup{}, err
	}
	now := db.Time(db.Micros(time.Now()))
	made.Organization, made.ID, made.Site, made.State, made.CreatedAt = of.Organization, contract.NewBackupID(), of.ID, Running, now
	if err := insert(ctx, tx, made); err != nil {
		return Backup{}, err
	}
	if _, err := tx.Exec(ctx, `
		UPDATE backups
		SET checking_at = $3,
		    check_at = $3
		WHERE organization_id = $1
		  AND id = $2`, made.Organization, made.ID, db.Micros(now)); err != nil {
		return Backup{}, fmt.Errorf("have backup %s brought: %w", made.ID, err)
	}
	tx.Notify(topic, made.ID.String())
	return made, audit.Record(ctx, tx, audit.Event{
		Organization: of.Organization.String(), Action: "backup.create", Object: made.ID.String(), Detail: fmt.Sprintf("of site %s, %s", of.ID, from),
	})
}

// receiveNext brings the backup that is due first, and says whether there was one.
func (b *Backups) receiveNext(ctx context.Context, now time.Time) (bool, error) {
	return b.next(ctx, now, true, b.receive)
}

// receive brings a RUNNING backup into its site's repository. It is CHECKING then. All of it may happen twice.
func (b *Backups) receive(ctx context.Context, c claimed) error {
	bring := b.makers[c.Reason]
	if bring == nil {
		return wrong("this control plane does not know where it comes from")
	}
	into, err := b.open(ctx, c.Organization, c.Site)
	if err != nil {
		return fmt.Errorf("open the repository: %w", err)
	}
	if err := b.config.Repositories.Init(ctx, into); err != nil {
		return err
	}
	report, err := bring(ctx, c.Backup, into)
	if err != nil {
		return err
	}
	return db.InTx(ctx, b.db, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `
			UPDATE backups
			SET claim = '',
			    tries = 0
			WHERE organization_id = $1
			  AND id = $2
			  AND state = 'running'
			  AND claim = $3`, c.Organization, c.ID, c.claim)
		if err == nil && n == 0 {
			err = errLost
		}
		if err != nil {
			return err
		}
		return toCheck(ctx, tx, c.Backup, report, time.Now())
	}, db.ReadCommitted())
}

// Cancel ends a backup that comes from elsewhere and is RUNNING: it is FAILED. What of it has come is removed in time.
func (b *Backups) Cancel(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID) (Backup, error) {
	var ended Backup
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		if _, err := site.Lock(ctx, tx, organization, id); err != nil {
			return err
		}
		found, err := scan(tx.QueryRow(ctx, columns+`
			WHERE organization_id = $1
			  AND site_id = $2
			  AND id = $3`+tx.ForUpdate(), organization, id, backup))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("read backup: %w", err)
		}
		if !found.received() || found.State != Running {
			return ErrNotCancelled
		}
		if err := fail(ctx, tx, found, "it was cancelled"); err != nil {
			return err
		}
		ended, err = load(ctx, tx, organization, id, backup)
		return err
	}, db.ReadCommitted()) // the site's row is locked before anything is decided
	if err != nil {
		return Backup{}, fmt.Errorf("cancel backup %s: %w", backup, err)
	}
	return ended, nil
}
