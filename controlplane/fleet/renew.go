package fleet

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
)

// A server's certificates:
//
//	current --Renew or Recover, over a new key--> current + next --first call with next--> current (was next)
//
// The next certificate is kept until it is used, so that the same key may ask for it again when the answer got lost.

// keys are what the database knows of a server's certificates.
type keys struct {
	identity
	current       []byte
	next          []byte
	nextDER       []byte
	nextExpiresAt time.Time
	recoveries    int64
	readmitUntil  time.Time
}

// pending says whether the next certificate is over this key and still worth to be handed out.
func (k keys) pending(keyHash []byte, now time.Time) bool {
	return k.nextSerial != "" && bytes.Equal(k.next, keyHash) && k.nextExpiresAt.Sub(now) > replayAtLeast
}

// replayAtLeast is what a certificate must have left to be handed out again: less is soon to be renewed itself.
const replayAtLeast = 3 * 24 * time.Hour

// Renew gives the holder of a valid certificate the next one, over a new key; asked again for the same key it gives the same
// answer. The caller has verified who asks (Check); Renew looks again.
func (f *Fleet) Renew(ctx context.Context, who pki.Peer, keyHash []byte, now time.Time, issue Issue) (certificate []byte, err error) {
	server, err := contract.ParseServerID(who.Server)
	if err != nil {
		return nil, ErrRevoked
	}
	err = db.InTx(ctx, f.db, func(tx *db.Tx) error {
		k, err := lockKeys(ctx, tx, server)
		if err != nil {
			return err
		}
		if err := k.admit(who.Serial); err != nil {
			return err
		}
		if who.Serial == k.nextSerial {
			if err := promote(ctx, tx, who.Server, who.Serial, now); err != nil {
				return err
			}
			k.current, k.next, k.nextSerial = k.next, nil, ""
		}
		if bytes.Equal(keyHash, k.current) {
			return fault.Invalid("csr", "must be over a new key")
		}
		if k.pending(keyHash, now) {
			certificate = k.nextDER
			return nil
		}
		certificate, err = issueNext(ctx, tx, server, keyHash, issue)
		return err
	}, db.ReadCommitted())
	if err != nil {
		return nil, fmt.Errorf("renew certificate of server %s: %w", server, err)
	}
	return certificate, nil
}

const maxRecoveries = 3 // a month off, and more than any defect should need

// mayRecover says whether a server may get a certificate after its own ran out.
func mayRecover(recoveries int64, readmitUntil, now time.Time) bool {
	return recoveries < maxRecoveries || now.Before(readmitUntil)
}

// Recover gives a host whose certificate ran out while it was off the next one, over a new key. who is read from the expired
// certificate, and that the caller holds its key was proved by a signature. The key must be the one that the server is
// bound to, or the next one. Asked again for the same new key it gives the same answer and counts nothing.
//
// It says ErrRevoked, ErrRecoveries, or another fault.Denied with the reason.
func (f *Fleet) Recover(ctx context.Context, who pki.Peer, keyHash []byte, now time.Time, issue Issue) (certificate []byte, err error) {
	server, err := contract.ParseServerID(who.Server)
	if err != nil {
		return nil, ErrRevoked
	}
	err = db.InTx(ctx, f.db, func(tx *db.Tx) error {
		k, err := lockKeys(ctx, tx, server)
		if err != nil {
			return err
		}
		// Any serial over a bound key will do: of two certificates over one key the agent may hold the older.
		if err := k.admitKey(who.KeyHash); err != nil {
			return err
		}
		if bytes.Equal(keyHash, who.KeyHash) {
			return fault.Invalid("csr", "must be over a new key")
		}
		if k.pending(keyHash, now) {
			certificate = k.nextDER
			return nil
		}
		if bytes.Equal(who.KeyHash, k.next) {
			// The host got as far as the next key; it stays bound while the one after it is on its way.
			if err := promote(ctx, tx, who.Server, k.nextSerial, now); err != nil {
				return err
			}
		}
		if !mayRecover(k.recoveries, k.readmitUntil, now) {
			return ErrRecoveries
		}
		if certificate, err = issueNext(ctx, tx, server, keyHash, issue); err != nil {
			return err
		}
		return countRecovery(ctx, tx, server, now)
	}, db.ReadCommitted())
	if err != nil {
		return nil, fmt.Errorf("recover certificate of server %s: %w", server, err)
	}
	return certificate, nil
}

// admitKey decides whether a key is bound to a server that may speak.
func (k keys) admitKey(hash []byte) error {
	if err := k.admit(k.serial); err != nil {
		return err
	}
	isCurrent := len(hash) > 0 && bytes.Equal(hash, k.current)
	isNext := k.nextSerial != "" && bytes.Equal(hash, k.next)
	if !isCurrent && !isNext {
		return ErrRevoked
	}
	return nil
}

// lockKeys reads a server's keys and keeps others from changing them.
func lockKeys(ctx context.Context, tx *db.Tx, server contract.ServerID) (keys, error) {
	var k keys
	var state string
	var nextExpires, readmit sql.NullInt64
	err := tx.QueryRow(ctx, `
		UPDATE servers
		SET recoveries = recoveries
		WHERE id = $1
		RETURNING state, problem, serial, key_hash, next_serial, next_key_hash, next_certificate, next_expires_at, recoveries, readmit_until`,
		server).Scan(&state, &k.problem, &k.serial, &k.current, &k.nextSerial, &k.next, &k.nextDER, &nextExpires, &k.recoveries, &readmit)
	if errors.Is(err, sql.ErrNoRows) {
		return keys{}, ErrRevoked
	}
	k.state, k.nextExpiresAt, k.readmitUntil = State(state), db.NullTime(nextExpires), db.NullTime(readmit)
	return k, err
}

// issueNext makes the next certificate; one that was pending is dead.
func issueNext(ctx context.Context, tx *db.Tx, server contract.ServerID, keyHash []byte, issue Issue) ([]byte, error) {
	c, err := issue(server)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `
		UPDATE servers
		SET next_serial = $2,
		    next_key_hash = $3,
		    next_certificate = $4,
		    next_expires_at = $5
		WHERE id = $1`,
		server, c.Serial, keyHash, c.DER, db.Micros(c.Expires))
	return c.DER, err
}

// countRecovery counts one that no operator has just allowed.
func countRecovery(ctx context.Context, tx *db.Tx, server contract.ServerID, now time.Time) error {
	if _, err := tx.Exec(ctx, `
		UPDATE servers
		SET recoveries = CASE WHEN readmit_until > $2 THEN recoveries ELSE recoveries + 1 END
		WHERE id = $1`,
		server, db.Micros(now)); err != nil {
		return err
	}
	return audit.Record(ctx, tx, audit.Event{
		Organization: audit.Platform, Action: "server.recover", Object: server.String(),
	})
}
