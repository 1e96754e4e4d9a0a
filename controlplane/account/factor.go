package account

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

// Factors are what somebody has besides a password, to prove that it is them.
type Factors struct {
	// TOTP says that there is an authenticator app.
	TOTP bool
	// Passkeys is how many there are.
	Passkeys int
	// RecoveryCodes is how many are left.
	RecoveryCodes int
}

// Any reports whether there is a second factor. Recovery codes are none: they stand in for one.
func (f Factors) Any() bool { return f.TOTP || f.Passkeys > 0 }

// FactorsOf returns what somebody has.
func (a *Accounts) FactorsOf(ctx context.Context, account string) (Factors, error) {
	found, err := factorsOf(ctx, a.db.Reader(), account)
	if err != nil {
		return Factors{}, fmt.Errorf("look up second factors: %w", err)
	}
	return found, nil
}

func factorsOf(ctx context.Context, q db.Querier, account string) (Factors, error) {
	var found Factors
	err := q.QueryRow(ctx, `
		SELECT EXISTS (SELECT 1 FROM totps WHERE account_id = $1 AND confirmed_at IS NOT NULL),
		       (SELECT COUNT(*) FROM passkeys WHERE account_id = $1),
		       (SELECT COUNT(*) FROM recovery_codes WHERE account_id = $1)`,
		account).Scan(&found.TOTP, &found.Passkeys, &found.RecoveryCodes)
	return found, err
}

// factorAdded is what follows from a new second factor: recovery codes where there are none yet, which it returns, all other
// sessions over, and a new secret for this one, which has been proved with it.
func (a *Accounts) factorAdded(ctx context.Context, tx *db.Tx, caller Caller, what string) (SignedIn, []string, error) {
	have, err := factorsOf(ctx, tx, caller.ID)
	if err != nil {
		return SignedIn{}, nil, err
	}
	var codes []string
	if have.RecoveryCodes == 0 {
		if codes, err = replaceRecoveryCodes(ctx, tx, caller.ID); err != nil {
			return SignedIn{}, nil, err
		}
	}
	renewed, err := a.factorsChanged(ctx, tx, caller, what+" was added.", true)
	return renewed, codes, err
}

// factorRemoved is what follows from a second factor less. With the last one its recovery codes go, too.
func (a *Accounts) factorRemoved(ctx context.Context, tx *db.Tx, caller Caller, what string) (SignedIn, error) {
	have, err := factorsOf(ctx, tx, caller.ID)
	if err != nil {
		return SignedIn{}, err
	}
	if !have.Any() {
		if _, err := tx.Exec(ctx, `DELETE FROM recovery_codes WHERE account_id = $1`, caller.ID); err != nil {
			return SignedIn{}, err
		}
	}
	return a.factorsChanged(ctx, tx, caller, what+" was removed.", caller.SecondFactor && have.Any())
}

func (a *Accounts) factorsChanged(ctx context.Context, tx *db.Tx, caller Caller, change string, secondFactor bool) (SignedIn, error) {
	if _, err := endSessions(ctx, tx, caller.ID, caller.Session); err != nil {
		return SignedIn{}, err
	}
	if err := a.tellChange(ctx, tx, caller.Account, caller.From, change); err != nil {
		return SignedIn{}, err
	}
	if err := record(ctx, tx, caller.ID, "account.change_second_factor", change); err != nil {
		return SignedIn{}, err
	}
	return renew(ctx, tx, caller, secondFactor, caller.FreshUntil)
}

func (a *Accounts) tellChange(ctx context.Context, tx *db.Tx, who Account, from Client, change string) error {
	return a.tell(ctx, tx, who.Email, mailFactors, from, map[string]string{"change": change, "link": a.link(pageFactors, "")})
}

// Proof is what a session shows to be fresh again: one of them.
type Proof struct {
	// Password counts for somebody who has no second factor.
	Password string
	// Code is one of the authenticator app, or a recovery code.
	Code string
}

// StepUp makes the caller's session fresh for 5 minutes. Errors: ErrCode, fault.Invalid about the password, and what the
// limiter says after 5 tries in a minute.
func (a *Accounts) StepUp(ctx context.Context, caller Caller, shown Proof) (SignedIn, error) {
	have, err := a.FactorsOf(ctx, caller.ID)
	if err != nil {
		return SignedIn{}, err
	}
	spend := func(context.Context, *db.Tx) error { return nil }
	with := "password"
	switch {
	case shown.Code != "":
		proof, err := a.proveCode(ctx, caller.Account, shown.Code, caller.From)
		if err != nil {
			return SignedIn{}, err
		}
		spend, with = proof.spend, proof.name
	case have.Any():
		return SignedIn{}, fault.Invalid("code", "is needed, or a passkey: this account has a second factor")
	default:
		if _, _, err := a.provePassword(ctx, caller.Email, shown.Password); err != nil {
			if errors.Is(err, ErrCredentials) {
				return SignedIn{}, fault.Invalid("password", "is wrong")
			}
			return SignedIn{}, err
		}
	}
	var renewed SignedIn
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		if err := spend(ctx, tx); err != nil {
			return err
		}
		renewed, err = a.freshen(ctx, tx, caller, with, shown.Code != "" || caller.SecondFactor)
		return err
	})
	if err != nil {
		return SignedIn{}, fmt.Errorf("step up: %w", err)
	}
	return renewed, nil
}

func (a *Accounts) freshen(ctx context.Context, tx *db.Tx, caller Caller, with string, secondFactor bool) (SignedIn, error) {
	if err := record(ctx, tx, caller.ID, "session.step_up", with); err != nil {
		return SignedIn{}, err
	}
	return renew(ctx, tx, caller, secondFactor, time.Now().Add(freshFor))
}
