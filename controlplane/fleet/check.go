package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
)

// identity is what the database knows of who may speak for a server.
type identity struct {
	state      State
	problem    string
	serial     string
	nextSerial string
	epoch      uint64
}

const identityColumns = `
	SELECT id,
	       state,
	       problem,
	       serial,
	       next_serial,
	       epoch
	FROM servers`

func scanIdentity(row interface{ Scan(...any) error }) (contract.ServerID, identity, error) {
	var id contract.ServerID
	var i identity
	var state string
	var epoch int64
	err := row.Scan(&id, &state, &i.problem, &i.serial, &i.nextSerial, &epoch)
	i.state, i.epoch = State(state), uint64(epoch)
	return id, i, err
}

// admit decides whether a certificate with this serial may speak for the server.
func (i identity) admit(serial string) error {
	switch i.state {
	case Active, Draining:
	case Quarantined:
		return fault.Denied("the server is quarantined: " + i.problem)
	case Removed:
		return fault.Denied("the server was removed")
	default:
		return ErrRevoked
	}
	if serial == "" || serial != i.serial && serial != i.nextSerial {
		return ErrRevoked
	}
	return nil
}

// admitSession is admit for a call within an epoch.
func (i identity) admitSession(serial string, epoch uint64) error {
	if err := i.admit(serial); err != nil {
		return err
	}
	if epoch != i.epoch {
		return ErrStaleEpoch
	}
	return nil
}

// Check says whether the holder of a certificate may make a call in an epoch; every call but Enroll, Recover and Hello
// begins with it. The first call with the next certificate makes it the current one, and the former is refused from then on.
//
// It says ErrRevoked, ErrStaleEpoch, or another fault.Denied with the reason.
func (f *Fleet) Check(ctx context.Context, who pki.Peer, epoch uint64) error {
	_, i, err := scanIdentity(f.db.Reader().QueryRow(ctx, identityColumns+` WHERE id = $1`, who.Server))
	if errors.Is(err, sql.ErrNoRows) {
		return ErrRevoked
	}
	if err != nil {
		return fmt.Errorf("check server %s: %w", who.Server, err)
	}
	if err := i.admitSession(who.Serial, epoch); err != nil {
		return err
	}
	if who.Serial == i.serial {
		return nil
	}
	err = db.InTx(ctx, f.db, func(tx *db.Tx) error { return promote(ctx, tx, who.Server, who.Serial, time.Now()) }, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("promote certificate of server %s: %w", who.Server, err)
	}
	return nil
}

// promote makes the next certificate the current one. Where somebody else has done so nothing happens.
func promote(ctx context.Context, tx *db.Tx, server, serial string, now time.Time) error {
	n, err := tx.Exec(ctx, `
		UPDATE servers
		SET serial = next_serial,
		    key_hash = next_key_hash,
		    certificate_expires_at = next_expires_at,
		    next_serial = '',
		    next_key_hash = NULL,
		    next_certificate = NULL,
		    next_expires_at = NULL,
		    changed_at = $3
		WHERE id = $1
		  AND next_serial = $2`,
		server, serial, db.Micros(now))
	if n > 0 {
		tx.Notify(Topic, server)
	}
	return err
}

// Held is what a replica holds open for a server: a stream, or a waiting Poll.
type Held struct {
	Serial string
	Epoch  uint64
}

// Cut is a server whose stream must end, and the reason: what Check would say.
type Cut struct {
	Server contract.ServerID
	Reason error
}

// changeOverlap is how far Cuts looks back beyond since: a transaction commits up to 30 s after it wrote changed_at, and the
// clocks of replicas differ.
const changeOverlap = time.Minute

// Cuts says which of the held streams must end, by one query over the servers that changed since a moment: when the caller
// last asked, or the zero time for all.
func (f *Fleet) Cuts(ctx context.Context, held map[contract.ServerID]Held, since time.Time) ([]Cut, error) {
	from := int64(0)
	if !since.IsZero() {
		from = db.Micros(since.Add(-changeOverlap))
	}
	rows, err := f.db.Reader().Query(ctx, identityColumns+` WHERE changed_at >= $1`, from)
	if err != nil {
		return nil, fmt.Errorf("look for streams to cut: %w", err)
	}
	defer rows.Close()
	var cuts []Cut
	for rows.Next() {
		id, i, err := scanIdentity(rows)
		if err != nil {
			return nil, fmt.Errorf("look for streams to cut: %w", err)
		}
		h, ok := held[id]
		if !ok {
			continue
		}
		if reason := i.admitSession(h.Serial, h.Epoch); reason != nil {
			cuts = append(cuts, Cut{id, reason})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look for streams to cut: %w", err)
	}
	return cuts, nil
}
