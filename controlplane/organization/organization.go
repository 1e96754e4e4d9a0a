// Package organization is the tenants: who they are, who belongs to them, and what each of these may do. What they own is with
// its own noun; every row of theirs carries the organization's id.
//
//	Create, Found -> ACTIVE -- Close --> CLOSING -- 30 days --> CLOSED
//	                    ^                   |
//	                    +----- Reopen ------+
//
//	CLOSING  its sites are suspended by their hosts, whatever its members want (package site follows the row); nothing is deleted
//	CLOSED   its sites go to the trash, and from there as all sites do; its name is free; only operators still see it
//
// # Who may do what
//
// A member has a role: owner > admin > member > viewer. The door holds each call to the least role that its row of the
// authorization table names. What is left to decide here is who may do it to whom, and that is one rule: nobody gives, takes
// or changes more than he has himself (mayChange). So only owners make, change and remove owners.
//
// Whatever changes members or invitations first locks the organization's row (Lock), and decides from what it reads after
// that. Limits, and that an owner who can sign in remains, are conditions of the one statement that makes the change.
package organization

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/notify"
	"chom.dev/proto/contract"
)

// Organization is a tenant.
type Organization struct {
	ID         contract.OrganizationID
	Name       string
	OwnerEmail string // of the member who has been an owner for the longest time
	State      State
	CloseAt    time.Time // when a closing one is closed for good; zero in other states
	// RequireSecondFactor turns members away who have none.
	RequireSecondFactor bool
	CreatedAt           time.Time
	Quota               Quota
	BackupBytes         uint64 // that its backups take: what was measured at last, and what was added since
}

// ETag names what the organization is: it changes with each change of that.
func (o Organization) ETag() string {
	return etag(o.Name, string(o.State), strconv.FormatBool(o.RequireSecondFactor))
}

// etag is a short name for texts that hold no line break.
func etag(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:8])
}

// State is an organization's life; the package comment draws it.
type State string

// States.
const (
	Active  State = "active"
	Closing State = "closing"
	Closed  State = "closed"
)

// Errors.
var (
	ErrNotFound  = fault.NotFound("organization")
	ErrNameTaken = fault.Conflict("there is an organization with this name already")
	ErrChanged   = fault.Changed("this was changed meanwhile: look at it again, then decide anew")
	ErrClosing   = fault.Conflict("the organization is being closed: an owner can reopen it")
)

// DefaultClosePeriod is how long a closed organization can be reopened.
const DefaultClosePeriod = 30 * 24 * time.Hour

// Config is what organizations need to know of the installation.
type Config struct {
	Log *slog.Logger
	// ClosePeriod is how long a closed organization can be reopened; 0 means DefaultClosePeriod.
	ClosePeriod time.Duration
	// Quota is what each may use for which none is set.
	Quota Quota
	// URL is the one under which people reach the control plane; links begin with it.
	URL string
	// Mail sends what members and the invited must hear of; nil sends nothing.
	Mail Mailer
}

// Mailer queues a mail in a transaction; it goes out once that is committed.
type Mailer func(ctx context.Context, tx *db.Tx, mail notify.Mail) error

// Organizations keeps them. It is safe for concurrent use.
type Organizations struct {
	db     *db.DB
	log    *slog.Logger
	config Config
}

// New keeps organizations in a database. Run must run beside it.
func New(d *db.DB, c Config) *Organizations {
	c.ClosePeriod = cmp.Or(c.ClosePeriod, DefaultClosePeriod)
	if c.Mail == nil {
		c.Mail = func(context.Context, *db.Tx, notify.Mail) error { return nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Organizations{db: d, log: c.Log, config: c}
}

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return fault.Invalid("name", "must be 1 to 63 lower-case letters, digits and hyphens, beginning with a letter")
	}
	return nil
}
