package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// Status is how well a site is backed up.
type Status struct {
	Policy     Policy
	Next       time.Time // when its host begins the next backup by itself; zero where it does not
	Last       *Backup   // the newest READY one; nil before the first
	Failure    *Backup   // the newest one that FAILED, if it is newer than that; nil otherwise
	Drill      *Drill    // the newest one; nil before the first
	Proven     *Drill    // the newest one that PASSED: the last proven restore; nil before the first
	Bytes      uint64    // that its repository takes, as last measured
	VerifiedAt time.Time // when all of it was found intact at last; zero before it was once
	Problem    string    // what is wrong, in words, and what to do; empty when nothing is
}

// StatusOf tells how well a site is backed up.
func (b *Backups) StatusOf(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (s Status, err error) {
	q, now := b.db.Reader(), time.Now()
	of, err := site.Load(ctx, q, organization, id)
	if err != nil {
		return s, fmt.Errorf("status of backups: %w", err)
	}
	if s.Policy, err = b.policyOf(ctx, q, of); err != nil {
		return s, fmt.Errorf("status of backups: %w", err)
	}
	if schedule := of.Wanted.Schedule; schedule.Interval > 0 {
		s.Next = contract.LastDue(now, schedule.Interval, schedule.Offset).Add(schedule.Interval)
	}
	if s.Last, err = newest(ctx, q, organization, id, Ready); err != nil {
		return s, fmt.Errorf("status of backups: %w", err)
	}
	if s.Failure, err = newest(ctx, q, organization, id, Failed); err != nil {
		return s, fmt.Errorf("status of backups: %w", err)
	}
	if s.Last != nil && s.Failure != nil && s.Failure.ID.String() < s.Last.ID.String() {
		s.Failure = nil
	}
	if s.Drill, s.Proven, err = LastDrills(ctx, q, organization, id); err != nil {
		return s, fmt.Errorf("status of backups: %w", err)
	}
	var bytes int64
	var verified, wanted sql.NullInt64
	if err := q.QueryRow(ctx, `
		SELECT COALESCE((SELECT bytes
		                 FROM repositories
		                 WHERE organization_id = $1
		                   AND site_id = $2), 0),
		       (SELECT verified_at
		        FROM repositories
		        WHERE organization_id = $1
		          AND site_id = $2),
		       (SELECT wanted_at
		        FROM backup_alarms
		        WHERE organization_id = $1
		          AND site_id = $2)`, organization, id).Scan(&bytes, &verified, &wanted); err != nil {
		return s, fmt.Errorf("status of backups: %w", err)
	}
	s.Bytes, s.VerifiedAt = uint64(bytes), db.NullTime(verified)
	if b.config.Off != "" {
		s.Problem = b.config.Off
		return s, nil
	}
	is, problem, err := standingOf(ctx, q, organization, id)
	if err != nil {
		return s, err
	}
	if wanted.Valid && of.Wanted.Phase == site.Active {
		is.interval, is.since = s.Policy.Interval, db.NullTime(wanted)
	}
	s.Problem = is.words(now, problem)
	return s, nil
}

// words say what is wrong with a site's backups, and what to do; nothing when nothing is.
func (s standing) words(now time.Time, problem string) string {
	about, since := s.worst(now)
	what := ""
	switch about {
	case allWell:
		return ""
	case failing:
		what = "backups have failed"
	case overdue:
		what = "a new backup is overdue"
	case damaged:
		what = "what is stored of the backups is damaged, as is known"
	}
	return fmt.Sprintf("%s since %s: %s. %s", what, since.UTC().Format("2 January 2006, 15:04 UTC"), reason(about, problem), advice(about, s))
}

// newest is a site's own newest backup in a state; nil where there is none.
func newest(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID, state State) (*Backup, error) {
	found, err := scan(q.QueryRow(ctx, columns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND state = $3
		  AND reason NOT IN ('copied', 'imported')
		ORDER BY id DESC
		LIMIT 1`, organization, id, string(state)))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the newest backup: %w", err)
	}
	return &found, nil
}
