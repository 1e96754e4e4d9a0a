package site

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"chom.dev/agent/certificate"
	"chom.dev/agent/nginx"
	"chom.dev/agent/page"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// observe measures the site as a visitor sees it, and takes from this attempt's
// plugin what only the plugin knows.
func (c *converge) observe(ctx context.Context) (*sitev1.ObservedState, error) {
	if c.desired.GetPhase() == sitev1.Phase_PHASE_ABSENT {
		st, err := c.shells.Probe(c.handle, c.uid)
		if err != nil {
			return nil, err
		}
		if st.Absent {
			return &sitev1.ObservedState{Phase: sitev1.Phase_PHASE_ABSENT}, nil
		}
	}
	seen := measure(ctx, c.nginx, c.domains[0])
	seen.Certificates = c.shown.anew(ctx, c.certs, c.site)
	seen.AppVersion = c.site.Observed.GetAppVersion()
	if c.state != nil {
		seen.AppVersion = task.Line(c.state.Version, 64)
	}
	if c.needs.NeedsPHP {
		seen.PhpVersion = c.release.Version.String()
	}
	return seen, nil
}

// measure asks nginx for the home page, past any name resolution.
func measure(ctx context.Context, web *nginx.Manager, d contract.Domain) *sitev1.ObservedState {
	ctx, cancel := context.WithTimeout(ctx, answerWithin) // a page that hangs says nothing of the certificates
	defer cancel()
	seen := &sitev1.ObservedState{Phase: sitev1.Phase_PHASE_TRASHED} // nobody serves it
	status, body, err := web.Get(ctx, d, "/")
	var refused *nginx.RejectedError
	switch {
	case errors.As(err, &refused):
		seen.Problem = task.Line(refused.Reason, 1024)
	case err == nil:
		seen.HttpStatus = uint32(status)
		seen.PageTitle = task.Line(page.Title(body), 512)
		seen.Phase = sitev1.Phase_PHASE_ACTIVE
		if status == http.StatusServiceUnavailable {
			seen.Phase = sitev1.Phase_PHASE_SUSPENDED
		}
		if status >= http.StatusInternalServerError && status != http.StatusServiceUnavailable {
			seen.Problem = fmt.Sprintf("the home page answers %d", status)
		}
	}
	return seen
}

// registry is what the prober needs of the task engine.
type registry interface {
	Sites() ([]task.Site, error)
	Observed(*sitev1.ObservedState) error
}

const (
	// probeEvery is how old what people see of a site may be.
	probeEvery = time.Minute
	// tellEvery is how often an unchanged measurement is told again.
	tellEvery = 10 * time.Minute
	// shakeEvery is how old what people see of a certificate may be. A handshake for each name of hundreds of sites is work;
	// what changes a certificate has it measured at once.
	shakeEvery = 5 * time.Minute
)

// shown is what was last measured of the sites' certificates.
type shown struct {
	mu    sync.Mutex
	sites map[contract.SiteID]measured
}

type measured struct {
	at           time.Time
	certificates []*sitev1.ObservedCertificate
}

func newShown() *shown { return &shown{sites: map[contract.SiteID]measured{}} }

// keep forgets sites that are gone.
func (s *shown) keep(sites []task.Site) {
	here := map[contract.SiteID]bool{}
	for _, site := range sites {
		here[site.ID] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.sites, func(id contract.SiteID, _ measured) bool { return !here[id] })
}

// anew measures a site's certificates now.
func (s *shown) anew(ctx context.Context, certs *certificate.Manager, site task.Site) []*sitev1.ObservedCertificate {
	seen := measured{time.Now(), certs.Observe(ctx, site)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sites[site.ID] = seen
	return seen.certificates
}

// lately gives what was measured, anew if that is too long ago or was not good:
// somebody waits for it to become so.
func (s *shown) lately(ctx context.Context, certs *certificate.Manager, site task.Site) []*sitev1.ObservedCertificate {
	s.mu.Lock()
	seen, ok := s.sites[site.ID]
	s.mu.Unlock()
	bad := func(c *sitev1.ObservedCertificate) bool { return !c.GetValid() || c.GetProblem() != "" }
	if !ok || time.Since(seen.at) >= shakeEvery || slices.ContainsFunc(seen.certificates, bad) {
		return s.anew(ctx, certs, site)
	}
	return seen.certificates
}

// Probe measures every site that should be served, again and again, and tells
// what changed. One at a time: a probe must not be a load.
func (s *Sites) Probe(ctx context.Context, reg registry) error {
	told := map[contract.SiteID]*sitev1.ObservedState{}
	at := map[contract.SiteID]time.Time{}
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		sites, err := reg.Sites()
		if err != nil {
			return err
		}
		s.shown.keep(sites)
		for _, site := range sites {
			seen := s.look(ctx, site)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if seen == nil || (proto.Equal(seen, told[site.ID]) && time.Since(at[site.ID]) < tellEvery) {
				continue
			}
			told[site.ID], at[site.ID] = proto.CloneOf(seen), time.Now()
			if err := reg.Observed(seen); err != nil {
				s.log.Warn("a measurement of a site was not kept", slog.String("site", site.ID.String()), slog.Any("err", err))
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// look measures one site that has been converged; nil for others.
func (s *Sites) look(ctx context.Context, site task.Site) *sitev1.ObservedState {
	if site.Desired == nil || site.Converged == 0 || site.Converged != site.Desired.GetGeneration() || len(site.Desired.GetDomains()) == 0 {
		return nil // an order is on its way, and measures at its end
	}
	if p := site.Desired.GetPhase(); p != sitev1.Phase_PHASE_ACTIVE && p != sitev1.Phase_PHASE_SUSPENDED {
		return nil
	}
	d, err := contract.ParseDomain(site.Desired.GetDomains()[0])
	if err != nil {
		return nil
	}
	seen := measure(ctx, s.nginx, d)
	seen.Certificates = s.shown.lately(ctx, s.certs, site)
	seen.SiteId = site.ID.String()
	seen.AppVersion = site.Observed.GetAppVersion()
	seen.PhpVersion = site.Observed.GetPhpVersion()
	if seen.GetPhase() != site.Desired.GetPhase() && seen.GetProblem() == "" {
		seen.Problem = fmt.Sprintf("the site should be %s and is not", strings.ToLower(strings.TrimPrefix(site.Desired.GetPhase().String(), "PHASE_")))
	}
	return seen
}
