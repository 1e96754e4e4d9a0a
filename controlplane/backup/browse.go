package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// Errors of reading in a backup.
var (
	ErrNoFile     = fault.NotFound("file or directory in the backup")
	ErrUnreadable = fault.Conflict("only a backup that is ready can be read")
	// ErrLost is in place of ErrDamaged for people.
	ErrLost = fault.Conflict("what is stored of this backup is damaged or gone: take another one, and make a new backup of the site")
)

// databaseFile is the name of the dump in its snapshot.
const databaseFile = "/database.sql"

// errEnough ends a list of which a page is full.
var errEnough = errors.New("the page is full")

// Browse lists a directory of a READY backup, a page at a time, and gives the token of the next page. The path begins at the
// site's own top; empty is that.
func (b *Backups) Browse(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID, dir string, size int32, token string) ([]contract.Listed, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	if dir, err = inSite(dir); err != nil {
		return nil, "", err
	}
	query := page.Query{"backup", backup.String(), dir}
	position, err := query.AfterPosition(token)
	if err != nil {
		return nil, "", err
	}
	after := string(position)
	files, _, repository, err := b.readable(ctx, organization, id, backup)
	if err != nil {
		return nil, "", err
	}
	var all []contract.Listed
	err = b.config.Repositories.Browse(ctx, repository, files, dir, func(f contract.Listed) error {
		if after != "" && path.Base(f.Path) <= after {
			return nil
		}
		if all = append(all, f); len(all) > limit {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, "", b.unread(ctx, "browse", backup, err)
	}
	next := ""
	if len(all) > limit {
		all = all[:limit]
		next = query.TokenAt([]byte(path.Base(all[limit-1].Path)))
	}
	return all, next, nil
}

// Download writes a file of a READY backup, a directory as a tar archive, or with an empty path the dump of its database. That
// somebody took it is recorded before a byte of it is read.
func (b *Backups) Download(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID, file string, to io.Writer) error {
	files, database, repository, err := b.readable(ctx, organization, id, backup)
	if err != nil {
		return err
	}
	snapshot, what := database, "the database"
	if file == "" {
		if database == "" {
			return ErrNoDatabase
		}
		file = databaseFile
	} else {
		if file, err = inSite(file); err != nil {
			return err
		}
		snapshot, what = files, file
		// restic says of a file that is not there only after a while, and in its own words.
		found := errors.New("it is there")
		err := b.config.Repositories.Browse(ctx, repository, files, path.Dir(file), func(f contract.Listed) error {
			if "/"+f.Path != file {
				return nil
			}
			if !f.Mode.IsRegular() && !f.Mode.IsDir() {
				return fault.Conflict("only files and directories can be downloaded")
			}
			return found
		})
		switch {
		case err == nil:
			return ErrNoFile
		case !errors.Is(err, found):
			return b.unread(ctx, "download from", backup, err)
		}
	}
	err = db.InTx(ctx, b.db, func(tx *db.Tx) error {
		return audit.Record(ctx, tx, audit.Event{
			Organization: organization.String(), Action: "backup.download", Object: backup.String(), Detail: fmt.Sprintf("%.512q of site %s", what, id),
		})
	})
	if err != nil {
		return fmt.Errorf("download from backup %s: %w", backup, err)
	}
	if err := b.config.Repositories.Read(ctx, repository, snapshot, file, to); err != nil {
		return b.unread(ctx, "download from", backup, err)
	}
	return nil
}

// unread says why a backup could not be read.
func (b *Backups) unread(ctx context.Context, what string, backup contract.BackupID, err error) error {
	err = fmt.Errorf("%s backup %s: %w", what, backup, err)
	if !errors.Is(err, ErrDamaged) {
		return err
	}
	b.log.ErrorContext(ctx, "a backup can't be read", "err", err)
	return ErrLost
}

// inSite is a path as a snapshot has it.
func inSite(text string) (string, error) {
	if text == "" {
		return "/", nil
	}
	if path.Clean(text) != text || text[0] != '/' {
		return "", fault.Invalid("path", "must be a path from the site's own top without . and .., such as /public/index.php")
	}
	return text, nil
}

// readable gives the snapshots of a READY backup as they are signed, and its repository.
func (b *Backups) readable(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID) (files, database string, r Repository, err error) {
	m, r, err := b.opened(ctx, organization, id, backup)
	return m.GetContents().GetFilesSnapshot(), m.GetContents().GetDatabaseSnapshot(), r, err
}

// opened gives the manifest of a READY backup as it is signed, and its repository.
func (b *Backups) opened(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID) (m *backupv1.Manifest, r Repository, err error) {
	found, err := b.Get(ctx, organization, id, backup)
	if err != nil {
		return nil, r, err
	}
	if found.State != Ready {
		return nil, r, ErrUnreadable
	}
	if _, m, err = b.verified(found); err != nil {
		b.log.ErrorContext(ctx, "the manifest of a backup is not what was signed", "backup", backup, "site", id, "err", err)
		return nil, r, ErrForged
	}
	if r, err = b.open(ctx, organization, id); err != nil {
		return nil, r, fmt.Errorf("open the repository of site %s: %w", id, err)
	}
	return m, r, nil
}
