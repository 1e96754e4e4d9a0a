package certificate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/acmez/v3/acme"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func TestChallenges(t *testing.T) {
	w := newWorld(t, nil)
	s := w.have(1, byHTTP("a.example.com"), "a.example.com")
	t.Run("an answer can be read by nginx, whatever the umask, and goes", func(t *testing.T) {
		old := syscall.Umask(0o077)
		defer syscall.Umask(old)
		must(t, w.challenges.put(s.Handle, "token_-1", "answer"))
		path := filepath.Join(w.cfg.ChallengeDir, s.Handle.String(), "token_-1")
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o644 {
			t.Errorf("file: %v, %v", st.Mode(), err)
		}
		for _, dir := range []string{w.cfg.ChallengeDir, filepath.Dir(path)} {
			if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o755 {
				t.Errorf("%s: %v, %v", dir, st.Mode(), err)
			}
		}
		must(t, w.challenges.remove(s.Handle, "token_-1"))
		if _, err := os.Stat(path); err == nil {
			t.Error("it is left")
		}
	})
	t.Run("a CA's token is not a path", func(t *testing.T) {
		for _, name := range []string{"", ".", "..", "../x", "a/b", "/etc/x", "a\x00b", "a b", strings.Repeat("x", 256)} {
			if err := w.challenges.put(s.Handle, name, "answer"); err == nil || !strings.Contains(err.Error(), "token") {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
	t.Run("a CA that asks for another name gets no answer", func(t *testing.T) {
		c := acme.Challenge{Token: "token", KeyAuthorization: "token.x", Identifier: acme.Identifier{Type: "dns", Value: "b.example.com"}}
		if err := (solver{w.Manager, wants(s)[0]}).Present(t.Context(), c); err == nil {
			t.Error("answered")
		}
		if _, err := os.Stat(filepath.Join(w.cfg.ChallengeDir, s.Handle.String(), "token")); err == nil {
			t.Error("an answer is there")
		}
	})
	t.Run("what a killed agent left goes at the start", func(t *testing.T) {
		must(t, w.challenges.put(s.Handle, "left", "answer"))
		must(t, w.challenges.clear())
		if left, err := filepath.Glob(w.cfg.ChallengeDir + "/*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

// slow is a control plane whose DNS provider takes its time.
type slow struct {
	away
	takes time.Duration
}

func (s slow) answer(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.takes):
		return nil
	}
}

func (s slow) IssuePlatformCertificate(ctx context.Context, _ *linkv1.IssuePlatformCertificateRequest) (*linkv1.IssuePlatformCertificateResponse, error) {
	return nil, errors.Join(s.answer(ctx), errAway)
}

func (s slow) RemoveChallenge(ctx context.Context, _ *linkv1.RemoveChallengeRequest) (*linkv1.RemoveChallengeResponse, error) {
	return nil, s.answer(ctx)
}

func TestSlowProvider(t *testing.T) {
	byDNS := &sitev1.Https{Acme: []*sitev1.AcmeDomain{{Name: "*.example.com", Challenge: sitev1.Challenge_CHALLENGE_DNS_01}}, PlatformDomains: []string{"shop.preview.example.net"}}
	t.Run("has the time that it takes to remove a record", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Broker = slow{takes: 2 * time.Minute} })
			s := solver{w.Manager, wants(w.have(1, byDNS, "*.example.com"))[1]}
			if err := s.CleanUp(t.Context(), acme.Challenge{}); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("has five seconds when the order is given up, before or meanwhile", func(t *testing.T) {
		for _, after := range []time.Duration{0, time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(c *Config) { c.Broker = slow{takes: 2 * time.Minute} })
				s := solver{w.Manager, wants(w.have(1, byDNS, "*.example.com"))[1]}
				ctx, cancel := context.WithTimeout(t.Context(), after)
				defer cancel()
				start := time.Now()
				if err := s.CleanUp(ctx, acme.Challenge{}); err == nil || time.Since(start) != after+removeWithin {
					t.Errorf("after %s: %v", time.Since(start), err)
				}
			})
		}
	})
	t.Run("a site that is being made waits ten seconds", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Broker = slow{takes: time.Minute} })
			start := time.Now()
			if err := w.EnsurePlatform(t.Context(), w.have(1, byDNS, "*.example.com")); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
				t.Errorf("after %s: %v", time.Since(start), err)
			}
		})
	})
}
