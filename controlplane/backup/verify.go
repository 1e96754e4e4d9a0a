package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
)

// parts is how many days it takes to read all of a repository: a disk or a bucket that rots is noticed within a month.
const parts = 30

// verify reads the next part of a repository. Of one that is damaged it reads all, to see whether it was repaired.
func (b *Backups) verify(ctx context.Context, k kept, repository Repository, now time.Time) error {
	part, of := k.parts%parts+1, parts
	if k.damaged {
		part, of = 1, 1
	}
	err := b.config.Repositories.Verify(ctx, repository, part, of)
	if errors.Is(err, ErrDamaged) {
		// A host may just have written what the program has not seen all of.
		if err := b.holdRepository(ctx, k); err != nil {
			return err
		}
		if err = b.config.Repositories.Verify(ctx, repository, part, of); errors.Is(err, ErrDamaged) {
			return errors.Join(err, b.found(ctx, k, now, err))
		}
	}
	if err != nil {
		return fmt.Errorf("read part %d of %d: %w", part, of, err)
	}
	return b.ofClaim(ctx, k, `
		UPDATE repositories
		SET parts_read = $4,
		    verified_at = CASE WHEN $5 THEN $6 ELSE verified_at END,
		    damaged_at = NULL
		WHERE organization_id = $1
		  AND site_id = $2
		  AND keep_claim = $3`, part%of, part == of, db.Micros(now))
}

// found notes that a repository is damaged, and since when that is known.
func (b *Backups) found(ctx context.Context, k kept, now time.Time, why error) error {
	if k.damaged {
		return nil
	}
	b.log.ErrorContext(ctx, "a repository is damaged", "site", k.Site, "err", why)
	return db.InTx(ctx, b.db, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `
			UPDATE repositories
			SET damaged_at = $4
			WHERE organization_id = $1
			  AND site_id = $2
			  AND keep_claim = $3`, k.Organization, k.Site, k.claim, db.Micros(now))
		if err == nil && n == 0 {
			err = errLost
		}
		if err != nil {
			return err
		}
		if err := decideSoon(ctx, tx, k.Organization, k.Site); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: k.Organization.String(), Action: "backup.damaged", Object: k.Site.String(), Detail: "its repository"})
	}, db.ReadCommitted())
}
