package token

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// Of returns a page of a person's personal tokens that work, oldest first.
func (t *Tokens) Of(ctx context.Context, caller account.Caller, size int32, token string) ([]Token, string, error) {
	return t.list(ctx, Personal, caller.ID, size, token)
}

// OfOrganization returns a page of an organization's own tokens that work, oldest first.
func (t *Tokens) OfOrganization(ctx context.Context, id contract.OrganizationID, size int32, token string) ([]Token, string, error) {
	return t.list(ctx, Organization, id.String(), size, token)
}

// list reads those of a person or of an organization.
func (t *Tokens) list(ctx context.Context, kind Kind, owner string, size int32, token string) ([]Token, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"tokens", string(kind), owner}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	rows, err := t.db.Reader().Query(ctx, `
		SELECT t.id,
		       t.kind,
		       t.name,
		       t.scope,
		       COALESCE(t.organization_id, ''),
		       t.role,
		       t.all_sites,
		       COALESCE((SELECT string_agg(s.site_id, ' ')
		                 FROM token_sites s
		                 WHERE s.organization_id = t.organization_id AND s.token_id = t.id), ''),
		       a.email,
		       t.created_at,
		       t.expires_at,
		       t.last_used_at,
		       t.last_used_address
		FROM tokens t
		JOIN accounts a ON a.id = t.created_by
		WHERE t.id > $1
		  AND t.revoked_at IS NULL
		  AND t.expires_at > $2
		  AND t.kind = $4
		  AND (t.account_id = $5 OR t.organization_id = $5)
		ORDER BY t.id
		LIMIT $3`,
		after, db.Micros(time.Now()), limit+1, string(kind), owner)
	if err != nil {
		return nil, "", fmt.Errorf("list tokens: %w", err)
	}
	defer rows.Close()
	var all []Token
	for rows.Next() {
		found, err := scan(rows)
		if err != nil {
			return nil, "", fmt.Errorf("list tokens: %w", err)
		}
		all = append(all, found)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list tokens: %w", err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].ID })
	return all[:min(len(all), limit)], next, nil
}

func scan(rows *sql.Rows) (Token, error) {
	var found Token
	var scope, sites string
	var all bool
	var created, expires int64
	var used sql.NullInt64
	if err := rows.Scan(&found.ID, &found.Kind, &found.Name, &scope, &found.Organization, &found.Role, &all, &sites,
		&found.CreatorEmail, &created, &expires, &used, &found.UsedFrom); err != nil {
		return Token{}, err
	}
	var known bool
	if found.Scope, known = account.ParseScope(scope); !known {
		return Token{}, fmt.Errorf("token %s has the scope %q", found.ID, scope)
	}
	found.Sites = organization.ParseSites(all, sites)
	found.CreatedAt, found.ExpiresAt, found.UsedAt = db.Time(created), db.Time(expires), db.NullTime(used)
	return found, nil
}
