// Package clock knows what time it is at the control plane. The host's own
// clock may be off by hours or years and may jump; expiry of orders and
// certificates is decided by those who set it, so their time counts. Between
// two answers the monotonic clock carries it on, which no jump touches.
package clock

import (
	"sync"
	"time"
)

// Clock is safe for concurrent use; its zero value knows nothing yet.
type Clock struct {
	mu     sync.Mutex
	server time.Time // what the control plane said
	at     time.Time // when it said so, by our monotonic clock
}

// Set notes the control plane's time, as just received.
func (c *Clock) Set(server time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server, c.at = server, time.Now()
}

// SetBack notes the control plane's time where it is behind of what is known by
// more than a message takes, and says by how much: somebody has set its clock
// back. One that is ahead says nothing here.
func (c *Clock) SetBack(server time.Time) (by time.Duration) {
	now, confirmed := c.Now()
	if by = now.Sub(server); !confirmed || by < inTransit {
		return 0
	}
	c.Set(server)
	return by
}

// inTransit is the longest that a message is on its way, and calls end by then.
const inTransit = 30 * time.Second

// Now gives the control plane's time. While nothing is known of it, it gives
// the host's own, and false.
func (c *Clock) Now() (now time.Time, confirmed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return time.Now(), false
	}
	return c.server.Add(time.Since(c.at)), true
}

// Time is Now for those who have no use for the difference.
func (c *Clock) Time() time.Time {
	now, _ := c.Now()
	return now
}

// Skew is how far the host's clock is ahead of the control plane's.
func (c *Clock) Skew() time.Duration {
	now, _ := c.Now()
	return time.Now().Round(0).Sub(now.Round(0)) // Round drops the monotonic reading
}
