// Package account is people who may call the control plane.
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
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
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

// Issuer makes a personal API token in a transaction and gives its text. It is token.Tokens.
type Issuer interface {
	Issue(ctx context.Context, tx *db.Tx, account, name string, scope Scope, expires time.Time) (string, error)
}

// Accounts keeps them. It is safe for concurrent use.
type Accounts struct {
	db     *db.DB
	tokens Issuer
}

// New keeps accounts in a database.
func New(d *db.DB, tokens Issuer) *Accounts { return &Accounts{db: d, tokens: tokens} }

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

// Secrets are 256 random bits behind a prefix that says what they are.
const setupPrefix = "chomsetup_"

// newSecret makes one; only its hash may be stored. A fast hash is enough for 256 random bits.
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

func recordOperator(ctx context.Context, tx *db.Tx, account string) error {
	return audit.Record(audit.As(ctx, account), tx, audit.Event{
		Organization: audit.Platform, Action: "account.create_first_operator", Object: account,
	})
}
