package token

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

var reasonPattern = regexp.MustCompile(`^[^\p{C}\p{Zl}\p{Zp}\s-][^\p{C}\p{Zl}\p{Zp}]+$`)

// Impersonate lets an operator act as a member of an organization for an hour at most, and returns the text of the token, which is shown
// to the operator and stored nowhere. The owners are told by mail. Errors: organization.ErrNotFound and ErrNoMember,
// ErrOperator, ErrTokens, a fault of kind Invalid that names the field.
func (t *Tokens) Impersonate(ctx context.Context, operator account.Caller, id contract.OrganizationID, accountID, reason string) (Token, string, error) {
	if n := utf8.RuneCountInString(reason); n < 10 || n > 200 || !reasonPattern.MatchString(reason) {
		return Token{}, "", fault.Invalid("reason", "must be 10 to 200 characters on one line")
	}
	if !operator.Operator {
		return Token{}, "", fault.Denied("only operators may do this")
	}
	r := Request{Name: reason, Scope: account.Manage, Organization: id, Life: t.impersonation}
	var made Token
	var text string
	err := db.InTx(ctx, t.db, func(tx *db.Tx) error {
		locked, err := organization.Lock(ctx, tx, id, operator)
		if err != nil {
			return err
		}
		email, err := impersonable(ctx, tx, id, accountID)
		if err != nil {
			return err
		}
		made = r.token(Impersonation, operator)
		if text, err = insert(ctx, tx, made, accountID, operator.ID); err != nil {
			return err
		}
		if err := t.organizations.TellOwners(ctx, tx, id, "impersonation_started", map[string]string{
			"organization": locked.Name, "operator": operator.Email, "member": email, "reason": reason,
			"expire_time": made.ExpiresAt.Format(time.RFC3339),
		}); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: id.String(), Action: "impersonation.start", Object: accountID,
			Detail: fmt.Sprintf("%s acts as %s until %s: %s", operator.Email, email, made.ExpiresAt.Format(time.RFC3339), reason),
		})
	}, db.ReadCommitted())
	if err != nil {
		return Token{}, "", fmt.Errorf("impersonate %s in %s: %w", accountID, id, err)
	}
	return made, text, nil
}

// impersonable gives the address of a member as whom an operator may act.
func impersonable(ctx context.Context, tx *db.Tx, id contract.OrganizationID, accountID string) (string, error) {
	var email string
	var operator bool
	err := tx.QueryRow(ctx, `
		SELECT a.email,
		       a.operator
		FROM members m
		JOIN accounts a ON a.id = m.account_id
		WHERE m.organization_id = $1
		  AND m.account_id = $2`,
		id, accountID).Scan(&email, &operator)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", organization.ErrNoMember
	case err != nil:
		return "", err
	case operator:
		return "", ErrOperator
	}
	return email, nil
}

// EndImpersonation ends one before its hour is over, or says ErrNotFound.
func (t *Tokens) EndImpersonation(ctx context.Context, id string) error {
	return t.revoke(ctx, id, "impersonation.end", `
		UPDATE tokens
		SET revoked_at = $2
		WHERE id = $1
		  AND revoked_at IS NULL
		  AND kind = 'impersonation'
		RETURNING COALESCE(organization_id, ''), name`)
}
