// Package certificate keeps what the names of organizations' sites are served with by HTTPS, and the certificates that
// organizations upload. It neither issues nor renews: hosts do, and their agents measure what is served. Nothing follows from a
// measurement but what is shown and mailed.
//
// Each name is measured twice: by the agent of its host, and from outside, under the address that the DNS gives. Each is kept by
// itself, and the worse of the two decides: a loss lasts until whoever saw it sees a good certificate, and of two ends the earlier
// one counts. A look from outside that meets no certificate at all is shown, but decides nothing: it may be the control plane that is
// cut off.
//
//	                                 ends within 14 days, or is over, or
//	                                 was valid and is not for an hour
//	(not served yet) --> all is well --------------------------------------> alarm --> mails: at once, and 7, 3 and 1 days before
//	                          ^                                                |       the end and at the end
//	                          +------------------------------------------------+
//	                                 a good certificate is measured
//
// Time goes on where measurements do not: of a host that is silent, the last known end counts.
//
// An uploaded certificate is checked (check.go), kept with its key sealed, and handed to the site's host. Nobody renews it.
//
// The package knows neither agents nor what a site is: Config has what it needs of sites.
package certificate

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
)

// Certificate is what one name of a site is served with.
type Certificate struct {
	Organization contract.OrganizationID
	Site         contract.SiteID
	SiteName     string
	Name         contract.Domain
	// Observed is what the agent measured, and ObservedAt when.
	Observed   *sitev1.ObservedCertificate
	ObservedAt time.Time
	// Outside is what the control plane measured from outside; nil before the first time.
	Outside   *sitev1.ObservedCertificate
	OutsideAt time.Time
	// AlarmAt is since when there is an alarm; zero while all is well.
	AlarmAt time.Time
}

// Upload is a certificate that an organization uploaded.
type Upload struct {
	ID           string // a UUID
	Organization contract.OrganizationID
	Site         contract.SiteID
	// Domains are the names that it is for, as it says itself: names and wildcards.
	Domains []contract.Domain
	// Issuer is who issued it, as it says itself.
	Issuer string
	// SHA256 is that of the leaf in DER.
	SHA256    []byte
	NotBefore time.Time
	NotAfter  time.Time
	CreatedAt time.Time
}

// Max is how many uploaded certificates a site may have.
const Max = 20

// Errors.
var (
	ErrNotFound = fault.NotFound("certificate")
	// ErrTooMany says that the site has Max certificates.
	ErrTooMany = fault.Conflict(fmt.Sprintf("the site has %d uploaded certificates, which is the most there can be: delete one first", Max))

	errNoSite = fault.NotFound("site")
)

// Sealed is where the keys of uploaded certificates stand.
var Sealed = secret.Column{Table: "uploaded_certificates", Column: "sealed_key", Organization: "organization_id", Row: "id"}

func place(organization contract.OrganizationID, id string) secret.Place {
	return secret.Place{Organization: organization.String(), Table: Sealed.Table, Column: Sealed.Column, Row: id}
}

// keyring seals and opens: a secret.Keyring.
type keyring interface {
	Seal(p secret.Place, plain []byte) ([]byte, error)
	Open(p secret.Place, sealed []byte) ([]byte, error)
}

// mails are a notify.Mails.
type mails interface {
	Enqueue(ctx context.Context, tx *db.Tx, mail notify.Mail) error
}

// organizations are an organization.Organizations.
type organizations interface {
	// Contacts are the name of an organization and the addresses of its owners and admins.
	Contacts(ctx context.Context, tx *db.Tx, id contract.OrganizationID) (name string, to []contract.Email, err error)
}

// dialer connects to addresses that others chose: an outbound.Dialer, which asks the configured resolver.
type dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config is what Certificates need.
type Config struct {
	Keys          keyring
	Mails         mails
	Organizations organizations
	Dialer        dialer
	Metrics       prometheus.Registerer
	// Roots are PEM certificates to trust besides the system's when something is looked at from outside: those of the platform's
	// CA for preview names, and of CAs of the operator's own. May be empty.
	Roots []byte
	// PublicURL is under which people reach the control plane: http(s)://HOST[:PORT].
	PublicURL string
	// Port is where sites are looked at; empty for 443.
	Port string

	// Names are those of a site's own names that its organization holds, wildcards among them, without its preview name. The
	// site's row is locked. It says the site's own fault where the site is not there or cannot be changed.
	Names func(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID) ([]contract.Domain, error)
	// Changed hears, in the transaction of the change, that a site has other uploaded certificates: the site is given a new
	// generation, which reads them with Uploaded, and its host the order to bring it about.
	Changed func(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID) error
}

// Certificates keep them. They are safe for concurrent use. Run must run beside them.
type Certificates struct {
	db     *db.DB
	log    *slog.Logger
	config Config
	roots  *x509.CertPool
	gauges gauges

	looking looking
	wake    chan struct{} // a look has ended: there is a place for another one
}

// New prepares them. It fails where Config.Roots are none, or where this machine's are not to be had.
func New(d *db.DB, log *slog.Logger, c Config) (*Certificates, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("prepare certificates: %w", err)
	}
	if len(c.Roots) > 0 && !roots.AppendCertsFromPEM(c.Roots) {
		return nil, fmt.Errorf("prepare certificates: there are no certificates among the roots")
	}
	if c.Port == "" {
		c.Port = "443"
	}
	made := &Certificates{db: d, log: log, config: c, roots: roots, gauges: newGauges(),
		looking: looking{of: map[contract.OrganizationID]int{}}, wake: make(chan struct{}, 1)}
	if err := made.gauges.register(c.Metrics); err != nil {
		return nil, fmt.Errorf("prepare certificates: %w", err)
	}
	return made, nil
}
