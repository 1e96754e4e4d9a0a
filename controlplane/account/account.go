// Package account is people and programs that may call the control plane, and the tokens by which they prove who they are.
//
// An account is an e-mail address. An operator runs the platform itself; everybody else has rights through the
// organizations that they are a member of (package organization). No password exists yet.
//
// # The first operator
//
//	start, no operator --> a secret is printed on the console, its hash stored
//	start again        --> a new secret, the former one is dead
//	CreateFirstOperator with the secret --> operator, token; the secret is consumed and the door is gone for good
//
// Nothing on the network can open that door: only who reads the console holds the secret.
package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Account is somebody who may call.
type Account struct {
	// ID is a UUID.
	ID string
	// Email is unique, in lower case.
	Email string
	// Operator runs the platform.
	Operator bool
}

// Accounts keeps them. It is safe for concurrent use.
type Accounts struct{ db *db.DB }

// New keeps accounts in a database.
func New(d *db.DB) *Accounts { return &Accounts{db: d} }

// Ensure returns the id of the account with this address, which it makes where there is none. email must be parsed.
func Ensure(ctx context.Context, tx *db.Tx, email contract.Email) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make account: %w", err)
	}
	// The update changes nothing, but makes RETURNING speak of the row that was there.
	var found string
	err = tx.QueryRow(ctx, `
		INSERT INTO accounts (id, email, operator, created_at)
		VALUES ($1, $2, FALSE, $3)
		ON CONFLICT (email) DO UPDATE SET email = excluded.email
		RETURNING id`,
		id.String(), address(email), db.Micros(time.Now())).Scan(&found)
	if err != nil {
		return "", fmt.Errorf("make account: %w", err)
	}
	return found, nil
}

// address is how an e-mail address is stored and compared.
func address(e contract.Email) string { return strings.ToLower(e.String()) }

// Tokens are 256 random bits behind a prefix that says what they are, so that a leaked one is recognised by scanners and
// none is taken for another kind.
const (
	operatorPrefix = "chomop_"
	setupPrefix    = "chomsetup_"
	secretLength   = 43 // 32 bytes in base64 without padding
)

// operatorTokenLife ends a token that was forgotten somewhere.
const operatorTokenLife = 365 * 24 * time.Hour

// newSecret makes a token; only its hash may be stored. A fast hash is enough for 256 random bits.
func newSecret(prefix string) (secret string, hash []byte) {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	secret = prefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, hashOf(secret)
}

func hashOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// errUnknownToken is the one answer to a token that is malformed, unknown, expired or revoked.
var errUnknownToken = fault.Unauthenticated("the token is not valid (any more)")

// Authenticate returns the caller that a token stands for. A revoked or expired token is refused from that moment on.
func (a *Accounts) Authenticate(ctx context.Context, token string) (Caller, error) {
	if !strings.HasPrefix(token, operatorPrefix) || len(token) != len(operatorPrefix)+secretLength {
		return Caller{}, errUnknownToken
	}
	found := Caller{Scope: Manage}
	err := a.db.Reader().QueryRow(ctx, `
		SELECT t.id,
		       a.id,
		       a.email,
		       a.operator
		FROM tokens t
		JOIN accounts a ON a.id = t.account_id
		WHERE t.secret_hash = $1
		  AND t.revoked_at IS NULL
		  AND t.expires_at > $2`,
		hashOf(token), db.Micros(time.Now())).Scan(&found.Token, &found.ID, &found.Email, &found.Operator)
	if errors.Is(err, sql.ErrNoRows) {
		return Caller{}, errUnknownToken
	}
	if err != nil {
		return Caller{}, fmt.Errorf("authenticate: %w", err)
	}
	return found, nil
}

// insertToken gives an account a token that it must be shown now or never.
func insertToken(ctx context.Context, tx *db.Tx, account string) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	token, hash := newSecret(operatorPrefix)
	now := time.Now()
	if _, err := tx.Exec(ctx, `
		INSERT INTO tokens (id, account_id, secret_hash, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5)`,
		id.String(), account, hash, db.Micros(now), db.Micros(now.Add(operatorTokenLife))); err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	return token, nil
}

func recordOperator(ctx context.Context, tx *db.Tx, account string) error {
	actor := audit.ActorOf(ctx) // a stranger, who was none
	actor.Kind, actor.ID = audit.Person, account
	return audit.Record(audit.As(ctx, actor), tx, audit.Event{
		Organization: audit.Platform, Action: "account.create_first_operator", Object: account,
	})
}
