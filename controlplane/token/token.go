// Package token is the texts by which programs call the API: who they stand for, how far they reach, when they were used.
//
//	chompat_  personal: does what its person may do at the moment of the call
//	chomorg_  an organization's own: does what its role allows in that organization
//	chomimp_  impersonation: an operator acts as a member of one organization for an hour at most
//
// A token's right is the least of its scope, of its bounds (one organization, some sites), and of what its owner may do now.
// Nothing of that is remembered between two calls: a token that is revoked, whose person was removed or lost a role, whose
// operator is none any more or whose organization is closed, is worth nothing from the next call on.
//
// # When somebody leaves
//
// Personal tokens follow their person: they lose what the person loses. An organization's tokens do not end with the
// membership of who made them, since deployments would stop for reasons that nobody sees. They never had more than the role
// that they were given, which is below owner and not above that of who made them; the list of them, for admins, says
// who that was.
//
// # Impersonation
//
// It shows in the audit of the organization, with the reason, and in a mail to its owners. Whatever is done by it is recorded
// with both accounts. The door refuses it what asks for a fresh proof and what belongs to the person alone.
package token

import (
	"log/slog"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
)

// Token is one, without its secret.
type Token struct {
	ID   string // a UUID
	Kind Kind
	// Name is what people call it; the reason of an impersonation.
	Name  string
	Scope account.Scope
	// Organization is the only one that it reaches, a UUID; empty for all of its person's.
	Organization string
	// Role of an organization's own; empty for others.
	Role organization.Role
	// Sites are the only ones that it reaches, UUIDs; nil for all.
	Sites        []string
	CreatorEmail string
	CreatedAt    time.Time
	ExpiresAt    time.Time
	// UsedAt is its last use, to the minute; zero for never.
	UsedAt time.Time
	// UsedFrom is the address of its last use; empty for never.
	UsedFrom string
}

// Kind is whom a token stands for.
type Kind string

// Kinds.
const (
	Personal      Kind = "personal"
	Organization  Kind = "organization"
	Impersonation Kind = "impersonation"
)

var prefixes = map[Kind]string{
	Personal:      "chompat_",
	Organization:  "chomorg_",
	Impersonation: "chomimp_",
}

// Lives of tokens.
const (
	MinLife     = time.Hour
	DefaultLife = 90 * 24 * time.Hour
	MaxLife     = 366 * 24 * time.Hour
	// MaxImpersonation is how long an operator acts as somebody else at once, unless ImpersonateFor says less.
	MaxImpersonation = time.Hour
)

// maxTokens bounds those of a person that work, and those of an organization.
const maxTokens = 100

// Errors.
var (
	ErrNotFound    = fault.NotFound("token")
	ErrTokens      = fault.Conflict("there are 100 tokens that work already: revoke some")
	ErrOperator    = fault.Denied("operators cannot be impersonated")
	errNoSite      = fault.NotFound("site")
	errNotAnybody  = fault.Unauthenticated("the token is not valid (any more)")
	errUnboundSite = fault.Invalid("site_ids", "needs the organization_id that they belong to")
)

// Tokens keeps them. It is safe for concurrent use.
type Tokens struct {
	db            *db.DB
	log           *slog.Logger
	organizations *organization.Organizations
	uses          uses

	impersonation time.Duration // how long one lasts
}

// Option completes New.
type Option func(*Tokens)

// ImpersonateFor lets impersonations last that long instead of MaxImpersonation.
func ImpersonateFor(d time.Duration) Option { return func(t *Tokens) { t.impersonation = d } }

// New keeps tokens in a database. Run must run beside it.
func New(d *db.DB, log *slog.Logger, organizations *organization.Organizations, opts ...Option) *Tokens {
	t := &Tokens{db: d, log: log, organizations: organizations, uses: uses{noted: map[string]use{}}, impersonation: MaxImpersonation}
	for _, opt := range opts {
		opt(t)
	}
	return t
}
