package account

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/password"
)

// setupSetting holds the hash of the setup secret, in hex. It is there only while there is no operator.
const setupSetting = "setup_secret_sha256"

// operatorTokenLife ends a token that was forgotten somewhere.
const operatorTokenLife = 365 * 24 * time.Hour

var setupPattern = regexp.MustCompile(`^chomsetup_[A-Za-z0-9_-]{43}$`)

// Errors of CreateFirstOperator.
var (
	ErrSetUp       = fault.NotFound("first-run setup")
	ErrSetupSecret = fault.Denied("the setup secret is wrong; chomd prints a new one at each start until there is an operator")
)

// PrepareFirstOperator makes the secret with which the first operator can be made. It is empty when there is an operator.
// Each call replaces the former secret. Whoever calls must show it on the console and nowhere else.
func (a *Accounts) PrepareFirstOperator(ctx context.Context) (string, error) {
	secret, hash := newSecret(setupPrefix)
	made := false
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		made = false
		var one int
		err := tx.QueryRow(ctx, `SELECT 1 FROM accounts WHERE operator LIMIT 1`).Scan(&one)
		if err == nil {
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		made = true
		_, err = tx.Exec(ctx, `
			INSERT INTO settings (name, value)
			VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
			setupSetting, hex.EncodeToString(hash))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("prepare first operator: %w", err)
	}
	if !made {
		return "", nil
	}
	return secret, nil
}

// CreateFirstOperator consumes the secret and makes the operator and its token. With a password, they may sign in as well; it may
// be empty. The address counts as verified: who reads the console vouches for it. It says ErrSetUp once there is an
// operator, whatever the secret, and ErrSetupSecret while there is none and the secret is wrong.
func (a *Accounts) CreateFirstOperator(ctx context.Context, secret, rawEmail, chosen string) (Account, string, error) {
	if !setupPattern.MatchString(secret) {
		return Account{}, "", fault.Invalid("setup_secret", "must be as chomd printed it: chomsetup_ and 43 characters")
	}
	email, err := parseEmail(rawEmail)
	if err != nil {
		return Account{}, "", err
	}
	var passwordHash sql.NullString
	if chosen != "" {
		// Nobody may have passwords hashed who does not hold the secret.
		if err := isSetupSecret(ctx, a.db.Reader(), secret); err != nil {
			return Account{}, "", err
		}
		if err := password.Check("password", chosen, address(email)); err != nil {
			return Account{}, "", err
		}
		hash, err := a.passwords.Hash(ctx, chosen)
		if err != nil {
			return Account{}, "", err
		}
		passwordHash = sql.NullString{String: hash, Valid: true}
	}
	var made Account
	var token string
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		// What is compared is a hash: how long the comparison takes says nothing about the secret. Whoever deletes the
		// row is the first; there is no second.
		consumed, err := tx.Exec(ctx, `DELETE FROM settings WHERE name = $1 AND value = $2`, setupSetting, hex.EncodeToString(hashOf(secret)))
		if err != nil {
			return err
		}
		if consumed == 0 {
			return cmp.Or(isSetupSecret(ctx, tx, secret), error(ErrSetUp))
		}
		id, err := Ensure(ctx, tx, email)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			UPDATE accounts
			SET operator      = TRUE,
			    password_hash = COALESCE($2, password_hash),
			    verified_at   = $3
			WHERE id = $1`,
			id, passwordHash, db.Micros(time.Now())); err != nil {
			return err
		}
		if err := record(ctx, tx, id, "account.create_first_operator", ""); err != nil {
			return err
		}
		made = Account{ID: id, Email: address(email), Operator: true}
		token, err = a.tokens.Issue(ctx, tx, id, "first operator", Manage, time.Now().Add(operatorTokenLife))
		return err
	})
	if err != nil {
		return Account{}, "", fmt.Errorf("create first operator: %w", err)
	}
	return made, token, nil
}

// isSetupSecret says ErrSetUp once there is an operator, and ErrSetupSecret when the secret is wrong.
func isSetupSecret(ctx context.Context, q db.Querier, secret string) error {
	var right string
	err := q.QueryRow(ctx, `SELECT value FROM settings WHERE name = $1`, setupSetting).Scan(&right)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return ErrSetUp
	case err != nil:
		return err
	case right != hex.EncodeToString(hashOf(secret)):
		return ErrSetupSecret
	}
	return nil
}
