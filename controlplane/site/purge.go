package site

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/clock"
	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// purgeEvery is how often the trash is looked through: a minute more or less means nothing after seven days.
const purgeEvery = time.Minute

// purgeAgainAfter keeps a host that cannot remove a site from being asked in a loop, and has the site gone five minutes after
// the host can.
const purgeAgainAfter = 3 * time.Minute

// purgeBatch bounds how many hosts are given work at once.
const purgeBatch = 100

// Run has sites removed whose time in the trash is over, and follows what becomes of organizations, until ctx ends.
func (s *Sites) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return s.emptyTrash(ctx) })
	g.Go(func() error { return s.follow(ctx) })
	return g.Wait()
}

func (s *Sites) emptyTrash(ctx context.Context) error {
	ticker := time.NewTicker(min(purgeEvery, max(s.config.TrashPeriod/4, time.Second))) // a short period is kept as well
	defer ticker.Stop()
	var wall clock.Wall
	trusted := true
	for {
		now := time.Now()
		if before := trusted; wall.Trust(now) {
			trusted = true
			s.purgeAndTell(ctx, now)
		} else if trusted = false; before {
			s.log.WarnContext(ctx, "the clock was set forward; nothing leaves the trash for a while")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (s *Sites) purgeAndTell(ctx context.Context, now time.Time) {
	if n, err := s.Purge(ctx, now); err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "sites cannot be purged", "err", err)
	} else if n > 0 {
		s.log.InfoContext(ctx, "sites leave the trash", "count", n)
	}
}

// Purge orders the removal of the sites that are due at a moment, and says how many.
func (s *Sites) Purge(ctx context.Context, now time.Time) (int, error) {
	due, err := s.due(ctx, now)
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

// place names a site to whoever looks through the sites of all organizations.
type place struct {
	organization contract.OrganizationID
	site         contract.SiteID
}

// due is the sites whose trash period is over, and those whose removal failed some time ago.
func (s *Sites) due(ctx context.Context, now time.Time) ([]place, error) {
	rows, err := s.db.Reader().Query(ctx, `
		SELECT s.organization_id,
		       s.id
		FROM sites s
		LEFT JOIN tasks t ON t.organization_id = s.organization_id AND t.id = s.last_task_id
		WHERE (s.phase = 'trashed' AND s.purge_at <= $1)
		   OR (s.phase = 'absent' AND t.ended_at <= $2)
		ORDER BY s.purge_at
		LIMIT $3`,
		db.Micros(now), db.Micros(now.Add(-purgeAgainAfter)), purgeBatch)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var due []place
	for rows.Next() {
		var p place
		if err := rows.Scan(&p.organization, &p.site); err != nil {
			return nil, err
		}
		due = append(due, p)
	}
	return due, rows.Err()
}

func (s *Sites) purge(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, now time.Time) error {
	return db.InTx(ctx, s.db, func(tx *db.Tx) error {
		site, err := lock(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		// Somebody may have restored it since it was found.
		again := site.Wanted.Phase == Absent && progressOf(site.lastTaskState) != onItsWay
		if !again && (site.Wanted.Phase != Trashed || site.PurgeAt.After(now)) {
			return nil
		}
		site.Wanted.Phase = Absent
		site.UpdatedAt = db.Time(db.Micros(now))
		site.renew()
		if _, err := s.converge(ctx, tx, site); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: organization.String(), Action: "site.purge", Object: id.String(), Detail: site.Name})
	}, db.ReadCommitted())
}
