package backup

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	rnd "math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/controlplane/db"
)

const (
	// workers is how many repositories are read at once: each is a program of its own, with some hundred MiB.
	workers = 2
	// receivers is how many are written to at once, besides.
	receivers = 2
	// keepers is how many are looked after at once, besides.
	keepers = 2
	idle    = 15 * time.Second // between two looks at the table
	// claimFor is how long nobody else looks at a backup after a process was last heard of that does, six renewals.
	claimFor = 3 * time.Minute
	// renewEvery is also how long what was cancelled goes on.
	renewEvery = claimFor / 6
	// giveUpAfter is how long a backup is CHECKING at most, and how long it is tried to bring one from elsewhere. Its site has no newer
	// one until then.
	giveUpAfter = 24 * time.Hour
	firstRest   = 5 * time.Second
	// longestRest is how long a store that was away is left alone. What is due later than that was written by a clock that has
	// been set back since.
	longestRest = 10 * time.Minute
)

// restAfter is how long something rests that failed so many times in a row.
func restAfter(tries int) time.Duration {
	rest := min(firstRest<<min(max(tries-1, 0), 10), longestRest)
	return rest - rnd.N(rest/4) // what failed together is not tried again together
}

// Run brings backups from elsewhere, checks backups, begins the drills that are due, looks after repositories, raises alarms, and removes the repositories of sites
// that are gone, until ctx ends.
func (b *Backups) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		// Only the context or the end of the database ends it; the loops look by themselves too.
		_ = b.db.Listen(ctx, func(heard, _ string) {
			if heard != topic && heard != "" {
				return
			}
			for _, wake := range []chan struct{}{b.wake, b.arrive} {
				select {
				case wake <- struct{}{}:
				default: // all are awake
				}
			}
		})
		return nil
	})
	for range workers {
		g.Go(func() error { return b.loop(ctx, b.wake, "backups can't be checked", b.checkNext) })
	}
	for range receivers {
		g.Go(func() error { return b.loop(ctx, b.arrive, "backups can't be brought from elsewhere", b.receiveNext) })
	}
	for range keepers {
		g.Go(func() error { return b.loop(ctx, nil, "repositories can't be looked after", b.keepNext) })
	}
	g.Go(func() error { return b.loop(ctx, nil, "sites without good backups can't be looked for", b.warn) })
	g.Go(func() error {
		return b.loop(ctx, nil, "organizations near their quota can't be looked for", func(ctx context.Context, now time.Time) (bool, error) {
			return false, b.warnQuotas(ctx, now)
		})
	})
	g.Go(func() error {
		var counted time.Time
		return b.loop(ctx, nil, "backups can't be counted", func(ctx context.Context, now time.Time) (bool, error) {
			if now.Sub(counted).Abs() < countEvery {
				return false, nil
			}
			counted = now
			return false, errors.Join(b.gauges.count(ctx, b.db.Reader()), b.countProven(ctx, now))
		})
	})
	g.Go(func() error {
		return b.loop(ctx, nil, "repositories of sites that are gone can't be looked for", func(ctx context.Context, now time.Time) (bool, error) {
			return false, b.removeGone(ctx, now)
		})
	})
	g.Go(func() error {
		return b.loop(ctx, nil, "uploads can't be removed", func(ctx context.Context, now time.Time) (bool, error) {
			return false, b.sweepImports(ctx, now)
		})
	})
	g.Go(func() error {
		return b.loop(ctx, nil, "drills can't be begun", func(ctx context.Context, now time.Time) (bool, error) {
			return false, b.beginDrills(ctx, now)
		})
	})
	return g.Wait()
}

// loop does what is due, again at once where there may be more, and when it is woken.
func (b *Backups) loop(ctx context.Context, wake <-chan struct{}, trouble string, do func(context.Context, time.Time) (more bool, err error)) error {
	failing := false
	for ctx.Err() == nil {
		b.trusts(time.Now()) // it is to be asked every few minutes
		more, err := do(ctx, time.Now())
		if err != nil && ctx.Err() == nil && !failing {
			b.log.WarnContext(ctx, trouble, "err", err)
		}
		if failing = err != nil; more && !failing {
			continue
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-time.After(idle):
		}
	}
	return nil
}

// trusts says whether times may end things: not after the clock was set forward.
func (b *Backups) trusts(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wall.Trust(now)
}

// claimed is a backup that this process looks at.
type claimed struct {
	Backup
	claim string
}

// checkNext checks the backup that is due first, and says whether there was one.
func (b *Backups) checkNext(ctx context.Context, now time.Time) (bool, error) {
	return b.next(ctx, now, false, b.check)
}

// next does what is to be done with the backup that is due first, of those that are RUNNING or of the others.
func (b *Backups) next(ctx context.Context, now time.Time, running bool, do func(context.Context, claimed) error) (bool, error) {
	c, err := b.claim(ctx, now, running)
	if err != nil || c == nil {
		return false, err
	}
	working, done := context.WithCancel(ctx)
	var renewing errgroup.Group
	renewing.Go(func() error { defer done(); return b.renew(working, *c) })
	broken := do(working, *c)
	done()
	if lost := renewing.Wait(); lost != nil && broken != nil {
		broken = lost
	}
	if broken == nil {
		return true, nil
	}
	if ctx.Err() != nil { // the process ends: another one goes on at once
		broken = fmt.Errorf("stopped: %w", ctx.Err())
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		return false, errors.Join(broken, b.put(end, `
			UPDATE backups
			SET check_at = $4,
			    claim = ''
			WHERE organization_id = $1
			  AND id = $2
			  AND claim = $3`, c.Organization, c.ID, c.claim, db.Micros(now)))
	}
	return true, b.settle(ctx, *c, time.Now(), broken)
}

// claim takes the backup that is due first, of those that are RUNNING or of the others; nil when none is.
func (b *Backups) claim(ctx context.Context, now time.Time, running bool) (*claimed, error) {
	taken := claimed{claim: rand.Text()}
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		var err error
		taken.Backup, err = scan(tx.QueryRow(ctx, columns+`
			WHERE check_at IS NOT NULL
			  AND (state = 'running') = $3
			  AND (check_at <= $1 OR check_at > $2)
			  AND NOT EXISTS (
			      SELECT 1
			      FROM repositories r
			      WHERE r.organization_id = backups.organization_id
			        AND r.site_id = backups.site_id
			        AND r.held_until > $1
			  )
			ORDER BY check_at
			LIMIT 1`+skipLocked(tx), db.Micros(now), db.Micros(now.Add(longestRest)), running))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE backups
			SET check_at = $3,
			    claim = $4
			WHERE organization_id = $1
			  AND id = $2`, taken.Organization, taken.ID, db.Micros(now.Add(claimFor)), taken.claim)
		return err
	}, db.ReadCommitted())
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take a backup: %w", err)
	}
	return &taken, nil
}

// skipLocked has processes that look at the same time take different backups.
func skipLocked(tx *db.Tx) string {
	if tx.ForUpdate() == "" {
		return ""
	}
	return tx.ForUpdate() + " SKIP LOCKED"
}

// renew keeps a backup for this process while it looks, until ctx ends. It says errLost when the backup is none of its business any
// more.
func (b *Backups) renew(ctx context.Context, c claimed) error {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
			n, err := tx.Exec(ctx, `
				UPDATE backups
				SET check_at = $4
				WHERE organization_id = $1
				  AND id = $2
				  AND claim = $3`, c.Organization, c.ID, c.claim, db.Micros(time.Now().Add(claimFor)))
			if err == nil && n == 0 {
				err = errLost
			}
			return err
		}, db.ReadCommitted())
		switch {
		case errors.Is(err, errLost):
			return errLost
		case err != nil && ctx.Err() == nil:
			b.log.WarnContext(ctx, "another process may begin to look at a backup too", "backup", c.ID, "err", err)
		}
	}
}
