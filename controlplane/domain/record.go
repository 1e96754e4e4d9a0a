package domain

import (
	"context"
	"database/sql"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/dns"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// RecordState is how far a record of our own is.
//
//	            wanted           the provider took it
//	(nothing) ----------> making ---------------------> made
//	                       |  ^                           |
//	 somebody else's is    |  |  that one is gone         |  not wanted any more
//	 in its place          v  |                           v
//	                     in_the_way ------------------> removing ----------> (nothing)
//	                                                        the one that we made is gone
//
// A record that is made is looked at every day. When it is gone it is made anew, or it is in_the_way.
//
// Each state is written down before its work begins, so that a process that dies leaves something to go on from.
type RecordState string

// The states.
const (
	Making   RecordState = "making"
	Made     RecordState = "made"
	Removing RecordState = "removing"
	InTheWay RecordState = "in_the_way"
)

// ManagedRecord is a record that we made, or are to make.
type ManagedRecord struct {
	ID       string // a UUID
	Provider string // its id
	Name     string // fully qualified, without the dot at its end
	Type     string // "A", "AAAA" or "TXT"
	Value    string
	// Purpose is what it is for: a site's id, a claim's id, or Challenge.
	Purpose string
	State   RecordState
	// Problem says why it could not be made or removed, or what is in its way. It is empty too for one in whose way is the same
	// record, made by somebody else: all is well then, and theirs is left to them.
	Problem string
}

// Challenge is the purpose of records that prove names to certificate authorities.
const Challenge = "challenge"

// RecordsTopic is what Listen hears when records of an organization were made that sites and claims wait for; the payload is the
// organization's id.
const RecordsTopic = "dns_record"

// dueTopic is what Listen hears when there is something to do about records.
const dueTopic = "dns_due"

const (
	addressTTL = 5 * time.Minute
	textTTL    = time.Minute // what some services take at least
)

// WantAddresses says which addresses a site is to have in the DNS under which names (wildcards among them): all that there is to
// be for the site, none for one that is gone for good. Names that lie in a zone of one of the organization's providers get their
// records soon after the transaction, other names get none; records of the site that are not wanted any more are removed.
func WantAddresses(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID, names []contract.Domain, addresses []netip.Addr) error {
	zones, err := zonesOf(ctx, tx, organization)
	if err != nil {
		return fmt.Errorf("want addresses of site %s: %w", site, err)
	}
	wanted := map[string]bool{}
	for _, name := range names {
		zone, has := zones.of(name)
		if !has {
			continue
		}
		for _, address := range addresses {
			r := dns.Record{Name: name.String(), Type: "A", Value: address.Unmap().WithZone("").String()}
			if address.Unmap().Is6() {
				r.Type = "AAAA"
			}
			if err := want(ctx, tx, organization, zones[zone], zone, r, site.String()); err != nil {
				return fmt.Errorf("want addresses of site %s: %w", site, err)
			}
			wanted[zones[zone]+" "+r.Name+" "+r.Type+" "+r.Value] = true
		}
	}
	have, err := withPurpose(ctx, tx, organization, site.String())
	if err != nil {
		return fmt.Errorf("want addresses of site %s: %w", site, err)
	}
	for _, r := range have {
		if wanted[r.Provider+" "+r.Name+" "+r.Type+" "+r.Value] {
			continue
		}
		if err := drop(ctx, tx, organization, site.String(), r.ID); err != nil {
			return fmt.Errorf("want addresses of site %s: %w", site, err)
		}
	}
	return nil
}

// want writes down that a record is to be made. One that is there already, or was just to be removed, gets the new purpose; when it
// is due does not change by wanting it again, however often.
func want(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, provider, zone string, r dns.Record, purpose string) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	changed, err := tx.Exec(ctx, `
		INSERT INTO dns_records (organization_id, id, provider_id, zone, name, type, value, purpose, state, sent, problem, tries, due_at, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'making', FALSE, '', 0, $9, $9)
		ON CONFLICT (organization_id, provider_id, name, type, value) DO UPDATE
		SET purpose = excluded.purpose,
		    created_at = excluded.created_at,
		    state = CASE WHEN dns_records.state = 'removing' THEN 'making' ELSE dns_records.state END,
		    due_at = CASE WHEN dns_records.state = 'removing' THEN excluded.due_at ELSE dns_records.due_at END
		WHERE dns_records.state = 'removing'
		   OR dns_records.purpose <> excluded.purpose
		   OR excluded.purpose = 'challenge'`,
		organization, id.String(), provider, zone, r.Name, r.Type, r.Value, purpose, db.Micros(time.Now()))
	if err != nil {
		return fmt.Errorf("want the record %s %s: %w", r.Type, r.Name, err)
	}
	if changed > 0 {
		tx.Notify(dueTopic, organization.String())
	}
	return nil
}

// drop has records removed: those with a purpose, or of them only the one with an id.
func drop(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, purpose, id string) error {
	dropped, err := tx.Exec(ctx, `
		UPDATE dns_records
		SET state = 'removing',
		    tries = 0,
		    due_at = $4
		WHERE organization_id = $1
		  AND purpose = $2
		  AND ($3 = '' OR id = $3)
		  AND state <> 'removing'`, organization, purpose, id, db.Micros(time.Now()))
	if err != nil {
		return fmt.Errorf("drop DNS records: %w", err)
	}
	if dropped > 0 {
		tx.Notify(dueTopic, organization.String())
	}
	return nil
}

// wantProof has the record made that proves a claim, where the organization has a provider for its name. To ask for it is no
// proof: that is found, or not, where everybody looks.
func wantProof(ctx context.Context, tx *db.Tx, r *row) error {
	zones, err := zonesOf(ctx, tx, r.Organization)
	if err != nil {
		return err
	}
	zone, has := zones.of(r.Name)
	if !has {
		return nil
	}
	return want(ctx, tx, r.Organization, zones[zone], zone, dns.Record{Name: r.Record.Name, Type: r.Record.Type, Value: r.Record.Value}, r.ID)
}

// wantPending has the records made of all claims in some zones that wait for their proof.
func wantPending(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, zones []string) error {
	there := zoneMap{}
	for _, zone := range zones {
		there[zone] = ""
	}
	pending, err := pendingClaims(ctx, tx, organization)
	if err != nil {
		return err
	}
	for i := range pending {
		if _, has := there.of(pending[i].Name); !has {
			continue
		}
		if err := wantProof(ctx, tx, &pending[i]); err != nil {
			return err
		}
	}
	return nil
}

func pendingClaims(ctx context.Context, q db.Querier, organization contract.OrganizationID) ([]row, error) {
	rows, err := q.Query(ctx, columns+`
		WHERE organization_id = $1
		  AND state = 'pending'`, organization)
	if err != nil {
		return nil, fmt.Errorf("read pending claims: %w", err)
	}
	defer rows.Close()
	var all []row
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("read pending claims: %w", err)
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

// ListRecords returns a page of the records of a provider, oldest first, and the token of the next page, empty after the last.
func (p *Providers) ListRecords(ctx context.Context, organization contract.OrganizationID, provider string, pageSize int32, pageToken string) ([]ManagedRecord, string, error) {
	size, err := page.Size(pageSize)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"dns_records", organization.String(), provider}
	after, err := query.After(pageToken)
	if err != nil {
		return nil, "", err
	}
	if _, err := oneProvider(ctx, p.db.Reader(), organization, provider); err != nil {
		return nil, "", err
	}
	rows, err := p.db.Reader().Query(ctx, recordColumns+`
		WHERE organization_id = $1
		  AND provider_id = $2
		  AND id > $3
		ORDER BY id
		LIMIT $4`, organization, provider, after, size+1)
	if err != nil {
		return nil, "", fmt.Errorf("list DNS records: %w", err)
	}
	found, err := scanRecords(rows)
	if err != nil {
		return nil, "", fmt.Errorf("list DNS records: %w", err)
	}
	var all []ManagedRecord
	for _, r := range found[:min(len(found), size)] {
		all = append(all, r.ManagedRecord)
	}
	next := query.Next(len(found), size, func() string { return found[size-1].ID })
	return all, next, nil
}

const recordColumns = `
	SELECT organization_id, id, provider_id, zone, name, type, value, purpose, state, sent, problem, tries
	FROM dns_records`

// recordRow is a record with what only this package needs.
type recordRow struct {
	ManagedRecord
	organization contract.OrganizationID
	zone         string
	sent         bool // it may be at the provider by our doing
	tries        int64
}

// dns is the record as services take it.
func (r recordRow) dns() dns.Record {
	ttl := addressTTL
	if r.Type == "TXT" {
		ttl = textTTL
	}
	return dns.Record{Name: strings.ToLower(r.Name), Type: r.Type, Value: r.Value, TTL: ttl}
}

// scanRecords reads all rows and closes them.
func scanRecords(rows *sql.Rows) ([]recordRow, error) {
	defer rows.Close()
	var all []recordRow
	for rows.Next() {
		var r recordRow
		if err := rows.Scan(&r.organization, &r.ID, &r.Provider, &r.zone, &r.Name, &r.Type, &r.Value, &r.Purpose, &r.State, &r.sent, &r.Problem, &r.tries); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

func withPurpose(ctx context.Context, q db.Querier, organization contract.OrganizationID, purpose string) ([]recordRow, error) {
	rows, err := q.Query(ctx, recordColumns+`
		WHERE organization_id = $1
		  AND purpose = $2`, organization, purpose)
	if err != nil {
		return nil, fmt.Errorf("read DNS records: %w", err)
	}
	all, err := scanRecords(rows)
	if err != nil {
		return nil, fmt.Errorf("read DNS records: %w", err)
	}
	return all, nil
}
