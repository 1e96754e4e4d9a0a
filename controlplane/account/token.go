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

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

// Tokens are 256 random bits behind a prefix that says what they are, so that a leaked one is recognised by scanners and
// none is taken for another kind.
const (
	tokenPrefix  = "chomop_"
	setupPrefix  = "chomsetup_"
	secretLength = 43 // 32 bytes in base64 without padding
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

// Tokens keeps personal API tokens.
type Tokens struct{ db *db.DB }

// NewTokens keeps tokens in a database.
func NewTokens(d *db.DB) *Tokens { return &Tokens{db: d} }

// errUnknownToken is the one answer to a token that is malformed, unknown, expired or revoked.
var errUnknownToken = fault.Unauthenticated("the token is not valid (any more)")

// Authenticate returns the caller that a token stands for. A revoked or expired token is refused from that moment on.
func (t *Tokens) Authenticate(ctx context.Context, token string) (Caller, error) {
	if !strings.HasPrefix(token, tokenPrefix) || len(token) != len(tokenPrefix)+secretLength {
		return Caller{}, errUnknownToken
	}
	found := Caller{Scope: Manage}
	err := t.db.Reader().QueryRow(ctx, `
		SELECT t.id,
		       a.id,
		       a.email,
		       a.operator,
		       EXISTS (SELECT 1 FROM totps f WHERE f.account_id = a.id AND f.confirmed_at IS NOT NULL)
		           OR EXISTS (SELECT 1 FROM passkeys p WHERE p.account_id = a.id)
		FROM tokens t
		JOIN accounts a ON a.id = t.account_id
		WHERE t.secret_hash = $1
		  AND t.revoked_at IS NULL
		  AND t.expires_at > $2`,
		hashOf(token), db.Micros(time.Now())).Scan(&found.Token, &found.ID, &found.Email, &found.Operator, &found.SecondFactor)
	if errors.Is(err, sql.ErrNoRows) {
		return Caller{}, errUnknownToken
	}
	if err != nil {
		return Caller{}, fmt.Errorf("authenticate: %w", err)
	}
	return found, nil
}

// Issue gives an account a token that it must be shown now or never. All tokens have the scope manage.
func (t *Tokens) Issue(ctx context.Context, tx *db.Tx, account, name string, scope Scope, expires time.Time) (string, error) {
	if scope != Manage {
		return "", fault.Invalid("scope", "must be manage")
	}
	token, hash := newSecret(tokenPrefix)
	if _, err := tx.Exec(ctx, `
		INSERT INTO tokens (id, account_id, secret_hash, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5)`,
		newID(), account, hash, db.Micros(time.Now()), db.Micros(expires)); err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	return token, record(ctx, tx, account, "token.create", name)
}
