package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestClock(t *testing.T) {
	t.Run("gives the host's time, unconfirmed, before the control plane spoke", func(t *testing.T) {
		var c Clock
		if now, ok := c.Now(); ok || time.Since(now) > time.Minute {
			t.Fatalf("Now() = %v, %v", now, ok)
		}
	})
	t.Run("goes back with the control plane's clock, never ahead, and not for a slow message", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC)
			var c Clock
			if by := c.SetBack(start); by != 0 {
				t.Errorf("before Hello it was set back by %s", by)
			}
			c.Set(start)
			for _, ahead := range []time.Duration{-20 * time.Second, 0, time.Hour, 10 * 365 * 24 * time.Hour} {
				if by := c.SetBack(start.Add(ahead)); by != 0 || !c.Time().Equal(start) {
					t.Errorf("%s ahead it was set back by %s to %s", ahead, by, c.Time())
				}
			}
			if by := c.SetBack(start.Add(-time.Hour)); by != time.Hour || !c.Time().Equal(start.Add(-time.Hour)) {
				t.Errorf("it was set back by %s to %s", by, c.Time())
			}
		})
	})
	t.Run("carries the control plane's time on, whatever the host's clock shows", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var c Clock
			c.Set(time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC))
			time.Sleep(90 * time.Minute)
			if now, ok := c.Now(); !ok || !now.Equal(time.Date(2036, 1, 1, 1, 30, 0, 0, time.UTC)) {
				t.Fatalf("Now() = %v, %v", now, ok)
			}
			if c.Skew() > -24*time.Hour {
				t.Fatalf("skew %v does not show that the host is years behind", c.Skew())
			}
		})
	})
}
