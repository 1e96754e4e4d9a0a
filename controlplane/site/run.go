package site

import (
	"context"
	"time"
)

// lookEvery is how often sites are looked for that leave the trash or are tried again: seconds mean nothing to either.
const lookEvery = 10 * time.Second

// A clock that is set forward makes sites look overdue that are not, and what is purged is gone. So after a jump nothing is
// purged for a while, in which somebody may set the clock right.
const (
	jumpMin   = 5 * time.Minute
	jumpPause = time.Hour
)

// jumped says whether the wall clock went on by much more than the time that passed.
func jumped(before, now time.Time) bool {
	passed := now.Sub(before)                  // by the monotonic clock
	shown := now.Round(0).Sub(before.Round(0)) // by the wall clock
	return jumpedBy(shown - passed)
}

func jumpedBy(d time.Duration) bool { return d > jumpMin }

// Run does what time brings, until ctx ends: it has sites removed whose time in the trash is over, and orders those again
// whose last task failed.
func (s *Sites) Run(ctx context.Context) error {
	ticker := time.NewTicker(min(lookEvery, max(s.config.TrashPeriod/4, time.Second))) // a short period is kept as well
	defer ticker.Stop()
	before, pause := time.Now(), time.Time{}
	for {
		now := time.Now()
		if jumped(before, now) {
			pause = now.Add(jumpPause)
			s.log.WarnContext(ctx, "the clock was set forward; nothing leaves the trash for a while", "for", jumpPause)
		}
		before = now
		if !now.Before(pause) {
			s.purgeAndTell(ctx, now)
		}
		s.tryAgainAndTell(ctx, now)
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

func (s *Sites) tryAgainAndTell(ctx context.Context, now time.Time) {
	n, err := s.TryAgain(ctx, now)
	if err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "sites cannot be ordered again", "err", err)
	}
	if n > 0 {
		s.log.InfoContext(ctx, "sites whose task failed are ordered again", "count", n)
	}
}
