package backup

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// Parts say what of a backup is put back, and how. The zero value is all of it, after a backup of what is replaced.
type Parts struct {
	FilesOnly, DatabaseOnly bool
	// Tables are the only ones of the database that are put back; everything else stays as it is. Nil is all of them.
	Tables []string
	// WithoutBackup makes no backup of what is replaced.
	WithoutBackup bool
}

// Restore has a site's host put a backup back, once a backup of what that replaces is READY. Only a READY backup of this very site
// is, and nothing while another backup is made or a restore goes on.
func (b *Backups) Restore(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID, parts Parts) (Restoration, error) {
	switch {
	case parts.FilesOnly && parts.DatabaseOnly:
		return Restoration{}, ErrNothing
	case parts.FilesOnly && len(parts.Tables) > 0:
		return Restoration{}, ErrTablesOfFiles
	case !parts.WithoutBackup && b.config.Off != "":
		return Restoration{}, fault.Conflict(b.config.Off + "; a restore without a backup before it can be asked for")
	}
	var made Restoration
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		of, err := site.Lock(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		from, err := load(ctx, tx, organization, id, backup)
		if err != nil {
			return err
		}
		if from.State != Ready {
			return ErrNotReady
		}
		if err := of.Changeable(); err != nil {
			return err
		}
		if err := free(ctx, tx, organization, id, !parts.WithoutBackup); err != nil {
			return err
		}
		if err := b.stopDrill(ctx, tx, organization, id); err != nil {
			return err
		}
		made, err = b.restore(ctx, tx, of, from, parts)
		return err
	}, db.ReadCommitted()) // the site's row is locked before anything is decided
	if err != nil {
		return Restoration{}, fmt.Errorf("restore backup %s: %w", backup, err)
	}
	return made, nil
}

func (b *Backups) restore(ctx context.Context, tx *db.Tx, of *site.Site, from Backup, parts Parts) (Restoration, error) {
	signed, manifest, err := b.verified(from)
	if err != nil {
		b.log.ErrorContext(ctx, "the manifest of a backup is not what was signed", "backup", from.ID, "site", from.Site, "err", err)
		return Restoration{}, ErrForged
	}
	has := manifest.GetContents().GetDatabaseSnapshot() != ""
	if (parts.DatabaseOnly || len(parts.Tables) > 0) && !has {
		return Restoration{}, ErrNoDatabase
	}
	if err := holds(manifest.GetContents(), parts.Tables); err != nil {
		return Restoration{}, err
	}
	now := db.Time(db.Micros(time.Now()))
	made := Restoration{
		Organization: of.Organization, ID: contract.NewRestoreID(), Site: of.ID, Backup: from.ID,
		Files: !parts.DatabaseOnly && len(parts.Tables) == 0, Database: has && !parts.FilesOnly, Tables: parts.Tables, State: Restoring, CreatedAt: now,
	}
	if parts.WithoutBackup {
		made.TaskID, err = order(ctx, tx, of, made, signed, audit.ActorOf(ctx).Account())
	} else {
		var before Backup
		before, err = create(ctx, tx, of, BeforeRestore)
		made.Before, made.TaskID = before.ID, before.TaskID
	}
	if err != nil {
		return Restoration{}, err
	}
	tables, err := tablesText(made.Tables)
	if err != nil {
		return Restoration{}, err
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO restores (organization_id, id, site_id, backup_id, with_files, with_database, state, undone, problem, task_id, created_at, before_backup_id, table_names)
		VALUES ($1, $2, $3, $4, $5, $6, $7, FALSE, '', $8, $9, $10, $11)`,
		made.Organization, made.ID, made.Site, made.Backup, made.Files, made.Database, string(made.State), made.TaskID, db.Micros(now),
		backupText(made.Before), tables); err != nil {
		return Restoration{}, fmt.Errorf("insert restore: %w", err)
	}
	what := "files and database"
	switch {
	case len(made.Tables) > 0:
		what = fmt.Sprintf("%d tables", len(made.Tables))
	case !made.Database:
		what = "files"
	case !made.Files:
		what = "database"
	}
	return made, audit.Record(ctx, tx, audit.Event{
		Organization: of.Organization.String(), Action: "backup.restore", Object: from.ID.String(),
		Detail: fmt.Sprintf("%s of site %s, restore %s", what, of.ID, made.ID),
	})
}

// order has the site's host do it.
func order(ctx context.Context, tx *db.Tx, of *site.Site, r Restoration, signed *backupv1.SignedManifest, by string) (taskID string, err error) {
	ordered, err := task.Enqueue(ctx, tx, task.New{
		Organization: of.Organization.String(),
		Server:       of.Server.String(),
		Site:         of.ID.String(),
		Kind:         task.RestoreSite,
		Parameters: &orderv1.RestoreSite{
			Handle: of.Handle.String(), RestoreId: r.ID.String(), Manifest: signed, Files: r.Files, Database: r.Database, Tables: r.Tables,
		},
		Timeout:   restoreWithin,
		Deadline:  time.Now().Add(restoreWithin + startWithin),
		CreatedBy: by,
	})
	if err != nil {
		return "", err
	}
	return ordered.ID, nil
}

// holds refuses tables that are not in a backup.
func holds(c *backupv1.Contents, tables []string) error {
	for _, name := range tables {
		if !slices.ContainsFunc(c.GetTables(), func(t *backupv1.Table) bool { return t.GetName() == name }) {
			return fault.Invalid("tables", fmt.Sprintf("must name tables of the backup: it holds none that is called %q", name))
		}
	}
	return nil
}

// verified gives a backup's manifest as it was signed, if it was, for this very backup.
func (b *Backups) verified(from Backup) (*backupv1.SignedManifest, *backupv1.Manifest, error) {
	signed := &backupv1.SignedManifest{}
	if err := proto.Unmarshal(from.manifest, signed); err != nil {
		return nil, nil, err
	}
	public, _ := b.config.Signer.Public().(ed25519.PublicKey) // New has checked it
	m, err := contract.VerifyManifest([]ed25519.PublicKey{public}, signed)
	if err != nil {
		return nil, nil, err
	}
	if m.GetOrganizationId() != from.Organization.String() || m.GetSiteId() != from.Site.String() ||
		m.GetBackupId() != from.ID.String() || m.GetSequence() != from.Sequence {
		return nil, nil, errors.New("it is signed for another backup")
	}
	return signed, m, nil
}

// Undo has a site's host give back what the site's newest restore replaced; a second time, what was restored. That works within a
// day of the restore.
func (b *Backups) Undo(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, restore contract.RestoreID) (Restoration, error) {
	var r Restoration
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		of, err := site.Lock(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		if r, err = loadRestore(ctx, tx, organization, id, restore); err != nil {
			return err
		}
		newest, err := newestRestore(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		if err := undoable(time.Now(), r, newest); err != nil {
			return err
		}
		if err := of.Changeable(); err != nil {
			return err
		}
		if err := free(ctx, tx, organization, id, false); err != nil {
			return err
		}
		if err := b.stopDrill(ctx, tx, organization, id); err != nil {
			return err
		}
		now := time.Now()
		ordered, err := task.Enqueue(ctx, tx, task.New{
			Organization: organization.String(),
			Server:       of.Server.String(),
			Site:         id.String(),
			Kind:         task.UndoRestore,
			Parameters:   &orderv1.UndoRestore{Handle: of.Handle.String(), RestoreId: r.ID.String(), Undone: !r.Undone},
			Timeout:      undoWithin,
			Deadline:     now.Add(undoWithin + startWithin),
			CreatedBy:    audit.ActorOf(ctx).Account(),
		})
		if err != nil {
			return err
		}
		r.State, r.TaskID, r.Problem = Undoing, ordered.ID, ""
		return r.save(ctx, tx, "restore.undo")
	}, db.ReadCommitted()) // the site's row is locked before anything is decided
	if err != nil {
		return Restoration{}, fmt.Errorf("undo restore %s: %w", restore, err)
	}
	return r, nil
}

// undoable says whether a restore can be undone; newest is the site's newest that changed something, or may have.
func undoable(now time.Time, r Restoration, newest contract.RestoreID) error {
	switch {
	case r.State == Restoring || r.State == Undoing:
		return ErrRestoring
	case r.State == RestoreFailed:
		return ErrNotRestored
	case r.ID != newest:
		return ErrNotNewest
	case !now.Before(r.UndoUntil):
		return ErrUndoOver
	}
	return nil
}

func loadRestore(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID, restore contract.RestoreID) (Restoration, error) {
	r, err := scanRestore(q.QueryRow(ctx, restoreColumns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND id = $3`, organization, id, restore))
	if errors.Is(err, sql.ErrNoRows) {
		return Restoration{}, ErrRestoreNotFound
	}
	if err != nil {
		return Restoration{}, fmt.Errorf("read restore: %w", err)
	}
	return r, nil
}

// newestRestore is the site's newest restore that has not failed; the zero value where there is none.
func newestRestore(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) (newest contract.RestoreID, err error) {
	err = q.QueryRow(ctx, `
		SELECT id
		FROM restores
		WHERE organization_id = $1
		  AND site_id = $2
		  AND state <> 'failed'
		ORDER BY id DESC
		LIMIT 1`, organization, id).Scan(&newest)
	if errors.Is(err, sql.ErrNoRows) {
		return newest, nil
	}
	if err != nil {
		return newest, fmt.Errorf("read newest restore: %w", err)
	}
	return newest, nil
}

// restoresShown is how many ListRestores gives.
const restoresShown = 100

// ListRestores gives a site's newest restores, newest first.
func (b *Backups) ListRestores(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) ([]Restoration, error) {
	if err := exists(ctx, b.db.Reader(), organization, id); err != nil {
		return nil, err
	}
	rows, err := b.db.Reader().Query(ctx, restoreColumns+`
		WHERE organization_id = $1
		  AND site_id = $2
		ORDER BY id DESC
		LIMIT $3`, organization, id, restoresShown)
	if err != nil {
		return nil, fmt.Errorf("list restores of site %s: %w", id, err)
	}
	defer rows.Close()
	var all []Restoration
	for rows.Next() {
		r, err := scanRestore(rows)
		if err != nil {
			return nil, fmt.Errorf("list restores of site %s: %w", id, err)
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list restores of site %s: %w", id, err)
	}
	return all, nil
}
