package site

import (
	"context"
	"fmt"

	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// Get returns one site, or ErrNotFound.
func (s *Sites) Get(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (*Site, error) {
	return load(ctx, s.db.Reader(), organization, id)
}

// List returns a page of an organization's sites, oldest first; those in the trash only where they are asked for.
func (s *Sites) List(ctx context.Context, organization contract.OrganizationID, size int32, token string, trashed bool) ([]*Site, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"sites", organization.String(), fmt.Sprint(trashed)}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.db.Reader().Query(ctx, columns+`
		WHERE s.organization_id = $1
		  AND s.id > $2
		  AND ($3 OR s.phase IN ('active', 'suspended'))
		ORDER BY s.id
		LIMIT $4`,
		organization, after, trashed, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list sites: %w", err)
	}
	all, err := scanAll(rows)
	if err != nil {
		return nil, "", fmt.Errorf("list sites: %w", err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].ID.String() })
	return all[:min(len(all), limit)], next, nil
}
