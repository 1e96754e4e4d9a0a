package site

import (
	"context"
	"fmt"
	"slices"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// claim takes names for a site. A name belongs to one site of all organizations; the primary key decides who was first. A wildcard
// is a name of its own beside those that it covers: a host prefers those.
func claim(ctx context.Context, tx *db.Tx, s *Site, names []contract.Domain) error {
	for _, name := range names {
		n, err := tx.Exec(ctx, `
			INSERT INTO domains (name, organization_id, site_id, created_at)
			VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO NOTHING`,
			name, s.Organization, s.ID, db.Micros(s.UpdatedAt))
		if err != nil {
			return fmt.Errorf("claim domain %s: %w", name, err)
		}
		if n == 0 {
			return fault.Conflict(fmt.Sprintf("the domain %s belongs to another site", name))
		}
	}
	return nil
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
func replaceDomains(ctx context.Context, tx *db.Tx, s *Site, wanted []contract.Domain) error {
	if err := release(ctx, tx, s, without(s.Wanted.Domains, wanted)); err != nil {
		return err
	}
	if err := claim(ctx, tx, s, without(wanted, s.Wanted.Domains)); err != nil {
		return err
	}
	s.Wanted.Domains = wanted
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
