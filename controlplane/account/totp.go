package account

import (
	"bytes"
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"image/png"
	"time"

	"github.com/pquerna/otp/hotp"
	"github.com/pquerna/otp/totp"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/secret"
)

// stepLength is the time for which an authenticator app shows one code, and skew how many steps a clock may be off.
const (
	stepLength = 30 // seconds
	skew       = 1
)

// confirmWithin is the time to bring a new authenticator app to its first code.
const confirmWithin = 15 * time.Minute

// qrSize is the edge of the picture in pixels: sharp on a dense screen, and the app reads it from an arm's length.
const qrSize = 320

// Errors of authenticator apps.
var (
	ErrCode   = fault.Invalid("code", "is wrong, or was used already")
	ErrNoTOTP = fault.NotFound("authenticator app")
)

// TOTPSetup is what a new authenticator app needs. It is shown once.
type TOTPSetup struct {
	// Seed in base 32, to type by hand.
	Seed string
	// URL is the same for programs, otpauth://totp/...
	URL string
	// QR is the URL as a picture in PNG.
	QR []byte
}

// BeginTOTP makes the seed of a new authenticator app. Nothing changes until ConfirmTOTP.
func (a *Accounts) BeginTOTP(ctx context.Context, caller Caller) (TOTPSetup, error) {
	key, err := totp.Generate(totp.GenerateOpts{Issuer: a.host, AccountName: caller.Email, Period: stepLength})
	if err != nil {
		return TOTPSetup{}, fmt.Errorf("begin totp: %w", err)
	}
	picture, err := key.Image(qrSize, qrSize)
	if err != nil {
		return TOTPSetup{}, fmt.Errorf("begin totp: %w", err)
	}
	var qr bytes.Buffer
	if err := png.Encode(&qr, picture); err != nil {
		return TOTPSetup{}, fmt.Errorf("begin totp: %w", err)
	}
	id := newID()
	sealed, err := a.seals.Seal(seedPlace(id), []byte(key.Secret()))
	if err != nil {
		return TOTPSetup{}, fmt.Errorf("begin totp: %w", err)
	}
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM totps WHERE account_id = $1 AND confirmed_at IS NULL`, caller.ID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO totps (id, account_id, sealed_seed, created_at, last_step)
			VALUES ($1, $2, $3, $4, 0)`,
			id, caller.ID, sealed, db.Micros(time.Now()))
		return err
	})
	if err != nil {
		return TOTPSetup{}, fmt.Errorf("begin totp: %w", err)
	}
	return TOTPSetup{Seed: key.Secret(), URL: key.URL(), QR: qr.Bytes()}, nil
}

// Sealed is where the seeds of authenticator apps stand.
var Sealed = secret.Column{Table: "totps", Column: "sealed_seed", Row: "id"}

// seedPlace is where the seed of an authenticator app lies. It belongs to a person, not to an organization.
func seedPlace(id string) secret.Place {
	return secret.Place{Organization: audit.Platform, Table: "totps", Column: "sealed_seed", Row: id}
}

// ConfirmTOTP makes the authenticator app that BeginTOTP prepared the only one of the caller, by its first code. It returns
// recovery codes when they are the caller's first; they are shown once. All other sessions end. Errors: ErrNoTOTP when none was
// prepared in the last 15 minutes, ErrCode, and what the limiter says after 5 tries in a minute.
func (a *Accounts) ConfirmTOTP(ctx context.Context, caller Caller, code string) (SignedIn, []string, error) {
	if err := a.limits.Allow(ctx, "code:"+caller.ID, ClassAuth); err != nil {
		return SignedIn{}, nil, err
	}
	var id string
	var sealed []byte
	err := a.db.Reader().QueryRow(ctx, `
		SELECT id,
		       sealed_seed
		FROM totps
		WHERE account_id = $1
		  AND confirmed_at IS NULL
		  AND created_at > $2`,
		caller.ID, db.Micros(time.Now().Add(-confirmWithin))).Scan(&id, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return SignedIn{}, nil, ErrNoTOTP
	}
	if err != nil {
		return SignedIn{}, nil, fmt.Errorf("confirm totp: %w", err)
	}
	step, err := a.stepOf(id, sealed, code, time.Now())
	if err != nil {
		return SignedIn{}, nil, err
	}
	var renewed SignedIn
	var codes []string
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM totps WHERE account_id = $1 AND id <> $2`, caller.ID, id); err != nil {
			return err
		}
		confirmed, err := tx.Exec(ctx, `
			UPDATE totps
			SET confirmed_at = $2,
			    last_step    = $3
			WHERE id = $1
			  AND confirmed_at IS NULL`,
			id, db.Micros(time.Now()), step)
		if err != nil {
			return err
		}
		if confirmed == 0 {
			return ErrNoTOTP
		}
		renewed, codes, err = a.factorAdded(ctx, tx, caller, "An authenticator app")
		return err
	})
	if err != nil {
		return SignedIn{}, nil, fmt.Errorf("confirm totp: %w", err)
	}
	return renewed, codes, nil
}

// RemoveTOTP removes the caller's authenticator app. All other sessions end. It says ErrNoTOTP where there is none.
func (a *Accounts) RemoveTOTP(ctx context.Context, caller Caller) (SignedIn, error) {
	var renewed SignedIn
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		removed, err := tx.Exec(ctx, `DELETE FROM totps WHERE account_id = $1 AND confirmed_at IS NOT NULL`, caller.ID)
		if err != nil {
			return err
		}
		if removed == 0 {
			return ErrNoTOTP
		}
		renewed, err = a.factorRemoved(ctx, tx, caller, "The authenticator app")
		return err
	})
	if err != nil {
		return SignedIn{}, fmt.Errorf("remove totp: %w", err)
	}
	return renewed, nil
}

// stepOf finds the step of time that a code belongs to. It says ErrCode where there is none near now.
func (a *Accounts) stepOf(id string, sealed []byte, code string, now time.Time) (int64, error) {
	seed, err := a.seals.Open(seedPlace(id), sealed)
	if err != nil {
		return 0, fmt.Errorf("read the seed of authenticator app %s: %w", id, err)
	}
	at := now.Unix() / stepLength
	for step := at - skew; step <= at+skew; step++ {
		right, err := hotp.GenerateCode(string(seed), uint64(step))
		if err != nil {
			return 0, fmt.Errorf("make the code of authenticator app %s: %w", id, err)
		}
		if subtle.ConstantTimeCompare([]byte(right), []byte(code)) == 1 {
			return step, nil
		}
	}
	return 0, ErrCode
}

// proof is a code that was right. It counts once it is spent.
type proof struct {
	name  string // in words, for the audit log
	spend func(context.Context, *db.Tx) error
}

// proveCode compares a code of somebody's authenticator app, or a recovery code. Errors: ErrCode, and what the limiter says
// after 5 tries in a minute.
func (a *Accounts) proveCode(ctx context.Context, who Account, code string, from Client) (proof, error) {
	if err := a.limits.Allow(ctx, "code:"+who.ID, ClassAuth); err != nil {
		return proof{}, err
	}
	proved, err := a.lookUpCode(ctx, who, code, from)
	if errors.Is(err, ErrCode) {
		if err := a.recordRefused(ctx, who.ID, "second factor"); err != nil {
			return proof{}, err
		}
	}
	return proved, err
}

func (a *Accounts) lookUpCode(ctx context.Context, who Account, code string, from Client) (proof, error) {
	if hash, ok := hashRecoveryCode(code); ok {
		return proof{"recovery code", func(ctx context.Context, tx *db.Tx) error { return a.spendRecoveryCode(ctx, tx, who, from, hash) }},
			a.knownRecoveryCode(ctx, who, hash)
	}
	var id string
	var sealed []byte
	err := a.db.Reader().QueryRow(ctx, `
		SELECT id,
		       sealed_seed
		FROM totps
		WHERE account_id = $1
		  AND confirmed_at IS NOT NULL`,
		who.ID).Scan(&id, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return proof{}, ErrCode
	}
	if err != nil {
		return proof{}, fmt.Errorf("look up authenticator app: %w", err)
	}
	step, err := a.stepOf(id, sealed, code, time.Now())
	if err != nil {
		return proof{}, err
	}
	return proof{"authenticator app", func(ctx context.Context, tx *db.Tx) error {
		// Of two that show one code, one finds the step used.
		used, err := tx.Exec(ctx, `UPDATE totps SET last_step = $2 WHERE id = $1 AND last_step < $2`, id, step)
		if err == nil && used == 0 {
			return ErrCode
		}
		return err
	}}, nil
}
