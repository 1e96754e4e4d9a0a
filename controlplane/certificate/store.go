package certificate

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// row is a certificate with what only this package needs.
type row struct {
	Certificate
	known         // together: what follows from the two
	host, outside known
	told          notice
	failures      int64     // looks from outside in a row
	lookAt        time.Time // zero where there is nothing to look at
	decideAt      time.Time
	active        bool // the site is to be served
}

const columns = `
	SELECT c.organization_id, c.site_id, s.name, s.phase, c.name, c.observed, c.observed_at, c.outside, c.outside_at, c.look_at, c.failures,
	       c.valid, c.begins_at, c.ends_at, c.lost_at, c.host_valid, c.host_begins_at, c.host_ends_at, c.host_lost_at,
	       c.outside_valid, c.outside_begins_at, c.outside_ends_at, c.outside_lost_at, c.alarm_at, c.decide_at, c.mailed_end, c.mailed_marks, c.mailed_lost, c.mailed_at
	FROM certificates c
	JOIN sites s ON s.organization_id = c.organization_id AND s.id = c.site_id`

func scan(from interface{ Scan(...any) error }) (*row, error) {
	var r row
	var phase string
	var observed, outside []byte
	var observedAt, decide, mailedEnd, mailedLost, mailedAt int64
	var outsideAt, look, alarmed sql.NullInt64
	var together, host, outwards knownTimes
	if err := from.Scan(&r.Organization, &r.Site, &r.SiteName, &phase, &r.Name, &observed, &observedAt, &outside, &outsideAt, &look, &r.failures,
		&r.valid, &together.begins, &together.ends, &together.lost, &r.host.valid, &host.begins, &host.ends, &host.lost,
		&r.outside.valid, &outwards.begins, &outwards.ends, &outwards.lost, &alarmed, &decide, &mailedEnd, &r.told.marks, &mailedLost, &mailedAt); err != nil {
		return nil, err
	}
	r.Observed = new(sitev1.ObservedCertificate)
	if err := proto.Unmarshal(observed, r.Observed); err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", r.Name, err)
	}
	if outside != nil {
		r.Outside = new(sitev1.ObservedCertificate)
		if err := proto.Unmarshal(outside, r.Outside); err != nil {
			return nil, fmt.Errorf("certificate of %s: %w", r.Name, err)
		}
	}
	r.ObservedAt, r.OutsideAt, r.lookAt, r.AlarmAt = db.Time(observedAt), db.NullTime(outsideAt), db.NullTime(look), db.NullTime(alarmed)
	together.into(&r.known)
	host.into(&r.host)
	outwards.into(&r.outside)
	r.decideAt = db.Time(decide)
	r.told.end, r.told.lost, r.told.at = db.Time(mailedEnd), db.Time(mailedLost), db.Time(mailedAt)
	r.active = phase == "active"
	return &r, nil
}

// knownTimes are the times of a known as the database has them.
type knownTimes struct {
	begins, ends int64
	lost         sql.NullInt64
}

func (t knownTimes) into(k *known) {
	k.begins, k.ends, k.lost = db.Time(t.begins), db.Time(t.ends), db.NullTime(t.lost)
}

func scanAll(rows *sql.Rows) ([]*row, error) {
	defer rows.Close()
	var all []*row
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

// lock finds what is known of one name, and keeps others from deciding upon it until the transaction ends; sql.ErrNoRows where
// it is not reported any more.
func lock(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID, name contract.Domain) (*row, error) {
	if _, err := tx.Exec(ctx, `
		UPDATE certificates
		SET name = name
		WHERE organization_id = $1
		  AND site_id = $2
		  AND name = $3`, organization, site, name); err != nil {
		return nil, err
	}
	return scan(tx.QueryRow(ctx, columns+`
		WHERE c.organization_id = $1
		  AND c.site_id = $2
		  AND c.name = $3`, organization, site, name))
}

// save writes all that is known of a name.
func (r *row) save(ctx context.Context, tx *db.Tx) error {
	observed, err := encode(r.Observed)
	if err != nil {
		return err
	}
	outside, err := encode(r.Outside)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO certificates (
			organization_id, site_id, name, observed, observed_at, outside, outside_at, look_at, failures,
			valid, begins_at, ends_at, lost_at, alarm_at, decide_at, mailed_end, mailed_marks, mailed_lost, mailed_at,
			host_valid, host_begins_at, host_ends_at, host_lost_at, outside_valid, outside_begins_at, outside_ends_at, outside_lost_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27)
		ON CONFLICT (organization_id, site_id, name) DO UPDATE
		SET observed = excluded.observed,
		    observed_at = excluded.observed_at,
		    outside = excluded.outside,
		    outside_at = excluded.outside_at,
		    look_at = excluded.look_at,
		    failures = excluded.failures,
		    valid = excluded.valid,
		    begins_at = excluded.begins_at,
		    ends_at = excluded.ends_at,
		    lost_at = excluded.lost_at,
		    alarm_at = excluded.alarm_at,
		    decide_at = excluded.decide_at,
		    mailed_end = excluded.mailed_end,
		    mailed_marks = excluded.mailed_marks,
		    mailed_lost = excluded.mailed_lost,
		    mailed_at = excluded.mailed_at,
		    host_valid = excluded.host_valid,
		    host_begins_at = excluded.host_begins_at,
		    host_ends_at = excluded.host_ends_at,
		    host_lost_at = excluded.host_lost_at,
		    outside_valid = excluded.outside_valid,
		    outside_begins_at = excluded.outside_begins_at,
		    outside_ends_at = excluded.outside_ends_at,
		    outside_lost_at = excluded.outside_lost_at`,
		r.Organization, r.Site, r.Name, observed, db.Micros(r.ObservedAt), outside, db.NullMicros(r.OutsideAt), db.NullMicros(r.lookAt), r.failures,
		r.valid, db.Micros(r.begins), db.Micros(r.ends), db.NullMicros(r.lost), db.NullMicros(r.AlarmAt), db.Micros(r.decideAt),
		db.Micros(r.told.end), r.told.marks, db.Micros(r.told.lost), db.Micros(r.told.at),
		r.host.valid, db.Micros(r.host.begins), db.Micros(r.host.ends), db.NullMicros(r.host.lost),
		r.outside.valid, db.Micros(r.outside.begins), db.Micros(r.outside.ends), db.NullMicros(r.outside.lost))
	if err != nil {
		return fmt.Errorf("write certificate of %s: %w", r.Name, err)
	}
	return nil
}

// encode writes the same measurement as the same bytes; nil for none.
func encode(m *sitev1.ObservedCertificate) ([]byte, error) {
	if m == nil {
		return nil, nil
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// met says whether a handshake met a certificate.
func met(m *sitev1.ObservedCertificate) bool { return len(m.GetSha256()) == sha256.Size }
