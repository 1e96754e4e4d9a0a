package site

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/task"
)

// failed notes why a site's newest task did not bring its host to what is wanted, and when it is ordered again. The end of an
// older one says nothing of what is wanted now.
func failed(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
	problem := t.Error
	if problem == "" {
		problem = "its task ended as " + string(t.State)
	}
	var failures int
	err := tx.QueryRow(ctx, `
		UPDATE sites
		SET problem = $1,
		    failures = failures + 1
		WHERE organization_id = $2
		  AND id = $3
		  AND last_task_id = $4
		RETURNING failures`,
		problem, t.Organization, t.Site, t.ID).Scan(&failures)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE sites
		SET again_at = $1
		WHERE organization_id = $2
		  AND id = $3`,
		db.Micros(task.NextTry(t, result, failures)), t.Organization, t.Site)
	return err
}

// againBatch bounds how many sites are ordered again at once.
const againBatch = 100

// TryAgain orders the sites again whose next try is due at a moment, and says how many. A host that is not heard of is not
// asked: its sites are when it is back. Neither is one that holds more than is wanted (see ahead).
func (s *Sites) TryAgain(ctx context.Context, now time.Time) (int, error) {
	rows, err := s.db.Reader().Query(ctx, `
		SELECT s.organization_id,
		       s.id
		FROM sites s
		JOIN servers v ON v.id = s.server_id
		JOIN server_links l ON l.server_id = s.server_id
		WHERE s.again_at IS NOT NULL
		  AND (s.again_at <= $1 OR s.again_at > $2)
		  AND s.observed_generation <= s.generation
		  AND v.state IN ('active', 'draining')
		  AND l.last_seen_at BETWEEN $3 AND $4
		ORDER BY s.again_at
		LIMIT $5`,
		db.Micros(now), db.Micros(now.Add(task.LongestRest)), db.Micros(now.Add(-fleet.OnlineFor)), db.Micros(now.Add(fleet.OnlineFor)), againBatch)
	if err != nil {
		return 0, fmt.Errorf("find sites to order again: %w", err)
	}
	due, err := places(rows)
	if err != nil {
		return 0, fmt.Errorf("find sites to order again: %w", err)
	}
	n := 0
	var broken error
	for _, d := range due {
		ordered, err := s.again(ctx, d, func(site *Site) bool { return site.due(now) })
		if err != nil { // the others may well be ordered
			broken = errors.Join(broken, fmt.Errorf("order site %s again: %w", d.site, err))
		}
		if ordered {
			n++
		}
	}
	return n, broken
}

// due says whether the next try's time has come.
func (s *Site) due(now time.Time) bool {
	return !s.againAt.IsZero() && (!s.againAt.After(now) || s.againAt.After(now.Add(task.LongestRest)))
}

// again orders a site once more, without a new generation, unless a task for it is open or it is not wanted any more; wanted
// decides from the site as it is once nobody else can change it.
func (s *Sites) again(ctx context.Context, p place, wanted func(*Site) bool) (bool, error) {
	ordered := false
	err := db.InTx(ctx, s.db, func(tx *db.Tx) error {
		ordered = false
		site, err := lock(ctx, tx, p.organization, p.site)
		if errors.Is(err, ErrNotFound) {
			return nil // it was removed for good since
		}
		if err != nil {
			return err
		}
		var open int
		if err := tx.QueryRow(ctx, `
			SELECT COUNT(*)
			FROM tasks
			WHERE organization_id = $1
			  AND site_id = $2
			  AND kind = 'converge_site'
			  AND state IN ('queued', 'offered', 'running', 'unknown')`,
			p.organization, p.site).Scan(&open); err != nil {
			return err
		}
		if open > 0 || !wanted(site) {
			return nil
		}
		ordered = true
		_, err = s.converge(ctx, tx, site)
		return err
	}, db.ReadCommitted())
	return ordered && err == nil, err
}
