package site

import (
	"context"

	"chom.dev/controlplane/db"
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
		holds, err := s.holds(ctx, tx, organization, name)
		if err != nil {
			return nil, err
		}
		if holds {
			held = append(held, name)
		}
	}
	return held, nil
}
