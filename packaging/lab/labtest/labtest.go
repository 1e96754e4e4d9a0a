// Package labtest gives a test a lab of its own: hosts that are gone when the
// test is over, and whose words are in its log when it failed. A machine that
// cannot boot a lab fails the test; it never skips it.
package labtest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"chom.dev/packaging/lab"
)

// New makes a lab that lives as long as the test.
func New(t testing.TB) *lab.Lab {
	t.Helper()
	l, err := lab.New(t.Context(), lab.Options{Ephemeral: true, Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own has ended
		defer cancel()
		if t.Failed() {
			tell(ctx, t, l)
		}
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Base is lab.EnsureBase for tests.
func Base(t testing.TB, r lab.Release, f lab.Flavor) lab.Base {
	t.Helper()
	b, err := lab.EnsureBase(t.Context(), r, f, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Boot adds a running host to the lab.
func Boot(t testing.TB, l *lab.Lab, c lab.Config) *lab.Host {
	t.Helper()
	h, err := l.Boot(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Output runs a program in the host that must succeed, and returns what it printed.
func Output(t testing.TB, h *lab.Host, argv ...string) string {
	t.Helper()
	out, err := h.Output(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tell logs what the hosts have to say about a failed test.
func tell(ctx context.Context, t testing.TB, l *lab.Lab) {
	for _, h := range l.Hosts() {
		if !h.Alive() {
			t.Logf("host %s is off; its console:\n%s", h.Name(), h.Console())
			continue
		}
		for _, argv := range [][]string{
			{"systemctl", "list-units", "--failed", "--no-legend", "--plain"},
			{"journalctl", "--no-pager", "--lines=100", "--output=short-precise"},
		} {
			if out, err := h.Output(ctx, argv...); err != nil {
				t.Log(err)
			} else if out != "" {
				t.Logf("host %s: %s:\n%s", h.Name(), argv[0], out)
			}
		}
	}
}

func logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
