package site

import (
	"context"
	"fmt"
	"strings"

	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// Get returns one site, or ErrNotFound.
func (s *Sites) Get(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (*Site, error) {
	return load(ctx, s.db.Reader(), organization, id)
}

// Filter narrows a List. Its zero value shows all sites that are not in the trash.
type Filter struct {
	// Trashed shows sites in the trash too.
	Trashed bool
	// Only are the sites that the caller reaches, UUIDs; nil for all.
	Only []string
}

// List returns a page of an organization's sites, oldest first.
func (s *Sites) List(ctx context.Context, organization contract.OrganizationID, size int32, token string, filter Filter) ([]*Site, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"sites", organization.String(), fmt.Sprint(filter)}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.db.Reader().Query(ctx, columns+`
		WHERE s.organization_id = $1
		  AND s.id > $2
		  AND ($3 OR s.phase IN ('active', 'suspended'))
		  AND ($4 OR $5 LIKE '%' || s.id || '%')
		ORDER BY s.id
		LIMIT $6`,
		organization, after, filter.Trashed, filter.Only == nil, strings.Join(filter.Only, " "), limit+1)
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
