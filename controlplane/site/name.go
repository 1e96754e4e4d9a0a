package site

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fleet"
	"chom.dev/proto/contract"
)

// NameState is how far a name of a site is; it is derived from what is held and what was measured:
//
//	UNCLAIMED -> PENDING -> ISSUING -> SECURE <-> EXPIRING -> EXPIRED
//	                           \___________________/
type NameState uint8

// States of a name.
const (
	NameUnclaimed NameState = iota
	NamePending
	NameIssuing
	NameSecure
	NameExpiring
	NameExpired
)

// Role is what a name of a site is for.
type Role uint8

// Roles.
const (
	Primary Role = iota
	Alias
	Redirect
	Preview
)

// Name is a name of a site and how far it is.
type Name struct {
	Name    contract.Domain
	Role    Role
	State   NameState
	Problem string
	Records []Record // to set, so that it goes on
	// LookedAt is when the DNS was last asked for it, NextLookAt when it will be; zero for never.
	LookedAt, NextLookAt time.Time
	Certificate          *Certificate        // that the host serves it with; nil before the first measurement
	Outside              *OutsideCertificate // that others are served with; nil likewise
}

// OutsideCertificate is what the control plane itself met at the address that the DNS gives for a name.
type OutsideCertificate struct {
	Certificate
	At time.Time
}

// met says whether a handshake met a certificate, good or bad.
func (o *OutsideCertificate) met() bool { return len(o.SHA256) > 0 }

const (
	// expiringFor is how long before its end a certificate is worth an alarm if the next one could not be had.
	expiringFor = 14 * 24 * time.Hour
	// silentFor is after how long without a word from its host nobody knows whether the next one is got.
	silentFor = 24 * time.Hour
	// outsideFor is how long what was met outside says something of now: looks are half an hour apart.
	outsideFor = 2 * time.Hour
)

// Names are a site's, in the order that it has them, and its preview name last.
func (s *Sites) Names(ctx context.Context, site *Site) ([]Name, error) {
	q := s.db.Reader()
	rows, err := namesOf(ctx, q, site.Organization, site.ID)
	if err != nil {
		return nil, err
	}
	var outside []OutsideCertificate
	if s.config.Outside != nil {
		if outside, err = s.config.Outside(ctx, q, site.Organization, site.ID); err != nil {
			return nil, err
		}
	}
	all := slices.Clone(site.Wanted.Domains)
	for _, preview := range site.certificates.platform {
		all = append(without(all, site.certificates.platform), preview)
	}
	awaited := domain.Awaited{}
	var servers, public []netip.Addr
	if len(site.Pending()) > 0 {
		if awaited, err = domain.ReadAwaited(ctx, q, site.Organization); err != nil {
			return nil, err
		}
		if servers, err = fleet.Addresses(ctx, q, site.Server); err != nil {
			return nil, err
		}
		public = s.public(servers)
	}
	now := time.Now()
	var names []Name
	for _, name := range all {
		n := Name{Name: name, Role: site.role(name), Certificate: site.Observed.certificate(name.String())}
		if i := slices.IndexFunc(outside, func(o OutsideCertificate) bool { return o.Name == name.String() }); i >= 0 {
			n.Outside = &outside[i]
		}
		row := nameRow{}
		if i := slices.IndexFunc(rows, func(r nameRow) bool { return r.name == name }); i >= 0 {
			row = rows[i]
		}
		n.LookedAt, n.NextLookAt = row.lookedAt, row.lookAt
		known := nameFacts{
			preview: n.Role == Preview,
			held:    slices.Contains(site.Served, name),
			ready:   !row.readyAt.IsZero() || site.certificates.covers(name),
		}
		if site.Observed != nil {
			known.heardAt = site.Observed.At
		}
		if n.Outside != nil && now.Sub(n.Outside.At) < outsideFor {
			known.outside = n.Outside
		}
		n.State = nameStateOf(known, n.Certificate, now)
		switch n.State {
		case NameUnclaimed:
			n.explain(awaited, facts{name: name, servers: servers, public: public, addresses: s.glances.seen(name, now)})
		case NamePending:
			n.Problem, n.Records = row.problem, row.records
		default:
			n.Problem, n.Records = row.problem, row.records
			if known.outside != nil {
				n.Problem = cmp.Or(known.outside.Problem, n.Problem)
			}
			if n.Certificate != nil {
				n.Problem = cmp.Or(n.Certificate.Problem, n.Problem)
			}
		}
		names = append(names, n)
	}
	return names, nil
}

// explain says how the organization comes to hold a name, and where to lead it: whoever is at their DNS service need not come back.
func (n *Name) explain(awaited domain.Awaited, f facts) {
	record, claimed := awaited.For(n.Name)
	if !claimed {
		n.Problem = fmt.Sprintf("the organization does not hold %s: claim it, or a name above it", n.Name.Base())
		return
	}
	n.Problem = "the organization does not hold it yet: set the record that proves its claim"
	leads := f.instead()
	if i := slices.IndexFunc(leads, func(r Record) bool { return r.Remove }); i >= 0 {
		n.Problem += fmt.Sprintf("; it leads to %s so far", leads[i].Value)
	}
	n.Records = append([]Record{{Name: record.Name, Type: record.Type, Value: record.Value}}, leads...)
}

func (s *Site) role(name contract.Domain) Role {
	switch {
	case slices.Contains(s.certificates.platform, name):
		return Preview
	case name == s.Wanted.Domains[0]:
		return Primary
	case slices.Contains(s.Wanted.Redirects, name):
		return Redirect
	}
	return Alias
}

// covers says whether an uploaded certificate is used for a name.
func (c certificates) covers(name contract.Domain) bool {
	return slices.ContainsFunc(c.uploaded, func(u Upload) bool { return slices.Contains(u.Names, name) })
}

// certificate is the one that was measured for a name; nil when there was none.
func (o *Observed) certificate(name string) *Certificate {
	if o == nil {
		return nil
	}
	if i := slices.IndexFunc(o.Certificates, func(c Certificate) bool { return c.Name == name }); i >= 0 {
		return &o.Certificates[i]
	}
	return nil
}

// good says whether it was valid, and has not ended since.
func (c *Certificate) good(now time.Time) bool { return c.Valid && now.Before(c.NotAfter) }

// nameFacts are what a name's state follows from, besides its certificate.
type nameFacts struct {
	preview bool                // the platform gave it
	held    bool                // the site answers to it
	ready   bool                // a certificate is ordered for it, or one was uploaded
	outside *OutsideCertificate // that others are served with now; nil where nobody has looked lately
	heardAt time.Time           // when its host last said something
}

// nameStateOf derives a name's state. It is called secure only if its host measured that, and nothing else was met outside.
func nameStateOf(f nameFacts, c *Certificate, now time.Time) NameState {
	switch {
	case !f.held:
		return NameUnclaimed
	case c != nil && c.good(now) && f.outside != nil && f.outside.met() && !f.outside.good(now):
		if !now.Before(f.outside.NotAfter) {
			return NameExpired
		}
		return NameIssuing
	case c != nil && c.good(now):
		// Where the next one is got by itself, the end being near says nothing: some last for six days only.
		late := c.NotAfter.Sub(now) <= expiringFor && (c.Failures > 0 || c.Source == Uploaded || now.Sub(f.heardAt) > silentFor)
		if late {
			return NameExpiring
		}
		return NameSecure
	case c != nil && !c.NotAfter.IsZero() && !now.Before(c.NotAfter):
		return NameExpired
	case f.ready || f.preview:
		return NameIssuing
	}
	return NamePending
}
