package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

const loginPrefix = "chomlogin_"

// loginWithin is the time to find the second factor.
const loginWithin = 10 * time.Minute

// Errors of a login.
var (
	// ErrCredentials is the one answer to a wrong password, an unknown address, and one that was not verified.
	ErrCredentials = fault.Unauthenticated("the e-mail address or the password is wrong, or the address was not confirmed yet")
	// ErrLogin says that a login under way is none, or over.
	ErrLogin = fault.Invalid("login_token", "names no login that is under way: begin again")
)

// Login is what came of an address and a password: a session, or a login under way that misses a second factor.
type Login struct {
	// SignedIn is nil while a second factor is missing.
	SignedIn *SignedIn
	// Token names the login under way, for 10 minutes.
	Token string
	// Factors are what it can be completed with.
	Factors Factors
}

// Login proves somebody by their password. instead is the session that the browser has; it ends. Errors: ErrCredentials,
// fault.Unavailable when too many people sign in at once, and what the limiter says after 5 tries in a minute.
func (a *Accounts) Login(ctx context.Context, rawEmail, secret string, from Client, instead string) (Login, error) {
	email, err := parseEmail(rawEmail)
	if err != nil {
		return Login{}, err
	}
	who, passwordHash, err := a.provePassword(ctx, address(email), secret)
	if err != nil {
		return Login{}, err
	}
	var result Login
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		result = Login{}
		// The password may have been changed since it was compared.
		same, err := tx.Exec(ctx, `UPDATE accounts SET password_hash = $3 WHERE id = $1 AND password_hash = $2`, who.ID, passwordHash.old, passwordHash.now)
		if err != nil {
			return err
		}
		if same == 0 {
			return ErrCredentials
		}
		if result.Factors, err = factorsOf(ctx, tx, who.ID); err != nil {
			return err
		}
		if result.Factors.Any() {
			result.Token, err = beginLogin(ctx, tx, who.ID)
			return err
		}
		opened, err := a.open(ctx, tx, who, from, opening{with: "password", instead: instead})
		result.SignedIn = &opened
		return err
	})
	if err != nil {
		return Login{}, fmt.Errorf("login: %w", err)
	}
	return result, nil
}

// hashes are the stored hash of a password that was proved, and the one to store from now on.
type hashes struct{ old, now string }

// provePassword compares a password. It takes as long for an address that nobody has. Its errors are those of Login.
func (a *Accounts) provePassword(ctx context.Context, email, secret string) (Account, hashes, error) {
	if err := a.limits.Allow(ctx, "password:"+email, ClassAuth); err != nil {
		return Account{}, hashes{}, err
	}
	who := Account{Email: email}
	var stored string
	err := a.db.Reader().QueryRow(ctx, `
		SELECT id,
		       operator,
		       password_hash
		FROM accounts
		WHERE email = $1
		  AND password_hash IS NOT NULL
		  AND verified_at IS NOT NULL`,
		email).Scan(&who.ID, &who.Operator, &stored)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return Account{}, hashes{}, fmt.Errorf("prove password: %w", err)
	}
	matches, outdated, err := a.passwords.Verify(ctx, secret, stored)
	if err != nil {
		return Account{}, hashes{}, err
	}
	if !matches {
		if err := a.recordRefused(ctx, who.ID, "password"); err != nil {
			return Account{}, hashes{}, err
		}
		return Account{}, hashes{}, ErrCredentials
	}
	proved := hashes{stored, stored}
	if outdated {
		if proved.now, err = a.passwords.Hash(ctx, secret); err != nil {
			return Account{}, hashes{}, err
		}
	}
	return who, proved, nil
}

// beginLogin keeps that a password was right.
func beginLogin(ctx context.Context, tx *db.Tx, account string) (string, error) {
	token, hash := bearer.New(loginPrefix)
	_, err := tx.Exec(ctx, `
		INSERT INTO logins (secret_hash, account_id, expires_at)
		VALUES ($1, $2, $3)`,
		hash, account, db.Micros(time.Now().Add(loginWithin)))
	return token, err
}

// loginUnderWay finds whose login a token is.
func (a *Accounts) loginUnderWay(ctx context.Context, token string) (who Account, hash []byte, err error) {
	hash, ok := bearer.Hash(loginPrefix, token)
	if !ok {
		return Account{}, nil, ErrLogin
	}
	err = a.db.Reader().QueryRow(ctx, `
		SELECT a.id,
		       a.email,
		       a.operator
		FROM logins l
		JOIN accounts a ON a.id = l.account_id
		WHERE l.secret_hash = $1
		  AND l.expires_at > $2`,
		hash, db.Micros(time.Now())).Scan(&who.ID, &who.Email, &who.Operator)
	if errors.Is(err, sql.ErrNoRows) {
		return Account{}, nil, ErrLogin
	}
	if err != nil {
		return Account{}, nil, fmt.Errorf("find login: %w", err)
	}
	return who, hash, nil
}

// endLogin consumes a login under way.
func endLogin(ctx context.Context, tx *db.Tx, hash []byte) error {
	ended, err := tx.Exec(ctx, `DELETE FROM logins WHERE secret_hash = $1`, hash)
	if err == nil && ended == 0 {
		return ErrLogin
	}
	return err
}

// LoginWithCode completes a login by a code of the authenticator app or a recovery code. Errors: ErrLogin, ErrCode, and what
// the limiter says after 5 tries in a minute.
func (a *Accounts) LoginWithCode(ctx context.Context, token, code string, from Client, instead string) (SignedIn, error) {
	who, hash, err := a.loginUnderWay(ctx, token)
	if err != nil {
		return SignedIn{}, err
	}
	proof, err := a.proveCode(ctx, who, code, from)
	if err != nil {
		return SignedIn{}, err
	}
	var opened SignedIn
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		if err := endLogin(ctx, tx, hash); err != nil {
			return err
		}
		if err := proof.spend(ctx, tx); err != nil {
			return err
		}
		opened, err = a.open(ctx, tx, who, from, opening{with: "password and " + proof.name, secondFactor: true, instead: instead})
		return err
	})
	if err != nil {
		return SignedIn{}, fmt.Errorf("login with code: %w", err)
	}
	return opened, nil
}

// Logout ends the session of the caller.
func (a *Accounts) Logout(ctx context.Context, caller Caller) error {
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		ended, err := tx.Exec(ctx, `DELETE FROM sessions WHERE id = $1`, caller.Session)
		if err != nil {
			return err
		}
		if ended == 0 {
			return errSessionOver
		}
		return record(ctx, tx, caller.ID, "session.close", "")
	})
	if err != nil {
		return fmt.Errorf("logout: %w", err)
	}
	return nil
}
