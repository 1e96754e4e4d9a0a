package fleet

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// Enrollment is a host that asks to be a server. That it holds the key was proved by the signature of its request.
type Enrollment struct {
	Token   string // the join token's text
	ID      string // the agent's own id of this enrolment
	KeyHash []byte // SHA-256 of the agent's public key
	Facts   Facts
}

// Enrolled is what a host gets.
type Enrolled struct {
	Server      contract.ServerID
	Certificate []byte // DER
	// Replayed says that the answer is the one that was given before.
	Replayed bool
}

// Enroll uses a token up for a key and gives that key its certificate. The same key with the same enrolment id gets the same
// answer again as long as it is the server's key and the token was not replaced; everybody else is refused. The host that
// was the server before, if any, may not speak any more: replaced is called to end what it had begun, and the server is
// prepared next, both in the same transaction.
//
// It says ErrToken, ErrTokenExpired, ErrTokenReplaced or ErrTokenUsed.
func (f *Fleet) Enroll(ctx context.Context, e Enrollment, now time.Time, issue Issue,
	replaced func(ctx context.Context, tx *db.Tx, server contract.ServerID) error,
) (Enrolled, error) {
	id, secret, err := parseToken(e.Token)
	if err != nil {
		return Enrolled{}, err
	}
	var done Enrolled
	// The token's row is locked by the update that decides, and all that follows is decided by it.
	err = db.InTx(ctx, f.db, func(tx *db.Tx) error {
		if err := checkSecret(ctx, tx, id, secret); err != nil {
			return err
		}
		var server contract.ServerID
		err := tx.QueryRow(ctx, `
			UPDATE join_tokens
			SET used_at = $2,
			    enrollment_id = $3,
			    bound_key_hash = $4
			WHERE id = $1
			  AND used_at IS NULL
			  AND revoked_at IS NULL
			  AND expires_at > $2
			RETURNING server_id`,
			id, db.Micros(now), e.ID, e.KeyHash).Scan(&server)
		if errors.Is(err, sql.ErrNoRows) {
			done, err = replay(ctx, tx, id, e)
			return err
		}
		if err != nil {
			return err
		}
		done, err = take(ctx, tx, id, server, e, now, issue)
		if err != nil {
			return err
		}
		if err := replaced(ctx, tx, server); err != nil {
			return err
		}
		_, err = orderPrepare(ctx, tx, server)
		return err
	}, db.ReadCommitted())
	if err != nil {
		return Enrolled{}, fmt.Errorf("enroll: %w", err)
	}
	return done, nil
}

// checkSecret refuses who does not know the secret, before anything is said of the token. The hash never changes, so it may
// be read first.
func checkSecret(ctx context.Context, tx *db.Tx, id, secret string) error {
	var hash []byte
	err := tx.QueryRow(ctx, `SELECT secret_hash FROM join_tokens WHERE id = $1`, id).Scan(&hash)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrToken
	}
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(hash, hashSecret(secret)) != 1 {
		return ErrToken
	}
	return nil
}

// take makes the host of e the server.
func take(ctx context.Context, tx *db.Tx, token string, server contract.ServerID, e Enrollment, now time.Time, issue Issue) (Enrolled, error) {
	certificate, err := issue(server)
	if err != nil {
		return Enrolled{}, err
	}
	if _, err := tx.Exec(ctx, `UPDATE join_tokens SET certificate = $2 WHERE id = $1`, token, certificate.DER); err != nil {
		return Enrolled{}, err
	}
	facts, err := e.Facts.marshal()
	if err != nil {
		return Enrolled{}, err
	}
	n, err := tx.Exec(ctx, `
		UPDATE servers
		SET state = CASE WHEN state = 'draining' THEN 'draining' ELSE 'active' END,
		    problem = '',
		    key_hash = $2,
		    serial = $3,
		    certificate_expires_at = $4,
		    next_key_hash = NULL,
		    next_serial = '',
		    next_certificate = NULL,
		    next_expires_at = NULL,
		    recoveries = 0,
		    readmit_until = NULL,
		    epoch = epoch + 1,
		    instance_id = '',
		    facts = $5,
		    prepared = $6,
		    changed_at = $7
		WHERE id = $1
		  AND state <> 'removed'`,
		server, e.KeyHash, certificate.Serial, db.Micros(certificate.Expires), facts, e.Facts.Prepared, db.Micros(now))
	if err != nil {
		return Enrolled{}, err
	}
	if n == 0 {
		return Enrolled{}, ErrTokenReplaced
	}
	if err := forgetInstances(ctx, tx, server); err != nil {
		return Enrolled{}, err
	}
	if _, err := tx.Exec(ctx, `UPDATE server_links SET last_seen_at = $2 WHERE server_id = $1`, server, db.Micros(now)); err != nil {
		return Enrolled{}, err
	}
	if err := audit.Record(ctx, tx, audit.Event{
		Organization: audit.Platform, Action: "server.enroll", Object: server.String(), Detail: "token " + token,
	}); err != nil {
		return Enrolled{}, err
	}
	tx.Notify(Topic, server.String())
	return Enrolled{Server: server, Certificate: certificate.DER}, nil
}

// replay answers who comes with a token that can't be used (any more).
func replay(ctx context.Context, tx *db.Tx, id string, e Enrollment) (Enrolled, error) {
	var server contract.ServerID
	var revoked, used sql.NullInt64
	var enrollment string
	var bound, certificate, current []byte
	if err := tx.QueryRow(ctx, `
		SELECT t.server_id,
		       t.revoked_at,
		       t.used_at,
		       t.enrollment_id,
		       t.bound_key_hash,
		       t.certificate,
		       s.key_hash
		FROM join_tokens t
		JOIN servers s ON s.id = t.server_id
		WHERE t.id = $1`,
		id).Scan(&server, &revoked, &used, &enrollment, &bound, &certificate, &current); err != nil {
		return Enrolled{}, err
	}
	same := func(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
	switch {
	case revoked.Valid:
		return Enrolled{}, ErrTokenReplaced
	case !used.Valid:
		return Enrolled{}, ErrTokenExpired
	case enrollment != e.ID || !same(bound, e.KeyHash):
		return Enrolled{}, ErrTokenUsed
	case !same(bound, current):
		return Enrolled{}, ErrTokenReplaced // the host has renewed its key since, or was removed
	}
	return Enrolled{Server: server, Certificate: certificate, Replayed: true}, nil
}
