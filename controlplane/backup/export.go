package backup

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/archive"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// Export writes all of a READY backup as a portable archive (package archive), or of its database alone the dump, compressed by zstd.
// What was written is whole only where there is no error; an archive's end says so, too. It is in the audit. It says ErrNoDatabase
// where there is none.
func (b *Backups) Export(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID, databaseOnly bool, to io.Writer) error {
	m, repository, err := b.opened(ctx, organization, id, backup)
	if err != nil {
		return err
	}
	what := "all"
	if databaseOnly {
		if what = "the database"; m.GetContents().GetDatabaseSnapshot() == "" {
			return ErrNoDatabase
		}
	}
	err = db.InTx(ctx, b.db, func(tx *db.Tx) error {
		return audit.Record(ctx, tx, audit.Event{
			Organization: organization.String(), Action: "backup.export", Object: backup.String(), Detail: fmt.Sprintf("%s of site %s", what, id),
		})
	})
	if err == nil && databaseOnly {
		err = b.exportDatabase(ctx, m, repository, to)
	} else if err == nil {
		err = b.exportSite(ctx, m, repository, to)
	}
	if err != nil {
		return b.unread(ctx, "export", backup, err)
	}
	return nil
}

func (b *Backups) exportDatabase(ctx context.Context, m *backupv1.Manifest, repository Repository, to io.Writer) error {
	packed, err := zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return err
	}
	if err := b.config.Repositories.Read(ctx, repository, m.GetContents().GetDatabaseSnapshot(), databaseFile, packed); err != nil {
		return err // without the end of its frame
	}
	return packed.Close()
}

func (b *Backups) exportSite(ctx context.Context, m *backupv1.Manifest, repository Repository, to io.Writer) error {
	c := m.GetContents()
	w, err := archive.NewWriter(to, siteOf(m))
	if err != nil {
		return err
	}
	if err := b.config.Repositories.Walk(ctx, repository, c.GetFilesSnapshot(), w.Put); err != nil {
		return err
	}
	if c.GetDatabaseSnapshot() != "" {
		both, ctx := errgroup.WithContext(ctx)
		dump, in := io.Pipe()
		both.Go(func() error {
			err := b.config.Repositories.Read(ctx, repository, c.GetDatabaseSnapshot(), databaseFile, in)
			_ = in.CloseWithError(err) // nil is its end
			return err
		})
		both.Go(func() error {
			err := w.Database(c.GetDumpBytes(), m.GetStartTime().AsTime(), dump)
			_ = dump.CloseWithError(err) // who writes on hears it
			return err
		})
		if err := both.Wait(); err != nil {
			return err
		}
	}
	return w.Close()
}

// siteOf is what an archive says of its site: nothing secret.
func siteOf(m *backupv1.Manifest) archive.Site {
	c := m.GetContents()
	s := archive.Site{
		Schema: archive.Schema, SiteID: m.GetSiteId(), BackupID: m.GetBackupId(), Moment: m.GetStartTime().AsTime(), Type: m.GetDesired().GetType(),
		Domains: m.GetDesired().GetDomains(), Settings: m.GetDesired().GetSettings(), FileCount: c.GetFileCount(), FileBytes: c.GetFileBytes(),
	}
	if c.GetDatabaseSnapshot() != "" {
		s.DumpBytes, s.DumpSHA256 = c.GetDumpBytes(), hex.EncodeToString(c.GetDumpSha256())
	}
	for _, t := range c.GetTables() {
		s.Tables = append(s.Tables, contract.DumpTable{Name: t.GetName(), Rows: t.GetRows()})
	}
	return s
}
