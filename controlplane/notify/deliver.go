package notify

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/outbox"
)

const (
	// workers is how many mails are under way at once: a server that thinks long about one recipient must not hold up a
	// password that somebody waits for.
	workers = 4
	// tryWithin ends a try. Servers that look into mails take their time.
	tryWithin = time.Minute
	// noServerPause is how long mails wait before it is looked again whether there is a mail server.
	noServerPause = time.Minute
	// retryFor is how long the values of a mail that is dead are kept, so that it can be sent again. No link lives longer.
	retryFor = 7 * 24 * time.Hour
)

// Queue is how mails are carried.
func (m *Mails) Queue() outbox.Queue {
	return outbox.Queue{
		Name: queue, Workers: workers, Timeout: tryWithin,
		Backoff: outbox.Backoff{First: 20 * time.Second, Most: 2 * time.Hour},
		Carry:   m.carry, Keep: m.keep,
	}
}

var (
	errNoServer = errors.New("no mail server is configured")
	errNoMail   = errors.New("the mail is not there any more")
)

// carry sends one mail.
func (m *Mails) carry(ctx context.Context, item outbox.Item) outbox.Result {
	if m.config.Sender == nil {
		return outbox.Result{Err: outbox.Later(errNoServer, noServerPause)}
	}
	msg, err := m.compose(ctx, item)
	if err == nil {
		err = m.config.Sender.Send(ctx, msg)
	}
	return outbox.Result{Err: err, Record: func(ctx context.Context, tx *db.Tx, now outbox.State) error {
		if now != outbox.Sent {
			return nil
		}
		_, err := tx.Exec(ctx, `UPDATE mails SET sealed_values = NULL WHERE id = $1`, item.ID)
		return err
	}}
}

// compose makes the mail that is sent. Each try makes the same one.
func (m *Mails) compose(ctx context.Context, item outbox.Item) (*gomail.Msg, error) {
	var organization, name, to string
	var sealed []byte
	err := m.db.Reader().QueryRow(ctx, `
		SELECT organization_id, template, recipient, sealed_values
		FROM mails
		WHERE id = $1`, item.ID).Scan(&organization, &name, &to, &sealed)
	if errors.Is(err, sql.ErrNoRows) || err == nil && sealed == nil {
		return nil, outbox.Permanent(errNoMail)
	}
	if err != nil {
		return nil, errors.New("the mail could not be read") // its text is kept with the mail, and SQL says too much
	}
	plain, err := m.keys.Open(place(organization, item.ID), sealed)
	if err != nil {
		return nil, errors.New("the mail could not be opened: is its key gone?")
	}
	var shown map[string]string
	if err := json.Unmarshal(plain, &shown); err != nil {
		return nil, outbox.Permanent(errors.New("the mail could not be understood"))
	}
	r, err := m.templates.render(name, shown, m.public)
	if err != nil {
		return nil, outbox.Permanent(err)
	}
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(&m.config.From)
	if err := msg.To(to); err != nil {
		return nil, outbox.Permanent(errors.New("the recipient is no address"))
	}
	msg.Subject(r.subject)
	// All tries carry the same Message-ID: whoever gets two of them sees one.
	msg.SetMessageIDWithValue(item.ID + "@" + domainOf(m.config.From.Address))
	msg.SetDateWithValue(item.Created)
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no answers of machines
	msg.SetGenHeader(gomail.HeaderXAutoResponseSuppress, "All")
	msg.SetBodyString(gomail.TypeTextPlain, r.text)
	msg.AddAlternativeString(gomail.TypeTextHTML, r.html)
	return msg, nil
}

func domainOf(address string) string {
	_, domain, _ := strings.Cut(address, "@")
	return domain
}

// keep removes what nobody needs any more: links of mails that were never taken, and the counts of former hours.
func (m *Mails) keep(ctx context.Context, now time.Time) error {
	err := db.InTx(ctx, m.db, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `
			UPDATE mails
			SET sealed_values = NULL
			WHERE sealed_values IS NOT NULL
			  AND id IN (
				SELECT id
				FROM outbox
				WHERE queue = 'mail'
				  AND state = 'dead'
				  AND ended_at < $1)`,
			db.Micros(now.Add(-retryFor))); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM mail_counts WHERE hour < $1`, hourOf(now)-1)
		return err
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("prune mails: %w", err)
	}
	return nil
}
