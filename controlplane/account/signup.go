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
	"chom.dev/controlplane/password"
)

const verifyPrefix = "chomverify_"

// verifyWithin is the life of a link: a mail may be read the next day.
const verifyWithin = 24 * time.Hour

// ErrLink is the one answer to the secret of a mailed link that is malformed, unknown, used or over.
var ErrLink = fault.Invalid("token", "is not valid (any more): a link works once and for a limited time")

// SignUp asks for an account. Its answer is the same whether there is one with the address or not, and whether the address may
// sign up or not: what follows is a mail, to whoever has that address.
func (a *Accounts) SignUp(ctx context.Context, rawEmail, secret string) error {
	email, err := parseEmail(rawEmail)
	if err != nil {
		return err
	}
	if err := password.Check("password", secret, address(email)); err != nil {
		return err
	}
	if err := a.limits.Allow(ctx, "sign-up:"+address(email), ClassSensitive); err != nil {
		return err
	}
	hash, err := a.passwords.Hash(ctx, secret)
	if err != nil {
		return err
	}
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		known, verified := true, false
		err := tx.QueryRow(ctx, `SELECT verified_at IS NOT NULL FROM accounts WHERE email = $1`, address(email)).Scan(&verified)
		if errors.Is(err, sql.ErrNoRows) {
			known, err = false, nil
		}
		if err != nil {
			return err
		}
		if verified {
			return a.write(ctx, tx, address(email), mailSignUpExists, map[string]string{"link": a.link(pageLogin, "")})
		}
		if a.invited != nil && !known {
			if invited, err := a.invited(ctx, tx, address(email)); err != nil || !invited {
				return err
			}
		}
		return a.askToVerify(ctx, tx, address(email), hash)
	})
	if err != nil {
		return fmt.Errorf("sign up: %w", err)
	}
	return nil
}

// askToVerify keeps what somebody wants until they show that the address is theirs.
func (a *Accounts) askToVerify(ctx context.Context, tx *db.Tx, email, passwordHash string) error {
	now := time.Now()
	secret, hash := bearer.New(verifyPrefix)
	if _, err := tx.Exec(ctx, `
		INSERT INTO sign_ups (secret_hash, email, password_hash, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5)`,
		hash, email, passwordHash, db.Micros(now), db.Micros(now.Add(verifyWithin))); err != nil {
		return err
	}
	return a.write(ctx, tx, email, mailVerify, map[string]string{"link": a.link(pageVerify, secret)})
}

// VerifyEmail makes the account that a mailed link is about, and signs in. The password must be the one that was given with the
// sign-up: the link shows that the address is theirs, the password that they are who signed up. instead is the session that the
// browser has; it ends. Errors: ErrLink, fault.Invalid about the password.
func (a *Accounts) VerifyEmail(ctx context.Context, token, secret string, from Client, instead string) (SignedIn, error) {
	hash, ok := bearer.Hash(verifyPrefix, token)
	if !ok {
		return SignedIn{}, ErrLink
	}
	if err := a.limits.Allow(ctx, "verify:"+hex.EncodeToString(hash), ClassAuth); err != nil {
		return SignedIn{}, err
	}
	var passwordHash string
	err := a.db.Reader().QueryRow(ctx, `
		SELECT password_hash
		FROM sign_ups
		WHERE secret_hash = $1
		  AND expires_at > $2`,
		hash, db.Micros(time.Now())).Scan(&passwordHash)
	if errors.Is(err, sql.ErrNoRows) {
		return SignedIn{}, ErrLink
	}
	if err != nil {
		return SignedIn{}, fmt.Errorf("verify email: %w", err)
	}
	matches, _, err := a.passwords.Verify(ctx, secret, passwordHash)
	if err != nil {
		return SignedIn{}, err
	}
	if !matches {
		return SignedIn{}, fault.Invalid("password", "is not the one that you signed up with")
	}
	var opened SignedIn
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		who, err := create(ctx, tx, hash)
		if err != nil {
			return err
		}
		opened, err = a.open(ctx, tx, who, from, opening{with: "a confirmed address and password", instead: instead})
		return err
	})
	if err != nil {
		return SignedIn{}, fmt.Errorf("verify email: %w", err)
	}
	return opened, nil
}

// create consumes a sign-up. An account that others only named becomes its person's.
func create(ctx context.Context, tx *db.Tx, signUp []byte) (Account, error) {
	var who Account
	var passwordHash string
	err := tx.QueryRow(ctx, `
		DELETE FROM sign_ups
		WHERE secret_hash = $1
		RETURNING email, password_hash`,
		signUp).Scan(&who.Email, &passwordHash)
	if errors.Is(err, sql.ErrNoRows) {
		return Account{}, ErrLink
	}
	if err != nil {
		return Account{}, err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM sign_ups WHERE email = $1`, who.Email); err != nil {
		return Account{}, err
	}
	now := db.Micros(time.Now())
	err = tx.QueryRow(ctx, `
		INSERT INTO accounts (id, email, operator, password_hash, verified_at, created_at)
		VALUES ($1, $2, FALSE, $3, $4, $4)
		ON CONFLICT (email) DO UPDATE SET
			password_hash = excluded.password_hash,
			verified_at   = excluded.verified_at
		WHERE accounts.verified_at IS NULL
		RETURNING id, operator`,
		newID(), who.Email, passwordHash, now).Scan(&who.ID, &who.Operator)
	if errors.Is(err, sql.ErrNoRows) {
		return Account{}, ErrLink // somebody verified it in another way since
	}
	if err != nil {
		return Account{}, err
	}
	return who, record(ctx, tx, who.ID, "account.create", "")
}
