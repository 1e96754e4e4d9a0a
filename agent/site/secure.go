package site

import (
	"context"
	"errors"
	"fmt"

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
// served by HTTPS, renewed ones are read anew, an application learns that its
// address has changed. All of it with one reload. What fails at one site keeps no
// other one; the error names it.
func (s *Sites) Secure(ctx context.Context, reg betweener, ids []contract.SiteID) error {
	var failed []error
	var changed []contract.SiteID
	for _, id := range ids {
		err := s.between(ctx, reg, id, func(c *converge) error {
			placed, err := c.nginx.Place(ctx, c.web())
			if placed {
				changed = append(changed, id)
			}
			return err
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("site %s: %w", id, err))
		}
	}
	if err := s.nginx.Reload(ctx); err != nil {
		return errors.Join(append(failed, err)...)
	}
	for _, id := range ids {
		err := s.between(ctx, reg, id, func(c *converge) error {
			seen := s.look(ctx, c.site)
			if seen == nil {
				return nil
			}
			return reg.Observed(seen)
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("measure site %s: %w", id, err))
		}
	}
	for _, id := range changed {
		if err := s.between(ctx, reg, id, func(c *converge) error { return c.readdress(ctx) }); err != nil {
			s.log.Warn("an application was not told its new address", "site", id.String(), "err", err)
		}
	}
	return errors.Join(failed...)
}

// between acts at a site that is served and has no order to come.
func (s *Sites) between(ctx context.Context, reg betweener, id contract.SiteID, do func(*converge) error) error {
	return reg.Between(ctx, id, func(site task.Site) error {
		if site.Desired == nil || site.Converged != site.Desired.GetGeneration() {
			return nil // the order that comes takes it into use
		}
		if p := site.Desired.GetPhase(); p != sitev1.Phase_PHASE_ACTIVE && p != sitev1.Phase_PHASE_SUSPENDED {
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
