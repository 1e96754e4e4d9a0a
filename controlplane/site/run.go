package site

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/controlplane/clock"
)

const (
	// lookEvery is how often sites are looked for that leave the trash or are tried again: seconds mean nothing to either.
	lookEvery = 10 * time.Second
	// jumpMin is what makes times in the trash worthless: less means nothing after seven days.
	jumpMin = 5 * time.Minute
	// startHold is how long nothing leaves the trash after the start: a clock may be years ahead until somebody sets it.
	startHold = time.Hour
)

// Run does what time brings, until ctx ends: it has sites removed whose time in the trash is over, orders those again
// whose last task failed, follows what becomes of organizations and of
// their backup policies, and looks whether names lead to their sites.
func (s *Sites) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return s.keepTime(ctx) })
	g.Go(func() error { return s.follow(ctx) })
	g.Go(func() error { return s.followPolicies(ctx) })
	g.Go(func() error { return s.watchNames(ctx) })
	g.Go(func() error { return s.watchGlances(ctx) })
	return g.Wait()
}

func (s *Sites) keepTime(ctx context.Context) error {
	ticker := time.NewTicker(min(lookEvery, max(s.config.TrashPeriod/4, time.Second))) // a short period is kept as well
	defer ticker.Stop()
	l := s.newLook(time.Now())
	for {
		s.look(ctx, l, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look is what Run knows from one look to the next.
type look struct {
	watch     clock.Watch
	purgeFrom time.Time
	set       bool // the clock was set, and the trash does not take account of it yet
}

func (s *Sites) newLook(now time.Time) *look {
	return &look{purgeFrom: now.Add(min(startHold, s.config.TrashPeriod))}
}

func (s *Sites) look(ctx context.Context, l *look, now time.Time) {
	if jump := l.watch.Jump(now); jump.Abs() > jumpMin {
		s.log.WarnContext(ctx, "the clock was set; sites in the trash get their whole time again", "by", jump)
		l.set = true
	}
	if l.set {
		err := s.refreshTrash(ctx, now)
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "nothing leaves the trash: its times cannot be set", "err", err)
		}
		l.set = err != nil
	}
	if !l.set && !now.Before(l.purgeFrom) {
		s.purgeAndTell(ctx, now)
	}
	s.tryAgainAndTell(ctx, now)
}

func (s *Sites) purgeAndTell(ctx context.Context, now time.Time) {
	if n, err := s.Purge(ctx, now); err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "sites cannot be purged", "err", err)
	} else if n > 0 {
		s.log.InfoContext(ctx, "sites leave the trash", "count", n)
	}
}

func (s *Sites) tryAgainAndTell(ctx context.Context, now time.Time) {
	n, err := s.TryAgain(ctx, now)
	if err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "sites cannot be ordered again", "err", err)
	}
	if n > 0 {
		s.log.InfoContext(ctx, "sites whose task failed are ordered again", "count", n)
	}
}
