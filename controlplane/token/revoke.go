package token

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// Revoke ends a personal token of the caller, from the next call on; ErrNotFound for one that is not theirs or ended already.
func (t *Tokens) Revoke(ctx context.Context, caller account.Caller, id string) error {
	return t.revoke(ctx, id, "token.revoke", `
		UPDATE tokens
		SET revoked_at = $2
		WHERE id = $1
		  AND revoked_at IS NULL
		  AND kind = 'personal'
		  AND account_id = $3
		RETURNING '', name`, caller.ID)
}

// RevokeOfOrganization ends a token of an organization, from the next call on; ErrNotFound for one that it does not have or that
// ended already.
func (t *Tokens) RevokeOfOrganization(ctx context.Context, organization contract.OrganizationID, id string) error {
	return t.revoke(ctx, id, "token.revoke", `
		UPDATE tokens
		SET revoked_at = $2
		WHERE id = $1
		  AND revoked_at IS NULL
		  AND kind = 'organization'
		  AND organization_id = $3
		RETURNING organization_id, name`, organization)
}

// revoke runs a statement that ends a token and says to which organization's audit that belongs.
func (t *Tokens) revoke(ctx context.Context, id, action, statement string, args ...any) error {
	err := db.InTx(ctx, t.db, func(tx *db.Tx) error {
		var organization, name string
		err := tx.QueryRow(ctx, statement, append([]any{id, db.Micros(time.Now())}, args...)...).Scan(&organization, &name)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		if organization == "" {
			organization = audit.Platform
		} else if owner, err := contract.ParseOrganizationID(organization); err != nil {
			return err
		} else if err := publish(ctx, tx, owner, webhook.TokenRevoked, id, name); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: organization, Action: action, Object: id, Detail: name})
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("%s %s: %w", action, id, err)
	}
	return nil
}
