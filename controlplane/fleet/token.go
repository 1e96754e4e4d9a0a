package fleet

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// JoinToken lets one host enrol as one server, once.
type JoinToken struct {
	// Text is chom1.ID.SECRET.PIN. It can't be had again: only a hash of the secret is kept.
	Text      string
	ExpiresAt time.Time
}

// tokenLife is enough to paste a line, and too short for one that was forgotten in a shell's history.
const tokenLife = 30 * time.Minute

var (
	pinPattern   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	tokenPattern = regexp.MustCompile(`^chom1\.([a-z0-9]{1,64})\.([A-Za-z0-9_-]{20,128})\.[0-9a-f]{64}$`)
)

// parseToken takes a token apart. Nothing of a malformed one is looked up.
func parseToken(text string) (id, secret string, err error) {
	parts := tokenPattern.FindStringSubmatch(text)
	if parts == nil {
		return "", "", ErrToken
	}
	return parts[1], parts[2], nil
}

// hashSecret needs no slow hash: a secret is 256 random bits.
func hashSecret(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// CreateToken makes a new token for a server that is PENDING, was QUARANTINED, or whose host was lost. All former ones are
// dead from then on. Who enrols with it takes the place of the host that is enrolled now.
func (f *Fleet) CreateToken(ctx context.Context, id contract.ServerID, pin string) (JoinToken, error) {
	var token JoinToken
	err := db.InTx(ctx, f.db, func(tx *db.Tx) error {
		s, err := get(ctx, tx, id)
		if err != nil {
			return err
		}
		if s.State == Removed {
			return errRemoved
		}
		token, err = createToken(ctx, tx, id, pin, time.Now())
		return err
	})
	if err != nil {
		return JoinToken{}, fmt.Errorf("create join token: %w", err)
	}
	return token, nil
}

var errRemoved = fault.Conflict("the server was removed: create a new one")

func createToken(ctx context.Context, tx *db.Tx, server contract.ServerID, pin string, now time.Time) (JoinToken, error) {
	if !pinPattern.MatchString(pin) {
		return JoinToken{}, fmt.Errorf("make join token: the pin of the CA is not a SHA-256 in hexadecimal")
	}
	if err := revokeTokens(ctx, tx, server, now); err != nil {
		return JoinToken{}, err
	}
	var random [40]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the program instead
	id, secret := hex.EncodeToString(random[:8]), base64.RawURLEncoding.EncodeToString(random[8:])
	expires := now.Add(tokenLife)
	if _, err := tx.Exec(ctx, `
		INSERT INTO join_tokens (id, server_id, secret_hash, created_at, expires_at, enrollment_id)
		VALUES ($1, $2, $3, $4, $5, '')`,
		id, server, hashSecret(secret), db.Micros(now), db.Micros(expires)); err != nil {
		return JoinToken{}, fmt.Errorf("make join token: %w", err)
	}
	if err := audit.Record(ctx, tx, audit.Event{
		Organization: audit.Platform, Action: "server.create_join_token", Object: server.String(), Detail: "token " + id,
	}); err != nil {
		return JoinToken{}, err
	}
	return JoinToken{Text: "chom1." + id + "." + secret + "." + pin, ExpiresAt: db.Time(db.Micros(expires))}, nil
}

// revokeTokens kills all tokens of a server, also what their hosts may still replay.
func revokeTokens(ctx context.Context, tx *db.Tx, server contract.ServerID, now time.Time) error {
	if _, err := tx.Exec(ctx, `
		UPDATE join_tokens
		SET revoked_at = $2
		WHERE server_id = $1
		  AND revoked_at IS NULL`,
		server, db.Micros(now)); err != nil {
		return fmt.Errorf("revoke join tokens of server %s: %w", server, err)
	}
	return nil
}
