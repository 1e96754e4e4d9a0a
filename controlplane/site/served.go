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

// renew numbers a new wanted state. Whether it is frozen, what it answers to and which names get certificates is looked up anew
// for each: nothing of what was held before is taken along.
func (s *Sites) renew(ctx context.Context, tx *db.Tx, site *Site) error {
	site.Wanted.Frozen = site.owner != organization.Active
	site.Wanted.Generation, site.failures = nextGeneration(site), 0
	if err := s.schedule(ctx, tx, site); err != nil {
		return err
	}
	preview, err := s.preview(ctx, tx, site)
	if err != nil {
		return err
	}
	var held []contract.Domain
	for _, name := range site.Wanted.Domains {
		if preview != nil && name == *preview {
			continue // it is the platform's, whoever asks for it
		}
		serves, err := s.serves(ctx, tx, site, name)
		if err != nil {
			return err
		}
		if serves {
			held = append(held, name)
		}
	}
	site.Served = slices.Clone(held)
	if preview != nil {
		site.Served = append(site.Served, *preview)
	}
	first := slices.IndexFunc(site.Served, func(name contract.Domain) bool { return !name.IsWildcard() })
	switch {
	case first > 0: // the primary name is not held: the next one stands in for it
		name := site.Served[first]
		site.Served = slices.Insert(slices.Delete(site.Served, first, first+1), 0, name)
	case first < 0 && site.Wanted.onHost() == Active:
		return errNoName
	case first < 0: // nobody sees it, and an agent knows each site by a name
		nobodys, err := contract.ParseDomain(site.Handle.String() + nowhere)
		if err != nil {
			return fmt.Errorf("name for a site without names: %w", err)
		}
		site.Served = append([]contract.Domain{nobodys}, held...)
	}
	return s.certify(ctx, tx, site, held, preview)
}

// serves says whether a site is to answer to a name that it wants: its organization holds it, and no other site has it. One that it
// lost and that is free by now is taken back.
func (s *Sites) serves(ctx context.Context, tx *db.Tx, site *Site, name contract.Domain) (bool, error) {
	if holds, err := s.holds(ctx, tx, site.Organization, name); err != nil || !holds {
		return false, err
	}
	var has bool
	if err := tx.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT 1
			FROM domains
			WHERE organization_id = $1
			  AND site_id = $2
			  AND name = $3
		)`, site.Organization, site.ID, name).Scan(&has); err != nil {
		return false, fmt.Errorf("look whose %s is: %w", name, err)
	}
	if has || site.gone() {
		return has, nil
	}
	refused, err := s.take(ctx, tx, site, name)
	if err != nil {
		return false, fmt.Errorf("take %s back: %w", name, err)
	}
	return refused == "", nil
}

func (s *Sites) holds(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, name contract.Domain) (bool, error) {
	if s.config.AnyName {
		return true, nil
	}
	return domain.Holds(ctx, tx, organization, name)
}

// nowhere is a domain that can never be anybody's (RFC 2606).
const nowhere = ".invalid"

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

// DefaultPreviewDomain is where preview names are below if the platform has no domain for them: names there resolve to the
// address that they spell, without anybody's doing.
const DefaultPreviewDomain = "sslip.io"

// addressDomain is a public name that resolves to an address, as sslip.io makes them of any.
func addressDomain(address netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(address.StringExpanded()) + "." + DefaultPreviewDomain
}

// Pending are the names that a site does not answer to, since its organization does not hold them.
func (s *Site) Pending() []contract.Domain { return without(s.Wanted.Domains, s.Served) }

// Preview is the name that the platform gave the site; empty where it has none.
func (s *Site) Preview() string {
	for _, name := range s.certificates.platform {
		return name.String()
	}
	return ""
}

// OnServer finds a site on the server whose agent asks for it; ErrNotFound for one that is elsewhere or leaves for good.
func (s *Sites) OnServer(ctx context.Context, server contract.ServerID, id contract.SiteID) (*Site, error) {
	found, err := scan(s.db.Reader().QueryRow(ctx, columns+` WHERE s.id = $1 AND s.server_id = $2 AND s.phase <> 'absent'`, id, server))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read site: %w", err)
	}
	return found, nil
}

// MayProve says whether a site's host may have a name proved to a CA: the site is wanted to answer to it, or to the wildcard
// below it, and its organization holds it.
func (s *Sites) MayProve(ctx context.Context, site *Site, name contract.Domain) (bool, error) {
	has := slices.ContainsFunc(site.Wanted.Domains, func(d contract.Domain) bool { return d.Base() == name })
	if !has || site.gone() {
		return false, nil
	}
	if s.config.AnyName {
		return true, nil
	}
	var holds bool
	err := db.InTx(ctx, s.db, func(tx *db.Tx) (err error) {
		holds, err = domain.Holds(ctx, tx, site.Organization, name)
		return err
	}, db.ReadCommitted())
	return holds, err
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

// unserved finds sites that do not answer to a name although their organization holds it by now.
func (s *Sites) unserved(ctx context.Context) ([]place, error) {
	rows, err := s.db.Reader().Query(ctx, `
		SELECT s.organization_id,
		       s.id
		FROM sites s
		WHERE s.pending
		  AND s.phase IN ('active', 'suspended')
		  AND EXISTS (
			SELECT 1
			FROM domains d
			JOIN claims c ON c.organization_id = d.organization_id AND (d.name = c.name OR d.name LIKE '%.' || c.name)
			WHERE d.organization_id = s.organization_id
			  AND d.site_id = s.id
			  AND c.state = 'verified'
			  AND ' ' || s.served || ' ' NOT LIKE '% ' || d.name || ' %'
		  )
		LIMIT $1`, followBatch)
	if err != nil {
		return nil, err
	}
	return places(rows)
}

// serve orders a site that was found so to answer to what its organization holds.
func (s *Sites) serve(ctx context.Context, p place) error {
	return db.InTx(ctx, s.db, func(tx *db.Tx) error {
		site, err := lock(ctx, tx, p.organization, p.site)
		if errors.Is(err, ErrNotFound) {
			return nil // it was removed for good since
		}
		if err != nil || living(site) != nil {
			return err
		}
		before := site.Served
		if err := s.renew(ctx, tx, site); err != nil || slices.Equal(before, site.Served) {
			return err
		}
		return s.orderAnew(ctx, tx, site, "the organization holds "+joinNames(without(site.Served, before)))
	}, db.ReadCommitted())
}

func joinNames(names []contract.Domain) string { return strings.Join(texts(names), " ") }

func splitNames(text string) ([]contract.Domain, error) { return names(strings.Fields(text)) }
