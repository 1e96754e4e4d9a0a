package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

const (
	sessionPrefix = "chomses_"
	devicePrefix  = "chomdev_"
)

// How long things last.
const (
	idleFor    = 24 * time.Hour       // a night and a working day; after a weekend one signs in again
	sessionFor = 14 * 24 * time.Hour  // however busy: a stolen cookie is worth nothing after that
	freshFor   = 5 * time.Minute      // to do a few things in a row
	deviceFor  = 400 * 24 * time.Hour // the most that browsers keep a cookie for
)

// Most of what one person has; what was used longest ago makes room.
const (
	maxSessions = 50
	maxDevices  = 20
)

// Session is a browser in which somebody is signed in.
type Session struct {
	// ID is a UUID. It is no secret.
	ID        string
	UserAgent string
	Address   string
	CreatedAt time.Time
	// UsedAt is the time of its last call, to the half minute.
	UsedAt    time.Time
	ExpiresAt time.Time
}

// SignedIn is a session that was opened, or that has a new secret.
type SignedIn struct {
	Account
	// Secret goes into the cookie of the session and nowhere else.
	Secret string
	// ExpiresAt is when the session ends at the latest.
	ExpiresAt time.Time
	// Device goes into the cookie by which the browser is known from now on; empty where that one stays.
	Device string
}

// ErrNoSession says that a session is not the caller's, or over.
var ErrNoSession = fault.NotFound("session")

// errSessionOver is what a call hears whose session ended while it ran.
var errSessionOver = fault.Unauthenticated("the session is over: sign in again")

// Authenticate finds the caller behind the cookie of a session; false where it is none, or over.
func (a *Accounts) Authenticate(ctx context.Context, secret string, from Client) (Caller, bool, error) {
	hash, ok := bearer.Hash(sessionPrefix, secret)
	if !ok {
		return Caller{}, false, nil
	}
	now := time.Now()
	found := Caller{Scope: Manage, From: from}
	var fresh int64
	err := a.db.Reader().QueryRow(ctx, `
		SELECT s.id,
		       s.second_factor,
		       s.fresh_until,
		       a.id,
		       a.email,
		       a.operator
		FROM sessions s
		JOIN accounts a ON a.id = s.account_id
		WHERE s.secret_hash = $1
		  AND s.expires_at > $2
		  AND s.used_at > $3`,
		hash, db.Micros(now), db.Micros(now.Add(-idleFor))).Scan(
		&found.Session, &found.SecondFactor, &fresh, &found.ID, &found.Email, &found.Operator)
	if errors.Is(err, sql.ErrNoRows) {
		return Caller{}, false, nil
	}
	if err != nil {
		return Caller{}, false, fmt.Errorf("authenticate: %w", err)
	}
	found.FreshUntil = db.Time(fresh)
	a.used.note(found.Session, now)
	return found, true, nil
}

// opening says how a session is opened.
type opening struct {
	// with is what was proved, in words for the audit log.
	with string
	// secondFactor says that it was one, too.
	secondFactor bool
	// instead is the session that the browser had until now; empty for none.
	instead string
}

// open signs somebody in.
func (a *Accounts) open(ctx context.Context, tx *db.Tx, who Account, from Client, o opening) (SignedIn, error) {
	if _, err := tx.Exec(ctx, `DELETE FROM sessions WHERE id = $1`, o.instead); err != nil {
		return SignedIn{}, err
	}
	now := time.Now()
	secret, hash := bearer.New(sessionPrefix)
	opened := SignedIn{Account: who, Secret: secret, ExpiresAt: now.Add(sessionFor)}
	if _, err := tx.Exec(ctx, `
		INSERT INTO sessions (id, account_id, secret_hash, second_factor, fresh_until, user_agent, address, created_at, used_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)`,
		newID(), who.ID, hash, o.secondFactor, db.Micros(now.Add(freshFor)), oneLine(from.UserAgent), oneLine(from.Address),
		db.Micros(now), db.Micros(opened.ExpiresAt)); err != nil {
		return SignedIn{}, err
	}
	if _, err := tx.Exec(ctx, `
		DELETE FROM sessions
		WHERE id IN (SELECT id FROM sessions WHERE account_id = $1 ORDER BY used_at DESC, id DESC LIMIT 1000 OFFSET $2)`,
		who.ID, maxSessions); err != nil {
		return SignedIn{}, err
	}
	var err error
	if opened.Device, err = a.meet(ctx, tx, who, from); err != nil {
		return SignedIn{}, err
	}
	return opened, record(ctx, tx, who.ID, "session.open", o.with)
}

// meet remembers the browser in which somebody signs in, and tells them when it is not one that was seen before. It returns the
// secret by which the browser is known from now on, empty where it has one.
func (a *Accounts) meet(ctx context.Context, tx *db.Tx, who Account, from Client) (string, error) {
	secret := ""
	hash, ok := bearer.Hash(devicePrefix, from.Device)
	if !ok {
		secret, hash = bearer.New(devicePrefix)
	}
	now := time.Now()
	seen, err := tx.Exec(ctx, `UPDATE known_devices SET seen_at = $3 WHERE account_id = $1 AND secret_hash = $2`, who.ID, hash, db.Micros(now))
	if err != nil || seen == 1 {
		return secret, err
	}
	var others int
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM known_devices WHERE account_id = $1`, who.ID).Scan(&others); err != nil {
		return "", err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO known_devices (account_id, secret_hash, seen_at) VALUES ($1, $2, $3)`, who.ID, hash, db.Micros(now)); err != nil {
		return "", err
	}
	if _, err := tx.Exec(ctx, `
		DELETE FROM known_devices
		WHERE account_id = $1
		  AND secret_hash IN (SELECT secret_hash FROM known_devices WHERE account_id = $1 ORDER BY seen_at DESC LIMIT 1000 OFFSET $2)`,
		who.ID, maxDevices); err != nil {
		return "", err
	}
	if others == 0 {
		return secret, nil // the first one is no news
	}
	return secret, a.tell(ctx, tx, who.Email, mailDevice, from, map[string]string{"device": oneLine(from.UserAgent), "link": a.link(pageSessions, "")})
}

// renew gives a session another secret, since what it allows has grown. Its former one is worth nothing any more.
func renew(ctx context.Context, tx *db.Tx, caller Caller, secondFactor bool, fresh time.Time) (SignedIn, error) {
	secret, hash := bearer.New(sessionPrefix)
	var expires int64
	err := tx.QueryRow(ctx, `
		UPDATE sessions
		SET secret_hash   = $3,
		    second_factor = $4,
		    fresh_until   = $5
		WHERE id = $1
		  AND account_id = $2
		RETURNING expires_at`,
		caller.Session, caller.ID, hash, secondFactor, db.Micros(fresh)).Scan(&expires)
	if errors.Is(err, sql.ErrNoRows) {
		return SignedIn{}, errSessionOver
	}
	return SignedIn{Account: caller.Account, Secret: secret, ExpiresAt: db.Time(expires)}, err
}

// endSessions ends those of somebody but one; all for "". Logins under way, questions to passkeys and programs that they let
// but that have no token yet end with them.
func endSessions(ctx context.Context, tx *db.Tx, account, but string) (int64, error) {
	for _, statement := range []string{
		`DELETE FROM logins WHERE account_id = $1`, `DELETE FROM passkey_challenges WHERE account_id = $1`, `DELETE FROM device_logins WHERE account_id = $1`,
	} {
		if _, err := tx.Exec(ctx, statement, account); err != nil {
			return 0, err
		}
	}
	return tx.Exec(ctx, `DELETE FROM sessions WHERE account_id = $1 AND id <> $2`, account, but)
}

// ListSessions returns the sessions of somebody, the one used last first.
func (a *Accounts) ListSessions(ctx context.Context, account string) ([]Session, error) {
	now := time.Now()
	rows, err := a.db.Reader().Query(ctx, `
		SELECT id,
		       user_agent,
		       address,
		       created_at,
		       used_at,
		       expires_at
		FROM sessions
		WHERE account_id = $1
		  AND expires_at > $2
		  AND used_at > $3
		ORDER BY used_at DESC, id DESC`,
		account, db.Micros(now), db.Micros(now.Add(-idleFor)))
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	defer rows.Close()
	var all []Session
	for rows.Next() {
		var s Session
		var created, used, expires int64
		if err := rows.Scan(&s.ID, &s.UserAgent, &s.Address, &created, &used, &expires); err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		s.CreatedAt, s.UsedAt, s.ExpiresAt = db.Time(created), db.Time(used), db.Time(expires)
		all = append(all, s)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return all, nil
}

// RevokeSession ends one session of the caller's, which may be their own. It says ErrNoSession where there is none.
func (a *Accounts) RevokeSession(ctx context.Context, caller Caller, id string) error {
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		ended, err := tx.Exec(ctx, `DELETE FROM sessions WHERE id = $1 AND account_id = $2`, id, caller.ID)
		if err != nil {
			return err
		}
		if ended == 0 {
			return ErrNoSession
		}
		return record(ctx, tx, caller.ID, "session.revoke", id)
	})
	if err != nil {
		return fmt.Errorf("revoke session: %w", err)
	}
	return nil
}

// RevokeOtherSessions ends all sessions of the caller's but the one that they call from, and says how many.
func (a *Accounts) RevokeOtherSessions(ctx context.Context, caller Caller) (int64, error) {
	var ended int64
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		var err error
		if ended, err = endSessions(ctx, tx, caller.ID, caller.Session); err != nil {
			return err
		}
		return record(ctx, tx, caller.ID, "session.revoke_others", fmt.Sprintf("%d ended", ended))
	})
	if err != nil {
		return 0, fmt.Errorf("revoke sessions: %w", err)
	}
	return ended, nil
}

// maxLine bounds what is kept of a stranger's text, in bytes.
const maxLine = 256

// oneLine makes a stranger's text one opaque line: nothing in it can end a line, hide or reverse another text.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co) {
			return -1
		}
		return r
	}, text[:min(len(text), maxLine)])
	return strings.TrimSpace(text)
}
