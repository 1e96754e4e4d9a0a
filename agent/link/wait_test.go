package link

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"log/slog"
)

func quiet() *Link { return New(Config{Log: slog.New(slog.DiscardHandler)}) }

func TestBackoff(t *testing.T) {
	t.Run("is anywhere below a limit that doubles up to 20 s", func(t *testing.T) {
		for failures, limit := range []time.Duration{1, 2, 4, 8, 16, 20, 20, 20} {
			if got := backoff(failures, 1); got != limit*time.Second {
				t.Errorf("after %d failures at most %s, want %s", failures, got, limit*time.Second)
			}
			if got := backoff(failures, 0.5); got != limit*time.Second/2 {
				t.Errorf("after %d failures half of it is %s", failures, got)
			}
			if got := backoff(failures, 0); got <= 0 {
				t.Errorf("after %d failures it may be %s: a hot loop", failures, got)
			}
		}
	})
}

func TestAfter(t *testing.T) {
	unavailable := connect.NewError(connect.CodeUnavailable, errors.New("x"))
	busy := connect.NewError(connect.CodeResourceExhausted, errors.New("x"))
	busy.Meta().Set("Retry-After", "90")
	for _, c := range []struct {
		claim     string
		failures  int
		err       error
		low, high time.Duration
	}{
		{"a stale epoch is renewed at once", 0, errStale, 0, 0},
		{"but not for ever", 3, errStale, 1, 8 * time.Second},
		{"a new certificate is used at once", 0, errRenewed, 0, 0},
		{"a refused next identity gives way at once", 9, errTryOther, 0, 0},
		{"a drain is spread over its window", 5, drained{30 * time.Second}, 0, 30 * time.Second},
		{"and not over a year", 0, drained{365 * 24 * time.Hour}, 0, maxDrain},
		{"a refusal lasts a minute and more", 0, connect.NewError(connect.CodePermissionDenied, errors.New("x")), time.Minute, 2 * time.Minute},
		{"so does a certificate that is turned down", 0, errors.New("remote error: tls: bad certificate"), time.Minute, 2 * time.Minute},
		{"a failure backs off", 4, unavailable, 1, 16 * time.Second},
		{"who is asked to stay away does so, and jitters", 0, busy, 90 * time.Second, 91 * time.Second},
	} {
		t.Run(c.claim, func(t *testing.T) {
			for range 200 {
				l := quiet()
				l.failures = c.failures
				if got, _ := l.after(c.err); got < c.low || got > c.high {
					t.Fatalf("waits %s, want %s to %s", got, c.low, c.high)
				}
			}
		})
	}
}

func TestAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quiet()
		l.progress(time.Minute)
		time.Sleep(time.Minute)
		if err := l.Alive(); err != nil {
			t.Error("it is taken for hung too early:", err)
		}
		time.Sleep(time.Second)
		if err := l.Alive(); err == nil {
			t.Error("a link that shows no progress is taken for alive")
		}
	})
}
