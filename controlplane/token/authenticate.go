package token

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/organization"
)

// Authenticate returns the caller that a token stands for. address is where the call comes from, for the record of its last use.
// What is malformed is refused without asking the database; everything else costs one query by the hash. All that is wrong
// with a token has one answer, a fault of kind Unauthenticated.
func (t *Tokens) Authenticate(ctx context.Context, text, address string) (account.Caller, error) {
	kind, hash := kindOf(text)
	if kind == "" {
		return account.Caller{}, errNotAnybody
	}
	now := time.Now()
	var found account.Caller
	var scope, creator, sites string
	var all bool
	var used sql.NullInt64
	err := t.db.Reader().QueryRow(ctx, `
		SELECT t.id,
		       t.scope,
		       COALESCE(t.organization_id, ''),
		       t.role,
		       t.all_sites,
		       CASE WHEN t.all_sites THEN ''
		            ELSE COALESCE((SELECT string_agg(s.site_id, ' ')
		                           FROM token_sites s
		                           WHERE s.organization_id = t.organization_id AND s.token_id = t.id), '') END,
		       t.created_by,
		       t.last_used_at,
		       COALESCE(a.id, ''),
		       COALESCE(a.email, ''),
		       COALESCE(a.operator, FALSE),
		       EXISTS (SELECT 1 FROM totps f WHERE f.account_id = a.id AND f.confirmed_at IS NOT NULL)
		         OR EXISTS (SELECT 1 FROM passkeys f WHERE f.account_id = a.id)
		FROM tokens t
		LEFT JOIN accounts a ON a.id = t.account_id
		LEFT JOIN organizations o ON o.id = t.organization_id
		JOIN accounts creator ON creator.id = t.created_by
		WHERE t.secret_hash = $1
		  AND t.kind = $2
		  AND t.revoked_at IS NULL
		  AND t.expires_at > $3
		  AND COALESCE(o.state, 'active') <> 'closed'
		  AND (t.kind <> 'impersonation' OR (creator.operator AND NOT a.operator))`,
		hash, string(kind), db.Micros(now)).Scan(
		&found.Token, &scope, &found.Organization, &found.Role, &all, &sites, &creator, &used,
		&found.ID, &found.Email, &found.Operator, &found.SecondFactor)
	if errors.Is(err, sql.ErrNoRows) {
		return account.Caller{}, errNotAnybody
	}
	if err != nil {
		return account.Caller{}, fmt.Errorf("authenticate: %w", err)
	}
	var known bool
	if found.Scope, known = account.ParseScope(scope); !known {
		return account.Caller{}, fmt.Errorf("authenticate: token %s has the scope %q", found.Token, scope)
	}
	found.Sites = organization.ParseSites(all, sites)
	if kind == Impersonation {
		found.Impersonator = creator
	}
	t.uses.note(found.Token, use{at: now, from: address}, db.NullTime(used))
	return found, nil
}

// kindOf says what a text is by its prefix, and gives its hash; an empty kind for what none of ours looks like.
func kindOf(text string) (Kind, []byte) {
	for kind, prefix := range prefixes {
		if strings.HasPrefix(text, prefix) {
			if hash, ok := bearer.Hash(prefix, text); ok {
				return kind, hash
			}
		}
	}
	return "", nil
}
