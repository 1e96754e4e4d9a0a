package certificate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// challenges is where nginx finds answers for CAs, at <dir>/<handle>/<token>:
// root's own, so that no site's user can answer there, and there only while the
// CA is about to ask.
type challenges struct{ dir string }

// token is what a CA may call a file: base64url (RFC 8555, section 8.1).
var token = regexp.MustCompile(`^[A-Za-z0-9_-]{1,255}$`)

func (c challenges) put(h contract.Handle, name, answer string) error {
	if !token.MatchString(name) {
		return errors.New("the CA's token is no token")
	}
	dir := filepath.Join(c.dir, h.String())
	for _, d := range []string{c.dir, dir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(d, 0o755); err != nil { // nginx's workers read here, whatever the agent's umask
			return err
		}
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(answer), 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}

func (c challenges) remove(h contract.Handle, name string) error {
	if !token.MatchString(name) {
		return nil // it was never put
	}
	err := os.Remove(filepath.Join(c.dir, h.String(), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (c challenges) removeAll(h contract.Handle) error {
	return os.RemoveAll(filepath.Join(c.dir, h.String()))
}

// clear removes what a former process left.
func (c challenges) clear() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear challenges: %w", err)
	}
	for _, e := range entries {
		if h, err := contract.ParseHandle(e.Name()); err == nil {
			if err := c.removeAll(h); err != nil {
				return fmt.Errorf("clear challenges: %w", err)
			}
		}
	}
	return nil
}

// challengeName is what ACME calls a want's challenge.
func (w want) challengeName() string {
	if w.challenge == sitev1.Challenge_CHALLENGE_DNS_01 {
		return acme.ChallengeTypeDNS01
	}
	return acme.ChallengeTypeHTTP01
}

// solver proves one name to a CA. The CA is answered for the ordered name only,
// whatever it asks for.
type solver struct {
	m *Manager
	want
}

// removeWithin bounds the removal of a record from when an order was given up: an
// agent that is stopped has ten seconds. Otherwise it may take what a DNS provider
// takes.
const removeWithin = 5 * time.Second

// Present makes the answer available, and returns when it is.
func (s solver) Present(ctx context.Context, c acme.Challenge) error {
	if c.Identifier.Value != s.name.Base().String() {
		return errors.New("the CA asks for a proof of another name than was ordered")
	}
	if s.challengeName() == acme.ChallengeTypeHTTP01 {
		if err := s.m.challenges.put(s.handle, c.Token, c.KeyAuthorization); err != nil {
			return &failure{kind: ofHost, text: "the answer for the CA could not be put where it looks", err: err}
		}
		return nil
	}
	_, err := s.m.cfg.Broker.PresentChallenge(ctx, &linkv1.PresentChallengeRequest{
		SiteId: s.site.String(), Domain: s.name.Base().String(), Value: c.DNS01KeyAuthorization(),
	})
	if err != nil {
		return brokerFailure("the TXT record for the CA could not be set", err)
	}
	return nil
}

// CleanUp takes the answer away, also after the order was given up.
func (s solver) CleanUp(ctx context.Context, c acme.Challenge) error {
	if s.challengeName() == acme.ChallengeTypeHTTP01 {
		err := s.m.challenges.remove(s.handle, c.Token)
		if err != nil {
			s.m.cfg.Log.Warn("an answer for a CA could not be removed", "name", s.name, "err", err)
		}
		return err
	}
	left, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(removeWithin, cancel) })()
	_, err := s.m.cfg.Broker.RemoveChallenge(left, &linkv1.RemoveChallengeRequest{
		SiteId: s.site.String(), Domain: s.name.Base().String(), Value: c.DNS01KeyAuthorization(),
	})
	if err != nil {
		s.m.cfg.Log.Warn("a TXT record for a CA could not be removed", "name", s.name, "err", err)
	}
	return err
}
