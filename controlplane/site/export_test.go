package site

import (
	"context"
	"time"
)

// Looks gives what Run does again and again, for tests that tell it what time it is. It starts at start.
func (s *Sites) Looks(start time.Time) func(ctx context.Context, now time.Time) {
	l := s.newLook(start)
	s.look(context.Background(), l, start)
	return func(ctx context.Context, now time.Time) { s.look(ctx, l, now) }
}
