package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/fleet"
	"chom.dev/proto/contract"
)

const (
	// firstDrill is how soon after its first READY backup a site has a drill, so that nobody counts on what was never tried.
	firstDrill = 24 * time.Hour
	// drillAgain is after how long one that failed is tried again: by then the next backup is there, and the host has room again.
	drillAgain = 24 * time.Hour
	// drillsAtOnce is how many are under way at the same time. They all read from where backups are stored, beside the backups
	// that are being made; at ten minutes each four of them get through 4000 sites in a week.
	drillsAtOnce = 4
	// drillsOnServer is how many of them on one server, whose sites are to go on as ever.
	drillsOnServer = 1
	// ahead is from when on a drill of the future shows that the clock was set back, and counts for nothing.
	ahead = time.Hour
)

// drillable is a site that has a READY backup of its own and no drill under way.
type drillable struct {
	organization contract.OrganizationID
	site         contract.SiteID
	server       contract.ServerID
	newest       contract.BackupID // of its READY ones
	ready        time.Time         // when it had the first of them
	last         time.Time         // when its last drill was begun; zero before the first
	failed       bool              // that one did
}

// dueDrill is when a site is to have a drill, of those that each site has every so often. Each site has moments of its own for that,
// six sevenths of it apart, so that the drills of a fleet are spread over all the time whenever they began. The next one after a drill
// is it, unless that is almost at once; the last fourteenth is left for waiting until it is the site's turn.
func dueDrill(every time.Duration, of drillable) time.Time {
	switch {
	case of.last.IsZero():
		return of.ready.Add(spread(of.site, min(firstDrill, every)/2))
	case of.failed:
		return of.last.Add(min(drillAgain, every))
	}
	period := every / 7 * 6
	soonest := of.last.Add(every / 14)
	passed := (time.Duration(soonest.UnixNano()) - spread(of.site, period)) % period
	return soonest.Add((period - passed) % period)
}

// spread is a part of a while that differs from site to site and is always the same for each.
func spread(site contract.SiteID, within time.Duration) time.Duration {
	hash := fnv.New64a()
	hash.Write([]byte(site.String()))
	return time.Duration(hash.Sum64() % uint64(within))
}

// dueDrills are the sites that are to have one now, those that wait longest first.
func dueDrills(now time.Time, every time.Duration, all []drillable) (due []drillable) {
	since := map[contract.SiteID]time.Time{}
	for _, of := range all {
		if at := dueDrill(every, of); !now.Before(at) {
			since[of.site] = at
			due = append(due, of)
		}
	}
	slices.SortFunc(due, func(a, b drillable) int {
		return cmp.Or(since[a.site].Compare(since[b.site]), cmp.Compare(a.site.String(), b.site.String()))
	})
	return due
}

// underWay are the drills that are, by server.
type underWay map[contract.ServerID]int

func (u underWay) full() bool {
	all := 0
	for _, n := range u {
		all += n
	}
	return all >= drillsAtOnce
}

func (u underWay) room(on contract.ServerID) bool { return !u.full() && u[on] < drillsOnServer }

// errNoRoom says that another process has begun as many drills as there may be.
var errNoRoom = errors.New("there are as many drills under way as there may be")

// beginDrills begins those that are due, as far as there is room. After the clock was set forward it begins none for an hour, in which
// it may be set right.
func (b *Backups) beginDrills(ctx context.Context, now time.Time) error {
	if b.config.DrillEvery <= 0 || !b.trusts(now) {
		return nil
	}
	running, err := drillsUnderWay(ctx, b.db.Reader())
	if err != nil || running.full() {
		return err
	}
	all, err := b.drillables(ctx, now)
	if err != nil {
		return err
	}
	var failed error
	for _, of := range dueDrills(now, b.config.DrillEvery, all) {
		if !running.room(of.server) {
			continue
		}
		err := b.beginDrill(ctx, of)
		switch {
		case err == nil:
			running[of.server]++
		case errors.Is(err, errNoRoom), ctx.Err() != nil:
			return failed
		case fault.KindOf(err) == fault.KindConflict, fault.KindOf(err) == fault.KindNotFound: // it has something else under way, or is gone
		case failed == nil: // the others must not wait for it
			failed = err
		}
	}
	return failed
}

// beginDrill begins one, unless another process has meanwhile: all of them count what they decide from in this transaction.
func (b *Backups) beginDrill(ctx context.Context, of drillable) error {
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		running, err := drillsUnderWay(ctx, tx)
		if err != nil {
			return err
		}
		if !running.room(of.server) {
			return errNoRoom
		}
		_, err = b.drill(ctx, tx, of.organization, of.site, of.newest)
		if errors.Is(err, ErrForged) {
			return b.failForged(ctx, tx, of)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("begin the drill of site %s: %w", of.site, err)
	}
	return nil
}

// failForged is the drill of a backup that no host would restore.
func (b *Backups) failForged(ctx context.Context, tx *db.Tx, of drillable) error {
	d := newDrill(Backup{Organization: of.organization, Site: of.site, ID: of.newest})
	if err := insertDrill(ctx, tx, d); err != nil {
		return err
	}
	d.State, d.Problem, d.EndedAt = DrillFailed, ErrForged.Error(), d.CreatedAt
	return b.endDrill(ctx, tx, d, true)
}

// drillsUnderWay counts them.
func drillsUnderWay(ctx context.Context, q db.Querier) (underWay, error) {
	rows, err := q.Query(ctx, `
		SELECT s.server_id,
		       COUNT(*)
		FROM drills d
		JOIN sites s ON s.organization_id = d.organization_id AND s.id = d.site_id
		WHERE d.state = 'running'
		GROUP BY s.server_id`)
	if err != nil {
		return nil, fmt.Errorf("count drills: %w", err)
	}
	defer rows.Close()
	running := underWay{}
	for rows.Next() {
		var server contract.ServerID
		var n int
		if err := rows.Scan(&server, &n); err != nil {
			return nil, fmt.Errorf("count drills: %w", err)
		}
		running[server] = n
	}
	return running, rows.Err()
}

// drillables are the sites that may be due: whose servers are there and whose last drill is no news.
func (b *Backups) drillables(ctx context.Context, now time.Time) ([]drillable, error) {
	every := b.config.DrillEvery
	rows, err := b.db.Reader().Query(ctx, `
		SELECT s.organization_id,
		       s.id,
		       s.server_id,
		       (SELECT r.id
		        FROM backups r
		        WHERE r.organization_id = s.organization_id
		          AND r.site_id = s.id
		          AND r.state = 'ready'
		          AND r.reason NOT IN ('copied', 'imported')
		        ORDER BY r.sequence DESC
		        LIMIT 1),
		       (SELECT MIN(r.checked_at)
		        FROM backups r
		        WHERE r.organization_id = s.organization_id
		          AND r.site_id = s.id
		          AND r.state = 'ready'
		          AND r.reason NOT IN ('copied', 'imported')),
		       COALESCE(d.created_at, 0),
		       COALESCE(d.state, '') = 'failed'
		FROM sites s
		JOIN servers v ON v.id = s.server_id
		JOIN server_links l ON l.server_id = s.server_id
		LEFT JOIN drills d ON d.organization_id = s.organization_id
		     AND d.id = (SELECT MAX(x.id)
		                 FROM drills x
		                 WHERE x.organization_id = s.organization_id
		                   AND x.site_id = s.id
		                   AND x.created_at <= $4)
		WHERE s.phase IN ('active', 'suspended')
		  AND v.state IN ('active', 'draining')
		  AND l.last_seen_at BETWEEN $1 AND $2
		  AND (d.id IS NULL OR d.state <> 'running' AND d.created_at <= $3)
		  AND EXISTS (SELECT 1
		              FROM backups r
		              WHERE r.organization_id = s.organization_id
		                AND r.site_id = s.id
		                AND r.state = 'ready'
		                AND r.reason NOT IN ('copied', 'imported'))`,
		db.Micros(now.Add(-fleet.OnlineFor)), db.Micros(now.Add(fleet.OnlineFor)), db.Micros(now.Add(-min(drillAgain, every/14))), db.Micros(now.Add(ahead)))
	if err != nil {
		return nil, fmt.Errorf("look for sites to drill: %w", err)
	}
	defer rows.Close()
	var all []drillable
	for rows.Next() {
		var of drillable
		var ready, last int64
		if err := rows.Scan(&of.organization, &of.site, &of.server, &of.newest, &ready, &last, &of.failed); err != nil {
			return nil, fmt.Errorf("look for sites to drill: %w", err)
		}
		of.ready = db.Time(ready)
		if last != 0 {
			of.last = db.Time(last)
		}
		all = append(all, of)
	}
	return all, rows.Err()
}
