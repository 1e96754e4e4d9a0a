package site

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// purgeBatch bounds how many hosts are given work at once.
const purgeBatch = 100

// Purge orders the removal of the sites whose time in the trash is over at a moment, and says how many. A removal that fails
// is tried again like everything else (TryAgain).
func (s *Sites) Purge(ctx context.Context, now time.Time) (int, error) {
	rows, err := s.db.Reader().Query(ctx, `
		SELECT organization_id,
		       id
		FROM sites
		WHERE phase = 'trashed'
		  AND purge_at <= $1
		ORDER BY purge_at
		LIMIT $2`,
		db.Micros(now), purgeBatch)
	if err != nil {
		return 0, fmt.Errorf("find sites to purge: %w", err)
	}
	due, err := places(rows)
	if err != nil {
		return 0, fmt.Errorf("find sites to purge: %w", err)
	}
	for i, d := range due {
		if err := s.purge(ctx, d.organization, d.site, now); err != nil {
			return i, fmt.Errorf("purge site %s: %w", d.site, err)
		}
	}
	return len(due), nil
}

// refreshTrash gives every site in the trash its whole time again. After the clock was set nobody knows how long each has been
// there: what was deleted while it was years behind would be gone as soon as it is right, and what is purged is gone.
func (s *Sites) refreshTrash(ctx context.Context, now time.Time) error {
	err := db.InTx(ctx, s.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE sites
			SET purge_at = $1
			WHERE phase = 'trashed'`,
			db.Micros(now.Add(s.config.TrashPeriod)))
		return err
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("refresh the trash: %w", err)
	}
	return nil
}

// place names a site to whoever looks through the sites of all organizations.
type place struct {
	organization contract.OrganizationID
	site         contract.SiteID
}

func places(rows *sql.Rows) ([]place, error) {
	defer rows.Close()
	var all []place
	for rows.Next() {
		var p place
		if err := rows.Scan(&p.organization, &p.site); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, rows.Err()
}

func (s *Sites) purge(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, now time.Time) error {
	return db.InTx(ctx, s.db, func(tx *db.Tx) error {
		site, err := lock(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		// Somebody may have restored it since it was found.
		if site.Wanted.Phase != Trashed || site.PurgeAt.After(now) {
			return nil
		}
		site.Wanted.Phase = Absent
		site.Policy = contract.PolicyID{} // which may go now
		site.UpdatedAt = db.Time(db.Micros(now))
		if err := s.renew(ctx, tx, site); err != nil {
			return err
		}
		if _, err := s.converge(ctx, tx, site); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: organization.String(), Action: "site.purge", Object: id.String(), Detail: site.Name})
	}, db.ReadCommitted())
}
