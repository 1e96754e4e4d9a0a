package site

import (
	"context"
	"fmt"
	"slices"
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
	// NameContains, Type and Server are what a site must have; empty for any. A name has no % or _.
	NameContains, Type, Server string
	// States are the ones that a site must be in; nil for any. Those of the trash show it.
	States []State
	// Tags are words of which a site must have one; nil for any.
	Tags []string
	// Only are the sites that the caller reaches, UUIDs; nil for all.
	Only []string
}

func (f Filter) has(s *Site) bool {
	return (f.States == nil || slices.Contains(f.States, s.State)) &&
		(f.Tags == nil || slices.ContainsFunc(f.Tags, func(tag string) bool { return slices.Contains(s.Tags, tag) }))
}

// mostRead bounds what one List looks at: a state follows from what was measured, which the database cannot search, and tags are
// words in a line.
const mostRead = 5000

// List returns a page of an organization's sites, oldest first, and the token of the next page. With a filter by state or
// tag a page can have fewer sites than size, and yet another one after it.
func (s *Sites) List(ctx context.Context, organization contract.OrganizationID, size int32, token string, filter Filter) ([]*Site, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	if slices.Contains(filter.States, StateTrashed) || slices.Contains(filter.States, StateDeleting) {
		filter.Trashed = true
	}
	query := page.Query{"sites", organization.String(), fmt.Sprint(filter)}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	if filter.States == nil && filter.Tags == nil {
		all, err := s.read(ctx, organization, after, filter, limit+1)
		if err != nil {
			return nil, "", err
		}
		next := query.Next(len(all), limit, func() string { return all[limit-1].ID.String() })
		return all[:min(len(all), limit)], next, nil
	}
	var found []*Site
	for range mostRead / page.MaxSize {
		some, err := s.read(ctx, organization, after, filter, page.MaxSize)
		if err != nil {
			return nil, "", err
		}
		for _, one := range some {
			if after = one.ID.String(); filter.has(one) {
				found = append(found, one)
			}
			if len(found) == limit {
				return found, query.Token(after), nil
			}
		}
		if len(some) < page.MaxSize {
			return found, "", nil
		}
	}
	return found, query.Token(after), nil
}

// Held is a site of a server, whosever it is.
type Held struct {
	*Site
	OrganizationName string
}

// HeldBy returns a page of the sites that a server holds, oldest first, those in the trash too, and the token of the next page. It
// asks for no organization: whoever calls is an operator.
func (s *Sites) HeldBy(ctx context.Context, server contract.ServerID, size int32, token string) ([]Held, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"sites of a server", server.String()}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.db.Reader().Query(ctx, selected+`,
		       o.name
		FROM (
			SELECT *
			FROM sites
			WHERE server_id = $1
			  AND id > $2
			ORDER BY id
			LIMIT $3
		) s`+around+`
		ORDER BY s.id`, server, after, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list the sites of server %s: %w", server, err)
	}
	defer rows.Close()
	var all []Held
	for rows.Next() {
		var one Held
		if one.Site, err = scan(beside{rows, &one.OrganizationName}); err != nil {
			return nil, "", fmt.Errorf("list the sites of server %s: %w", server, err)
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list the sites of server %s: %w", server, err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].ID.String() })
	return all[:min(len(all), limit)], next, nil
}

// beside reads one more column than whoever scans a site knows.
type beside struct {
	row  interface{ Scan(...any) error }
	more any
}

func (b beside) Scan(into ...any) error { return b.row.Scan(append(into, b.more)...) }

// read gives the sites after one, by all of a filter but its states and tags.
func (s *Sites) read(ctx context.Context, organization contract.OrganizationID, after string, filter Filter, limit int) ([]*Site, error) {
	// What is around a site is looked up for those of the page only, whatever the planner thinks that there are.
	rows, err := s.db.Reader().Query(ctx, selected+`
		FROM (
			SELECT *
			FROM sites
			WHERE organization_id = $1
			  AND id > $2
			  AND ($3 OR phase IN ('active', 'suspended'))
			  AND ($4 OR $5 LIKE '%' || id || '%')
			  AND ($6 = '' OR name LIKE '%' || $6 || '%')
			  AND ($7 = '' OR type = $7)
			  AND ($8 = '' OR server_id = $8)
			ORDER BY id
			LIMIT $9
		) s`+around+`
		ORDER BY s.id`,
		organization, after, filter.Trashed, filter.Only == nil, strings.Join(filter.Only, " "),
		filter.NameContains, filter.Type, filter.Server, limit)
	if err != nil {
		return nil, fmt.Errorf("list sites: %w", err)
	}
	all, err := scanAll(rows)
	if err != nil {
		return nil, fmt.Errorf("list sites: %w", err)
	}
	return all, nil
}
