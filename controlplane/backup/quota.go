package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// spare is how far above its quota an organization gets with what is no data: restic's lists of what is there. A backup that has all
// its data in the repository ends well.
const spare = 64 << 20

// Admit implements store.Ledger. Nothing is put into a repository from which data is being removed: a host that is told so asks again.
// No data is taken above the quota of the organization, but for a backup before a restore; who is told so gives up. Locks always
// pass: nobody can remove or restore anything without.
//
// What others are just putting counts once it is there: all hosts together pass the quota by what they have on its way at most.
func (b *Backups) Admit(ctx context.Context, r store.Repository, kind store.Kind, size int64) error {
	held, err := held(ctx, b.db.Reader(), r.Organization, r.Site, time.Now())
	switch {
	case err != nil:
		return err
	case held:
		return ErrHeld
	case kind == store.Locks:
		return nil
	}
	is, err := b.roomOf(ctx, r.Organization)
	if err != nil || is.fits(kind, size) {
		return err
	}
	if excepted, err := b.excepted(ctx, r); err != nil || excepted {
		return err
	}
	if err := b.refused(ctx, r, time.Now()); err != nil {
		b.log.WarnContext(ctx, "a piece of a backup is turned away, and that is not written down", "site", r.Site, "err", err)
	}
	return is.full()
}

// Took implements store.Ledger. What is counted twice, or not at all, is put right when the repository is measured.
func (b *Backups) Took(ctx context.Context, r store.Repository, kind store.Kind, size int64) {
	if kind == store.Locks {
		return // they are gone in a moment
	}
	if err := b.put(ctx, `
		UPDATE repositories
		SET put_bytes = put_bytes + $3
		WHERE organization_id = $1
		  AND site_id = $2`, r.Organization, r.Site, size); err != nil {
		b.log.WarnContext(ctx, "a piece of a backup is not counted", "site", r.Site, "err", err)
	}
}

// room is what an organization's backups take, and may take.
type room struct{ used, quota int64 }

func (r room) fits(kind store.Kind, size int64) bool {
	most := r.quota
	if kind != store.Data {
		most += spare
	}
	return r.quota == 0 || r.used+size <= most
}

// full says so to who asks for the backup.
func (r room) full() error {
	return fault.Conflict(fmt.Sprintf("the organization's %s for backups are full: %s are used; remove backups, shorten the retention, or ask for more",
		sizeText(r.quota), sizeText(r.used)))
}

func (b *Backups) roomOf(ctx context.Context, organization contract.OrganizationID) (is room, err error) {
	err = b.db.Reader().QueryRow(ctx, `
		SELECT COALESCE((SELECT backup_quota
		                 FROM organizations
		                 WHERE id = $1), $2),
		       COALESCE((SELECT SUM(bytes + put_bytes - measured_put_bytes)
		                 FROM repositories
		                 WHERE organization_id = $1), 0)`, organization, int64(b.config.Quota)).Scan(&is.quota, &is.used)
	if err != nil {
		return room{}, fmt.Errorf("look what the backups of organization %s may take: %w", organization, err)
	}
	return is, nil
}

// excepted says whether a site's backup is made before a restore: who needs one must not be kept from it.
func (b *Backups) excepted(ctx context.Context, r store.Repository) (bool, error) {
	var n int
	err := b.db.Reader().QueryRow(ctx, `
		SELECT COUNT(*)
		FROM backups
		WHERE organization_id = $1
		  AND site_id = $2
		  AND state = 'running'
		  AND reason = 'before_restore'`, r.Organization, r.Site).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("look why site %s is backed up: %w", r.Site, err)
	}
	return n > 0, nil
}

// refused notes that a piece was turned away: people are told of it, and what came before it is removed as soon as nobody works with
// the repository.
func (b *Backups) refused(ctx context.Context, r store.Repository, now time.Time) error {
	return db.InTx(ctx, b.db, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `
			UPDATE organizations
			SET backup_refused_at = $2
			WHERE id = $1`, r.Organization, db.Micros(now)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			UPDATE repositories
			SET leftovers = TRUE,
			    keep_at = CASE WHEN keep_claim = '' THEN $3 ELSE keep_at END
			WHERE organization_id = $1
			  AND site_id = $2
			  AND NOT leftovers`, r.Organization, r.Site, db.Micros(now))
		return err
	}, db.ReadCommitted())
}

// size is what a repository takes.
type size struct {
	bytes uint64
	put   int64 // how many bytes hosts had put into it before it was measured
}

// sizeOf measures a repository, which hosts may write to meanwhile.
func (b *Backups) sizeOf(ctx context.Context, r Repository) (is size, err error) {
	if err := b.db.Reader().QueryRow(ctx, `
		SELECT put_bytes
		FROM repositories
		WHERE organization_id = $1
		  AND site_id = $2`, r.Organization, r.Site).Scan(&is.put); err != nil {
		return size{}, fmt.Errorf("measure the repository: %w", err)
	}
	if is.bytes, err = b.config.Repositories.Usage(ctx, r); err != nil {
		return size{}, fmt.Errorf("measure the repository: %w", err)
	}
	return is, nil
}

// save writes both numbers at once, so that of two who measure at the same time either may be the last.
func (s size) save(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) error {
	_, err := tx.Exec(ctx, `
		UPDATE repositories
		SET bytes = $3,
		    measured_put_bytes = $4
		WHERE organization_id = $1
		  AND site_id = $2`, organization, id, int64(min(s.bytes, maxBytes)), s.put)
	return err
}

// measure puts right what is counted of a repository.
func (b *Backups) measure(ctx context.Context, k kept, r Repository) error {
	is, err := b.sizeOf(ctx, r)
	if err != nil {
		return err
	}
	return db.InTx(ctx, b.db, func(tx *db.Tx) error { return is.save(ctx, tx, k.Organization, k.Site) }, db.ReadCommitted())
}

// UseOf is how many bytes the backups of an organization take, and how many they may; a quota of 0 is no limit.
func (b *Backups) UseOf(ctx context.Context, organization contract.OrganizationID) (used, quota uint64, err error) {
	is, err := b.roomOf(ctx, organization)
	return uint64(max(is.used, 0)), uint64(max(is.quota, 0)), err
}

// fill is how much of its quota an organization uses.
type fill uint8

const (
	roomy  fill = iota
	nearly      // four fifths
	full        // all, or so much that a backup was turned away within a day
)

// refusedFor is how long an organization is full after a backup was turned away: until the next one has come that is made each day.
const refusedFor = 26 * time.Hour

// filled is how much is used at a moment, of a quota that there is.
func filled(now time.Time, used, quota int64, refused time.Time) fill {
	switch {
	case quota == 0:
		return roomy
	case used >= quota, !refused.IsZero() && now.Sub(refused).Abs() < refusedFor:
		return full
	case used >= quota/5*4:
		return nearly
	}
	return roomy
}

// news is what of it is to be told, and what will have been told then: once each, until there is room again.
func news(is, told fill) (tell bool, now fill) {
	switch {
	case is > told:
		return true, is
	case is == roomy:
		return false, roomy
	}
	return false, told
}

// warnQuotas tells the organizations that come near to their quota, or that have no room any more.
func (b *Backups) warnQuotas(ctx context.Context, now time.Time) error {
	if b.config.Off != "" || !b.trusts(now) {
		return nil
	}
	all, err := b.fills(ctx, now)
	if err != nil {
		return err
	}
	var failed error
	count := map[fill]int{}
	for _, o := range all {
		count[o.is]++
		if _, next := news(o.is, o.told); next == o.told {
			continue
		}
		if err := b.warnQuota(ctx, o.id, now); err != nil && failed == nil { // the others must not wait for it
			failed = fmt.Errorf("tell organization %s of its quota: %w", o.id, err)
		}
	}
	for is, label := range map[fill]string{roomy: "roomy", nearly: "nearly_full", full: "full"} {
		b.gauges.quotas.WithLabelValues(label).Set(float64(count[is]))
	}
	return failed
}

// using is an organization that has a quota, or was told of one.
type using struct {
	id          contract.OrganizationID
	name        string
	used, quota int64
	is, told    fill
}

// uses are columns of a using at a moment. $1 is the quota of those that have none of their own.
const uses = `
	SELECT o.id,
	       o.name,
	       COALESCE(o.backup_quota, $1),
	       o.backup_refused_at,
	       o.backup_quota_told,
	       COALESCE((SELECT SUM(r.bytes + r.put_bytes - r.measured_put_bytes)
	                 FROM repositories r
	                 WHERE r.organization_id = o.id), 0)
	FROM organizations o`

func scanUsing(row interface{ Scan(dest ...any) error }, now time.Time) (u using, err error) {
	var refused sql.NullInt64
	if err := row.Scan(&u.id, &u.name, &u.quota, &refused, &u.told, &u.used); err != nil {
		return using{}, err
	}
	u.is = filled(now, u.used, u.quota, db.NullTime(refused))
	return u, nil
}

func (b *Backups) fills(ctx context.Context, now time.Time) (all []using, err error) {
	rows, err := b.db.Reader().Query(ctx, uses+`
		WHERE o.state <> 'closed'
		  AND (COALESCE(o.backup_quota, $1) > 0 OR o.backup_quota_told > 0)
		ORDER BY o.id`, int64(b.config.Quota))
	if err != nil {
		return nil, fmt.Errorf("read what organizations use: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		one, err := scanUsing(rows, now)
		if err != nil {
			return nil, fmt.Errorf("read what organizations use: %w", err)
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// warnQuota tells one. Mails, event and what was told commit together: nothing is said twice.
func (b *Backups) warnQuota(ctx context.Context, id contract.OrganizationID, now time.Time) error {
	return db.InTx(ctx, b.db, func(tx *db.Tx) error {
		o, err := scanUsing(tx.QueryRow(ctx, uses+`
			WHERE o.id = $2`+tx.ForUpdate(), int64(b.config.Quota), id), now)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		tell, next := news(o.is, o.told)
		if next == o.told {
			return nil // another process has
		}
		if _, err := tx.Exec(ctx, `
			UPDATE organizations
			SET backup_quota_told = $2
			WHERE id = $1`, id, int64(next)); err != nil || !tell {
			return err
		}
		if err := b.mailQuota(ctx, tx, o); err != nil {
			return err
		}
		return webhook.Publish(ctx, tx, webhook.Event{
			Organization: id, Type: webhook.BackupQuota, Object: webhook.Object{Kind: "organization", ID: id.String(), Name: o.name},
		})
	}, db.ReadCommitted())
}

func (b *Backups) mailQuota(ctx context.Context, tx *db.Tx, o using) error {
	name, to, err := b.config.Organizations.Contacts(ctx, tx, o.id)
	if err != nil {
		return err
	}
	template := notify.TemplateBackupQuotaNear
	if o.is == full {
		template = notify.TemplateBackupQuotaFull
	}
	for _, address := range to {
		if err := b.config.Mails.Enqueue(ctx, tx, notify.Mail{To: address, Template: template, Organization: o.id.String(), Values: map[string]string{
			"organization": name, "used": sizeText(o.used), "quota": sizeText(o.quota), "link": b.config.PublicURL + "/organizations/" + o.id.String(),
		}}); err != nil {
			return err
		}
	}
	return nil
}

// sizeText is a number of bytes as people read it: "49.9 GiB".
func sizeText(n int64) string {
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + " " + units[unit]
}

var units = []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"}
