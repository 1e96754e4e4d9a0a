package fleet

import (
	"context"
	"fmt"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// readmitWindow is how long after an operator's click any number of recoveries is fine: whoever clicks is at work on the host.
const readmitWindow = 24 * time.Hour

// drained is the state of a server that gets no new sites.
func drained(s State) (State, error) {
	switch s {
	case Active, Draining:
		return Draining, nil
	case Pending:
		return "", fault.Conflict("the server has not enrolled yet")
	case Quarantined:
		return "", fault.Conflict("the server is quarantined and gets no new sites anyhow")
	}
	return "", errRemoved
}

// undrained is the state of a server that gets new sites again.
func undrained(s State) (State, error) {
	switch s {
	case Active, Draining:
		return Active, nil
	case Pending:
		return "", fault.Conflict("the server has not enrolled yet")
	case Quarantined:
		return "", fault.Conflict("the server is quarantined: readmit it")
	}
	return "", errRemoved
}

// readmitted is the state of a server that may connect again.
func readmitted(s State) (State, error) {
	switch s {
	case Active, Draining:
		return s, nil
	case Quarantined:
		return Active, nil
	case Pending:
		return "", fault.Conflict("the server has not enrolled yet")
	}
	return "", errRemoved
}

// Drain keeps new sites away from a server; those on it stay and are served. Doing so twice is fine.
func (f *Fleet) Drain(ctx context.Context, id contract.ServerID) (Server, error) {
	return f.change(ctx, id, "drain", func(tx *db.Tx, s Server, now time.Time) error {
		to, err := drained(s.State)
		if err != nil || to == s.State {
			return err
		}
		return move(ctx, tx, id, to, now)
	})
}

// Undrain lets a drained server take new sites again.
func (f *Fleet) Undrain(ctx context.Context, id contract.ServerID) (Server, error) {
	return f.change(ctx, id, "undrain", func(tx *db.Tx, s Server, now time.Time) error {
		to, err := undrained(s.State)
		if err != nil || to == s.State {
			return err
		}
		return move(ctx, tx, id, to, now)
	})
}

// Readmit lets a server that is QUARANTINED, or whose certificate ran out too often, connect again with the keys that it has.
func (f *Fleet) Readmit(ctx context.Context, id contract.ServerID) (Server, error) {
	return f.change(ctx, id, "readmit", func(tx *db.Tx, s Server, now time.Time) error {
		to, err := readmitted(s.State)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			UPDATE servers
			SET recoveries = 0,
			    readmit_until = $2,
			    problem = ''
			WHERE id = $1`,
			id, db.Micros(now.Add(readmitWindow))); err != nil {
			return err
		}
		if err := forgetInstances(ctx, tx, id); err != nil {
			return err
		}
		return move(ctx, tx, id, to, now)
	})
}

// Remove takes a server without sites out, for good: its certificate and its join tokens are refused from then on. Removed is
// called to end what it was ordered.
func (f *Fleet) Remove(ctx context.Context, id contract.ServerID,
	removed func(ctx context.Context, tx *db.Tx, server contract.ServerID) error,
) (Server, error) {
	return f.change(ctx, id, "remove", func(tx *db.Tx, s Server, now time.Time) error {
		if s.State == Removed {
			return nil
		}
		// The transaction is serializable: a site that is placed at the same time makes one of the two fail.
		if s.Sites > 0 {
			return fault.Conflict(fmt.Sprintf("the server holds %d sites, those in the trash included: delete or move them first", s.Sites))
		}
		if err := removed(ctx, tx, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			UPDATE servers
			SET problem = '',
			    serial = '',
			    key_hash = NULL,
			    certificate_expires_at = NULL,
			    next_serial = '',
			    next_key_hash = NULL,
			    next_certificate = NULL,
			    next_expires_at = NULL,
			    epoch = epoch + 1,
			    instance_id = '',
			    prepare_again_at = NULL
			WHERE id = $1`,
			id); err != nil {
			return err
		}
		if err := revokeTokens(ctx, tx, id, now); err != nil {
			return err
		}
		if err := forgetInstances(ctx, tx, id); err != nil {
			return err
		}
		return move(ctx, tx, id, Removed, now)
	})
}

// change runs a decision of an operator about a server and returns what became of it.
func (f *Fleet) change(ctx context.Context, id contract.ServerID, what string, do func(*db.Tx, Server, time.Time) error) (Server, error) {
	var changed Server
	err := db.InTx(ctx, f.db, func(tx *db.Tx) error {
		s, err := get(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := do(tx, s, time.Now()); err != nil {
			return err
		}
		if err := audit.Record(ctx, tx, audit.Event{
			Organization: audit.Platform, Action: "server." + what, Object: id.String(), Detail: s.Name,
		}); err != nil {
			return err
		}
		changed, err = get(ctx, tx, id)
		return err
	})
	if err != nil {
		return Server{}, fmt.Errorf("%s server: %w", what, err)
	}
	return changed, nil
}

// move sets the state and tells every replica.
func move(ctx context.Context, tx *db.Tx, id contract.ServerID, to State, now time.Time) error {
	tx.Notify(Topic, id.String())
	_, err := tx.Exec(ctx, `
		UPDATE servers
		SET state = $2,
		    changed_at = $3
		WHERE id = $1`,
		id, string(to), db.Micros(now))
	return err
}
