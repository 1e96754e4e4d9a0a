package site

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fleet"
	"chom.dev/proto/contract"
)

// Challenge is how a CA is shown that a name is under control (RFC 8555, section 8).
type Challenge string

// Challenges.
const (
	HTTP01 Challenge = "http-01"
	DNS01  Challenge = "dns-01"
)

// Upload is a certificate that an organization uploaded.
type Upload struct {
	ID     string // a UUID
	SHA256 [32]byte
	Names  []contract.Domain // what it is for
}

// certificates say where those of a site's names come from, in its present generation.
type certificates struct {
	acme     []acmeName
	platform []contract.Domain
	uploaded []Upload // Names are those of the site
}

type acmeName struct {
	name      contract.Domain
	challenge Challenge
}

// certify decides where the certificates of a site's names come from. Only of names that are held at this moment anything is
// ordered: to order for another's name would be to obtain a certificate for it wherever this host happens to answer.
func (s *Sites) certify(ctx context.Context, tx *db.Tx, site *Site, held []contract.Domain, preview *contract.Domain) error {
	site.certificates = certificates{}
	if preview != nil {
		site.certificates.platform = []contract.Domain{*preview}
	}
	covered, err := s.uploads(ctx, tx, site, held)
	if err != nil {
		return err
	}
	rows, err := namesOf(ctx, tx, site.Organization, site.ID)
	if err != nil {
		return err
	}
	for _, name := range without(held, covered) {
		if i := slices.IndexFunc(rows, func(r nameRow) bool { return r.name == name && !r.readyAt.IsZero() }); i >= 0 {
			site.certificates.acme = append(site.certificates.acme, acmeName{name, rows[i].challenge})
		}
	}
	return nil
}

// uploads takes in the uploaded certificates that are for held names, and gives the names that have one; of several for a name
// the first counts.
func (s *Sites) uploads(ctx context.Context, tx *db.Tx, site *Site, held []contract.Domain) (covered []contract.Domain, err error) {
	if s.config.Uploads == nil {
		return nil, nil
	}
	all, err := s.config.Uploads(ctx, tx, site.Organization, site.ID)
	if err != nil {
		return nil, err
	}
	for _, upload := range all {
		isFor := func(name contract.Domain) bool {
			return slices.ContainsFunc(upload.Names, func(covers contract.Domain) bool { return covers.Covers(name) })
		}
		used := upload
		used.Names = slices.DeleteFunc(without(held, covered), func(name contract.Domain) bool { return !isFor(name) })
		if len(used.Names) > 0 {
			site.certificates.uploaded = append(site.certificates.uploaded, used)
			covered = append(covered, used.Names...)
		}
	}
	return covered, nil
}

// Recertify gives a site a new generation in a transaction that changed which certificates were uploaded for it, so that its
// host learns of that. A site that was deleted meanwhile is left alone.
func (s *Sites) Recertify(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) error {
	site, err := lock(ctx, tx, organization, id)
	if err != nil || living(site) != nil {
		return err
	}
	// A name whose certificate was taken away may need another one at once.
	if _, err := tx.Exec(ctx, `
		UPDATE domains
		SET looks = 0,
		    look_at = $1
		WHERE organization_id = $2
		  AND site_id = $3
		  AND look_at IS NOT NULL`,
		db.Micros(time.Now()), organization, id); err != nil {
		return fmt.Errorf("have the names of site %s looked at: %w", id, err)
	}
	if err := s.renew(ctx, tx, site); err != nil {
		return err
	}
	return s.orderAnew(ctx, tx, site, "other certificates were uploaded for it")
}

// orderAnew orders a renewed site to its host that nobody has changed: it follows from something else.
func (s *Sites) orderAnew(ctx context.Context, tx *db.Tx, site *Site, why string) error {
	site.UpdatedAt = db.Time(db.Micros(time.Now()))
	if _, err := s.converge(ctx, tx, site); err != nil {
		return err
	}
	return audit.Record(ctx, tx, audit.Event{
		Organization: site.Organization.String(), Action: "site.update", Object: site.ID.String(), Detail: why,
	})
}

// settle has those of a site's names looked at that its host is told to answer to, forgets what was found of all others, and has
// DNS providers lead them to the host.
func (s *Sites) settle(ctx context.Context, tx *db.Tx, site *Site) error {
	rows, err := namesOf(ctx, tx, site.Organization, site.ID)
	if err != nil {
		return err
	}
	held := without(among(site.Wanted.Domains, site.Served), site.certificates.platform)
	now := time.Now()
	due := false
	for _, r := range rows {
		before := r
		switch {
		case !slices.Contains(held, r.name):
			r.nameState = nameState{}
		case living(site) != nil:
			r.lookAt = time.Time{}
		case r.lookAt.IsZero():
			r.looks, r.lookAt, due = 0, now, true
		}
		if before.changed(r) {
			if err := r.save(ctx, tx); err != nil {
				return err
			}
		}
	}
	if due {
		tx.Notify(namesTopic, site.ID.String())
	}
	return s.lead(ctx, tx, site)
}

// lead has DNS providers lead a site's names to its host.
func (s *Sites) lead(ctx context.Context, tx *db.Tx, site *Site) error {
	if s.config.WantAddresses == nil {
		return nil
	}
	held := without(among(site.Wanted.Domains, site.Served), site.certificates.platform)
	if site.Wanted.Phase == Absent {
		return s.config.WantAddresses(ctx, tx, site.Organization, site.ID, nil, nil)
	}
	addresses, err := fleet.Addresses(ctx, tx, site.Server)
	if err != nil {
		return err
	}
	addresses = s.public(addresses)
	if len(addresses) == 0 {
		return nil // that a host does not say where it is does not mean that it is nowhere: its records stay
	}
	return s.config.WantAddresses(ctx, tx, site.Organization, site.ID, held, addresses[:1])
}

// public are those of addresses that names may be led to.
func (s *Sites) public(addresses []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return !s.config.PublicAddress(a) })
}
