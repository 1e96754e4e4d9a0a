package site

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"chom.dev/agent/task"
	"chom.dev/plugins/host"
	"chom.dev/proto/contract"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// betweener lets somebody act at a site between its orders (package task).
type betweener interface {
	registry
	Between(context.Context, contract.SiteID, func(task.Site) error) error
}

// Secure takes certificates into use that sites got since: names that had none are
// served by HTTPS, renewed ones are read anew, all of it with one reload. It gives
// the sites for which nginx now serves what is on disk; of the others an order is on
// its way that changes which certificates they have, or nginx rejects them. An error
// means that nothing was reloaded.
func (s *Sites) Secure(ctx context.Context, reg betweener, ids []contract.SiteID) (served []contract.SiteID, err error) {
	handles := map[contract.Handle]contract.SiteID{}
	for _, id := range ids {
		err := reg.Between(ctx, id, func(site task.Site) error {
			if !steady(site) {
				// The order may never come to its end; renewals must not wait for that.
				same, err := s.unchanged(site.Handle)
				if same {
					handles[site.Handle] = id
				}
				return err
			}
			c, err := s.parse(task.Order{Site: site}, site.Desired)
			if err != nil {
				return err
			}
			changed, err := c.nginx.Place(ctx, c.web())
			if err == nil {
				handles[c.handle] = id
				s.fresh.add(id, changed)
			}
			return err
		})
		if err != nil {
			s.log.Warn("a site's certificates are not taken into use", "site", id.String(), "err", err)
		}
	}
	report, err := s.nginx.Reload(ctx, s.certs.Restore)
	for _, a := range report.SetAside {
		delete(handles, a.Handle)
	}
	if err != nil {
		return nil, fmt.Errorf("take certificates into use: %w", err)
	}
	s.fresh.ring()
	return slices.Collect(maps.Values(handles)), nil
}

// steady says that a site is served, and has no order to come.
func steady(site task.Site) bool {
	p := site.Desired.GetPhase()
	return site.Desired != nil && site.Converged == site.Desired.GetGeneration() && (p == sitev1.Phase_PHASE_ACTIVE || p == sitev1.Phase_PHASE_SUSPENDED)
}

// unchanged says that a site's configuration names the certificates that its names
// have, and no other: to reload is enough to serve them.
func (s *Sites) unchanged(h contract.Handle) (bool, error) {
	served, err := s.nginx.Certified(h)
	if err != nil || len(served) == 0 {
		return false, err
	}
	paths := s.certs.Paths(h, slices.Collect(maps.Keys(served)))
	for name, file := range served {
		if paths[name].Path != file {
			return false, nil
		}
	}
	return true, nil
}

// between acts at a site that is steady.
func (s *Sites) between(ctx context.Context, reg betweener, id contract.SiteID, do func(*converge) error) error {
	return reg.Between(ctx, id, func(site task.Site) error {
		if !steady(site) {
			return nil
		}
		c, err := s.parse(task.Order{Site: site}, site.Desired)
		if err != nil {
			return err
		}
		defer c.endPlugin()
		return do(c)
	})
}

// fresh are sites with certificates that are new in use: they are measured at once,
// and their applications are told where visitors come by HTTPS from now on.
type fresh struct {
	mu      sync.Mutex
	sites   map[contract.SiteID]bool // true: the application is to be told
	waiting chan struct{}
}

func newFresh() *fresh {
	return &fresh{sites: map[contract.SiteID]bool{}, waiting: make(chan struct{}, 1)}
}

func (f *fresh) add(id contract.SiteID, readdress bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sites[id] = f.sites[id] || readdress
}

func (f *fresh) ring() {
	select {
	case f.waiting <- struct{}{}:
	default:
	}
}

func (f *fresh) take() map[contract.SiteID]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.sites
	f.sites = map[contract.SiteID]bool{}
	return taken
}

// settleAtOnce bounds what fresh sites take of a small machine; one that lets us
// wait keeps only its own place.
const settleAtOnce = 4

// Settle sees to sites whose certificates are new in use, until the context ends. An
// application that could not be told is told again with the next certificate or order.
func (s *Sites) Settle(ctx context.Context, reg betweener) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.fresh.waiting:
		}
		var all errgroup.Group
		all.SetLimit(settleAtOnce)
		for id, readdress := range s.fresh.take() {
			all.Go(func() error {
				if err := s.settle(ctx, reg, id, readdress); err != nil && ctx.Err() == nil {
					s.log.Warn("a site with a new certificate was not seen to", "site", id.String(), "err", err)
				}
				return nil
			})
		}
		_ = all.Wait() // each has said what went wrong
	}
}

func (s *Sites) settle(ctx context.Context, reg betweener, id contract.SiteID, readdress bool) error {
	err := s.between(ctx, reg, id, func(c *converge) error {
		s.shown.anew(ctx, c.certs, c.site)
		seen := s.look(ctx, c.site)
		if seen == nil {
			return nil
		}
		return reg.Observed(seen)
	})
	if err != nil || !readdress {
		return err
	}
	if err := s.between(ctx, reg, id, func(c *converge) error { return c.readdress(ctx) }); err != nil {
		s.fresh.add(id, true)
		return fmt.Errorf("tell the application its address: %w", err)
	}
	return nil
}

// readdress has the application know whether visitors come by HTTPS.
func (c *converge) readdress(ctx context.Context) error {
	if c.desired.GetPhase() != sitev1.Phase_PHASE_ACTIVE || !c.needs.NeedsPHP {
		return nil // a suspended one is told when it is resumed; files have no address
	}
	return c.withPlugin(ctx, func(p *host.Session) error {
		st, err := p.Check(ctx, c.application())
		if err == nil && st.Installed {
			_, err = p.Update(ctx, c.application())
		}
		return err
	})
}
