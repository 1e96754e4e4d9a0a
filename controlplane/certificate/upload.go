package certificate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Upload gives a site a certificate of its organization's own: PEM certificates, the leaf first, and its key in PEM. Older ones
// of the site whose names are all covered by it are deleted.
//
// Errors: a fault of kind Invalid that names chain or key and the rule, a conflict where it is for none of the site's names that
// the organization holds, ErrTooMany, and what Config.Names and Config.Changed say of the site. None holds anything of the key.
func (c *Certificates) Upload(ctx context.Context, organization contract.OrganizationID, site contract.SiteID, chain, key string) (Upload, error) {
	now := time.Now()
	good, err := check(chain, key, now)
	if err != nil {
		return Upload{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Upload{}, fmt.Errorf("upload certificate: %w", err)
	}
	made := Upload{
		ID: id.String(), Organization: organization, Site: site, Domains: good.domains, Issuer: good.issuer, SHA256: good.sha256[:],
		NotBefore: good.notBefore.UTC(), NotAfter: good.notAfter.UTC(), CreatedAt: db.Time(db.Micros(now)),
	}
	sealed, err := c.config.Keys.Seal(place(organization, made.ID), good.key)
	clear(good.key)
	if err != nil {
		return Upload{}, fmt.Errorf("upload certificate: %w", err)
	}
	err = db.InTx(ctx, c.db, func(tx *db.Tx) error {
		if err := lockSite(ctx, tx, organization, site); err != nil {
			return err
		}
		has, err := c.config.Names(ctx, tx, organization, site)
		if err != nil {
			return err
		}
		if !coversAny(made.Domains, has) {
			return errOther(made.Domains, has)
		}
		if err := replace(ctx, tx, made); err != nil {
			return err
		}
		if err := insert(ctx, tx, made, good.chain, sealed); err != nil {
			return err
		}
		if err := c.config.Changed(ctx, tx, organization, site); err != nil {
			return err
		}
		return record(ctx, tx, made, "certificate.upload", "")
	}, db.ReadCommitted())
	if err != nil {
		return Upload{}, fmt.Errorf("upload certificate: %w", err)
	}
	return made, nil
}

// lockSite makes those who change a site's certificates at the same time wait for each other.
func lockSite(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID) error {
	n, err := tx.Exec(ctx, `
		UPDATE sites
		SET updated_at = updated_at
		WHERE organization_id = $1
		  AND id = $2`, organization, site)
	if err != nil {
		return err
	}
	if n == 0 {
		return errNoSite
	}
	return nil
}

func covers(certificate []contract.Domain, name contract.Domain) bool {
	return slices.ContainsFunc(certificate, func(d contract.Domain) bool { return d.Covers(name) })
}

func coversAny(certificate, names []contract.Domain) bool {
	return slices.ContainsFunc(names, func(name contract.Domain) bool { return covers(certificate, name) })
}

func coversAll(certificate, names []contract.Domain) bool {
	return !slices.ContainsFunc(names, func(name contract.Domain) bool { return !covers(certificate, name) })
}

// errOther says what a certificate is for, and what the site has.
func errOther(is, has []contract.Domain) error {
	if len(has) == 0 {
		return fault.Conflict(fmt.Sprintf("the certificate is for %s; the organization holds none of the site's names yet: claim them first", few(is)))
	}
	return fault.Conflict(fmt.Sprintf("the certificate is for %s; the site's names that the organization holds are %s: it is for none of them", few(is), few(has)))
}

// few names some of many.
func few(names []contract.Domain) string {
	const most = 5
	text := joinNames(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// replace deletes what a new certificate stands for.
func replace(ctx context.Context, tx *db.Tx, made Upload) error {
	all, err := Uploaded(ctx, tx, made.Organization, made.Site)
	if err != nil {
		return err
	}
	for _, old := range all {
		if !coversAll(made.Domains, old.Domains) {
			continue
		}
		if err := remove(ctx, tx, old); err != nil {
			return err
		}
		if err := record(ctx, tx, old, "certificate.delete", "replaced by "+made.ID); err != nil {
			return err
		}
	}
	return nil
}

func insert(ctx context.Context, tx *db.Tx, u Upload, chain, sealed []byte) error {
	inserted, err := tx.Exec(ctx, `
		INSERT INTO uploaded_certificates (organization_id, id, site_id, domains, issuer, sha256, not_before, not_after, chain, sealed_key, created_at)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
		WHERE (SELECT COUNT(*) FROM uploaded_certificates WHERE organization_id = $1 AND site_id = $3) < $12`,
		u.Organization, u.ID, u.Site, joinNames(u.Domains, " "), u.Issuer, u.SHA256, db.Micros(u.NotBefore), db.Micros(u.NotAfter),
		string(chain), sealed, db.Micros(u.CreatedAt), Max)
	if err != nil {
		return err
	}
	if inserted == 0 {
		return ErrTooMany
	}
	return nil
}

// Delete takes an uploaded certificate from a site, with its key. It says ErrNotFound where the site has none with the id.
func (c *Certificates) Delete(ctx context.Context, organization contract.OrganizationID, site contract.SiteID, id string) error {
	err := db.InTx(ctx, c.db, func(tx *db.Tx) error {
		if err := lockSite(ctx, tx, organization, site); err != nil {
			return err
		}
		all, err := Uploaded(ctx, tx, organization, site)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(u Upload) bool { return u.ID == id })
		if i < 0 {
			return ErrNotFound
		}
		if err := remove(ctx, tx, all[i]); err != nil {
			return err
		}
		if err := c.config.Changed(ctx, tx, organization, site); err != nil {
			return err
		}
		return record(ctx, tx, all[i], "certificate.delete", "")
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("delete certificate: %w", err)
	}
	return nil
}

func remove(ctx context.Context, tx *db.Tx, u Upload) error {
	_, err := tx.Exec(ctx, `DELETE FROM uploaded_certificates WHERE organization_id = $1 AND id = $2`, u.Organization, u.ID)
	return err
}

// Uploaded are a site's certificates that its organization uploaded, the newest first; none where there is no such site.
func Uploaded(ctx context.Context, q db.Querier, organization contract.OrganizationID, site contract.SiteID) ([]Upload, error) {
	rows, err := q.Query(ctx, `
		SELECT id, domains, issuer, sha256, not_before, not_after, created_at
		FROM uploaded_certificates
		WHERE organization_id = $1
		  AND site_id = $2
		ORDER BY id DESC`, organization, site)
	if err != nil {
		return nil, fmt.Errorf("read uploaded certificates: %w", err)
	}
	defer rows.Close()
	var all []Upload
	for rows.Next() {
		u := Upload{Organization: organization, Site: site}
		var domains string
		var begins, ends, created int64
		if err := rows.Scan(&u.ID, &domains, &u.Issuer, &u.SHA256, &begins, &ends, &created); err != nil {
			return nil, fmt.Errorf("read uploaded certificates: %w", err)
		}
		for _, word := range strings.Fields(domains) {
			name, err := contract.ParsePattern(word)
			if err != nil {
				return nil, fmt.Errorf("read uploaded certificate %s: %w", u.ID, err)
			}
			u.Domains = append(u.Domains, name)
		}
		u.NotBefore, u.NotAfter, u.CreatedAt = db.Time(begins), db.Time(ends), db.Time(created)
		all = append(all, u)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read uploaded certificates: %w", err)
	}
	return all, nil
}

// ListUploaded gives a site's uploaded certificates, the oldest first. It says that the site does not exist.
func (c *Certificates) ListUploaded(ctx context.Context, organization contract.OrganizationID, site contract.SiteID) ([]Upload, error) {
	var found int
	err := c.db.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM sites WHERE organization_id = $1 AND id = $2`, organization, site).Scan(&found)
	if err != nil {
		return nil, fmt.Errorf("list uploaded certificates: %w", err)
	}
	if found == 0 {
		return nil, errNoSite
	}
	all, err := Uploaded(ctx, c.db.Reader(), organization, site)
	slices.Reverse(all)
	return all, err
}

// Fetch gives an uploaded certificate and its key (PKCS #8), both in PEM, to be handed to the site's host and nobody else; who
// asks must have made sure of that. ErrNotFound where the site has none with the id.
func (c *Certificates) Fetch(ctx context.Context, organization contract.OrganizationID, site contract.SiteID, id string) (chain, key []byte, err error) {
	var text string
	var sealed []byte
	err = c.db.Reader().QueryRow(ctx, `
		SELECT chain, sealed_key
		FROM uploaded_certificates
		WHERE organization_id = $1
		  AND site_id = $2
		  AND id = $3`, organization, site, id).Scan(&text, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, ErrNotFound
	}
	if err != nil {
		return nil, nil, fmt.Errorf("fetch certificate: %w", err)
	}
	if key, err = c.config.Keys.Open(place(organization, id), sealed); err != nil {
		return nil, nil, fmt.Errorf("fetch certificate: %w", err)
	}
	return []byte(text), key, nil
}

func record(ctx context.Context, tx *db.Tx, u Upload, action, how string) error {
	detail := fmt.Sprintf("for %s, SHA-256 %x", few(u.Domains), u.SHA256)
	if how != "" {
		detail += ", " + how
	}
	return audit.Record(ctx, tx, audit.Event{Organization: u.Organization.String(), Action: action, Object: u.ID, Detail: detail})
}

func joinNames(names []contract.Domain, separator string) string {
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = name.String()
	}
	return strings.Join(texts, separator)
}
