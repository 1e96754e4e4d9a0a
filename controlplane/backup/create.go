package backup

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/page"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// Create has a site's host make a backup now. It says ErrUnderWay or ErrRestoring where the site has one of either already, and
// the site's own fault where it is not there or was deleted.
func (b *Backups) Create(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (Backup, error) {
	if b.config.Off != "" {
		return Backup{}, fault.Conflict(b.config.Off)
	}
	var made Backup
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		of, err := site.Lock(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		if err := of.Living(); err != nil {
			return err
		}
		if err := free(ctx, tx, organization, id, true); err != nil {
			return err
		}
		if _, err := b.ensure(ctx, tx, organization, id); err != nil {
			return err
		}
		if err := follow(ctx, tx, of); err != nil {
			return err
		}
		made, err = create(ctx, tx, of, Requested)
		return err
	}, db.ReadCommitted()) // the site's row is locked before anything is decided
	if err != nil {
		return Backup{}, fmt.Errorf("create backup of site %s: %w", id, err)
	}
	return made, nil
}

func create(ctx context.Context, tx *db.Tx, of *site.Site, reason Reason) (Backup, error) {
	now := db.Time(db.Micros(time.Now()))
	draft, err := draftOf(of)
	if err != nil {
		return Backup{}, err
	}
	made := Backup{Organization: of.Organization, ID: contract.NewBackupID(), Site: of.ID, State: Running, Reason: reason, CreatedAt: now, draft: draft}
	ordered, err := task.Enqueue(ctx, tx, task.New{
		Organization: of.Organization.String(),
		Server:       of.Server.String(),
		Site:         of.ID.String(),
		Kind:         task.BackupSite,
		Parameters:   &orderv1.BackupSite{Handle: of.Handle.String(), BackupId: made.ID.String()},
		Timeout:      backupWithin,
		Deadline:     now.Add(backupWithin + startWithin),
		CreatedBy:    audit.ActorOf(ctx).Account(),
	})
	if err != nil {
		return Backup{}, err
	}
	made.TaskID = ordered.ID
	if err := insert(ctx, tx, made); err != nil {
		return Backup{}, err
	}
	return made, audit.Record(ctx, tx, audit.Event{
		Organization: of.Organization.String(), Action: "backup.create", Object: made.ID.String(), Detail: "of site " + of.ID.String(),
	})
}

// maxCertificates is the limit of Manifest.certificates.
const maxCertificates = 110

// draftOf is the part of a manifest that says what the site is. Whatever was ordered before is done before the backup is made, and
// whatever is ordered later after it: what is wanted now is what the backup is of.
func draftOf(of *site.Site) ([]byte, error) {
	m := &backupv1.Manifest{Desired: of.Desired()}
	if of.Observed != nil {
		for i := range min(len(of.Observed.Certificates), maxCertificates) {
			m.Certificates = append(m.Certificates, of.Observed.Certificates[i].Message())
		}
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// Get returns one backup of a site, or ErrNotFound.
func (b *Backups) Get(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID) (Backup, error) {
	if err := exists(ctx, b.db.Reader(), organization, id); err != nil {
		return Backup{}, err
	}
	return load(ctx, b.db.Reader(), organization, id, backup)
}

// List returns a page of a site's backups, newest first, the token of the next page, and how many bytes the site's repository took
// when that was last measured.
func (b *Backups) List(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, size int32, token string) ([]Backup, string, uint64, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", 0, err
	}
	query := page.Query{"backups", organization.String(), id.String()}
	before, err := query.After(token)
	if err != nil {
		return nil, "", 0, err
	}
	if err := exists(ctx, b.db.Reader(), organization, id); err != nil {
		return nil, "", 0, err
	}
	rows, err := b.db.Reader().Query(ctx, columns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND ($3 = '' OR id < $3)
		ORDER BY id DESC
		LIMIT $4`, organization, id, before, limit+1)
	if err != nil {
		return nil, "", 0, fmt.Errorf("list backups of site %s: %w", id, err)
	}
	all, err := scanAll(rows)
	if err != nil {
		return nil, "", 0, fmt.Errorf("list backups of site %s: %w", id, err)
	}
	var bytes int64
	if err := b.db.Reader().QueryRow(ctx, `
		SELECT COALESCE(MAX(bytes), 0)
		FROM repositories
		WHERE organization_id = $1
		  AND site_id = $2`, organization, id).Scan(&bytes); err != nil {
		return nil, "", 0, fmt.Errorf("list backups of site %s: %w", id, err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].ID.String() })
	return all[:min(len(all), limit)], next, uint64(bytes), nil
}

// exists refuses a site that is not there.
func exists(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) error {
	var n int
	err := q.QueryRow(ctx, `
		SELECT COUNT(*)
		FROM sites
		WHERE organization_id = $1
		  AND id = $2`, organization, id).Scan(&n)
	if err != nil {
		return fmt.Errorf("look for site %s: %w", id, err)
	}
	if n == 0 {
		return site.ErrNotFound
	}
	return nil
}
