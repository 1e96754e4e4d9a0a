package backup

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// Standing is how it is with a site's backups, as it was decided last.
type Standing string

// Standings, from well to worst.
const (
	StandingWell     Standing = "well"
	StandingUnwanted Standing = "unwanted" // none is made by itself, and none failed
	StandingFailing  Standing = "failing"
	StandingOverdue  Standing = "overdue"
	StandingDamaged  Standing = "damaged"
)

// Proof is what is known of whether a site's backups restore.
type Proof string

// Proofs.
const (
	ProofNone     Proof = "none" // there is no READY backup yet
	ProofProven   Proof = "proven"
	ProofUnproven Proof = "unproven" // no drill passed within provenWithin
	ProofFailed   Proof = "failed"   // the newest drill that ended did
)

// Brief is how well a site is backed up, in short.
type Brief struct {
	Site     contract.SiteID
	Name     string
	Standing Standing
	Proof    Proof
	Last     time.Time // when the newest READY one was found so; zero before the first
	Proven   time.Time // when the last proven restore ended; zero before the first
	Problem  string    // why the newest backup or, where these are well, the newest drill failed, or why none is made at all
}

// statuses reads what was decided about sites, and what their drills came to. Those of a page are chosen before anything is looked up
// for them.
const statuses = `
	SELECT id,
	       name,
	       about,
	       wanted,
	       good,
	       proven,
	       drill,
	       problem,
	       drill_problem
	FROM (
	    SELECT s.id,
	           s.name,
	           COALESCE(a.about, 0) AS about,
	           a.wanted_at IS NOT NULL AS wanted,
	           (SELECT MAX(b.checked_at)
	            FROM backups b
	            WHERE b.organization_id = $1
	              AND b.site_id = s.id
	              AND b.state = 'ready'
	              AND b.reason NOT IN ('copied', 'imported')) AS good,
	           (SELECT MIN(b.checked_at)
	            FROM backups b
	            WHERE b.organization_id = $1
	              AND b.site_id = s.id
	              AND b.state = 'ready'
	              AND b.reason NOT IN ('copied', 'imported')) AS first_good,
	           (SELECT MAX(d.ended_at)
	            FROM drills d
	            WHERE d.organization_id = $1
	              AND d.site_id = s.id
	              AND d.state = 'passed') AS proven,
	           COALESCE(e.state, '') AS drill,
	           COALESCE((SELECT b.problem
	                     FROM backups b
	                     WHERE b.organization_id = $1
	                       AND b.site_id = s.id
	                       AND b.state IN ('ready', 'failed')
	                       AND b.reason NOT IN ('copied', 'imported')
	                     ORDER BY b.id DESC
	                     LIMIT 1), '') AS problem,
	           COALESCE(e.problem, '') AS drill_problem
	    FROM sites s
	    LEFT JOIN backup_alarms a ON a.organization_id = $1 AND a.site_id = s.id
	    LEFT JOIN drills e ON e.organization_id = $1
	                      AND e.id = (SELECT MAX(d.id)
	                                  FROM drills d
	                                  WHERE d.organization_id = $1
	                                    AND d.site_id = s.id
	                                    AND d.state IN ('passed', 'failed'))
	    WHERE s.organization_id = $1
	      AND s.id > $2
	      AND s.phase IN ('active', 'suspended')
	      AND ($3 OR $4 LIKE '%' || s.id || '%')
	) AS found
	WHERE NOT $5
	   OR about > 0
	   OR drill = 'failed'
	   OR (first_good < $6 AND COALESCE(proven, 0) < $6)
	ORDER BY id
	LIMIT $7`

// Statuses tells how well the sites of an organization are backed up: those in reach, which nil sets no bound to, or of these only
// such as need somebody. It gives the token of the next page, too.
func (b *Backups) Statuses(ctx context.Context, organization contract.OrganizationID, size int32, token string, attention bool, reach []string) ([]Brief, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	only := strings.Join(slices.Sorted(slices.Values(reach)), " ")
	query := page.Query{"backup statuses", organization.String(), strconv.FormatBool(attention), only}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	before := time.Now().Add(-b.provenWithin())
	rows, err := b.db.Reader().Query(ctx, statuses, organization, after, reach == nil, only, attention, db.Micros(before), limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list statuses of backups: %w", err)
	}
	defer rows.Close()
	var all []Brief
	for rows.Next() {
		one, err := b.scanBrief(rows, before)
		if err != nil {
			return nil, "", fmt.Errorf("list statuses of backups: %w", err)
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list statuses of backups: %w", err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].Site.String() })
	return all[:min(len(all), limit)], next, nil
}

func (b *Backups) scanBrief(rows *sql.Rows, before time.Time) (s Brief, err error) {
	var about cause
	var wanted bool
	var good, proven sql.NullInt64
	var drill DrillState
	var problem, drillProblem string
	if err := rows.Scan(&s.Site, &s.Name, &about, &wanted, &good, &proven, &drill, &problem, &drillProblem); err != nil {
		return s, err
	}
	s.Last, s.Proven = db.NullTime(good), db.NullTime(proven)
	switch about {
	case failing:
		s.Standing = StandingFailing
	case overdue:
		s.Standing = StandingOverdue
	case damaged:
		s.Standing = StandingDamaged
	default:
		s.Standing = StandingWell
		if !wanted {
			s.Standing = StandingUnwanted
		}
	}
	switch {
	case drill == DrillFailed:
		s.Proof = ProofFailed
	case s.Last.IsZero():
		s.Proof = ProofNone
	case s.Proven.Before(before):
		s.Proof = ProofUnproven
	default:
		s.Proof = ProofProven
	}
	if about != allWell {
		s.Problem = reason(about, problem)
	} else if drill == DrillFailed {
		s.Problem = drillProblem
	}
	s.Problem = cmp.Or(s.Problem, b.config.Off)
	return s, nil
}
