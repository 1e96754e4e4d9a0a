package certificate

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/webhook"
)

// decideBatch bounds what one round decides.
const decideBatch = 200

// warn decides about all names whose time has come, and mails what follows. It says whether more are waiting.
func (c *Certificates) warn(ctx context.Context, now time.Time) (more bool, err error) {
	rows, err := c.db.Reader().Query(ctx, columns+`
		WHERE c.decide_at <= $1
		   OR c.decide_at > $2
		ORDER BY c.decide_at
		LIMIT $3`, db.Micros(now), db.Micros(now.Add(decideEvery)), decideBatch)
	if err != nil {
		return false, fmt.Errorf("find certificates to decide about: %w", err)
	}
	due, err := scanAll(rows)
	if err != nil {
		return false, fmt.Errorf("find certificates to decide about: %w", err)
	}
	var failed error
	for _, r := range due {
		if err := c.decide(ctx, r.Certificate, now); err != nil && failed == nil { // the others must not wait for it
			failed = fmt.Errorf("decide about the certificate of %s: %w", r.Name, err)
		}
	}
	return len(due) == decideBatch, failed
}

// decide decides about one name. The mails, the events and what was decided commit together: nothing is said twice.
func (c *Certificates) decide(ctx context.Context, of Certificate, now time.Time) error {
	return db.InTx(ctx, c.db, func(tx *db.Tx) error {
		r, err := lock(ctx, tx, of.Organization, of.Site, of.Name)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // it is not reported any more
		}
		if err != nil {
			return err
		}
		if !r.active { // nobody is to be served
			r.AlarmAt, r.decideAt = time.Time{}, now.Add(decideEvery)
			return r.save(ctx, tx)
		}
		d := alarm(now, r.known, r.told)
		began := d.about != allWell && r.AlarmAt.IsZero()
		switch {
		case d.about == allWell:
			r.AlarmAt = time.Time{}
		case began:
			r.AlarmAt = now
		}
		r.told, r.decideAt = d.told, d.next
		if err := r.save(ctx, tx); err != nil {
			return err
		}
		if d.mail {
			if err := c.mail(ctx, tx, r, d.about, now); err != nil {
				return err
			}
		}
		if !began || !d.mail {
			return nil // it was told before
		}
		return webhook.Publish(ctx, tx, webhook.Event{
			Organization: r.Organization, Type: webhook.CertificateExpiring, Object: webhook.Object{Kind: "site", ID: r.Site.String(), Name: r.SiteName},
		})
	}, db.ReadCommitted())
}

// mail tells those who can do something about it.
func (c *Certificates) mail(ctx context.Context, tx *db.Tx, r *row, about cause, now time.Time) error {
	name, to, err := c.config.Organizations.Contacts(ctx, tx, r.Organization)
	if err != nil {
		return err
	}
	template, when := notify.TemplateCertificateEnding, r.ends
	switch about {
	case ended:
		template = notify.TemplateCertificateEnded
	case lost:
		template, when = notify.TemplateCertificateLost, r.lost
	}
	for _, address := range to {
		if err := c.config.Mails.Enqueue(ctx, tx, notify.Mail{
			To: address, Template: template, Organization: r.Organization.String(),
			Values: map[string]string{
				"organization": name, "site": r.SiteName, "domain": r.Name.String(), "time": when.Format(time.RFC3339),
				"problem": r.problem(now), "advice": r.advice(),
				"link": c.config.PublicURL + "/organizations/" + r.Organization.String() + "/sites/" + r.Site.String(),
			},
		}); err != nil {
			return err
		}
	}
	return nil
}

// silentFor is after how long without a measurement a host is called silent.
const silentFor = 24 * time.Hour

// problem says why there is no better certificate, as far as somebody has said so.
func (r *row) problem(now time.Time) string {
	said := cmp.Or(r.Observed.GetProblem(), r.Outside.GetProblem(), "the server gave no reason")
	if now.Sub(r.ObservedAt) > silentFor {
		return "its server has reported nothing since " + day(r.ObservedAt)
	}
	return said
}

// advice says what to do.
func (r *row) advice() string {
	if r.Observed.GetSource() == sitev1.CertificateSource_CERTIFICATE_SOURCE_UPLOADED {
		return "Nobody renews an uploaded certificate: upload the next one, or delete this one to get one from the CA."
	}
	return "The next one is tried for by itself, again and again. The names of the site show what keeps it."
}
