// Package clocktest makes moments as they read after somebody has set the
// machine's clock, for tests that can't set it: that would be every process's.
package clocktest

import (
	"testing"
	"time"
	"unsafe"
)

// Set gives a moment, as time.Now gave it, as it reads after the wall clock was
// set by so many seconds: its monotonic reading stays.
func Set(t testing.TB, now time.Time, by time.Duration) time.Time {
	t.Helper()
	shown := now
	// The layout of a Time with a monotonic reading since Go 1.9: a flag, 33 bits
	// of seconds and 30 of nanoseconds, and then the monotonic clock.
	wall := (*uint64)(unsafe.Pointer(&shown))
	*wall = uint64(int64(*wall) + int64(by/time.Second)<<30)
	if shown.Sub(now) != 0 || shown.Round(0).Sub(now.Round(0)) != by {
		t.Fatalf("package time has another layout: %s was to be set by %s and became %s", now, by, shown)
	}
	return shown
}
