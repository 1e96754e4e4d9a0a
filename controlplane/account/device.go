package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"time"

	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

const deviceLoginPrefix = "chomdevice_"

const (
	deviceWithin = 10 * time.Minute
	pollEvery    = 5 * time.Second
	// deviceTokenFor is the life of the token that a program gets: a quarter of a year, then its person confirms it again.
	deviceTokenFor = 90 * 24 * time.Hour
)

// Errors of device logins.
var (
	ErrNoDeviceLogin = fault.NotFound("program that waits with this code")
	ErrDeviceDenied  = fault.Denied("the login was refused")
	errPolledTooSoon = fault.Unavailable("ask every 5 seconds", pollEvery, nil)
)

// Issuer makes personal API tokens. It is package token.
type Issuer interface {
	// Issue makes a token of an account, which it returns once.
	Issue(ctx context.Context, tx *db.Tx, account, name string, scope Scope, expires time.Time) (string, error)
}

// DeviceLogin is a program that waits for somebody to let it act for them (RFC 8628): it shows a code, they enter it where they
// are signed in, see what asks and from where, and say yes or no.
//
//	BeginDeviceLogin --> waiting --ApproveDeviceLogin--> approved --PollDeviceLogin--> token, gone
//	                        |
//	                        +--> denied, or over after 10 minutes
type DeviceLogin struct {
	// Name is what the program calls itself and the machine that it runs on: a stranger's text.
	Name string
	// Scope is the most that it wants.
	Scope     Scope
	From      Client
	CreatedAt time.Time
}

// DeviceCodes are what a program that waits holds.
type DeviceCodes struct {
	// Device is the program's own secret, with which it polls.
	Device string
	// User is what its person enters.
	User string
	// URL is where they do; Complete already holds the code.
	URL, Complete string
	ExpiresAt     time.Time
	Interval      time.Duration
}

// BeginDeviceLogin lets a program wait. Anybody may: it means nothing until somebody approves.
func (a *Accounts) BeginDeviceLogin(ctx context.Context, name string, scope Scope, from Client) (DeviceCodes, error) {
	if err := a.limits.Allow(ctx, "device:"+from.Address, ClassAuth); err != nil {
		return DeviceCodes{}, err
	}
	now := time.Now()
	device, hash := bearer.New(deviceLoginPrefix)
	user := newUserCode()
	userHash, _ := hashUserCode(user)
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO device_logins (secret_hash, user_code_hash, name, scope, user_agent, address, created_at, polled_at, expires_at, denied)
			VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, FALSE)`,
			hash, userHash, oneLine(name), scope.String(), oneLine(from.UserAgent), oneLine(from.Address), db.Micros(now), db.Micros(now.Add(deviceWithin)))
		return err
	})
	if err != nil {
		return DeviceCodes{}, fmt.Errorf("begin device login: %w", err)
	}
	return DeviceCodes{
		Device: device, User: user, URL: a.link(pageDevice, ""), Complete: a.link(pageDevice, user),
		ExpiresAt: now.Add(deviceWithin), Interval: pollEvery,
	}, nil
}

// A user code is 8 letters without vowels, "WDJB-MJHT": easy to type, 34 bits, and no word. With 5 tries a minute and 10
// minutes of life, nobody meets one by chance.
const userCodeLetters = "BCDFGHJKLMNPQRSTVWXZ"

var userCodePattern = regexp.MustCompile(`^[B-DF-HJ-NP-TV-XZ]{4}-[B-DF-HJ-NP-TV-XZ]{4}$`)

func newUserCode() string {
	code := make([]byte, 0, 9)
	for i := range 8 {
		if i == 4 {
			code = append(code, '-')
		}
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(userCodeLetters))))
		if err != nil {
			panic(err) // never: crypto/rand ends the program instead
		}
		code = append(code, userCodeLetters[n.Int64()])
	}
	return string(code)
}

func hashUserCode(code string) ([]byte, bool) {
	if !userCodePattern.MatchString(code) {
		return nil, false
	}
	sum := sha256.Sum256([]byte(code))
	return sum[:], true
}

// GetDeviceLogin shows a program that waits to somebody who entered its code. Errors: ErrNoDeviceLogin, and what the limiter says
// after 5 tries in a minute.
func (a *Accounts) GetDeviceLogin(ctx context.Context, caller Caller, code string) (DeviceLogin, error) {
	hash, ok := hashUserCode(code)
	if !ok {
		return DeviceLogin{}, ErrNoDeviceLogin
	}
	if err := a.limits.Allow(ctx, "user-code:"+caller.ID, ClassAuth); err != nil {
		return DeviceLogin{}, err
	}
	found, err := waiting(ctx, a.db.Reader(), hash)
	if err != nil {
		return DeviceLogin{}, fmt.Errorf("get device login: %w", err)
	}
	return found, nil
}

// waiting finds a program that nobody has answered yet.
func waiting(ctx context.Context, q db.Querier, hash []byte) (DeviceLogin, error) {
	var found DeviceLogin
	var scope string
	var created int64
	err := q.QueryRow(ctx, `
		SELECT name,
		       scope,
		       user_agent,
		       address,
		       created_at
		FROM device_logins
		WHERE user_code_hash = $1
		  AND account_id IS NULL
		  AND NOT denied
		  AND expires_at > $2`,
		hash, db.Micros(time.Now())).Scan(&found.Name, &scope, &found.From.UserAgent, &found.From.Address, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return DeviceLogin{}, ErrNoDeviceLogin
	}
	if err != nil {
		return DeviceLogin{}, err
	}
	found.CreatedAt = db.Time(created)
	found.Scope, _ = ParseScope(scope)
	return found, nil
}

// ApproveDeviceLogin lets a program act for the caller, whose session must be fresh. Errors are those of GetDeviceLogin.
func (a *Accounts) ApproveDeviceLogin(ctx context.Context, caller Caller, code string) error {
	return a.answerDeviceLogin(ctx, caller, code, `UPDATE device_logins SET account_id = $2 WHERE user_code_hash = $1`, "account.approve_device_login")
}

// DenyDeviceLogin refuses. Errors are those of GetDeviceLogin.
func (a *Accounts) DenyDeviceLogin(ctx context.Context, caller Caller, code string) error {
	return a.answerDeviceLogin(ctx, caller, code, `UPDATE device_logins SET account_id = $2, denied = TRUE WHERE user_code_hash = $1`, "account.deny_device_login")
}

func (a *Accounts) answerDeviceLogin(ctx context.Context, caller Caller, code, update, action string) error {
	hash, ok := hashUserCode(code)
	if !ok {
		return ErrNoDeviceLogin
	}
	if err := a.limits.Allow(ctx, "user-code:"+caller.ID, ClassAuth); err != nil {
		return err
	}
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		found, err := waiting(ctx, tx, hash)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, update, hash, caller.ID); err != nil {
			return err
		}
		return record(ctx, tx, caller.ID, action, fmt.Sprintf("%q, scope %s, from %s", found.Name, found.Scope, found.From.Address))
	})
	if err != nil {
		return fmt.Errorf("answer device login: %w", err)
	}
	return nil
}

// PollDeviceLogin returns the token once somebody approved, once; empty while nobody has answered. Errors: ErrNoDeviceLogin when it
// is over, ErrDeviceDenied, fault.Unavailable when asked sooner than every 5 seconds.
func (a *Accounts) PollDeviceLogin(ctx context.Context, device string) (string, error) {
	hash, ok := bearer.Hash(deviceLoginPrefix, device)
	if !ok {
		return "", ErrNoDeviceLogin
	}
	token, denied := "", false
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		token, denied = "", false
		now := time.Now()
		var name, scopeName, account string
		var polled int64
		err := tx.QueryRow(ctx, `
			SELECT name,
			       scope,
			       COALESCE(account_id, ''),
			       denied,
			       polled_at
			FROM device_logins
			WHERE secret_hash = $1
			  AND expires_at > $2`,
			hash, db.Micros(now)).Scan(&name, &scopeName, &account, &denied, &polled)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoDeviceLogin
		}
		if err != nil {
			return err
		}
		if now.Sub(db.Time(polled)) < pollEvery-time.Second { // networks are not that exact
			return errPolledTooSoon
		}
		if account == "" {
			_, err := tx.Exec(ctx, `UPDATE device_logins SET polled_at = $2 WHERE secret_hash = $1`, hash, db.Micros(now))
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM device_logins WHERE secret_hash = $1`, hash); err != nil || denied {
			return err
		}
		scope, _ := ParseScope(scopeName)
		token, err = a.tokens.Issue(ctx, tx, account, name, scope, now.Add(deviceTokenFor))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("poll device login: %w", err)
	}
	if denied {
		return "", ErrDeviceDenied
	}
	return token, nil
}
