package certificate

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

const (
	maxSeen    = 110 // of one site: its hundred names, and its preview names
	maxProblem = 1024
	// sameFor is for how long a measurement that says the same is not written again: agents measure often, certificates last long.
	sameFor = 5 * time.Minute
)

// Observe takes in what the agent of a site's host measured at a moment, all of the site's names: of names that it leaves out
// nothing is known any more. The caller has made sure that the site is on that host, and runs it in the transaction that takes in
// the rest. What the agent says is cut to size; a measurement of the future is taken for one of now.
func Observe(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID, at time.Time, seen []*sitev1.ObservedCertificate) error {
	now := time.Now()
	if at.After(now) || at.IsZero() {
		at = now
	}
	return observe(ctx, tx, organization, site, db.Time(db.Micros(at)), db.Time(db.Micros(now)), seen)
}

func observe(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID, at, now time.Time, seen []*sitev1.ObservedCertificate) error {
	rows, err := tx.Query(ctx, columns+`
		WHERE c.organization_id = $1
		  AND c.site_id = $2
		ORDER BY c.name`, organization, site)
	if err != nil {
		return fmt.Errorf("observe certificates of site %s: %w", site, err)
	}
	have, err := scanAll(rows)
	if err != nil {
		return fmt.Errorf("observe certificates of site %s: %w", site, err)
	}
	gone := map[contract.Domain]*row{}
	for _, r := range have {
		gone[r.Name] = r
	}
	taken := map[contract.Domain]bool{}
	for _, m := range seen[:min(len(seen), maxSeen)] {
		name, err := contract.ParsePattern(m.GetDomain())
		if err != nil || taken[name] {
			continue
		}
		taken[name] = true
		r, known := gone[name]
		delete(gone, name)
		m = cleaned(m, name)
		if known {
			if !r.observed(m, at, now) {
				continue
			}
			// A look from outside, or an alarm, may have written meanwhile.
			if r, err = lock(ctx, tx, organization, site, name); err != nil && !errors.Is(err, sql.ErrNoRows) {
				return fmt.Errorf("observe certificates of site %s: %w", site, err)
			}
		}
		if r == nil {
			r = &row{Certificate: Certificate{Organization: organization, Site: site, Name: name}}
		}
		if !r.observed(m, at, now) {
			continue
		}
		if err := r.save(ctx, tx); err != nil {
			return fmt.Errorf("observe certificates of site %s: %w", site, err)
		}
	}
	for name := range gone {
		if _, err := tx.Exec(ctx, `
			DELETE FROM certificates
			WHERE organization_id = $1
			  AND site_id = $2
			  AND name = $3`, organization, site, name); err != nil {
			return fmt.Errorf("observe certificates of site %s: %w", site, err)
		}
	}
	return nil
}

// observed takes in a measurement of the agent, and says whether there is anything to write.
func (r *row) observed(m *sitev1.ObservedCertificate, at, now time.Time) bool {
	if r.Observed != nil && proto.Equal(r.Observed, m) && at.Sub(r.ObservedAt).Abs() < sameFor {
		return false
	}
	if !at.Before(r.ObservedAt) {
		r.host = r.host.after(m, at)
	}
	r.Observed, r.ObservedAt = m, at
	switch served := met(m); {
	case !served:
		r.lookAt, r.failures, r.outside = time.Time{}, 0, known{} // what was met outside is not looked at any more
	case r.lookAt.IsZero():
		r.lookAt = now
	}
	r.follows(now)
	return true
}

// cleaned is what is kept of what an agent says of a name.
func cleaned(m *sitev1.ObservedCertificate, name contract.Domain) *sitev1.ObservedCertificate {
	c := &sitev1.ObservedCertificate{
		Domain: name.String(), Valid: m.GetValid(), Source: m.GetSource(), Issuer: line(m.GetIssuer(), maxName),
		NotBefore: moment(m.GetNotBefore()), NotAfter: moment(m.GetNotAfter()), Problem: line(m.GetProblem(), maxProblem),
		NextTryTime: moment(m.GetNextTryTime()), Failures: m.GetFailures(),
	}
	if sitev1.CertificateSource_name[int32(c.GetSource())] == "" {
		c.Source = sitev1.CertificateSource_CERTIFICATE_SOURCE_UNSPECIFIED
	}
	if len(m.GetSha256()) == sha256.Size {
		c.Sha256 = m.GetSha256()
	}
	if !met(c) || c.GetNotAfter() == nil || c.GetNotBefore() == nil {
		c.Valid = false // nobody can have seen that
	}
	return c
}

func moment(t *timestamppb.Timestamp) *timestamppb.Timestamp {
	if !t.IsValid() {
		return nil
	}
	return t
}
