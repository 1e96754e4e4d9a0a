package account

import (
	"context"
	"maps"
	"sync"
	"time"

	"chom.dev/controlplane/db"
)

// How often Run writes down which sessions were used, and removes what is over. The former is as exact as Session.UsedAt.
const (
	noteEvery  = 30 * time.Second
	sweepEvery = time.Hour
)

// Run writes down when sessions were used, and removes what is over, until ctx ends.
func (a *Accounts) Run(ctx context.Context) error {
	note, sweep := time.NewTicker(noteEvery), time.NewTicker(sweepEvery)
	defer note.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-note.C:
			if err := a.writeUsed(ctx); err != nil && ctx.Err() == nil {
				a.log.Error("when sessions were used could not be written", "err", err)
			}
		case now := <-sweep.C:
			if err := a.sweep(ctx, now); err != nil && ctx.Err() == nil {
				a.log.Error("what is over of accounts could not be removed", "err", err)
			}
		}
	}
}

// used remembers when sessions were used until that is written: a call that reads must not have to write.
type used struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (u *used) note(session string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at[session] = now
}

func (u *used) take() map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.at
	u.at = map[string]time.Time{}
	return all
}

func (u *used) putBack(all map[string]time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.Copy(all, u.at)
	u.at = all
}

// writeUsed writes down what was noted since it last did.
func (a *Accounts) writeUsed(ctx context.Context) error {
	all := a.used.take()
	if len(all) == 0 {
		return nil
	}
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		for session, at := range all {
			if _, err := tx.Exec(ctx, `UPDATE sessions SET used_at = $2 WHERE id = $1 AND used_at < $2`, session, db.Micros(at)); err != nil {
				return err
			}
		}
		return nil
	}, db.ReadCommitted())
	if err != nil {
		a.used.putBack(all)
	}
	return err
}

// sweep removes what is over. Nothing believes such a row, so that it only frees room.
func (a *Accounts) sweep(ctx context.Context, now time.Time) error {
	return db.InTx(ctx, a.db, func(tx *db.Tx) error {
		for _, over := range []struct {
			statement string
			before    time.Time
		}{
			{`DELETE FROM sign_ups WHERE expires_at < $1`, now},
			{`DELETE FROM password_resets WHERE expires_at < $1`, now},
			{`DELETE FROM email_changes WHERE expires_at < $1`, now},
			{`DELETE FROM logins WHERE expires_at < $1`, now},
			{`DELETE FROM sessions WHERE expires_at < $1`, now},
			{`DELETE FROM sessions WHERE used_at < $1`, now.Add(-idleFor)},
			{`DELETE FROM known_devices WHERE seen_at < $1`, now.Add(-deviceFor)},
			{`DELETE FROM totps WHERE confirmed_at IS NULL AND created_at < $1`, now.Add(-confirmWithin)},
			{`DELETE FROM passkey_challenges WHERE expires_at < $1`, now},
			{`DELETE FROM device_logins WHERE expires_at < $1`, now},
		} {
			if _, err := tx.Exec(ctx, over.statement, db.Micros(over.before)); err != nil {
				return err
			}
		}
		return nil
	})
}
