// Package domain keeps which organization holds which names, and by what proof. A site answers to a name, and a certificate is
// ordered for it, only while its organization holds it: somebody else's name cannot be taken, nor one whose owner left its
// DNS records pointing here.
//
// A claim of a name covers every name below it. Claims of different organizations never overlap once they are verified.
//
//	          Claim                    proof found in the DNS, or an operator's word
//	(nothing) -----> pending -----------------------------------------------------> verified
//	   ^               |                                                             |    ^
//	   |  30 days      | Release                                             Release |    | Claim, by the same organization
//	   +---------------+                                                             v    |
//	   +-------------------------------------------------------------------------- released
//	                                   3 days
//
// A verified claim is looked at again every day. A proof that is gone is shown as a problem and changes nothing else: a name
// server that is down must not take a site with it.
//
// It also keeps organizations' access to those who run their DNS, and the records that are made with it: addresses of sites,
// proofs of claims, and challenges of certificate authorities. record.go draws the life of such a record. Only records that were
// made here are ever removed, and none is ever replaced. How each service is spoken to is package dns's.
//
// The package knows neither sites nor certificates; they ask Holds, and say by WantAddresses and PresentChallenge what is to be in the DNS.
package domain

import (
	"context"
	"log/slog"
	"net"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// State of a claim.
type State string

// The states; the package comment draws them.
const (
	Pending  State = "pending"
	Verified State = "verified"
	Released State = "released"
)

// Proof is how an organization showed that a name is its own.
type Proof string

// The proofs.
const (
	// DNS is a TXT record that only who runs the name's DNS can set.
	DNS Proof = "dns"
	// Operator is the word of who runs the platform, who knows the customer.
	Operator Proof = "operator"
)

// Claim is a name and what is known of its belonging to an organization.
type Claim struct {
	ID           string // a UUID
	Organization contract.OrganizationID
	Name         contract.Domain
	State        State
	Proof        Proof // empty while it is pending
	// Record is what proves the claim.
	Record Record
	// Problem says why the last look did not find the record, or found what is in the way; empty when all is well.
	Problem    string
	LookedAt   time.Time // zero before the first look
	NextLookAt time.Time // zero when there is none
	VerifiedAt time.Time // zero while it is pending
	HeldUntil  time.Time // zero unless it is released
	CreatedAt  time.Time
}

// Record is a record to set in the DNS.
type Record struct {
	Name  string // fully qualified, without the dot at its end
	Type  string // "TXT"
	Value string
}

const (
	// Max is how many claims an organization may have.
	Max = 1000
	// HeldFor is how long a released name is kept from other organizations, so that a mistake can be undone.
	HeldFor = 3 * 24 * time.Hour
	// PendingFor is when a claim without proof is forgotten.
	PendingFor = 30 * 24 * time.Hour

	recordLabel = "_chom"
	recordValue = "chom-claim="
)

// Errors.
var (
	ErrNotFound = fault.NotFound("claim")
	// ErrTooMany says that the organization has Max claims.
	ErrTooMany = fault.Conflict("the organization has 1000 claims, which is the most there can be")
	// ErrHeld says that another organization holds the name, one above it or one below it.
	ErrHeld = fault.Conflict("another organization holds this name, or one above or below it: it must release it first, or an operator must decide")

	errNoOrganization = fault.NotFound("organization")
)

// Resolver asks the DNS. *net.Resolver is one.
type Resolver interface {
	// LookupTXT gives the texts of a name; a *net.DNSError with IsNotFound where there are none.
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// NewResolver asks the name server at an address, HOST:PORT; that of the machine for an empty one.
func NewResolver(address string) *net.Resolver {
	if address == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
}

// Topic is what Listen hears when an organization has got a name; the payload is the organization's id.
const Topic = "claim"

// Config is what Domains need.
type Config struct {
	Resolver Resolver
	// InUse says which of an organization's sites answers to a name or to one below it; empty for none.
	InUse func(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, name contract.Domain) (string, error)
}

// Domains keep claims. They are safe for concurrent use. Run must run beside them.
type Domains struct {
	db     *db.DB
	log    *slog.Logger
	config Config
	wake   chan struct{} // something is due now
}

// New prepares them.
func New(d *db.DB, log *slog.Logger, c Config) *Domains {
	return &Domains{db: d, log: log, config: c, wake: make(chan struct{}, 1)}
}
