package site

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

// A site answers to those of its names that its organization holds, and to its preview name. A name that nobody has proved is
// not served, however the DNS points here: its owner may have left the record behind.

// renew numbers a new wanted state. Whether it is frozen, and what it answers to, is looked up anew for each.
func (s *Sites) renew(ctx context.Context, tx *db.Tx, site *Site) error {
	site.Wanted.Frozen = site.owner != organization.Active
	site.Wanted.Generation, site.failures = nextGeneration(site), 0
	site.Served = nil
	for _, name := range site.Wanted.Domains {
		holds := s.config.AnyName
		if !holds {
			var err error
			if holds, err = domain.Holds(ctx, tx, site.Organization, name); err != nil {
				return err
			}
		}
		if holds {
			site.Served = append(site.Served, name)
		}
	}
	preview, err := s.preview(ctx, tx, site)
	if err != nil {
		return err
	}
	if preview != nil && !slices.Contains(site.Served, *preview) {
		site.Served = append(site.Served, *preview)
	}
	if len(site.Served) == 0 {
		return errNoName
	}
	return nil
}

var errNoName = fault.Conflict("the organization holds none of the site's names, and the server has no address for a preview name: claim a name first")

// preview is the name under which a site can be seen from its first second; nil where neither the platform has a domain for
// them nor the server an address.
func (s *Sites) preview(ctx context.Context, tx *db.Tx, site *Site) (*contract.Domain, error) {
	below := s.config.PreviewDomain
	if below == "" {
		address, err := fleet.Address(ctx, tx, site.Server)
		if err != nil || !address.IsValid() {
			return nil, err
		}
		below = addressDomain(address)
	}
	name, err := contract.ParseDomain(site.Handle.String() + "." + below)
	if err != nil {
		return nil, fmt.Errorf("preview name: %w", err)
	}
	return &name, nil
}

// addressDomain is a public name that resolves to an address, as sslip.io makes them of any.
func addressDomain(address netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(address.StringExpanded()) + ".sslip.io"
}

// Pending are the names that a site does not answer to, since its organization does not hold them.
func (s *Site) Pending() []contract.Domain { return without(s.Wanted.Domains, s.Served) }

// Preview is the name that the platform gave the site; empty where it has none.
func (s *Site) Preview() string {
	for _, name := range without(s.Served, s.Wanted.Domains) {
		return name.String()
	}
	return ""
}

// InUse says which site of an organization has a name or one below it; empty for none. It is for whoever takes names away.
func InUse(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, name contract.Domain) (string, error) {
	var found string
	err := tx.QueryRow(ctx, `
		SELECT s.name
		FROM domains d
		JOIN sites s ON s.organization_id = d.organization_id AND s.id = d.site_id
		WHERE d.organization_id = $1
		  AND (d.name = $2 OR d.name LIKE $3)
		ORDER BY s.name
		LIMIT 1`,
		organization, name, "%."+name.String()).Scan(&found)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for sites of %s: %w", name, err)
	}
	return found, nil
}

// NamesChanged orders the sites anew that have a name or one below it, which their organization has got or given up.
func (s *Sites) NamesChanged(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, name contract.Domain) error {
	rows, err := tx.Query(ctx, `
		SELECT DISTINCT s.organization_id,
		       s.id
		FROM domains d
		JOIN sites s ON s.organization_id = d.organization_id AND s.id = d.site_id
		WHERE d.organization_id = $1
		  AND (d.name = $2 OR d.name LIKE $3)
		  AND s.phase IN ('active', 'suspended')`,
		organization, name, "%."+name.String())
	if err != nil {
		return fmt.Errorf("find sites of %s: %w", name, err)
	}
	found, err := places(rows)
	if err != nil {
		return fmt.Errorf("find sites of %s: %w", name, err)
	}
	for _, p := range found {
		site, err := lock(ctx, tx, p.organization, p.site)
		if err != nil {
			return err
		}
		before := site.Served
		if err := s.renew(ctx, tx, site); err != nil {
			return err
		}
		if slices.Equal(before, site.Served) {
			continue
		}
		if _, err := s.converge(ctx, tx, site); err != nil {
			return err
		}
	}
	return nil
}

func joinNames(names []contract.Domain) string {
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = name.String()
	}
	return strings.Join(texts, " ")
}

func splitNames(text string) ([]contract.Domain, error) {
	var names []contract.Domain
	for _, word := range strings.Fields(text) {
		name, err := contract.ParseDomain(word)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}
