// Package fleet is the servers: how one enrols and proves who it is, whether it is heard of, and which one a new site goes to.
// It never speaks to a server: the agents' door (package link) calls it, and it issues no certificates: package pki does.
//
// # A server's life
//
//	          Enroll             Drain
//	PENDING ----------> ACTIVE <--------> DRAINING
//	                     ^  |   Undrain      |
//	     Readmit, Enroll |  |                | two living hosts with one identity (hello.go)
//	                     |  v                |
//	                   QUARANTINED <---------+
//
//	any without sites -- Remove --> REMOVED, for good
//
// # Who speaks
//
// A server has one key and one certificate, and for a while the next ones (renew.go). Each call names the serial of its
// certificate and the epoch that Hello opened; whatever is neither is refused (verify.go). What changes any of this sets
// changed_at and wakes the topic "server" with the id, so that every replica can cut what it holds open.
//
// A certificate, a fact or a sample that an agent sends is never a right: the state is what the control plane decided.
package fleet

import (
	"log/slog"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
)

// Tenancy is who may have sites on a server.
type Tenancy string

// Tenancies.
const (
	Shared    Tenancy = "shared"    // sites of many organizations
	Dedicated Tenancy = "dedicated" // sites of one organization
)

// State is a server's life as the control plane decided it.
type State string

// States.
const (
	Pending     State = "pending"     // waits for its agent to enrol
	Active      State = "active"      // its agent has enrolled
	Draining    State = "draining"    // keeps its sites, gets no new ones
	Quarantined State = "quarantined" // seen on two hosts: may not speak until an operator readmits it
	Removed     State = "removed"     // taken out; its certificate is refused
)

// speaks says whether a server in this state may use the link.
func (s State) speaks() bool { return s == Active || s == Draining }

// Server is one VPS.
type Server struct {
	ID           contract.ServerID
	Name         string // unique among those that are not removed
	Tenancy      Tenancy
	Organization contract.OrganizationID // zero for a shared one
	State        State
	// Online says that its agent was heard of within the last three heartbeats.
	Online     bool
	LastSeenAt time.Time // zero before enrolment
	Facts      *Facts    // nil before enrolment
	// Prepared says that its agent found the software for sites installed, configured and answering.
	Prepared             bool
	Sites                int // those in the trash included
	CreatedAt            time.Time
	CertificateExpiresAt time.Time // zero before enrolment
	// Problem says why it is QUARANTINED, can't connect or could not be prepared, in words; empty where nothing is wrong.
	Problem       string
	PrepareTaskID string // of the newest task that prepares it; empty before enrolment
	Epoch         uint64 // of its newest Hello
}

const (
	// HeartbeatInterval is how often an agent reports at least.
	HeartbeatInterval = 20 * time.Second
	// OnlineFor is how long one word of an agent counts: one lost heartbeat is no news, three are.
	OnlineFor = 3 * HeartbeatInterval
)

// Topic is what Listen hears when something was decided about a server; the payload is its id.
const Topic = "server"

// Errors.
var (
	ErrNotFound  = fault.NotFound("server")
	ErrNameTaken = fault.Conflict("there is a server with this name already")
	// ErrStaleEpoch says that the server has said Hello again since: the agent must do so too.
	ErrStaleEpoch = fault.Conflict("stale epoch: say Hello again")
	// ErrRevoked says that a certificate is not, or not any more, the one of a server.
	ErrRevoked = fault.Denied("this certificate is not valid any more")
	// ErrToken is the one answer to a join token that never was, or whose secret is wrong.
	ErrToken = fault.Denied("the join token is not valid")
	// ErrTokenExpired, ErrTokenReplaced and ErrTokenUsed are for who knows the secret.
	ErrTokenExpired  = fault.Denied("the join token has expired: make a new one")
	ErrTokenReplaced = fault.Denied("the join token was replaced by a newer one, or its server was taken out")
	// ErrTokenUsed says that another host has enrolled with the token. Somebody may have stolen it: raise the alarm.
	ErrTokenUsed = fault.Denied("the join token was used by another host: if that was not you, make a new one, which locks the other host out")
	// ErrRecoveries says that an operator must readmit the server before it gets another certificate.
	ErrRecoveries = fault.Denied("the certificate ran out too often: an operator must readmit the server")
)

// Issue makes the certificate of a server over the key that asked. It may be called more often than certificates are kept;
// one that is not kept is refused by Check.
type Issue func(server contract.ServerID) (pki.Certificate, error)

// Fleet keeps the servers. It is safe for concurrent use.
type Fleet struct {
	db    *db.DB
	log   *slog.Logger
	beats beats
}

// New keeps servers in a database. Run must run beside it.
func New(d *db.DB, log *slog.Logger) *Fleet {
	return &Fleet{db: d, log: log, beats: beats{seen: map[contract.ServerID]time.Time{}}}
}
