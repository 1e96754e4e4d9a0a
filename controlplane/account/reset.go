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
	"chom.dev/controlplane/password"
)

const resetPrefix = "chomreset_"

// resetWithin is the life of a link: who asks for it waits for the mail.
const resetWithin = 30 * time.Minute

// RequestPasswordReset mails a link by which whoever has the address can set a password. Its answer is the same whether somebody
// has it or not. An account that others named gets its first password in this way.
func (a *Accounts) RequestPasswordReset(ctx context.Context, rawEmail string) error {
	email, err := parseEmail(rawEmail)
	if err != nil {
		return err
	}
	if err := a.limits.Allow(ctx, "reset:"+address(email), ClassSensitive); err != nil {
		return err
	}
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		var account string
		err := tx.QueryRow(ctx, `SELECT id FROM accounts WHERE email = $1`, address(email)).Scan(&account)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		secret, hash := bearer.New(resetPrefix)
		if _, err := tx.Exec(ctx, `
			INSERT INTO password_resets (secret_hash, account_id, expires_at)
			VALUES ($1, $2, $3)`,
			hash, account, db.Micros(time.Now().Add(resetWithin))); err != nil {
			return err
		}
		return a.write(ctx, tx, address(email), mailReset, map[string]string{"link": a.link(pageReset, secret)})
	})
	if err != nil {
		return fmt.Errorf("request password reset: %w", err)
	}
	return nil
}

// ResetPassword sets the password of the account that a mailed link is about. The link works once, for 30 minutes. All sessions
// end, and nobody is signed in: whoever has a second factor still needs it. It says ErrLink, or fault.Invalid about the
// new password.
func (a *Accounts) ResetPassword(ctx context.Context, token, secret string, from Client) error {
	hash, ok := bearer.Hash(resetPrefix, token)
	if !ok {
		return ErrLink
	}
	if err := a.limits.Allow(ctx, "reset-link:"+hex.EncodeToString(hash), ClassAuth); err != nil {
		return err
	}
	who, err := resetOf(ctx, a.db.Reader(), hash)
	if err != nil {
		return err
	}
	if err := password.Check("password", secret, who.Email); err != nil {
		return err
	}
	passwordHash, err := a.passwords.Hash(ctx, secret)
	if err != nil {
		return err
	}
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		if _, err := resetOf(ctx, tx, hash); err != nil {
			return err
		}
		if err := a.setPassword(ctx, tx, who, from, passwordHash); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE accounts SET verified_at = $2 WHERE id = $1 AND verified_at IS NULL`, who.ID, db.Micros(time.Now())); err != nil {
			return err
		}
		if _, err := endSessions(ctx, tx, who.ID, ""); err != nil {
			return err
		}
		return record(ctx, tx, who.ID, "account.reset_password", "")
	})
	if err != nil {
		return fmt.Errorf("reset password: %w", err)
	}
	return nil
}

// resetOf finds whose password a link resets.
func resetOf(ctx context.Context, q db.Querier, hash []byte) (Account, error) {
	var who Account
	err := q.QueryRow(ctx, `
		SELECT a.id,
		       a.email
		FROM password_resets r
		JOIN accounts a ON a.id = r.account_id
		WHERE r.secret_hash = $1
		  AND r.expires_at > $2`,
		hash, db.Micros(time.Now())).Scan(&who.ID, &who.Email)
	if errors.Is(err, sql.ErrNoRows) {
		return Account{}, ErrLink
	}
	if err != nil {
		return Account{}, fmt.Errorf("find password reset: %w", err)
	}
	return who, nil
}

// setPassword writes a password, after which no link to reset it works, and tells its owner.
func (a *Accounts) setPassword(ctx context.Context, tx *db.Tx, who Account, from Client, passwordHash string) error {
	if _, err := tx.Exec(ctx, `UPDATE accounts SET password_hash = $2 WHERE id = $1`, who.ID, passwordHash); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM password_resets WHERE account_id = $1`, who.ID); err != nil {
		return err
	}
	return a.tell(ctx, tx, who.Email, mailPassword, from, map[string]string{"link": a.link(pageReset, "")})
}

// ChangePassword sets the password of the caller, whose session must be fresh. All their other sessions end. It says
// fault.Invalid about the new password.
func (a *Accounts) ChangePassword(ctx context.Context, caller Caller, secret string) (SignedIn, error) {
	if err := password.Check("password", secret, caller.Email); err != nil {
		return SignedIn{}, err
	}
	passwordHash, err := a.passwords.Hash(ctx, secret)
	if err != nil {
		return SignedIn{}, err
	}
	var renewed SignedIn
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		if err := a.setPassword(ctx, tx, caller.Account, caller.From, passwordHash); err != nil {
			return err
		}
		if _, err := endSessions(ctx, tx, caller.ID, caller.Session); err != nil {
			return err
		}
		if err := record(ctx, tx, caller.ID, "account.change_password", ""); err != nil {
			return err
		}
		renewed, err = renew(ctx, tx, caller, caller.SecondFactor, caller.FreshUntil)
		return err
	})
	if err != nil {
		return SignedIn{}, fmt.Errorf("change password: %w", err)
	}
	return renewed, nil
}
