// Package notify sends mails to people. A noun asks for one in the transaction of the change that the mail tells of; it leaves
// afterwards, by package outbox, at least once and always with the same Message-ID.
//
// A mail is the name of a template of this package and its values (catalog.go): nobody else writes text that people
// read. Values are checked when a mail is asked for, and what people wrote is shown as text, never as markup, a header or a
// link. Links lead to the configured public URL only.
//
// Values hold one-time links, such as the one that resets a password. Who reads the database must not be able to use them: they
// are sealed, and removed once the mail was sent.
//
// Nobody is bombed: of each template only so many an hour go to an address (catalog.go). What exceeds that is dropped, and
// the caller does not notice: what strangers cause must not tell them anything.
package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/mail"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	gomail "github.com/wneessen/go-mail"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
)

// Platform stands for the platform itself where an organization is named.
const Platform = "00000000-0000-0000-0000-000000000000"

// queue is the outbox's.
const queue = "mail"

// Mail is one to be.
type Mail struct {
	To contract.Email
	// Template is one of catalog.go.
	Template string
	// Values are those that the template shows, all of them and no other. A moment is written as time.RFC3339.
	Values map[string]string
	// Organization whose matter it is, a UUID; empty for a person's own.
	Organization string
}

// Config is what all mails have in common.
type Config struct {
	// From is the sender.
	From mail.Address
	// PublicURL is under which people reach the control plane: http(s)://HOST[:PORT]. All links begin with it.
	PublicURL string
	// Sender hands mails on; nil where no mail server is configured: mails then wait, and are dead when their time is over.
	Sender Sender
}

// Sender hands a mail on to whoever brings it to its recipient.
type Sender interface {
	// Send returns nil once somebody else is responsible for the mail. An outbox.Permanent error says that this mail will
	// never be taken.
	Send(ctx context.Context, m *gomail.Msg) error
	// String names the receiver for operators, without secrets.
	String() string
}

// keyring seals and opens: a secret.Keyring.
type keyring interface {
	Seal(p secret.Place, plain []byte) ([]byte, error)
	Open(p secret.Place, sealed []byte) ([]byte, error)
}

// Sealed is where the values of mails stand.
var Sealed = secret.Column{Table: "mails", Column: "sealed_values", Organization: "organization_id", Row: "id"}

func place(organization, id string) secret.Place {
	return secret.Place{Organization: organization, Table: Sealed.Table, Column: Sealed.Column, Row: id}
}

// Mails is the queue of mails. It is safe for concurrent use.
type Mails struct {
	db        *db.DB
	keys      keyring
	log       *slog.Logger
	templates *templates
	config    Config
	public    *url.URL
	dropped   *prometheus.CounterVec
}

// New makes the queue. Whoever runs the outbox adds Queue to it.
func New(d *db.DB, keys keyring, log *slog.Logger, reg prometheus.Registerer, c Config) (*Mails, error) {
	public, err := url.Parse(c.PublicURL)
	if err != nil || public.Host == "" {
		return nil, fmt.Errorf("open mails: public URL %q is none", c.PublicURL)
	}
	parsed, err := parseTemplates()
	if err != nil {
		return nil, fmt.Errorf("open mails: %w", err)
	}
	m := &Mails{
		db: d, keys: keys, log: log, templates: parsed, config: c, public: public,
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chom_mails_dropped_total",
			Help: "Mails that were not queued because their recipient had enough of them this hour, by template.",
		}, []string{"template"}),
	}
	if err := reg.Register(m.dropped); err != nil {
		return nil, fmt.Errorf("open mails: %w", err)
	}
	return m, nil
}

// Enqueue asks for a mail in the caller's transaction; it is sent once that is committed. It fails when the template does not
// exist or its values are not those that it shows, which is a bug of the caller. A mail that is one too many for its recipient
// is dropped without an error.
func (m *Mails) Enqueue(ctx context.Context, tx *db.Tx, mail Mail) error {
	_, err := m.enqueue(ctx, tx, mail)
	return err
}

// enqueue returns the id of the mail; empty for one that was dropped.
func (m *Mails) enqueue(ctx context.Context, tx *db.Tx, mail Mail) (string, error) {
	kind, values, err := check(mail, m.public)
	if err != nil {
		return "", fmt.Errorf("enqueue mail %q: %w", mail.Template, err)
	}
	now := time.Now()
	admitted, err := count(ctx, tx, mail, kind.perHour, now)
	if err != nil {
		return "", fmt.Errorf("enqueue mail %q: %w", mail.Template, err)
	}
	if !admitted {
		tx.AfterCommit(func() {
			m.dropped.WithLabelValues(mail.Template).Inc()
			m.log.Info("a mail was dropped: its recipient had enough of them this hour", "template", mail.Template)
		})
		return "", nil
	}
	id, err := outbox.Enqueue(ctx, tx, outbox.New{Queue: queue, Life: kind.life})
	if err != nil {
		return "", err
	}
	organization := mail.Organization
	if organization == "" {
		organization = Platform
	}
	plain, err := json.Marshal(values)
	if err != nil {
		return "", fmt.Errorf("enqueue mail %q: %w", mail.Template, err)
	}
	sealed, err := m.keys.Seal(place(organization, id), plain)
	if err != nil {
		return "", fmt.Errorf("enqueue mail %q: %w", mail.Template, err)
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO mails (id, organization_id, template, recipient, sealed_values)
		VALUES ($1, $2, $3, $4, $5)`,
		id, organization, mail.Template, mail.To, sealed); err != nil {
		return "", fmt.Errorf("enqueue mail %q: %w", mail.Template, err)
	}
	return id, nil
}

// count counts a mail, and says no when there were enough this hour. The row decides: no two transactions both take the
// last place.
func count(ctx context.Context, tx *db.Tx, mail Mail, perHour int, now time.Time) (bool, error) {
	n, err := tx.Exec(ctx, `
		INSERT INTO mail_counts (recipient, template, hour, mails)
		VALUES ($1, $2, $3, 1)
		ON CONFLICT (recipient, template, hour) DO UPDATE
		SET mails = mail_counts.mails + 1
		WHERE mail_counts.mails < $4`,
		strings.ToLower(mail.To.String()), mail.Template, hourOf(now), perHour)
	return n > 0, err
}

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

// Test sends a mail to an operator, to see whether mails arrive.
func (m *Mails) Test(ctx context.Context, to contract.Email) (Status, error) {
	var made Status
	err := db.InTx(ctx, m.db, func(tx *db.Tx) error {
		id, err := m.enqueue(ctx, tx, Mail{To: to, Template: TemplateTest})
		if err != nil {
			return err
		}
		if id == "" {
			return errTested
		}
		if made, err = get(ctx, tx, id); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: audit.Platform, Action: "mail.test", Object: id})
	})
	if err != nil {
		return Status{}, fmt.Errorf("test mail: %w", err)
	}
	return made, nil
}

var errTested = fault.Conflict("enough tests were sent to you this hour; look at those")
