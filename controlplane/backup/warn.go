package backup

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// decideBatch bounds what one round decides.
const decideBatch = 200

// warn decides about all sites whose time has come, and mails what follows. It says whether more are waiting.
func (b *Backups) warn(ctx context.Context, now time.Time) (more bool, err error) {
	if b.config.Off != "" || !b.trusts(now) {
		return false, nil
	}
	if err := b.put(ctx, `
		INSERT INTO backup_alarms (organization_id, site_id, about, told_about, decide_at)
		SELECT organization_id,
		       id,
		       0,
		       0,
		       0
		FROM sites
		WHERE NOT EXISTS (SELECT 1 FROM backup_alarms a WHERE a.organization_id = sites.organization_id AND a.site_id = sites.id)
		ON CONFLICT DO NOTHING`); err != nil {
		return false, fmt.Errorf("find new sites: %w", err)
	}
	rows, err := b.db.Reader().Query(ctx, `
		SELECT organization_id,
		       site_id
		FROM backup_alarms
		WHERE decide_at <= $1
		   OR decide_at > $2
		ORDER BY decide_at
		LIMIT $3`, db.Micros(now), db.Micros(now.Add(2*decideEvery)), decideBatch)
	if err != nil {
		return false, fmt.Errorf("find sites to decide about: %w", err)
	}
	due, err := alarmedOf(rows)
	if err != nil {
		return false, fmt.Errorf("find sites to decide about: %w", err)
	}
	var failed error
	for _, a := range due {
		if err := b.decide(ctx, a, now); err != nil && failed == nil { // the others must not wait for it
			failed = fmt.Errorf("decide about the backups of site %s: %w", a.Site, err)
		}
	}
	return len(due) == decideBatch, failed
}

// alarmed is a site of whose backups something may be wrong.
type alarmed struct {
	Organization contract.OrganizationID
	Site         contract.SiteID
	name         string
	wanted       time.Time
	about        cause
	told         notice
}

func alarmedOf(rows *sql.Rows) (all []alarmed, err error) {
	defer rows.Close()
	for rows.Next() {
		var a alarmed
		if err := rows.Scan(&a.Organization, &a.Site); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, rows.Err()
}

// decide decides about one site. The mails, the event and what was decided commit together: nothing is said twice.
func (b *Backups) decide(ctx context.Context, of alarmed, now time.Time) error {
	return db.InTx(ctx, b.db, func(tx *db.Tx) error {
		a := of
		var active bool
		var wanted, since, at sql.NullInt64
		err := tx.QueryRow(ctx, `
			SELECT s.name,
			       s.phase = 'active' AND NOT s.frozen,
			       a.wanted_at,
			       a.about,
			       a.told_about,
			       a.told_since,
			       a.told_at
			FROM backup_alarms a
			JOIN sites s ON s.organization_id = a.organization_id AND s.id = a.site_id
			WHERE a.organization_id = $1
			  AND a.site_id = $2`+tx.ForUpdate(), a.Organization, a.Site).Scan(&a.name, &active, &wanted, &a.about, &a.told.about, &since, &at)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // it left with its site
		}
		if err != nil {
			return err
		}
		a.wanted, a.told.since, a.told.at = db.NullTime(wanted), db.NullTime(since), db.NullTime(at)
		if !active { // nobody is to be served
			return a.save(ctx, tx, time.Time{}, decision{next: now.Add(decideEvery), told: notice{at: a.told.at}})
		}
		policy, err := b.PolicyOf(ctx, tx, a.Organization, a.Site)
		if err != nil {
			return err
		}
		is, problem, err := standingOf(ctx, tx, a.Organization, a.Site)
		if err != nil {
			return err
		}
		if policy.Interval > 0 {
			if a.wanted.IsZero() {
				a.wanted = now
			}
			is.interval, is.since = policy.Interval, a.wanted
		} else {
			a.wanted = time.Time{}
		}
		d := alarm(now, is, a.told)
		if err := a.save(ctx, tx, a.wanted, d); err != nil {
			return err
		}
		if d.mail {
			if err := b.mail(ctx, tx, a, d, problem, is, now); err != nil {
				return err
			}
		}
		if d.about != overdue || a.about >= overdue {
			return nil // it was told before
		}
		return webhook.Publish(ctx, tx, webhook.Event{
			Organization: a.Organization, Type: webhook.BackupOverdue, Object: webhook.Object{Kind: "site", ID: a.Site.String(), Name: a.name},
		})
	}, db.ReadCommitted())
}

// save writes what was decided.
func (a alarmed) save(ctx context.Context, tx *db.Tx, wanted time.Time, d decision) error {
	_, err := tx.Exec(ctx, `
		UPDATE backup_alarms
		SET wanted_at = $3,
		    about = $4,
		    told_about = $5,
		    told_since = $6,
		    told_at = $7,
		    decide_at = $8
		WHERE organization_id = $1
		  AND site_id = $2`,
		a.Organization, a.Site, db.NullMicros(wanted), int64(d.about), int64(d.told.about), db.NullMicros(d.told.since), db.NullMicros(d.told.at), db.Micros(d.next))
	return err
}

// decideSoon has a site decided upon now: it has another backup, or none.
func decideSoon(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) error {
	_, err := tx.Exec(ctx, `
		UPDATE backup_alarms
		SET decide_at = 0
		WHERE organization_id = $1
		  AND site_id = $2`, organization, id)
	return err
}

// standingOf is how well a site is backed up, whatever is wanted of it, and why the newest backup failed, if it did. What came from
// elsewhere is no backup of the site.
func standingOf(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) (is standing, problem string, err error) {
	var good, failing, hurt sql.NullInt64
	err = q.QueryRow(ctx, `
		SELECT (SELECT MAX(checked_at)
		        FROM backups
		        WHERE organization_id = $1
		          AND site_id = $2
		          AND state = 'ready'
		          AND reason NOT IN ('copied', 'imported')),
		       (SELECT MIN(created_at)
		        FROM backups f
		        WHERE f.organization_id = $1
		          AND f.site_id = $2
		          AND f.state = 'failed'
		          AND f.reason NOT IN ('copied', 'imported')
		          AND NOT EXISTS (
		              SELECT 1
		              FROM backups r
		              WHERE r.organization_id = $1
		                AND r.site_id = $2
		                AND r.state = 'ready'
		                AND r.reason NOT IN ('copied', 'imported')
		                AND r.id > f.id
		          )),
		       (SELECT MAX(damaged_at)
		        FROM repositories
		        WHERE organization_id = $1
		          AND site_id = $2),
		       COALESCE((
		           SELECT problem
		           FROM backups
		           WHERE organization_id = $1
		             AND site_id = $2
		             AND state IN ('ready', 'failed')
		             AND reason NOT IN ('copied', 'imported')
		           ORDER BY id DESC
		           LIMIT 1), '')`, organization, id).Scan(&good, &failing, &hurt, &problem)
	if err != nil {
		return is, "", fmt.Errorf("read how site %s is backed up: %w", id, err)
	}
	is.good, is.failing, is.damaged = db.NullTime(good), db.NullTime(failing), db.NullTime(hurt)
	return is, problem, nil
}

// mail tells those who can do something about it.
func (b *Backups) mail(ctx context.Context, tx *db.Tx, a alarmed, d decision, problem string, is standing, now time.Time) error {
	name, to, err := b.config.Organizations.Contacts(ctx, tx, a.Organization)
	if err != nil {
		return err
	}
	values := map[string]string{
		"organization": name, "site": a.name, "time": d.since.Format(time.RFC3339),
		"problem": reason(d.about, problem), "advice": advice(d.about, is),
		"link": b.config.PublicURL + "/organizations/" + a.Organization.String() + "/sites/" + a.Site.String(),
	}
	template := map[cause]string{
		allWell: notify.TemplateBackupWell, failing: notify.TemplateBackupFailing, overdue: notify.TemplateBackupOverdue, damaged: notify.TemplateBackupDamaged,
	}[d.about]
	if d.about == allWell {
		values["time"] = now.Format(time.RFC3339)
		delete(values, "problem")
		delete(values, "advice")
	}
	for _, address := range to {
		mail := notify.Mail{To: address, Template: template, Organization: a.Organization.String(), Values: values}
		if err := b.config.Mails.Enqueue(ctx, tx, mail); err != nil {
			return err
		}
	}
	return nil
}

// reason says why it is so, as far as somebody has said so.
func reason(about cause, problem string) string {
	if about == damaged {
		return "something in the repository is missing, or not what was written"
	}
	return cmp.Or(problem, "its server has made none, and gave no reason")
}

// advice says what to do.
func advice(about cause, is standing) string {
	switch {
	case about == damaged:
		return "Ask the operator of the control plane to look at where backups are stored. Until that is done nothing more is removed from there."
	case is.interval == 0:
		return "No backup is made by itself: once the reason is gone, ask for one."
	}
	return "It is tried again by itself whenever a backup is due. Once the reason is gone, ask for one to see that it works."
}
