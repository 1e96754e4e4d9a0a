package backup

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/archive"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// Import is an upload that is to become a backup of a site.
type Import struct {
	Organization contract.OrganizationID
	ID           contract.ImportID
	Site         contract.SiteID
	Archive      uint64            // bytes that the archive has
	Database     uint64            // bytes that the dump has; 0 for none
	Strip        int               // leading directories of names that are left out
	Backup       contract.BackupID // that is made of it; zero before it is begun
	CreatedAt    time.Time

	// ArchiveReceived and DatabaseReceived are how many bytes have come.
	ArchiveReceived, DatabaseReceived uint64
}

// importFor is how long an upload may take.
const importFor = 24 * time.Hour

// Errors of imports.
var (
	errBegun      = fault.Conflict("the import was begun already")
	errNotAll     = fault.Conflict("not all of it has come: upload the rest first")
	errNoDatabase = fault.Invalid("database_bytes", "must be 0: sites of this type have no database")
)

// CreateImport makes room for an upload. Another one of the site that was not begun is removed.
func (b *Backups) CreateImport(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, archiveBytes, databaseBytes uint64, strip int) (Import, error) {
	switch {
	case b.config.Off != "":
		return Import{}, fault.Conflict(b.config.Off)
	case b.uploads.Dir == "":
		return Import{}, ErrNoUploads
	}
	made := Import{
		Organization: organization, ID: contract.NewImportID(), Site: id, Archive: archiveBytes, Database: databaseBytes, Strip: strip,
		CreatedAt: db.Time(db.Micros(time.Now())),
	}
	if archiveBytes > maxBytes || databaseBytes > maxBytes {
		return Import{}, fault.Invalid("archive_bytes", "must be a size that a file can have")
	}
	total := int64(archiveBytes) + int64(databaseBytes)
	if err := b.uploads.room(total); err != nil {
		return Import{}, err
	}
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		of, err := site.Lock(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		if err := of.Living(); err != nil {
			return err
		}
		if databaseBytes > 0 && !of.HasDatabase() {
			return errNoDatabase
		}
		if _, err := tx.Exec(ctx, `
			DELETE FROM imports
			WHERE organization_id = $1
			  AND site_id = $2
			  AND backup_id = ''`, organization, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO imports (organization_id, id, site_id, archive_bytes, database_bytes, strip, backup_id, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, '', $7)`,
			organization, made.ID, id, int64(archiveBytes), int64(databaseBytes), strip, db.Micros(made.CreatedAt)); err != nil {
			return err
		}
		var all int64
		if err := tx.QueryRow(ctx, `
			SELECT COALESCE(SUM(archive_bytes + database_bytes), 0)
			FROM imports
			WHERE organization_id = $1`, organization).Scan(&all); err != nil {
			return err
		}
		if all > b.uploads.Quota {
			return fault.Limited(fmt.Sprintf("the organization's uploads would come to %d bytes, and it may have %d: wait until others are imported", all, b.uploads.Quota), time.Minute)
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: organization.String(), Action: "import.create", Object: made.ID.String(), Detail: fmt.Sprintf("%d bytes for site %s", total, id),
		})
	})
	if err != nil {
		return Import{}, fmt.Errorf("create import for site %s: %w", id, err)
	}
	return made, nil
}

// GetImport returns an import of a site with what has come of it, or ErrImportNotFound.
func (b *Backups) GetImport(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, of contract.ImportID) (Import, error) {
	found, err := b.loadImport(ctx, b.db.Reader(), organization, id, of)
	if err != nil {
		return Import{}, err
	}
	var errs [2]error
	found.ArchiveReceived, errs[0] = b.uploads.received(of, ArchivePart)
	found.DatabaseReceived, errs[1] = b.uploads.received(of, DatabasePart)
	return found, errors.Join(errs[:]...)
}

// UploadImport takes the piece of a file that begins at an offset, until from ends. What came is kept, whatever ends it.
func (b *Backups) UploadImport(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, of contract.ImportID, part Part, offset uint64, from io.Reader) (Import, error) {
	found, err := b.loadImport(ctx, b.db.Reader(), organization, id, of)
	if err != nil {
		return Import{}, err
	}
	if !found.Backup.IsZero() {
		return Import{}, errBegun
	}
	size := found.Archive
	if part == DatabasePart {
		size = found.Database
	}
	if offset > size {
		return Import{}, errTooMuch
	}
	if err := b.uploads.write(ctx, of, part, offset, size, from); err != nil {
		return Import{}, err
	}
	return b.GetImport(ctx, organization, id, of)
}

// BeginImport makes a backup of what was uploaded: it is RUNNING. It says what Create does where the site is not free.
func (b *Backups) BeginImport(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, of contract.ImportID) (Backup, error) {
	found, err := b.GetImport(ctx, organization, id, of)
	if err != nil {
		return Backup{}, err
	}
	if found.ArchiveReceived != found.Archive || found.DatabaseReceived != found.Database {
		return Backup{}, errNotAll
	}
	var made Backup
	err = db.InTx(ctx, b.db, func(tx *db.Tx) error {
		into, err := site.Lock(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		now, err := b.loadImport(ctx, tx, organization, id, of)
		if err != nil {
			return err
		}
		if !now.Backup.IsZero() {
			return errBegun
		}
		draft, err := draftOf(into)
		if err != nil {
			return err
		}
		if made, err = b.expect(ctx, tx, into, Backup{Reason: Imported, draft: draft}, "from import "+of.String()); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE imports
			SET backup_id = $3
			WHERE organization_id = $1
			  AND id = $2`, organization, of, made.ID)
		return err
	}, db.ReadCommitted()) // the site's row is locked before anything is decided
	if err != nil {
		return Backup{}, fmt.Errorf("begin import %s: %w", of, err)
	}
	return made, nil
}

const importColumns = `
	SELECT organization_id,
	       id,
	       site_id,
	       archive_bytes,
	       database_bytes,
	       strip,
	       backup_id,
	       created_at
	FROM imports`

func scanImport(row interface{ Scan(...any) error }) (Import, error) {
	var i Import
	var archive, database, created int64
	var backup string
	if err := row.Scan(&i.Organization, &i.ID, &i.Site, &archive, &database, &i.Strip, &backup, &created); err != nil {
		return Import{}, err
	}
	if backup != "" {
		var err error
		if i.Backup, err = contract.ParseBackupID(backup); err != nil {
			return Import{}, fmt.Errorf("import %s: %w", i.ID, err)
		}
	}
	i.Archive, i.Database, i.CreatedAt = uint64(archive), uint64(database), db.Time(created)
	return i, nil
}

func (b *Backups) loadImport(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID, of contract.ImportID) (Import, error) {
	found, err := scanImport(q.QueryRow(ctx, importColumns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND id = $3`, organization, id, of))
	if errors.Is(err, sql.ErrNoRows) {
		return Import{}, ErrImportNotFound
	}
	if err != nil {
		return Import{}, fmt.Errorf("read import: %w", err)
	}
	return found, nil
}

// errElsewhere says that the files are another process's, which goes on.
var errElsewhere = errors.New("what was uploaded is not on this machine")

// imported is the maker of backups that were uploaded. It may be broken off at any point, and called again.
func (b *Backups) imported(ctx context.Context, made Backup, into Repository) (*backupv1.Report, error) {
	from, err := scanImport(b.db.Reader().QueryRow(ctx, importColumns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND backup_id = $3`, made.Organization, made.Site, made.ID))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, wrong("what was uploaded is gone")
	}
	if err != nil {
		return nil, fmt.Errorf("read import: %w", err)
	}
	if !b.uploads.here(from.ID) {
		return nil, errElsewhere
	}
	root, end, err := b.uploads.work(from.ID)
	if err != nil {
		return nil, fmt.Errorf("extract import %s: %w", from.ID, err)
	}
	report, err := b.bring(ctx, made, from, root, into)
	if err = errors.Join(err, end()); err != nil {
		if archive.IsRefused(err) {
			return nil, wrong(err.Error())
		}
		return nil, fmt.Errorf("import %s: %w", from.ID, err)
	}
	return report, nil
}

// bring extracts an import, and makes the snapshots that a host would have made.
func (b *Backups) bring(ctx context.Context, made Backup, from Import, root *os.Root, into Repository) (*backupv1.Report, error) {
	report := &backupv1.Report{BackupId: made.ID.String(), StartTime: timestamppb.Now()}
	found, err := b.extract(ctx, from, root)
	if err != nil {
		return nil, err
	}
	if err := b.says(ctx, made, found.Site); err != nil {
		return nil, err
	}
	dump, err := b.dumpOf(ctx, from, found, root)
	if err != nil {
		return nil, err
	}
	needs, err := needsDatabase(ctx, b.db.Reader(), made)
	if err != nil {
		return nil, err
	}
	switch {
	case needs && dump == nil:
		return nil, wrong("the database is missing: sites of this type have one")
	case !needs && dump != nil:
		return nil, wrong("there is a database: sites of this type have none")
	}
	c := &backupv1.Contents{}
	var added uint64
	if c.FilesSnapshot, added, err = b.config.Repositories.SaveFiles(ctx, into, made.ID, filepath.Join(root.Name(), archive.Files)); err != nil {
		return nil, err
	}
	if dump != nil {
		f, err := root.Open(archive.Database)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		var more uint64
		if c.DatabaseSnapshot, more, err = b.config.Repositories.SaveDump(ctx, into, made.ID, f); err != nil {
			return nil, err
		}
		added += more
		c.DumpBytes, c.DumpSha256 = dump.Bytes(), dump.SHA256()
		for _, t := range dump.Tables() {
			c.Tables = append(c.Tables, &backupv1.Table{Name: t.Name, Rows: t.Rows})
		}
		slices.SortFunc(c.Tables, func(a, b *backupv1.Table) int { return strings.Compare(a.Name, b.Name) })
	}
	report.Contents, report.AddedBytes, report.EndTime = c, added, timestamppb.Now()
	return report, nil
}

// says keeps the names that an archive says of its site, for the manifest; nil says none.
func (b *Backups) says(ctx context.Context, made Backup, of *archive.Site) error {
	if of == nil {
		return nil
	}
	m := &backupv1.Manifest{}
	if err := proto.Unmarshal(made.draft, m); err != nil {
		return err
	}
	m.SourceDomains = nil
	for _, name := range of.Domains[:min(len(of.Domains), maxCertificates)] {
		if _, err := contract.ParseDomain(name); err == nil { // a stranger's text is kept only where it is a name
			m.SourceDomains = append(m.SourceDomains, name)
		}
	}
	draft, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return err
	}
	return b.put(ctx, `
		UPDATE backups
		SET draft = $3
		WHERE organization_id = $1
		  AND id = $2
		  AND state = 'running'`, made.Organization, made.ID, draft)
}

// extract extracts what was uploaded; the disk keeps what has to stay free.
func (b *Backups) extract(ctx context.Context, from Import, root *os.Root) (*archive.Found, error) {
	limits, err := b.importLimits()
	if err != nil {
		return nil, err
	}
	in, err := os.Open(b.uploads.file(from.ID, ArchivePart))
	if err != nil {
		return nil, err
	}
	defer in.Close() // read-only
	return archive.Extract(ctx, in, root, limits, from.Strip)
}

// importLimits are for what the disk can take now.
func (b *Backups) importLimits() (archive.Limits, error) {
	limits := archive.DefaultLimits()
	free, err := b.uploads.free()
	if err != nil {
		return limits, err
	}
	if free <= 0 {
		return limits, ErrUploadFull
	}
	limits.Bytes, limits.File = min(limits.Bytes, free), min(limits.File, free)
	return limits, nil
}

// dumpOf holds the dump, that was extracted or uploaded beside, against the rules of dumps and against what a portable archive says of it,
// and sees that it is as hosts take it; nil where there is none.
func (b *Backups) dumpOf(ctx context.Context, from Import, found *archive.Found, root *os.Root) (*archive.Dump, error) {
	inside := found.Site != nil && found.Site.DumpSHA256 != ""
	switch {
	case inside && from.Database > 0:
		return nil, wrong("the archive holds a database, and another one was uploaded")
	case inside:
		f, err := root.Open(archive.Database)
		if err != nil {
			return nil, err
		}
		defer f.Close() // read-only
		dump := archive.NewDump()
		if _, err := io.Copy(dump, contextReader{ctx, f}); err != nil {
			return nil, err
		}
		missing, err := dump.End()
		switch {
		case err != nil:
			return nil, err
		case missing != "":
			return nil, wrong("the dump in the archive is cut off")
		case !sameTables(dump.Tables(), found.Site.Tables):
			return nil, wrong("the dump in the archive has other tables or rows than the archive says")
		}
		return dump, nil
	case from.Database > 0:
		return b.foreignDump(ctx, from, root)
	}
	return nil, nil
}

func sameTables(a, b []contract.DumpTable) bool {
	byName := func(a, b contract.DumpTable) int { return strings.Compare(a.Name, b.Name) }
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, byName)
	slices.SortFunc(b, byName)
	return slices.Equal(a, b)
}

// foreignDump unpacks a dump that was uploaded beside an archive.
func (b *Backups) foreignDump(ctx context.Context, from Import, root *os.Root) (*archive.Dump, error) {
	limits, err := b.importLimits()
	if err != nil {
		return nil, err
	}
	in, err := os.Open(b.uploads.file(from.ID, DatabasePart))
	if err != nil {
		return nil, err
	}
	defer in.Close() // read-only
	out, err := root.OpenFile(archive.Database, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	dump := archive.NewDump()
	both := io.MultiWriter(dump, out)
	err = archive.Unpack(contextReader{ctx, in}, both, limits)
	missing := ""
	if err == nil {
		missing, err = dump.End()
	}
	if err == nil {
		_, err = io.Copy(both, bytes.NewReader([]byte(missing)))
	}
	return dump, errors.Join(err, out.Close())
}

// contextReader ends with its context.
type contextReader struct {
	ctx  context.Context
	from io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}

// sweepImports removes uploads that have become a backup, or were not begun in time, and files that belong to none.
func (b *Backups) sweepImports(ctx context.Context, now time.Time) error {
	if b.uploads.Dir == "" {
		return nil
	}
	if b.trusts(now) {
		if err := b.put(ctx, `
			DELETE FROM imports
			WHERE backup_id = '' AND created_at < $1
			   OR backup_id <> '' AND NOT EXISTS (
			      SELECT 1
			      FROM backups b
			      WHERE b.organization_id = imports.organization_id
			        AND b.id = imports.backup_id
			        AND b.state = 'running'
			   )`, db.Micros(now.Add(-importFor))); err != nil {
			return fmt.Errorf("remove imports: %w", err)
		}
	}
	rows, err := b.db.Reader().Query(ctx, `SELECT id FROM imports`)
	if err != nil {
		return fmt.Errorf("look for imports: %w", err)
	}
	defer rows.Close()
	there := map[contract.ImportID]bool{}
	for rows.Next() {
		var id contract.ImportID
		if err := rows.Scan(&id); err != nil {
			return fmt.Errorf("look for imports: %w", err)
		}
		there[id] = true
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("look for imports: %w", err)
	}
	return b.uploads.sweep(func(id contract.ImportID) bool { return there[id] })
}
