// Package webhook calls URLs of an organization's own when something happens to it. A noun publishes an event in the
// transaction of the change; a POST of a few lines of JSON follows, by package outbox, to each webhook that wants the event.
//
//	Publish -> one delivery per webhook -> POST -> 2xx: delivered
//	                                         |
//	                                         +-> anything else: again for 3 days, each time later, then dead
//
// Each event arrives at least once, under an id that stays the same; several may arrive in another order than they
// happened. A receiver knows the caller by the signature (signature.go).
//
// A webhook that keeps failing is disabled, and its organization's owners and admins get a mail. What happens while a webhook
// is disabled waits for it, as long as any delivery is tried.
//
// URLs are strangers' text: they are called through package outbound only, answers are not kept, and no more is shown of a
// failure than that package allows.
package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
)

// Webhook is a URL that is called.
type Webhook struct {
	Organization contract.OrganizationID
	ID           string // a UUID
	URL          string
	Description  string
	Events       []Type // that it wants; empty means all
	// Enabled is changed by people, and taken away from one that keeps failing.
	Enabled bool
	// Problem is why it was disabled; empty when a person did.
	Problem string
	// FailingSince is the first failure after the last success; zero while it does not fail.
	FailingSince time.Time
	// FormerUntil is until when the secret before the last rotation signs besides; zero when there is none.
	FormerUntil time.Time
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// Max is how many webhooks an organization may have: each event is stored and sent once for each.
const Max = 20

// Errors.
var (
	ErrNotFound         = fault.NotFound("webhook")
	ErrDeliveryNotFound = fault.NotFound("delivery")
	ErrTooMany          = fault.Conflict(fmt.Sprintf("an organization has at most %d webhooks", Max))
	ErrDisabled         = fault.Conflict("the webhook is disabled; enable it first")
	errNoOrganization   = fault.NotFound("organization")
)

// keyring seals and opens: a secret.Keyring.
type keyring interface {
	Seal(p secret.Place, plain []byte) ([]byte, error)
	Open(p secret.Place, sealed []byte) ([]byte, error)
}

// Sealed is where the secrets of webhooks stand.
var Sealed = []secret.Column{
	{Table: "webhooks", Column: "sealed_secret", Organization: "organization_id", Row: "id"},
	{Table: "webhooks", Column: "sealed_former_secret", Organization: "organization_id", Row: "id"},
}

func secretPlace(organization contract.OrganizationID, id string) secret.Place {
	return secret.Place{Organization: organization.String(), Table: "webhooks", Column: "sealed_secret", Row: id}
}

func formerPlace(organization contract.OrganizationID, id string) secret.Place {
	return secret.Place{Organization: organization.String(), Table: "webhooks", Column: "sealed_former_secret", Row: id}
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

// Config is what the webhooks of all organizations share.
type Config struct {
	Keys          keyring
	Mails         mails
	Organizations organizations
	Dialer        *outbound.Dialer
	// PublicURL is under which people reach the control plane: http(s)://HOST[:PORT].
	PublicURL string
}

// Webhooks keeps and calls them. It is safe for concurrent use.
type Webhooks struct {
	db     *db.DB
	log    *slog.Logger
	config Config
	client *http.Client
}

// New prepares webhooks. Whoever runs the outbox adds Queue to it.
func New(d *db.DB, log *slog.Logger, c Config) *Webhooks {
	return &Webhooks{db: d, log: log, config: c, client: c.Dialer.Client(answerWithin)}
}

// queue is the outbox's.
const queue = "webhook"

const (
	// workers bounds what all organizations together can keep busy.
	workers = 32
	// answerWithin is the patience with a receiver: long enough to store an event, too short to work on it.
	answerWithin = 10 * time.Second
	// triedFor is for how long an event is tried: a weekend and a Monday.
	triedFor = 3 * 24 * time.Hour
	// testedFor is short: somebody looks.
	testedFor = time.Minute
)

// Queue is how deliveries are carried.
func (w *Webhooks) Queue() outbox.Queue {
	return outbox.Queue{
		Name: queue, Workers: workers, Timeout: answerWithin + 5*time.Second,
		Backoff: outbox.Backoff{First: 10 * time.Second, Most: 4 * time.Hour},
		Carry:   w.carry,
	}
}
