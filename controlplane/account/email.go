package account

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

const changePrefix = "chomemail_"

// changeWithin is the time to confirm a new address.
const changeWithin = 24 * time.Hour

// RequestEmailChange mails a link to the new address of the caller, whose session must be fresh. Nothing changes until
// ConfirmEmailChange. Its answer is the same where somebody else has that address: then no mail is sent.
func (a *Accounts) RequestEmailChange(ctx context.Context, caller Caller, rawEmail string) error {
	email, err := parseEmail(rawEmail)
	if err != nil {
		return err
	}
	if address(email) == caller.Email {
		return fault.Invalid("email", "is the address of this account already")
	}
	if err := a.limits.Allow(ctx, "email:"+caller.ID, ClassSensitive); err != nil {
		return err
	}
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM email_changes WHERE account_id = $1`, caller.ID); err != nil {
			return err
		}
		if err := record(ctx, tx, caller.ID, "account.request_email_change", ""); err != nil {
			return err
		}
		if taken, err := isTaken(ctx, tx, address(email)); err != nil || taken {
			return err
		}
		secret, hash := bearer.New(changePrefix)
		if _, err := tx.Exec(ctx, `
			INSERT INTO email_changes (secret_hash, account_id, email, expires_at)
			VALUES ($1, $2, $3, $4)`,
			hash, caller.ID, address(email), db.Micros(time.Now().Add(changeWithin))); err != nil {
			return err
		}
		return a.write(ctx, tx, address(email), mailConfirmChange, map[string]string{"link": a.link(pageChange, secret)})
	})
	if err != nil {
		return fmt.Errorf("request change of email: %w", err)
	}
	return nil
}

func isTaken(ctx context.Context, q db.Querier, email string) (bool, error) {
	var taken bool
	err := q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM accounts WHERE email = $1)`, email).Scan(&taken)
	return taken, err
}

// ConfirmEmailChange makes the address to which a link was mailed that of its account, and tells the former one. Links that were
// mailed there do not work any more. It says ErrLink, also where somebody else has the address by now.
func (a *Accounts) ConfirmEmailChange(ctx context.Context, token string, from Client) error {
	hash, ok := bearer.Hash(changePrefix, token)
	if !ok {
		return ErrLink
	}
	if err := a.limits.Allow(ctx, "email-link:"+hex.EncodeToString(hash), ClassAuth); err != nil {
		return err
	}
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		var account, former, email string
		err := tx.QueryRow(ctx, `
			SELECT a.id,
			       a.email,
			       c.email
			FROM email_changes c
			JOIN accounts a ON a.id = c.account_id
			WHERE c.secret_hash = $1
			  AND c.expires_at > $2`,
			hash, db.Micros(time.Now())).Scan(&account, &former, &email)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrLink
		}
		if err != nil {
			return err
		}
		taken, err := isTaken(ctx, tx, email)
		if err != nil {
			return err
		}
		if taken {
			return ErrLink
		}
		for _, statement := range []string{`DELETE FROM email_changes WHERE account_id = $1`, `DELETE FROM password_resets WHERE account_id = $1`} {
			if _, err := tx.Exec(ctx, statement, account); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `UPDATE accounts SET email = $2 WHERE id = $1`, account, email); err != nil {
			return err
		}
		if err := a.tell(ctx, tx, former, mailChanged, from, map[string]string{"email": email}); err != nil {
			return err
		}
		return record(ctx, tx, account, "account.change_email", "from "+former+" to "+email)
	})
	if db.IsUnique(err) {
		return ErrLink // taken at this very moment
	}
	if err != nil {
		return fmt.Errorf("confirm change of email: %w", err)
	}
	return nil
}
