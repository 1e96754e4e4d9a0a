package domain

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/dns"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// ErrNoProvider says that none of the organization's DNS providers has the zone of a name.
var ErrNoProvider = fault.Conflict("none of the organization's DNS providers has the zone of this name: connect one, or set the record by hand")

const (
	// presentWithin bounds the wait for a provider: two calls of a slow one, and its turn. It and seenWithin are less than what the
	// link's door gives to the call.
	presentWithin = 2 * time.Minute
	// seenWithin bounds the wait for the zone's name servers. Who looks after that may find nothing, and try again.
	seenWithin = 20 * time.Second
	// askWithin bounds the question to one name server.
	askWithin = 5 * time.Second
	lookEvery = 200 * time.Millisecond
	// serversMost is how many name servers of a zone are asked.
	serversMost = 8
)

var challengeValue = regexp.MustCompile(`^[A-Za-z0-9_-]{1,255}$`)

// challengeRecord proves a name to a certificate authority (RFC 8555, section 8.4). A wildcard is proved by the name below which
// it stands.
func challengeRecord(name contract.Domain, value string) dns.Record {
	return dns.Record{Name: "_acme-challenge." + name.Base().String(), Type: "TXT", Value: value}
}

// PresentChallenge sets the TXT record _acme-challenge of a name beside those that are there. It returns once the provider has taken it and
// the zone's name servers show it, as far as they can be asked; they get 20 seconds. Errors: ErrNoProvider, a fault of kind
// Invalid for a value that is none, and one of kind Conflict that says why the provider did not take it. Whatever comes of
// it, RemoveChallenge ends it, or an hour.
func (p *Providers) PresentChallenge(ctx context.Context, organization contract.OrganizationID, name contract.Domain, value string) error {
	if !challengeValue.MatchString(value) {
		return fault.Invalid("value", "must be 1 to 255 letters, digits, hyphens and underscores")
	}
	record := challengeRecord(name, value)
	var zone string
	err := db.InTx(ctx, p.db, func(tx *db.Tx) error {
		zones, err := zonesOf(ctx, tx, organization)
		if err != nil {
			return err
		}
		var has bool
		if zone, has = zones.of(name); !has {
			return ErrNoProvider
		}
		if err := want(ctx, tx, organization, zones[zone], zone, record, Challenge); err != nil {
			return err
		}
		// Somebody asks anew: a former failure is no reason to wait.
		_, err = tx.Exec(ctx, `
			UPDATE dns_records
			SET state = 'making',
			    problem = '',
			    tries = 0,
			    due_at = $5
			WHERE organization_id = $1
			  AND name = $2
			  AND type = $3
			  AND value = $4
			  AND state IN ('making', 'in_the_way')`, organization, record.Name, record.Type, record.Value, db.Micros(time.Now()))
		return err
	})
	if err != nil {
		return fmt.Errorf("present %s: %w", record.Name, err)
	}
	if err := p.taken(ctx, organization, record); err != nil {
		return fmt.Errorf("present %s: %w", record.Name, err)
	}
	return p.seen(ctx, zone, record)
}

// RemoveChallenge has a record that PresentChallenge set removed. One that is not there is none.
func (p *Providers) RemoveChallenge(ctx context.Context, organization contract.OrganizationID, name contract.Domain, value string) error {
	record := challengeRecord(name, value)
	err := db.InTx(ctx, p.db, func(tx *db.Tx) error {
		changed, err := tx.Exec(ctx, `
			UPDATE dns_records
			SET state = 'removing',
			    tries = 0,
			    due_at = $5
			WHERE organization_id = $1
			  AND name = $2
			  AND type = $3
			  AND value = $4
			  AND purpose = 'challenge'
			  AND state <> 'removing'`, organization, record.Name, record.Type, record.Value, db.Micros(time.Now()))
		if changed > 0 {
			tx.Notify(dueTopic, organization.String())
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", record.Name, err)
	}
	return nil
}

// taken waits until the provider has a record.
func (p *Providers) taken(ctx context.Context, organization contract.OrganizationID, record dns.Record) error {
	ctx, cancel := context.WithTimeout(ctx, presentWithin)
	defer cancel()
	for {
		var state RecordState
		var problem string
		err := p.db.Reader().QueryRow(ctx, `
			SELECT state, problem
			FROM dns_records
			WHERE organization_id = $1
			  AND name = $2
			  AND type = $3
			  AND value = $4`, organization, record.Name, record.Type, record.Value).Scan(&state, &problem)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return ErrNoProvider // it was removed meanwhile
		case err != nil:
			return err
		case problem != "":
			return fault.Conflict(problem)
		case state != Making:
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.Unavailable("the DNS provider does not answer in time", again(0), ctx.Err())
		case <-time.After(lookEvery):
		}
	}
}

// seen waits until the zone's name servers show a record, or can't be asked, or have had their time.
func (p *Providers) seen(ctx context.Context, zone string, record dns.Record) error {
	bounded, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	servers, err := p.config.NameServers(bounded, zone)
	if err != nil || len(servers) == 0 {
		return ctx.Err() // nobody can be asked: the certificate authority will see
	}
	servers = servers[:min(len(servers), serversMost)]
	for {
		lacks := make(chan bool, len(servers))
		for _, server := range servers {
			go func() { lacks <- p.lacks(bounded, server, record) }()
		}
		missing := false
		for range servers {
			missing = <-lacks || missing
		}
		if !missing || bounded.Err() != nil {
			return ctx.Err()
		}
		select {
		case <-bounded.Done():
		case <-time.After(lookEvery):
		}
	}
}

// lacks says whether a name server answers, but without a record.
func (p *Providers) lacks(ctx context.Context, server string, record dns.Record) bool {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return p.config.Dialer.DialContext(ctx, "tcp", server) // people's DNS says where it is
	}}
	texts, err := resolver.LookupTXT(ctx, record.Name+".")
	var failed *net.DNSError
	if err != nil && !(errors.As(err, &failed) && failed.IsNotFound) {
		return false
	}
	return !slices.Contains(texts, record.Value)
}
