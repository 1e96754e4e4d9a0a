package backup

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// wrong is why there is no backup, in words. Trying again changes nothing.
type wrong string

func (w wrong) Error() string { return string(w) }

// errLost says that another process has taken over, or that the backup left with its site: what was found counts for nothing.
var errLost = errors.New("it is looked at by somebody else, or gone")

// check brings a backup that is CHECKING to its end, and gives the repository of one that is READY its manifest again. All of it may
// happen twice.
func (b *Backups) check(ctx context.Context, c claimed) error {
	repository, err := b.open(ctx, c.Organization, c.Site)
	if err != nil {
		return fmt.Errorf("open the repository: %w", err)
	}
	if c.manifest == nil {
		if err := b.compare(ctx, repository, c.Backup); err != nil {
			return err
		}
		if c.manifest, err = b.sign(ctx, c); err != nil {
			return err
		}
	}
	sequence, err := sequenceOf(c.manifest)
	if err != nil {
		return err
	}
	if err := b.config.Repositories.PutManifest(ctx, repository, sequence, c.manifest); err != nil {
		return fmt.Errorf("put the manifest: %w", err)
	}
	if c.State == Ready {
		return b.putAgain(ctx, c)
	}
	size, err := b.sizeOf(ctx, repository)
	if err != nil {
		return err
	}
	return b.ready(ctx, c, sequence, size)
}

// compare reads the repository and compares it with what the host said. What files there are it takes from there alone, and adds it
// to the report.
func (b *Backups) compare(ctx context.Context, repository Repository, c Backup) error {
	if problem := unacceptable(c.ID, c.Report); problem != "" {
		return wrong(problem)
	}
	err := b.config.Repositories.Check(ctx, repository)
	if errors.Is(err, ErrDamaged) {
		// Nothing is locked meanwhile: what came or went while the program looked is there, or gone, when it looks again.
		err = b.config.Repositories.Check(ctx, repository)
	}
	if err != nil {
		return fmt.Errorf("check the repository: %w", err)
	}
	contents := c.Report.GetContents()
	files, err := b.config.Repositories.List(ctx, repository, contents.GetFilesSnapshot())
	if err != nil {
		return fmt.Errorf("list the files: %w", err)
	}
	var database *contract.Listing
	if contents.GetDatabaseSnapshot() != "" {
		if database, err = b.config.Repositories.List(ctx, repository, contents.GetDatabaseSnapshot()); err != nil {
			return fmt.Errorf("list the database: %w", err)
		}
	}
	needs, err := needsDatabase(ctx, b.db.Reader(), c)
	if err != nil {
		return err
	}
	if problem := differs(contents, database, needs); problem != "" {
		return wrong(problem)
	}
	contents.FileCount, contents.FileBytes, contents.ListingSha256 = files.Count(), files.Bytes(), files.SHA256()
	return nil
}

// needsDatabase says whether a backup of the site is none without a database.
func needsDatabase(ctx context.Context, q db.Querier, c Backup) (bool, error) {
	of, err := site.Load(ctx, q, c.Organization, c.Site)
	if errors.Is(err, site.ErrNotFound) {
		return false, errLost
	}
	if err != nil {
		return false, err
	}
	return of.HasDatabase(), nil
}

// differs says how a repository differs from what the host says that it put into it; empty when it does not. Database is nil where
// the host names none.
func differs(said *backupv1.Contents, database *contract.Listing, needsDatabase bool) string {
	switch {
	case database == nil && needsDatabase:
		return "the database is missing"
	case database == nil:
		return ""
	case database.Count() != 1 || database.Bytes() != said.GetDumpBytes():
		return fmt.Sprintf("the database in the repository has %d bytes, and the host said %d", database.Bytes(), said.GetDumpBytes())
	case len(said.GetDumpSha256()) != sha256.Size:
		return "the host did not say the checksum of the database"
	}
	return ""
}

// sign makes the manifest of a backup that was found complete, and keeps it in the row: whoever goes on from here has the same one.
func (b *Backups) sign(ctx context.Context, c claimed) (manifest []byte, err error) {
	err = db.InTx(ctx, b.db, func(tx *db.Tx) error {
		var sequence int64
		var previous []byte
		err := tx.QueryRow(ctx, `
			SELECT sequence,
			       manifest_sha256
			FROM repositories
			WHERE organization_id = $1
			  AND site_id = $2`+tx.ForUpdate(), c.Organization, c.Site).Scan(&sequence, &previous)
		if err != nil {
			return err
		}
		m := &backupv1.Manifest{}
		if err := proto.Unmarshal(c.draft, m); err != nil {
			return err
		}
		m.Schema = contract.ManifestSchema
		m.OrganizationId, m.SiteId, m.BackupId = c.Organization.String(), c.Site.String(), c.ID.String()
		m.Sequence, m.PreviousSha256 = uint64(sequence)+1, previous
		m.StartTime, m.EndTime, m.Contents = c.Report.GetStartTime(), c.Report.GetEndTime(), c.Report.GetContents()
		signed, err := contract.SignManifest(b.config.Signer, m)
		if err != nil {
			b.log.WarnContext(ctx, "the manifest of a backup can't be signed", "backup", c.ID, "err", err)
			return wrong("the database has too many tables")
		}
		if manifest, err = (proto.MarshalOptions{Deterministic: true}).Marshal(signed); err != nil {
			return err
		}
		report, err := proto.Marshal(c.Report) // with what compare has read
		if err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `
			UPDATE backups
			SET manifest = $4,
			    report = $5
			WHERE organization_id = $1
			  AND id = $2
			  AND state = 'checking'
			  AND claim = $3`, c.Organization, c.ID, c.claim, manifest, report)
		if err != nil {
			return err
		}
		if n == 0 {
			return errLost
		}
		sum := sha256.Sum256(signed.GetManifest())
		_, err = tx.Exec(ctx, `
			UPDATE repositories
			SET sequence = $3,
			    manifest_sha256 = $4
			WHERE organization_id = $1
			  AND site_id = $2`, c.Organization, c.Site, int64(m.Sequence), sum[:])
		return err
	}, db.ReadCommitted())
	if err != nil {
		return nil, fmt.Errorf("sign the manifest: %w", err)
	}
	return manifest, nil
}

func sequenceOf(manifest []byte) (uint64, error) {
	signed, m := &backupv1.SignedManifest{}, &backupv1.Manifest{}
	if err := errors.Join(proto.Unmarshal(manifest, signed), proto.Unmarshal(signed.GetManifest(), m)); err != nil {
		return 0, fmt.Errorf("read the manifest: %w", err)
	}
	if m.GetSequence() == 0 {
		return 0, errors.New("read the manifest: it has no number")
	}
	return m.GetSequence(), nil
}

// ready ends the check of a backup that the repository has, with its manifest.
func (b *Backups) ready(ctx context.Context, c claimed, sequence uint64, size size) error {
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		of, err := site.Lock(ctx, tx, c.Organization, c.Site) // before its backups and restores, as whoever asks for one does
		if errors.Is(err, site.ErrNotFound) {
			return errLost
		}
		if err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `
			UPDATE backups
			SET state = 'ready',
			    sequence = $4,
			    put = TRUE,
			    check_at = NULL,
			    claim = '',
			    tries = 0,
			    checked_at = $5
			WHERE organization_id = $1
			  AND id = $2
			  AND state = 'checking'
			  AND claim = $3
			  AND manifest = $6`, c.Organization, c.ID, c.claim, int64(sequence), db.Micros(time.Now()), c.manifest)
		if err != nil {
			return err
		}
		if n == 0 {
			return errLost
		}
		if err := size.save(ctx, tx, c.Organization, c.Site); err != nil {
			return err
		}
		if err := audit.Record(ctx, tx, audit.Event{
			Organization: c.Organization.String(), Action: "backup.ready", Object: c.ID.String(),
			Detail: fmt.Sprintf("number %d of site %s", sequence, c.Site),
		}); err != nil {
			return err
		}
		if err := decideSoon(ctx, tx, c.Organization, c.Site); err != nil {
			return err
		}
		if err := b.goOn(ctx, tx, of, c.Backup); err != nil {
			return err
		}
		return publish(ctx, tx, c.Organization, c.Site, webhook.BackupReady, "backup", c.ID.String())
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("end the check: %w", err)
	}
	return nil
}

// maxBytes keeps sizes within a BIGINT.
const maxBytes = 1 << 62

// putAgain notes that the repository has the manifest as it is now.
func (b *Backups) putAgain(ctx context.Context, c claimed) error {
	return b.put(ctx, `
		UPDATE backups
		SET put = TRUE,
		    check_at = NULL,
		    claim = '',
		    tries = 0
		WHERE organization_id = $1
		  AND id = $2
		  AND state = 'ready'
		  AND claim = $3
		  AND manifest = $4`, c.Organization, c.ID, c.claim, c.manifest)
}

// settle notes what a look came to that did not bring the backup to its end.
func (b *Backups) settle(ctx context.Context, c claimed, now time.Time, broken error) error {
	var no wrong
	problem := ""
	switch {
	case errors.Is(broken, errLost):
		return nil
	case c.State != Ready && errors.As(broken, &no):
		problem = string(no)
	case c.State != Ready && errors.Is(broken, ErrDamaged):
		problem = "what is stored of the backup is damaged or incomplete"
	case c.State != Ready && b.trusts(now) && now.Sub(c.since) > giveUpAfter:
		problem = "where backups are stored could not be read for a day"
	}
	if problem == "" {
		at := now.Add(restAfter(c.tries + 1))
		b.log.WarnContext(ctx, "a backup can't be brought to its end", "backup", c.ID, "site", c.Site, "again_at", at, "err", broken)
		return b.put(ctx, `
			UPDATE backups
			SET check_at = $4,
			    claim = '',
			    tries = tries + 1
			WHERE organization_id = $1
			  AND id = $2
			  AND claim = $3`, c.Organization, c.ID, c.claim, db.Micros(at))
	}
	b.log.WarnContext(ctx, "a backup is none", "backup", c.ID, "site", c.Site, "problem", problem, "err", broken)
	return db.InTx(ctx, b.db, func(tx *db.Tx) error {
		var state State
		err := tx.QueryRow(ctx, `
			SELECT state
			FROM backups
			WHERE organization_id = $1
			  AND id = $2
			  AND claim = $3`+tx.ForUpdate(), c.Organization, c.ID, c.claim).Scan(&state)
		if errors.Is(err, sql.ErrNoRows) || err == nil && state != c.State {
			return nil
		}
		if err != nil {
			return err
		}
		return fail(ctx, tx, c.Backup, problem)
	}, db.ReadCommitted())
}
