package clock_test

import (
	"testing"
	"testing/synctest"
	"time"

	"chom.dev/controlplane/clock"
	"chom.dev/controlplane/clock/clocktest"
)

func TestWatch(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for name, by := range map[string]time.Duration{
		"an hour ahead": time.Hour, "an hour back": -time.Hour, "ten years ahead": 10 * year, "ten years back": -10 * year,
	} {
		t.Run(name, func(t *testing.T) {
			var w clock.Watch
			now := time.Now()
			if jump := w.Jump(now); jump != 0 {
				t.Errorf("the first look saw a jump by %s", jump)
			}
			if jump := w.Jump(clocktest.Set(t, now.Add(2*time.Second), by)); jump != by {
				t.Errorf("it saw a jump by %s", jump)
			}
			if jump := w.Jump(clocktest.Set(t, now.Add(4*time.Second), by)); jump != 0 {
				t.Errorf("it saw the same jump again, by %s", jump)
			}
			if jump := w.Jump(now.Add(6 * time.Second)); jump != -by {
				t.Errorf("set right again, it saw a jump by %s", jump)
			}
		})
	}
	t.Run("a year that passes is no jump", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var w clock.Watch
			w.Jump(time.Now())
			time.Sleep(year)
			if jump := w.Jump(time.Now()); jump != 0 {
				t.Errorf("it saw a jump by %s", jump)
			}
		})
	})
}

func TestWall(t *testing.T) {
	var w clock.Wall
	now := time.Now()
	if !w.Trust(now) || !w.Trust(now.Add(time.Minute)) {
		t.Fatal("a clock that goes is not trusted")
	}
	if w.Trust(clocktest.Set(t, now.Add(2*time.Minute), 8*24*time.Hour)) {
		t.Error("a clock that was set forward by a week is trusted")
	}
	if w.Trust(clocktest.Set(t, now.Add(3*time.Minute), 8*24*time.Hour)) {
		t.Error("it is trusted again before the pause is over")
	}
}
