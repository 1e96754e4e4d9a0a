package backup

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

const columns = `
	SELECT organization_id,
	       id,
	       site_id,
	       sequence,
	       state,
	       reason,
	       problem,
	       task_id,
	       source_backup_id,
	       source_site_id,
	       draft,
	       report,
	       manifest,
	       put,
	       checking_at,
	       tries,
	       checked_at,
	       created_at,
	       (SELECT r.target_id FROM repositories r WHERE r.organization_id = backups.organization_id AND r.site_id = backups.site_id)
	FROM backups`

func scan(row interface{ Scan(...any) error }) (Backup, error) {
	var b Backup
	var sequence, created int64
	var since, checked sql.NullInt64
	var report []byte
	var source, sourceSite string
	var lies sql.Null[contract.TargetID]
	if err := row.Scan(&b.Organization, &b.ID, &b.Site, &sequence, &b.State, &b.Reason, &b.Problem, &b.TaskID, &source, &sourceSite, &b.draft, &report, &b.manifest, &b.put,
		&since, &b.tries, &checked, &created, &lies); err != nil {
		return Backup{}, err
	}
	if source != "" {
		var broken, brokenSite error
		b.Source, broken = contract.ParseBackupID(source)
		b.SourceSite, brokenSite = contract.ParseSiteID(sourceSite)
		if err := errors.Join(broken, brokenSite); err != nil {
			return Backup{}, fmt.Errorf("backup %s: read its source: %w", b.ID, err)
		}
	}
	if report != nil {
		b.Report = &backupv1.Report{}
		if err := proto.Unmarshal(report, b.Report); err != nil {
			return Backup{}, fmt.Errorf("backup %s: read report: %w", b.ID, err)
		}
	}
	b.Sequence, b.Target = uint64(sequence), lies.V
	b.CreatedAt, b.CheckedAt, b.since = db.Time(created), db.NullTime(checked), db.NullTime(since)
	return b, nil
}

func scanAll(rows *sql.Rows) ([]Backup, error) {
	defer rows.Close()
	var all []Backup
	for rows.Next() {
		b, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, rows.Err()
}

// load finds one backup of a site.
func load(ctx context.Context, q db.Querier, organization contract.OrganizationID, site contract.SiteID, id contract.BackupID) (Backup, error) {
	found, err := scan(q.QueryRow(ctx, columns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND id = $3`, organization, site, id))
	if errors.Is(err, sql.ErrNoRows) {
		return Backup{}, ErrNotFound
	}
	if err != nil {
		return Backup{}, fmt.Errorf("read backup: %w", err)
	}
	return found, nil
}

func insert(ctx context.Context, tx *db.Tx, b Backup) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO backups (organization_id, id, site_id, sequence, state, reason, problem, task_id, draft, put, claim, tries, created_at, source_backup_id, source_site_id)
		VALUES ($1, $2, $3, 0, $4, $5, '', $6, $7, FALSE, '', 0, $8, $9, $10)`,
		b.Organization, b.ID, b.Site, string(b.State), string(b.Reason), b.TaskID, b.draft, db.Micros(b.CreatedAt), backupText(b.Source), siteText(b.SourceSite))
	if err != nil {
		return fmt.Errorf("insert backup: %w", err)
	}
	return nil
}

// backupText is a column that is empty where there is no backup.
func backupText(id contract.BackupID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// siteText is a column that is empty where there is no site.
func siteText(id contract.SiteID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

const restoreColumns = `
	SELECT organization_id,
	       id,
	       site_id,
	       backup_id,
	       with_files,
	       with_database,
	       state,
	       undone,
	       problem,
	       task_id,
	       created_at,
	       ended_at,
	       undo_until,
	       before_backup_id,
	       table_names
	FROM restores`

func scanRestore(row interface{ Scan(...any) error }) (Restoration, error) {
	var r Restoration
	var created int64
	var ended, until sql.NullInt64
	var before, tables string
	if err := row.Scan(&r.Organization, &r.ID, &r.Site, &r.Backup, &r.Files, &r.Database, &r.State, &r.Undone, &r.Problem, &r.TaskID,
		&created, &ended, &until, &before, &tables); err != nil {
		return Restoration{}, err
	}
	if before != "" {
		var err error
		if r.Before, err = contract.ParseBackupID(before); err != nil {
			return Restoration{}, fmt.Errorf("restore %s: %w", r.ID, err)
		}
	}
	if tables != "" {
		if err := json.Unmarshal([]byte(tables), &r.Tables); err != nil {
			return Restoration{}, fmt.Errorf("restore %s: read its tables: %w", r.ID, err)
		}
	}
	r.CreatedAt, r.EndedAt, r.UndoUntil = db.Time(created), db.NullTime(ended), db.NullTime(until)
	return r, nil
}

// tablesText is the column table_names.
func tablesText(names []string) (string, error) {
	if len(names) == 0 {
		return "", nil
	}
	text, err := json.Marshal(names)
	return string(text), err
}

// free refuses a site of which a restore is under way, or a backup, and one whose repository is held. Where checking is not set, what
// the host has no part in counts for nothing: that a backup is CHECKING, or comes from elsewhere. The site's row is locked.
func free(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID, checking bool) error {
	var restores, backups int
	err := tx.QueryRow(ctx, `
		SELECT (SELECT COUNT(*)
		        FROM restores
		        WHERE organization_id = $1
		          AND site_id = $2
		          AND state IN ('running', 'undoing')),
		       (SELECT COUNT(*)
		        FROM backups
		        WHERE organization_id = $1
		          AND site_id = $2
		          AND (state = 'running' AND ($3 OR reason NOT IN ('copied', 'imported')) OR $3 AND state = 'checking'))`, organization, site, checking).Scan(&restores, &backups)
	switch {
	case err != nil:
		return fmt.Errorf("look what is under way: %w", err)
	case restores > 0:
		return ErrRestoring
	case backups > 0:
		return ErrUnderWay
	}
	held, err := held(ctx, tx, organization, site, time.Now())
	if err == nil && held {
		return ErrHeld
	}
	return err
}
