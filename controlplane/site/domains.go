package site

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// claim takes names for a site, all of which it must get. A wildcard is a name of its own beside those that it covers: a host
// prefers those.
func (s *Sites) claim(ctx context.Context, tx *db.Tx, site *Site, names []contract.Domain) error {
	for _, name := range names {
		refused, err := s.take(ctx, tx, site, name)
		if err != nil {
			return fmt.Errorf("claim domain %s: %w", name, err)
		}
		if refused != "" {
			return fault.Conflict(refused)
		}
	}
	return nil
}

// take gives a site a name, or says why not. A name belongs to one site of all organizations; the primary key decides who was
// first. But to be first is no proof (case C10): the site of an organization that does not hold the name loses it to one whose
// organization does. It goes on to want it, and does not answer to it.
func (s *Sites) take(ctx context.Context, tx *db.Tx, site *Site, name contract.Domain) (refused string, err error) {
	inserted, err := tx.Exec(ctx, `
		INSERT INTO domains (name, organization_id, site_id, created_at)
		VALUES ($1, $2, $3, $4)
		ON CONFLICT (name) DO NOTHING`,
		name, site.Organization, site.ID, db.Micros(site.UpdatedAt))
	if err != nil || inserted > 0 {
		return "", err
	}
	var of place
	err = tx.QueryRow(ctx, `
		SELECT organization_id,
		       site_id
		FROM domains
		WHERE name = $1`+tx.ForUpdate(), name).Scan(&of.organization, &of.site)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Sprintf("the domain %s has just left another site: try again", name), nil
	case err != nil:
		return "", err
	case of.site == site.ID:
		return "", nil
	case of.organization == site.Organization:
		return fmt.Sprintf("the domain %s belongs to another site of the organization: take it from that site first", name), nil
	}
	if s.config.AnyName {
		return fmt.Sprintf("the domain %s belongs to a site of another organization, which has to give it up first", name), nil
	}
	ours, err := s.holds(ctx, tx, site.Organization, name)
	if err != nil {
		return "", err
	}
	theirs, err := s.holds(ctx, tx, of.organization, name)
	if err != nil {
		return "", err
	}
	if !ours || theirs {
		return fmt.Sprintf("the domain %s belongs to another site: claim it, and try again once the claim is verified", name), nil
	}
	_, err = tx.Exec(ctx, `
		UPDATE domains
		SET organization_id = $4,
		    site_id = $5,
		    created_at = $6,
		    ready_at = NULL,
		    challenge = '',
		    problem = '',
		    records = '',
		    looks = 0,
		    looked_at = NULL,
		    look_at = NULL
		WHERE name = $1
		  AND organization_id = $2
		  AND site_id = $3`,
		name, of.organization, of.site, site.Organization, site.ID, db.Micros(site.UpdatedAt))
	return "", err
}

// release frees names of a site.
func release(ctx context.Context, tx *db.Tx, s *Site, names []contract.Domain) error {
	for _, name := range names {
		if _, err := tx.Exec(ctx, `
			DELETE FROM domains
			WHERE name = $1
			  AND organization_id = $2
			  AND site_id = $3`,
			name, s.Organization, s.ID); err != nil {
			return fmt.Errorf("release domain %s: %w", name, err)
		}
	}
	return nil
}

// replaceDomains frees the names that are not wanted any more and claims the new ones.
func (s *Sites) replaceDomains(ctx context.Context, tx *db.Tx, site *Site, wanted []contract.Domain) error {
	if err := release(ctx, tx, site, without(site.Wanted.Domains, wanted)); err != nil {
		return err
	}
	if err := s.claim(ctx, tx, site, without(wanted, site.Wanted.Domains)); err != nil {
		return err
	}
	site.Wanted.Domains = wanted
	return nil
}

// without is the names of a that are not in b.
func without(a, b []contract.Domain) []contract.Domain {
	return slices.DeleteFunc(slices.Clone(a), func(name contract.Domain) bool { return slices.Contains(b, name) })
}

// among is the names of a that are in b.
func among(a, b []contract.Domain) []contract.Domain {
	return slices.DeleteFunc(slices.Clone(a), func(name contract.Domain) bool { return !slices.Contains(b, name) })
}
