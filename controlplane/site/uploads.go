package site

import (
	"context"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/domain"
	"chom.dev/proto/contract"
)

// Held are those of a site's own names that its organization holds, for whoever brings certificates for them. It refuses a site that
// cannot be changed.
func (s *Sites) Held(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) ([]contract.Domain, error) {
	site, err := lock(ctx, tx, organization, id)
	if err != nil {
		return nil, err
	}
	if err := changeable(site); err != nil {
		return nil, err
	}
	var held []contract.Domain
	for _, name := range site.Wanted.Domains {
		holds := s.config.AnyName
		if !holds {
			if holds, err = domain.Holds(ctx, tx, organization, name); err != nil {
				return nil, err
			}
		}
		if holds {
			held = append(held, name)
		}
	}
	return held, nil
}

// Recertify gives a site a new generation, since it has other certificates of its organization's than before, and its host the
// order to bring it about. A site in the trash hears of it when it is restored.
func (s *Sites) Recertify(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) error {
	site, err := lock(ctx, tx, organization, id)
	if err != nil || living(site) != nil {
		return err
	}
	if err := s.renew(ctx, tx, site); err != nil {
		return err
	}
	site.UpdatedAt = db.Time(db.Micros(time.Now()))
	_, err = s.converge(ctx, tx, site)
	return err
}
