package certificate

import (
	"context"
	"errors"
	"time"

	"chom.dev/controlplane/clock"
)

const (
	idle = 15 * time.Second // between two looks at the table
	// countEvery is how old gauges may be.
	countEvery = 5 * time.Minute
)

// trust is what Run remembers from one turn to the next.
type trust struct {
	wall    clock.Wall
	counted time.Time
}

// Run looks at certificates from outside and raises alarms when they are due, until ctx ends.
func (c *Certificates) Run(ctx context.Context) error {
	defer c.looking.Wait()
	var so trust
	failing := false
	for {
		err := c.turn(ctx, &so, time.Now())
		if err != nil && ctx.Err() == nil && !failing {
			c.log.WarnContext(ctx, "certificates can't be looked at", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-time.After(idle):
		}
	}
}

// turn does what is due. After the clock was set forward it does nothing for an hour, in which it may be set right.
func (c *Certificates) turn(ctx context.Context, so *trust, now time.Time) error {
	if !so.wall.Trust(now) {
		return nil
	}
	for more := true; more && ctx.Err() == nil; {
		alarms, err := c.warn(ctx, now)
		if err := errors.Join(err, c.look(ctx, now)); err != nil {
			return err
		}
		more = alarms
	}
	if now.Sub(so.counted) < countEvery {
		return nil
	}
	so.counted = now
	return c.gauges.count(ctx, c.db.Reader())
}
