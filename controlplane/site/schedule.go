package site

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// When a site's host makes backups by itself follows from the policies of its organization. Their revision is the truth that sites
// follow, one by one: whoever changes a policy changes that number with it, in one row, and does not wait for a thousand sites. A site
// whose own number is another one is looked at, however often everything ends in between. It reads the number before the policies, so
// that one that changes meanwhile is followed once more.
const (
	// policiesEvery and ordersAtOnce are the pace: a thousand sites take their hosts four minutes, and what people order in between
	// does not wait for them.
	policiesEvery = 2 * time.Second
	ordersAtOnce  = 8
)

// schedule decides when a site's host makes backups of it.
func (s *Sites) schedule(ctx context.Context, tx *db.Tx, site *Site) error {
	site.Wanted.Schedule, site.revision = Schedule{}, 0
	if s.config.Schedule == nil || site.gone() {
		return nil
	}
	err := tx.QueryRow(ctx, `SELECT policy_revision FROM organizations WHERE id = $1`, site.Organization).Scan(&site.revision)
	if err != nil {
		return fmt.Errorf("read revision of policies: %w", err)
	}
	site.revision += s.config.ScheduleRevision
	site.Wanted.Schedule, err = s.config.Schedule(ctx, tx, site)
	return err
}

// rescheduled is schedule, and says whether anything else follows than before.
func (s *Sites) rescheduled(ctx context.Context, tx *db.Tx, site *Site) (bool, error) {
	before := site.Wanted.Schedule
	err := s.schedule(ctx, tx, site)
	return site.Wanted.Schedule != before, err
}

// mayChoose refuses a policy that is not the organization's.
func (s *Sites) mayChoose(ctx context.Context, tx *db.Tx, site *Site) error {
	if site.Policy.IsZero() {
		return nil
	}
	if s.config.HasPolicy == nil {
		return ErrNoPolicy
	}
	has, err := s.config.HasPolicy(ctx, tx, site.Organization, site.Policy)
	if err == nil && !has {
		return ErrNoPolicy
	}
	return err
}

// relabel writes a site whose tags or policy alone were changed, and orders it only if another schedule follows from that.
func (s *Sites) relabel(ctx context.Context, tx *db.Tx, site *Site) (task.Task, error) {
	differs, err := s.rescheduled(ctx, tx, site)
	if err != nil {
		return task.Task{}, err
	}
	if differs {
		return s.carryOut(ctx, tx, site)
	}
	return task.Task{}, label(ctx, tx, site)
}

// followPolicies looks whenever an organization's policies change, and now and then, until ctx ends.
func (s *Sites) followPolicies(ctx context.Context) error {
	woken := make(chan struct{}, 1)
	var listening errgroup.Group
	listening.Go(func() error {
		return s.db.Listen(ctx, func(topic, _ string) {
			if topic == s.config.PoliciesTopic || topic == "" {
				select {
				case woken <- struct{}{}:
				default: // a look is due already
				}
			}
		})
	})
	defer listening.Wait() //nolint:errcheck // it ends with ctx
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var after contract.SiteID
	for {
		ordered, last, err := s.FollowPolicies(ctx, after)
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "sites cannot follow their backup policies", "err", err)
		}
		if ordered > 0 {
			s.log.InfoContext(ctx, "sites followed their backup policies", "count", ordered)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(policiesEvery): // whoever wakes it
		}
		if after = last; !after.IsZero() {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-woken:
		case <-tick.C:
		}
	}
}

// FollowPolicies looks at sites, after one in their order, whose schedule does not follow from the policies as they are, and orders
// the hosts of those to which something else comes of that: a few, and says how many. There are more after the last one, if that is
// not the zero value. One that can't be ordered does not keep the others.
func (s *Sites) FollowPolicies(ctx context.Context, after contract.SiteID) (ordered int, last contract.SiteID, err error) {
	found, err := s.outdated(ctx, after)
	if err != nil {
		return 0, contract.SiteID{}, fmt.Errorf("find sites that do not follow their backup policies: %w", err)
	}
	var broken error
	for _, b := range found {
		differs, err := s.followPolicy(ctx, b)
		if err != nil {
			broken = errors.Join(broken, fmt.Errorf("have site %s follow its backup policy: %w", b.site, err))
		}
		if differs {
			ordered++
		}
		if ordered == ordersAtOnce {
			return ordered, b.site, broken
		}
	}
	if len(found) == followBatch {
		last = found[len(found)-1].site
	}
	return ordered, last, broken
}

// outdated finds them. A host that holds more than is wanted is not asked: see ahead.
func (s *Sites) outdated(ctx context.Context, after contract.SiteID) ([]place, error) {
	rows, err := s.db.Reader().Query(ctx, `
		SELECT s.organization_id,
		       s.id
		FROM sites s
		JOIN organizations o ON o.id = s.organization_id
		WHERE s.policy_revision <> CASE WHEN $1 THEN o.policy_revision + $4 ELSE 0 END
		  AND s.phase IN ('active', 'suspended')
		  AND s.observed_generation <= s.generation
		  AND s.id > $2
		ORDER BY s.id
		LIMIT $3`, s.config.Schedule != nil, after.String(), followBatch, s.config.ScheduleRevision)
	if err != nil {
		return nil, err
	}
	return places(rows)
}

// followPolicy orders a site that was found so, if another schedule follows for it.
func (s *Sites) followPolicy(ctx context.Context, p place) (differs bool, err error) {
	err = db.InTx(ctx, s.db, func(tx *db.Tx) error {
		differs = false
		site, err := lock(ctx, tx, p.organization, p.site)
		if errors.Is(err, ErrNotFound) {
			return nil // it was removed for good since
		}
		if err != nil || site.gone() {
			return err
		}
		if differs, err = s.rescheduled(ctx, tx, site); err != nil {
			return err
		}
		if !differs {
			return label(ctx, tx, site)
		}
		if err := s.renew(ctx, tx, site); err != nil {
			return err
		}
		return s.orderAnew(ctx, tx, site, site.Wanted.Schedule.String())
	}, db.ReadCommitted())
	return differs && err == nil, err
}

// String says it in words.
func (s Schedule) String() string {
	if s.Interval == 0 {
		return "its host makes no backups by itself"
	}
	return "its host makes backups every " + s.Interval.String()
}
