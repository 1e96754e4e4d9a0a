package domain

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/dns"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/page"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
)

// Provider is an organization's access to who runs its DNS, for some zones.
type Provider struct {
	ID           string // a UUID
	Organization contract.OrganizationID
	Name         string // for people
	Type         dns.Type
	Zones        []string // in order
	Problem      string   // why the last call failed; empty when it did not
	CalledAt     time.Time
	CreatedAt    time.Time
}

// MaxProviders is how many an organization may have.
const MaxProviders = 50

// maxZones is how many a provider may have: each is called before the provider is stored.
const maxZones = 100

// Errors of providers.
var (
	ErrProviderNotFound = fault.NotFound("DNS provider")
	// ErrTooManyProviders says that the organization has MaxProviders.
	ErrTooManyProviders = fault.Conflict(fmt.Sprintf("an organization has at most %d DNS providers", MaxProviders))
	errTrying           = fault.Limited("another DNS provider of the organization is being tried: try again when that has ended", tryWithin)
	errProviderName     = fault.Conflict("the organization has a DNS provider with this name: choose another")
)

// ProvidersTopic is what Listen hears when an organization has got a provider; the payload is the organization's id. Whoever wants
// records in its zones says so again.
const ProvidersTopic = "dns_provider"

// SealedProviders is where the credentials stand.
var SealedProviders = secret.Column{Table: "dns_providers", Column: "sealed", Organization: "organization_id", Row: "id"}

func credentialsPlace(organization contract.OrganizationID, id string) secret.Place {
	return secret.Place{Organization: organization.String(), Table: SealedProviders.Table, Column: SealedProviders.Column, Row: id}
}

// keyring seals and opens: a secret.Keyring.
type keyring interface {
	Seal(p secret.Place, plain []byte) ([]byte, error)
	Open(p secret.Place, sealed []byte) ([]byte, error)
}

// Service runs zones: a *dns.Service, whose comments are its promise.
type Service interface {
	Records(ctx context.Context, zone string) ([]dns.Record, error)
	Append(ctx context.Context, zone string, r dns.Record) error
	Delete(ctx context.Context, zone string, r dns.Record) error
}

// ProvidersConfig is what Providers need.
type ProvidersConfig struct {
	Keys keyring
	// Open prepares to speak to a service.
	Open func(dns.Credentials) (Service, error)
	// Dialer reaches the name servers of people's zones.
	Dialer *outbound.Dialer
	// NameServers are the addresses, HOST:PORT, of those who answer for a zone.
	NameServers func(ctx context.Context, zone string) ([]string, error)
}

// DelegatedTo finds the name servers of a zone through a resolver.
func DelegatedTo(r *net.Resolver) func(ctx context.Context, zone string) ([]string, error) {
	return func(ctx context.Context, zone string) ([]string, error) {
		servers, err := r.LookupNS(ctx, zone+".")
		var addresses []string
		for _, server := range servers {
			addresses = append(addresses, net.JoinHostPort(strings.TrimSuffix(server.Host, "."), "53"))
		}
		return addresses, err
	}
}

// Providers keep organizations' DNS providers and the records that were made with them. They are safe for concurrent use. Run must
// run beside them.
type Providers struct {
	db     *db.DB
	log    *slog.Logger
	config ProvidersConfig
	wake   chan struct{} // something is due now
	forgot time.Time     // when forget last ran; Run's
	turns  turns
	tries  turns         // those of providers that are new
	busy   chan struct{} // holds a token for each provider that is worked with
}

// NewProviders prepares them.
func NewProviders(d *db.DB, log *slog.Logger, c ProvidersConfig) *Providers {
	return &Providers{db: d, log: log, config: c, turns: newTurns(), tries: newTurns(), wake: make(chan struct{}, 1), busy: make(chan struct{}, providersAtOnce)}
}

var providerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Create connects a DNS service. It is called once for each zone before anything is stored: credentials that do not let in, and
// zones that it does not have, are a fault that says what the service answered. Claims in the zones that wait for their proof get
// their records. Other errors: faults of kind Invalid that name the field, ErrTooManyProviders, that the name or a zone is taken, and one of kind
// Limited while another one of the organization is called.
func (p *Providers) Create(ctx context.Context, organization contract.OrganizationID, name string, zones []string, credentials dns.Credentials) (Provider, error) {
	if !providerName.MatchString(name) {
		return Provider{}, fault.Invalid("name", "must be 1 to 63 lower-case letters, digits and hyphens, and not begin with a hyphen")
	}
	parsed, err := parseZones(zones)
	if err != nil {
		return Provider{}, err
	}
	if !p.tries.begin(organization, 1) {
		return Provider{}, errTrying
	}
	defer p.tries.end(organization)
	if err := p.try(ctx, parsed, credentials); err != nil {
		return Provider{}, fmt.Errorf("create DNS provider: %w", err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Provider{}, err
	}
	plain, err := credentials.Encode()
	if err != nil {
		return Provider{}, fmt.Errorf("create DNS provider: %w", err)
	}
	sealed, err := p.config.Keys.Seal(credentialsPlace(organization, id.String()), plain)
	if err != nil {
		return Provider{}, fmt.Errorf("create DNS provider: %w", err)
	}
	var made Provider
	err = db.InTx(ctx, p.db, func(tx *db.Tx) error {
		if err := insertProvider(ctx, tx, organization, id.String(), name, parsed, credentials.Type(), sealed); err != nil {
			return err
		}
		if made, err = oneProvider(ctx, tx, organization, id.String()); err != nil {
			return err
		}
		if err := wantPending(ctx, tx, organization, parsed); err != nil {
			return err
		}
		tx.Notify(ProvidersTopic, organization.String())
		return recordProvider(ctx, tx, made, "dns_provider.create")
	})
	if err != nil {
		return Provider{}, fmt.Errorf("create DNS provider: %w", err)
	}
	return made, nil
}

func parseZones(texts []string) ([]string, error) {
	if len(texts) == 0 || len(texts) > maxZones {
		return nil, fault.Invalid("zones", fmt.Sprintf("must be 1 to %d", maxZones))
	}
	var zones []string
	for _, text := range texts {
		zone, err := ParseName(text)
		if err != nil {
			if f, ok := fault.Of(err); ok && f.Kind() == fault.KindInvalid {
				return nil, fault.Invalid("zones", f.Rule())
			}
			return nil, err
		}
		if slices.Contains(zones, zone.String()) {
			return nil, fault.Invalid("zones", "must not hold "+zone.String()+" twice")
		}
		zones = append(zones, zone.String())
	}
	return zones, nil
}

const (
	// tryWithin bounds the calls of a new provider: somebody waits, and people's door breaks off after 25 s.
	tryWithin = 20 * time.Second
	// triesAtOnce keeps services from taking it for an attack.
	triesAtOnce = 4
)

// try asks a service for each zone.
func (p *Providers) try(ctx context.Context, zones []string, credentials dns.Credentials) error {
	service, err := p.config.Open(credentials)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(triesAtOnce)
	for _, zone := range zones {
		g.Go(func() error {
			if _, err := service.Records(ctx, zone); err != nil {
				switch {
				case errors.Is(ctx.Err(), context.DeadlineExceeded):
					return fault.Conflict(fmt.Sprintf("%s did not answer in time for the zone %s: try again, with fewer zones if there are many", credentials.Type(), zone))
				case ctx.Err() != nil:
					return ctx.Err()
				}
				return fault.Conflict(fmt.Sprintf("%s does not give the zone %s: %s", credentials.Type(), zone, err))
			}
			return nil
		})
	}
	return g.Wait()
}

// insertProvider stores a provider, if the organization may have one more, its name is new and nobody has its zones.
func insertProvider(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id, name string, zones []string, kind dns.Type, sealed []byte) error {
	// The tenant's row makes those who create at the same time wait for each other; the count then is the last word.
	locked, err := tx.Exec(ctx, `UPDATE organizations SET name = name WHERE id = $1`, organization)
	if err != nil {
		return err
	}
	if locked == 0 {
		return errNoOrganization
	}
	inserted, err := tx.Exec(ctx, `
		INSERT INTO dns_providers (organization_id, id, name, type, sealed, problem, called_at, busy_until, created_at)
		SELECT $1, $2, $3, $4, $5, '', $6, 0, $6
		WHERE (SELECT COUNT(*) FROM dns_providers WHERE organization_id = $1) < $7
		ON CONFLICT (organization_id, name) DO NOTHING`,
		organization, id, name, kind, sealed, db.Micros(time.Now()), MaxProviders)
	if err != nil {
		return err
	}
	if inserted == 0 {
		var taken bool
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM dns_providers WHERE organization_id = $1 AND name = $2)`, organization, name).Scan(&taken)
		switch {
		case err != nil:
			return err
		case taken:
			return errProviderName
		}
		return ErrTooManyProviders
	}
	for _, zone := range zones {
		inserted, err := tx.Exec(ctx, `
			INSERT INTO dns_zones (organization_id, zone, provider_id)
			VALUES ($1, $2, $3)
			ON CONFLICT (organization_id, zone) DO NOTHING`, organization, zone, id)
		if err != nil {
			return err
		}
		if inserted == 0 {
			return fault.Conflict(fmt.Sprintf("another DNS provider of the organization has the zone %s: remove that one first", zone))
		}
	}
	return nil
}

// GetProvider returns one provider, or ErrProviderNotFound.
func (p *Providers) GetProvider(ctx context.Context, organization contract.OrganizationID, id string) (Provider, error) {
	return oneProvider(ctx, p.db.Reader(), organization, id)
}

// ListProviders returns a page of an organization's providers, oldest first, and the token of the next page, empty after the last.
func (p *Providers) ListProviders(ctx context.Context, organization contract.OrganizationID, pageSize int32, pageToken string) ([]Provider, string, error) {
	size, err := page.Size(pageSize)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"dns_providers", organization.String()}
	after, err := query.After(pageToken)
	if err != nil {
		return nil, "", err
	}
	rows, err := p.db.Reader().Query(ctx, providerColumns+`
		WHERE p.organization_id = $1
		  AND p.id > $2
		ORDER BY p.id
		LIMIT $3`, organization, after, size+1)
	if err != nil {
		return nil, "", fmt.Errorf("list DNS providers: %w", err)
	}
	defer rows.Close()
	var all []Provider
	for rows.Next() {
		one, err := scanProvider(rows)
		if err != nil {
			return nil, "", fmt.Errorf("list DNS providers: %w", err)
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list DNS providers: %w", err)
	}
	next := query.Next(len(all), size, func() string { return all[size-1].ID })
	return all[:min(len(all), size)], next, nil
}

// DeleteProvider forgets a provider, its credentials and what is known of its records. These stay in the DNS: sites need them.
func (p *Providers) DeleteProvider(ctx context.Context, organization contract.OrganizationID, id string) error {
	err := db.InTx(ctx, p.db, func(tx *db.Tx) error {
		gone, err := oneProvider(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM dns_providers WHERE organization_id = $1 AND id = $2`, organization, id); err != nil {
			return err
		}
		return recordProvider(ctx, tx, gone, "dns_provider.delete")
	})
	if err != nil {
		return fmt.Errorf("delete DNS provider: %w", err)
	}
	return nil
}

func recordProvider(ctx context.Context, tx *db.Tx, of Provider, action string) error {
	return audit.Record(ctx, tx, audit.Event{
		Organization: of.Organization.String(), Action: action, Object: of.ID, Detail: fmt.Sprintf("%s, %s", of.Name, of.Type),
	})
}

const providerColumns = `
	SELECT p.organization_id, p.id, p.name, p.type, p.problem, p.called_at, p.created_at,
	       (SELECT string_agg(z.zone, ' ') FROM dns_zones z WHERE z.organization_id = p.organization_id AND z.provider_id = p.id)
	FROM dns_providers p`

func scanProvider(from interface{ Scan(...any) error }) (Provider, error) {
	var p Provider
	var called sql.NullInt64
	var created int64
	var zones string
	if err := from.Scan(&p.Organization, &p.ID, &p.Name, &p.Type, &p.Problem, &called, &created, &zones); err != nil {
		return Provider{}, err
	}
	p.Zones = strings.Fields(zones)
	slices.Sort(p.Zones)
	p.CalledAt, p.CreatedAt = db.NullTime(called), db.Time(created)
	return p, nil
}

func oneProvider(ctx context.Context, q db.Querier, organization contract.OrganizationID, id string) (Provider, error) {
	found, err := scanProvider(q.QueryRow(ctx, providerColumns+` WHERE p.organization_id = $1 AND p.id = $2`, organization, id))
	if errors.Is(err, sql.ErrNoRows) {
		return Provider{}, ErrProviderNotFound
	}
	if err != nil {
		return Provider{}, fmt.Errorf("read DNS provider: %w", err)
	}
	return found, nil
}

// HasProvider says whether a name, or the one below which a wildcard stands, lies in a zone of one of an organization's providers.
func HasProvider(ctx context.Context, q db.Querier, organization contract.OrganizationID, name contract.Domain) (bool, error) {
	zones, err := zonesOf(ctx, q, organization)
	if err != nil {
		return false, err
	}
	_, has := zones.of(name)
	return has, nil
}

// zoneMap has the providers of an organization by their zones.
type zoneMap map[string]string

// of is the nearest zone of a name.
func (z zoneMap) of(name contract.Domain) (zone string, has bool) {
	base := name.Base()
	for _, zone := range append([]string{base.String()}, above(base)...) {
		if _, has := z[zone]; has {
			return zone, true
		}
	}
	return "", false
}

func zonesOf(ctx context.Context, q db.Querier, organization contract.OrganizationID) (zoneMap, error) {
	rows, err := q.Query(ctx, `
		SELECT zone, provider_id
		FROM dns_zones
		WHERE organization_id = $1`, organization)
	if err != nil {
		return nil, fmt.Errorf("read DNS zones: %w", err)
	}
	defer rows.Close()
	zones := zoneMap{}
	for rows.Next() {
		var zone, provider string
		if err := rows.Scan(&zone, &provider); err != nil {
			return nil, fmt.Errorf("read DNS zones: %w", err)
		}
		zones[zone] = provider
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read DNS zones: %w", err)
	}
	return zones, nil
}
