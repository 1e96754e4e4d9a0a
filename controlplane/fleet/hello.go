package fleet

import (
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

// Greeting is what an agent says when it connects.
type Greeting struct {
	Instance     string // random id of the agent's process
	Facts        Facts
	HighestFence uint64 // that it ever accepted
}

// maxFence is the highest that an order can carry.
const maxFence = 1 << 62

// Hello opens a new epoch: whatever the server holds open of an older one is refused from now on.
//
// Two hosts with one identity push each other out, each with its own process, and a process that was pushed out says Hello
// again: it returns. On one host that happens to a dead process whose Hello was still on its way when its successor started, and
// then to the successor, once each. So the second return of one process makes the server QUARANTINED, for both hosts.
//
// Opened runs in the same transaction once the epoch is open, while no offer to the server can be made: there the agent's
// journal is compared. Older says that the agent has accepted a higher fence than this database ever gave, so the database
// was restored from a backup; later fences are above it.
//
// It says ErrRevoked, or another fault.Denied with the reason.
func (f *Fleet) Hello(ctx context.Context, who pki.Peer, g Greeting, now time.Time,
	opened func(ctx context.Context, tx *db.Tx, older bool) error,
) (epoch uint64, err error) {
	if g.Instance == "" {
		return 0, fault.Invalid("instance_id", "must not be empty")
	}
	if g.HighestFence > maxFence {
		return 0, fault.Invalid("highest_fence", "must be at most 2^62")
	}
	server, err := contract.ParseServerID(who.Server)
	if err != nil {
		return 0, ErrRevoked
	}
	facts, err := g.Facts.marshal()
	if err != nil {
		return 0, fmt.Errorf("hello of server %s: %w", server, err)
	}
	var refused error // committed, so not for InTx
	err = db.InTx(ctx, f.db, func(tx *db.Tx) error {
		refused = nil
		// The update locks the row, so that one Hello of a server runs at a time.
		var holder string
		i, err := lock(ctx, tx, server, &holder)
		if err != nil {
			return err
		}
		if err := i.admit(who.Serial); errors.Is(err, ErrRevoked) {
			if err := adopt(ctx, tx, who, i, now); err != nil {
				return err
			}
			i.serial = who.Serial
		} else if err != nil {
			return err
		}
		if who.Serial != i.serial {
			if err := promote(ctx, tx, who.Server, who.Serial, now); err != nil {
				return err
			}
		}
		returned, err := countReturn(ctx, tx, server, g.Instance, holder, now)
		if err != nil {
			return err
		}
		if returned {
			refused = fault.Denied("the server is quarantined: " + clonedProblem)
			return quarantine(ctx, tx, server, clonedProblem, now)
		}
		epoch = i.epoch + 1
		older, err := open(ctx, tx, server, g, facts, epoch, now)
		if err != nil {
			return err
		}
		return opened(ctx, tx, older)
	}, db.ReadCommitted())
	if err != nil {
		return 0, fmt.Errorf("hello of server %s: %w", server, err)
	}
	return epoch, refused
}

// adopt makes a certificate the server's current one that is newer than what the database remembers: it was issued after the backup
// from which the database was restored, so that the former one is with nobody any more. Any other is refused with ErrRevoked. What
// was revoked in that time is not remembered either.
func adopt(ctx context.Context, tx *db.Tx, who pki.Peer, i identity, now time.Time) error {
	gap, err := db.Forgotten(ctx, tx)
	if err != nil {
		return err
	}
	gap.From = gap.From.Add(-time.Minute) // one may have been issued as the backup began, and they count in whole seconds
	if i.state != Active && i.state != Draining || !gap.Holds(who.Expires.Add(-pki.AgentLife)) {
		return ErrRevoked
	}
	n, err := tx.Exec(ctx, `
		UPDATE servers
		SET serial = $2,
		    key_hash = $3,
		    certificate_expires_at = $4,
		    next_serial = '',
		    next_key_hash = NULL,
		    next_certificate = NULL,
		    next_expires_at = NULL,
		    changed_at = $5
		WHERE id = $1
		  AND certificate_expires_at < $4`,
		who.Server, who.Serial, who.KeyHash, db.Micros(who.Expires), db.Micros(now))
	if err != nil {
		return err
	}
	if n == 0 {
		return ErrRevoked
	}
	tx.Notify(Topic, who.Server)
	return audit.Record(ctx, tx, audit.Event{
		Organization: audit.Platform, Action: "server.remember", Object: who.Server,
		Detail: "its certificate was issued after the backup from which the database was restored",
	})
}

// lock reads who may speak for a server, and which process holds its link, and keeps others from changing it.
func lock(ctx context.Context, tx *db.Tx, server contract.ServerID, holder *string) (identity, error) {
	var i identity
	var state string
	var epoch int64
	err := tx.QueryRow(ctx, `
		UPDATE servers
		SET epoch = epoch
		WHERE id = $1
		RETURNING state, problem, serial, next_serial, epoch, instance_id`,
		server).Scan(&state, &i.problem, &i.serial, &i.nextSerial, &epoch, holder)
	if errors.Is(err, sql.ErrNoRows) {
		return identity{}, ErrRevoked
	}
	i.state, i.epoch = State(state), uint64(epoch)
	return i, err
}

// open gives the link to the process of g, and says whether the agent knows a higher fence than we.
func open(ctx context.Context, tx *db.Tx, server contract.ServerID, g Greeting, facts []byte, epoch uint64, now time.Time) (older bool, err error) {
	if _, err := tx.Exec(ctx, `
		UPDATE servers
		SET epoch = $2,
		    instance_id = $3,
		    facts = $4,
		    prepared = $5,
		    changed_at = $6
		WHERE id = $1`,
		server, int64(epoch), g.Instance, facts, g.Facts.Prepared, db.Micros(now)); err != nil {
		return false, err
	}
	// Offers take this row too: from here on none is made until the epoch is committed.
	if _, err := tx.Exec(ctx, `UPDATE server_links SET last_seen_at = $2 WHERE server_id = $1`, server, db.Micros(now)); err != nil {
		return false, err
	}
	raised, err := tx.Exec(ctx, `
		UPDATE server_links
		SET fence = $2
		WHERE server_id = $1
		  AND fence < $2`,
		server, int64(g.HighestFence))
	if err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO server_instances (server_id, instance_id, epoch, returns)
		VALUES ($1, $2, $3, 0)
		ON CONFLICT (server_id, instance_id) DO UPDATE SET epoch = excluded.epoch`,
		server, g.Instance, int64(epoch)); err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, `
		DELETE FROM server_instances
		WHERE server_id = $1
		  AND epoch < $2`,
		server, int64(epoch)-rememberEpochs); err != nil {
		return false, err
	}
	tx.Notify(Topic, server.String())
	return raised > 0, nil
}

const (
	// returnsAllowed is for a Hello that was still on its way when the process behind it was replaced.
	returnsAllowed = 1
	// returnsCount is how long a return is held against a process: the life of a certificate. Two hosts that are both
	// there need seconds.
	returnsCount = 7 * 24 * time.Hour
	// rememberEpochs bounds the memory of an agent that restarts without end.
	rememberEpochs = 1000
)

const clonedProblem = "its identity was used by two hosts at once. Find the other one, then enrol this one anew with a new join token; " +
	"readmit it only where the other is gone for good"

// countReturn says whether a Hello proves that a server's identity lives on two hosts.
func countReturn(ctx context.Context, tx *db.Tx, server contract.ServerID, instance, holder string, now time.Time) (bool, error) {
	if instance == holder {
		return false, nil // the same process reconnects
	}
	var returns int64
	err := tx.QueryRow(ctx, `
		UPDATE server_instances
		SET returns = CASE WHEN returned_at >= $4 THEN returns + 1 ELSE 1 END,
		    returned_at = $3
		WHERE server_id = $1
		  AND instance_id = $2
		RETURNING returns`,
		server, instance, db.Micros(now), db.Micros(now.Add(-returnsCount))).Scan(&returns)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil // a new process takes over
	}
	return returns > returnsAllowed, err
}

// forgetInstances begins the count of returns anew: an operator has decided which host is the server.
func forgetInstances(ctx context.Context, tx *db.Tx, server contract.ServerID) error {
	_, err := tx.Exec(ctx, `DELETE FROM server_instances WHERE server_id = $1`, server)
	return err
}

// quarantine silences a server whose identity is not only its own.
func quarantine(ctx context.Context, tx *db.Tx, server contract.ServerID, problem string, now time.Time) error {
	n, err := tx.Exec(ctx, `
		UPDATE servers
		SET state = 'quarantined',
		    problem = $2,
		    epoch = epoch + 1,
		    instance_id = '',
		    changed_at = $3
		WHERE id = $1
		  AND state IN ('active', 'draining')`,
		server, problem, db.Micros(now))
	if err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	if err := revokeTokens(ctx, tx, server, now); err != nil {
		return err
	}
	tx.Notify(Topic, server.String())
	return audit.Record(ctx, tx, audit.Event{
		Organization: audit.Platform, Action: "server.quarantine", Object: server.String(), Detail: problem,
	})
}

// Quarantine silences a server that is ACTIVE or DRAINING; why is for people.
func (f *Fleet) Quarantine(ctx context.Context, server contract.ServerID, why string) error {
	err := db.InTx(ctx, f.db, func(tx *db.Tx) error { return quarantine(ctx, tx, server, why, time.Now()) })
	if err != nil {
		return fmt.Errorf("quarantine server %s: %w", server, err)
	}
	return nil
}
