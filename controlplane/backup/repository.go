package backup

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// Sealed is where the keys of repositories stand.
var Sealed = secret.Column{Table: "repositories", Column: "sealed_key", Organization: "organization_id", Row: "site_id"}

func place(organization contract.OrganizationID, id contract.SiteID) secret.Place {
	return secret.Place{Organization: organization.String(), Table: Sealed.Table, Column: Sealed.Column, Row: id.String()}
}

// Key gives the key of a site's repository, to be handed to the site's host and nobody else; who asks must have made sure of that.
// The first call makes it. It says site.ErrNotFound where there is no such site.
func (b *Backups) Key(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (string, error) {
	sealed, err := sealedKey(ctx, b.db.Reader(), organization, id)
	if errors.Is(err, sql.ErrNoRows) {
		err = db.InTx(ctx, b.db, func(tx *db.Tx) error {
			if _, err := site.Lock(ctx, tx, organization, id); err != nil {
				return err
			}
			sealed, err = b.ensure(ctx, tx, organization, id)
			return err
		}, db.ReadCommitted())
	}
	if err != nil {
		return "", fmt.Errorf("key of the repository of site %s: %w", id, err)
	}
	key, err := b.config.Keys.Open(place(organization, id), sealed)
	if err != nil {
		return "", fmt.Errorf("key of the repository of site %s: %w", id, err)
	}
	return string(key), nil
}

// ensure makes a repository's row and key unless they are there. The site's row is locked: two never make different keys.
func (b *Backups) ensure(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) (sealed []byte, err error) {
	sealed, err = sealedKey(ctx, tx, organization, id)
	if !errors.Is(err, sql.ErrNoRows) {
		return sealed, err
	}
	var random [32]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the program instead
	key := []byte(base64.RawURLEncoding.EncodeToString(random[:]))
	defer clear(key)
	if sealed, err = b.config.Keys.Seal(place(organization, id), key); err != nil {
		return nil, err
	}
	of, err := site.Load(ctx, tx, organization, id)
	if err != nil {
		return nil, err
	}
	lies, err := wantedTarget(ctx, tx, of)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO repositories (organization_id, site_id, sealed_key, sequence, bytes, remove_at, tries, target_id, created_at)
		VALUES ($1, $2, $3, 0, 0, 0, 0, $4, $5)`,
		organization, id, sealed, targetColumn(lies), db.Micros(time.Now()))
	return sealed, err
}

func sealedKey(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) (sealed []byte, err error) {
	err = q.QueryRow(ctx, `
		SELECT sealed_key
		FROM repositories
		WHERE organization_id = $1
		  AND site_id = $2`, organization, id).Scan(&sealed)
	return sealed, err
}

// open gives the repository of a site that has one.
func (b *Backups) open(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (Repository, error) {
	sealed, err := sealedKey(ctx, b.db.Reader(), organization, id)
	if err != nil {
		return Repository{}, err
	}
	key, err := b.config.Keys.Open(place(organization, id), sealed)
	if err != nil {
		return Repository{}, err
	}
	defer clear(key)
	return Repository{Organization: organization, Site: id, Key: secret.New(key)}, nil
}

// removeBatch bounds how many repositories are removed in a turn.
const removeBatch = 20

// removeGone destroys the repositories whose sites are gone for good, and forgets their keys after that. One that cannot be removed
// now is later; the others are.
func (b *Backups) removeGone(ctx context.Context, now time.Time) error {
	rows, err := b.db.Reader().Query(ctx, `
		SELECT r.organization_id,
		       r.site_id,
		       r.tries
		FROM repositories r
		WHERE (r.remove_at <= $1 OR r.remove_at > $2)
		  AND NOT EXISTS (SELECT 1 FROM sites s WHERE s.organization_id = r.organization_id AND s.id = r.site_id)
		ORDER BY r.remove_at, r.site_id
		LIMIT $3`, db.Micros(now), db.Micros(now.Add(longestRest)), removeBatch)
	if err != nil {
		return fmt.Errorf("find repositories to remove: %w", err)
	}
	gone, err := goneOf(rows)
	if err != nil {
		return fmt.Errorf("find repositories to remove: %w", err)
	}
	for _, g := range gone {
		if err := b.config.Repositories.Remove(ctx, g.organization, g.site); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			at := now.Add(restAfter(g.tries + 1))
			b.log.WarnContext(ctx, "the repository of a site that is gone can't be removed", "site", g.site, "again_at", at, "err", err)
			if err := b.put(ctx, `
				UPDATE repositories
				SET remove_at = $3,
				    tries = tries + 1
				WHERE organization_id = $1
				  AND site_id = $2`, g.organization, g.site, db.Micros(at)); err != nil {
				return err
			}
			continue
		}
		if err := b.put(ctx, `
			DELETE FROM repositories
			WHERE organization_id = $1
			  AND site_id = $2`, g.organization, g.site); err != nil {
			return err
		}
		b.log.InfoContext(ctx, "the repository of a site that is gone is removed", "site", g.site)
	}
	return nil
}

// goneSite is a site that is there no more.
type goneSite struct {
	organization contract.OrganizationID
	site         contract.SiteID
	tries        int
}

func goneOf(rows *sql.Rows) ([]goneSite, error) {
	defer rows.Close()
	var all []goneSite
	for rows.Next() {
		var g goneSite
		if err := rows.Scan(&g.organization, &g.site, &g.tries); err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	return all, rows.Err()
}

// put runs one statement in a transaction of its own.
func (b *Backups) put(ctx context.Context, query string, args ...any) error {
	return db.InTx(ctx, b.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	}, db.ReadCommitted())
}
