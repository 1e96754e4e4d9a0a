package site

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/organization"
)

// The organization's row is the truth that its sites follow, one by one: closing it does not wait for a thousand of them, and
// one that is created in the same moment is found as well. What a person wants of a site, its phase, stays as it is: a
// reopened organization has the sites that it had, suspended ones among them.
const (
	// followEvery is the net under the wake-ups, and bounds how long a site is missed that was created while its
	// organization closed.
	followEvery = 5 * time.Second
	// followBatch bounds how many hosts are given work at once.
	followBatch = 100
)

// follow looks whenever an organization changes, and now and then, until ctx ends.
func (s *Sites) follow(ctx context.Context) error {
	woken := make(chan struct{}, 1)
	var listening errgroup.Group
	listening.Go(func() error {
		return s.db.Listen(ctx, func(topic, _ string) {
			if topic == organization.Topic || topic == domain.Topic || topic == "" {
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
	for {
		if n, err := s.Follow(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "sites cannot follow their organizations", "err", err)
		} else if n > 0 {
			s.log.InfoContext(ctx, "sites followed their organizations", "count", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-woken:
		case <-tick.C:
		}
	}
}

// Follow orders the hosts of all sites whose organization closes, is closed or was reopened, or holds a name of theirs by now,
// to what follows from that, and says how many it were.
func (s *Sites) Follow(ctx context.Context) (int, error) {
	states, err := each(ctx, s.unfollowed, s.followOne)
	if err != nil {
		return states, err
	}
	names, err := each(ctx, s.unserved, s.serve)
	return states + names, err
}

// each has all sites that are behind follow, a batch after the other.
func each(ctx context.Context, behind func(context.Context) ([]place, error), one func(context.Context, place) error) (n int, err error) {
	for {
		batch, err := behind(ctx)
		if err != nil {
			return n, fmt.Errorf("find sites that do not follow: %w", err)
		}
		for _, b := range batch {
			if err := one(ctx, b); err != nil {
				return n, fmt.Errorf("have site %s follow its organization: %w", b.site, err)
			}
			n++
		}
		if len(batch) < followBatch {
			return n, nil
		}
	}
}

func (s *Sites) unfollowed(ctx context.Context) ([]place, error) {
	rows, err := s.db.Reader().Query(ctx, `
		SELECT s.organization_id,
		       s.id
		FROM organizations o
		JOIN sites s ON s.organization_id = o.id
		WHERE o.state <> 'active'
		  AND s.phase IN ('active', 'suspended')
		  AND (o.state = 'closed' OR NOT s.frozen)
		UNION ALL
		SELECT s.organization_id,
		       s.id
		FROM sites s
		JOIN organizations o ON o.id = s.organization_id
		WHERE s.frozen
		  AND s.phase IN ('active', 'suspended')
		  AND o.state = 'active'
		LIMIT $1`,
		followBatch)
	if err != nil {
		return nil, err
	}
	return places(rows)
}

func (s *Sites) followOne(ctx context.Context, p place) error {
	return db.InTx(ctx, s.db, func(tx *db.Tx) error {
		site, err := lock(ctx, tx, p.organization, p.site)
		if errors.Is(err, ErrNotFound) {
			return nil // it was removed for good since
		}
		if err != nil {
			return err
		}
		now := db.Time(db.Micros(time.Now()))
		action := followed(site, now, s.config.TrashPeriod)
		if action == "" {
			return nil // it changed since it was found
		}
		site.UpdatedAt = now
		if err := s.renew(ctx, tx, site); err != nil {
			return err
		}
		if _, err := s.converge(ctx, tx, site); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: p.organization.String(), Action: action, Object: p.site.String(), Detail: "the organization is " + string(site.owner),
		})
	}, db.ReadCommitted())
}

// followed alters a site to what follows from its organization's state, and names what that is; empty for nothing.
func followed(site *Site, now time.Time, trash time.Duration) string {
	if living(site) != nil {
		return ""
	}
	switch {
	case site.owner == organization.Closed:
		site.Wanted.Phase = Trashed
		site.TrashedAt, site.PurgeAt = now, now.Add(trash)
		return "site.delete"
	case site.owner == organization.Closing && !site.Wanted.Frozen:
		return "site.freeze"
	case site.owner == organization.Active && site.Wanted.Frozen:
		return "site.thaw"
	}
	return ""
}
