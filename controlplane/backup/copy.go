package backup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// Errors of copying.
var (
	ErrSameSite    = fault.Invalid("to_site_id", "must be another site than that of the backup")
	ErrOtherType   = fault.Conflict("the sites are of different types: what is in the backup would be no such site")
	ErrNotCopyable = fault.Conflict("only a backup that is ready can be copied")
)

// Why nothing was copied.
const (
	sourceGone   = wrong("the backup that it is copied from is gone")
	sourceForged = wrong("the backup that it is copied from is not signed by this control plane")
	sourceOther  = wrong("what is stored of the backup that it is copied from is not what was signed")
)

// Copy brings a READY backup of one site into the list of another one of the same organization and type: RUNNING now, and READY once it
// is in that one's repository and was compared with what is signed. It says ErrUnderWay or ErrRestoring where the other site has
// one of either already, and the sites' own faults where one is not there, or the other one was deleted. The first one may be in the
// trash.
func (b *Backups) Copy(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID, to contract.SiteID) (Backup, error) {
	if b.config.Off != "" {
		return Backup{}, fault.Conflict(b.config.Off)
	}
	var made Backup
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		source, target, err := lockBoth(ctx, tx, organization, id, to)
		if err != nil {
			return err
		}
		from, err := load(ctx, tx, organization, id, backup)
		if err != nil {
			return err
		}
		if id == to {
			return ErrSameSite
		}
		if from.State != Ready {
			return ErrNotCopyable
		}
		if source.Wanted.Type != target.Wanted.Type {
			return ErrOtherType
		}
		_, m, err := b.verified(from)
		if err != nil {
			b.log.ErrorContext(ctx, "the manifest of a backup is not what was signed", "backup", from.ID, "site", from.Site, "err", err)
			return ErrForged
		}
		if held, err := held(ctx, tx, organization, id, time.Now()); err != nil || held {
			return cmp.Or(err, error(ErrHeld))
		}
		draft, err := proto.MarshalOptions{Deterministic: true}.Marshal(&backupv1.Manifest{
			Desired: m.GetDesired(), Certificates: m.GetCertificates(), SourceSiteId: id.String(),
		})
		if err != nil {
			return err
		}
		made, err = b.expect(ctx, tx, target, Backup{Reason: Copied, Source: from.ID, SourceSite: id, draft: draft}, fmt.Sprintf("a copy of %s of site %s", from.ID, id))
		return err
	}, db.ReadCommitted()) // both sites' rows are locked before anything is decided
	if err != nil {
		return Backup{}, fmt.Errorf("copy backup %s to site %s: %w", backup, to, err)
	}
	return made, nil
}

// lockBoth locks two sites' rows, always in the same order: two copies of opposite ways must not wait for each other.
func lockBoth(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, from, to contract.SiteID) (source, target *site.Site, err error) {
	first, second := from, to
	if to.String() < from.String() {
		first, second = to, from
	}
	one, err := site.Lock(ctx, tx, organization, first)
	if err != nil {
		return nil, nil, err
	}
	other, err := site.Lock(ctx, tx, organization, second)
	if err != nil {
		return nil, nil, err
	}
	if first == from {
		return one, other, nil
	}
	return other, one, nil
}

// copied is the maker of copies. What has come is compared with what was signed, and not with what stands in the source now.
func (b *Backups) copied(ctx context.Context, c Backup, into Repository) (*backupv1.Report, error) {
	source, err := load(ctx, b.db.Reader(), c.Organization, c.SourceSite, c.Source)
	if errors.Is(err, ErrNotFound) || err == nil && source.State != Ready {
		return nil, sourceGone
	}
	if err != nil {
		return nil, err
	}
	_, manifest, err := b.verified(source)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sourceForged, err)
	}
	from, err := b.open(ctx, c.Organization, c.SourceSite)
	if err != nil {
		return nil, fmt.Errorf("open the repository that it is copied from: %w", err)
	}
	contents := proto.CloneOf(manifest.GetContents())
	snapshots := []string{contents.GetFilesSnapshot()}
	if id := contents.GetDatabaseSnapshot(); id != "" {
		snapshots = append(snapshots, id)
	}
	copies, err := b.config.Repositories.Copy(ctx, from, into, snapshots...)
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	same, err := b.sameFiles(ctx, into, copies[0], contents)
	if err == nil && same && len(copies) == 2 {
		same, err = b.sameDump(ctx, into, copies[1], contents)
	}
	switch {
	case err != nil:
		return nil, err
	case !same:
		return nil, sourceOther
	}
	contents.FilesSnapshot = copies[0]
	if len(copies) == 2 {
		contents.DatabaseSnapshot = copies[1]
	}
	return &backupv1.Report{BackupId: c.ID.String(), StartTime: manifest.GetStartTime(), EndTime: manifest.GetEndTime(), Contents: contents}, nil
}

// copyingFrom says whether a backup of a site is being copied, whose data must stay until then.
func copyingFrom(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) (bool, error) {
	var n int
	if err := q.QueryRow(ctx, `
		SELECT COUNT(*)
		FROM backups
		WHERE organization_id = $1
		  AND source_site_id = $2
		  AND state = 'running'`, organization, id).Scan(&n); err != nil {
		return false, fmt.Errorf("look what is copied from site %s: %w", id, err)
	}
	return n > 0, nil
}

// sameFiles says whether a snapshot holds the files that are signed.
func (b *Backups) sameFiles(ctx context.Context, in Repository, snapshot string, signed *backupv1.Contents) (bool, error) {
	files, err := b.config.Repositories.List(ctx, in, snapshot)
	if err != nil {
		return false, fmt.Errorf("list the files: %w", err)
	}
	return files.Count() == signed.GetFileCount() && files.Bytes() == signed.GetFileBytes() && bytes.Equal(files.SHA256(), signed.GetListingSha256()), nil
}

// sameDump says whether a snapshot holds the dump that is signed.
func (b *Backups) sameDump(ctx context.Context, in Repository, snapshot string, signed *backupv1.Contents) (bool, error) {
	sum := sha256.New()
	if err := b.config.Repositories.Read(ctx, in, snapshot, databaseFile, sum); err != nil {
		return false, fmt.Errorf("read the database: %w", err)
	}
	return bytes.Equal(sum.Sum(nil), signed.GetDumpSha256()), nil
}
