package account

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/google/uuid"

	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

const challengePrefix = "chomask_"

// answerWithin is the time to find the device and touch it.
const answerWithin = 5 * time.Minute

// Errors of answers by passkeys.
var (
	ErrChallenge = fault.Invalid("challenge_token", "names no question that is open: ask again")
	errAnswer    = fault.Invalid("credential", "is no valid answer to the question")
)

// Challenge is a question to a passkey. It is answered once, within 5 minutes.
type Challenge struct {
	// Token names it in the call that brings the answer.
	Token string
	// Options are what the browser needs, in JSON: PublicKeyCredentialCreationOptionsJSON or PublicKeyCredentialRequestOptionsJSON.
	Options string
}

// purpose is what an answer is good for.
type purpose string

const (
	toCreate       purpose = "create"
	toLogin        purpose = "login"         // a passkey alone
	toSecondFactor purpose = "second_factor" // completes a login under way
	toStepUp       purpose = "step_up"
)

// question is a challenge as it is kept.
type question struct {
	purpose purpose
	account string // empty with toLogin
	session string // with toCreate and toStepUp
	login   []byte // with toSecondFactor
}

// ask keeps what is needed to check the answer.
func (a *Accounts) ask(ctx context.Context, q question, options any, session *webauthn.SessionData) (Challenge, error) {
	shown, err := json.Marshal(options)
	if err != nil {
		return Challenge{}, fmt.Errorf("ask a passkey: %w", err)
	}
	kept, err := json.Marshal(session)
	if err != nil {
		return Challenge{}, fmt.Errorf("ask a passkey: %w", err)
	}
	token, hash := bearer.New(challengePrefix)
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO passkey_challenges (secret_hash, purpose, account_id, session_id, login_hash, data, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			hash, string(q.purpose), sql.NullString{String: q.account, Valid: q.account != ""}, sql.NullString{String: q.session, Valid: q.session != ""},
			q.login, kept, db.Micros(time.Now().Add(answerWithin)))
		return err
	})
	if err != nil {
		return Challenge{}, fmt.Errorf("ask a passkey: %w", err)
	}
	return Challenge{Token: token, Options: string(shown)}, nil
}

// asked takes a question back: it is answered once, rightly or not. It says ErrChallenge where it was none for one of the purposes.
func (a *Accounts) asked(ctx context.Context, token string, purposes ...purpose) (question, webauthn.SessionData, error) {
	hash, ok := bearer.Hash(challengePrefix, token)
	if !ok {
		return question{}, webauthn.SessionData{}, ErrChallenge
	}
	var q question
	var session webauthn.SessionData
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		q, session = question{}, webauthn.SessionData{}
		var kept []byte
		var expires int64
		err := tx.QueryRow(ctx, `
			DELETE FROM passkey_challenges
			WHERE secret_hash = $1
			RETURNING purpose, COALESCE(account_id, ''), COALESCE(session_id, ''), login_hash, data, expires_at`,
			hash).Scan(&q.purpose, &q.account, &q.session, &q.login, &kept, &expires)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrChallenge
		}
		if err != nil {
			return err
		}
		if time.Now().After(db.Time(expires)) {
			return ErrChallenge
		}
		return json.Unmarshal(kept, &session)
	})
	if err != nil {
		return question{}, webauthn.SessionData{}, fmt.Errorf("take a question to a passkey back: %w", err)
	}
	if !slices.Contains(purposes, q.purpose) {
		return question{}, webauthn.SessionData{}, ErrChallenge
	}
	return q, session, nil
}

// BeginPasskeyLogin asks a passkey who it is: as the second factor of a login under way, or, without one, any passkey that
// itself knows whose it is. Errors: ErrLogin, ErrNoPasskey, ErrPasskeysNeedAName.
func (a *Accounts) BeginPasskeyLogin(ctx context.Context, login string) (Challenge, error) {
	if a.passkeys == nil {
		return Challenge{}, ErrPasskeysNeedAName
	}
	if login == "" {
		// The device must check who holds it: the passkey is all that is asked for.
		options, session, err := a.passkeys.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
		if err != nil {
			return Challenge{}, fmt.Errorf("begin passkey login: %w", err)
		}
		return a.ask(ctx, question{purpose: toLogin}, options.Response, session)
	}
	who, hash, err := a.loginUnderWay(ctx, login)
	if err != nil {
		return Challenge{}, err
	}
	return a.askHolder(ctx, who, question{purpose: toSecondFactor, account: who.ID, login: hash})
}

// BeginPasskeyStepUp asks a passkey of the caller's, to make their session fresh. Errors: ErrNoPasskey, ErrPasskeysNeedAName.
func (a *Accounts) BeginPasskeyStepUp(ctx context.Context, caller Caller) (Challenge, error) {
	if a.passkeys == nil {
		return Challenge{}, ErrPasskeysNeedAName
	}
	return a.askHolder(ctx, caller.Account, question{purpose: toStepUp, account: caller.ID, session: caller.Session})
}

// askHolder asks the passkeys of somebody who is known.
func (a *Accounts) askHolder(ctx context.Context, who Account, q question) (Challenge, error) {
	holder, err := a.holderOf(ctx, who)
	if err != nil {
		return Challenge{}, err
	}
	if len(holder.all) == 0 {
		return Challenge{}, ErrNoPasskey
	}
	options, session, err := a.passkeys.BeginLogin(holder, webauthn.WithUserVerification(protocol.VerificationPreferred))
	if err != nil {
		return Challenge{}, fmt.Errorf("ask a passkey: %w", err)
	}
	return a.ask(ctx, q, options.Response, session)
}

// LoginWithPasskey signs in by the answer to BeginPasskeyLogin, which is the browser's, as JSON (PublicKeyCredential.toJSON).
// instead is the session that the browser has; it ends. Errors: ErrChallenge, ErrLogin, and fault.Invalid about the answer.
func (a *Accounts) LoginWithPasskey(ctx context.Context, challenge, answer string, from Client, instead string) (SignedIn, error) {
	parsed, err := protocol.ParseCredentialRequestResponseBytes([]byte(answer))
	if err != nil {
		return SignedIn{}, errAnswer
	}
	q, session, err := a.asked(ctx, challenge, toLogin, toSecondFactor)
	if err != nil {
		return SignedIn{}, err
	}
	proved, err := a.checkAnswer(ctx, q, session, parsed)
	if err != nil {
		return SignedIn{}, err
	}
	var opened SignedIn
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		with := "passkey"
		if q.purpose == toSecondFactor {
			with = "password and passkey"
			if err := endLogin(ctx, tx, q.login); err != nil {
				return err
			}
		}
		if err := proved.spend(ctx, tx); err != nil {
			return err
		}
		opened, err = a.open(ctx, tx, proved.who, from, opening{with: with, secondFactor: true, instead: instead})
		return err
	})
	if err != nil {
		return SignedIn{}, fmt.Errorf("login with passkey: %w", err)
	}
	return opened, nil
}

// StepUpWithPasskey makes the caller's session fresh for 5 minutes by the answer to BeginPasskeyStepUp. Errors: ErrChallenge, and
// fault.Invalid about the answer.
func (a *Accounts) StepUpWithPasskey(ctx context.Context, caller Caller, challenge, answer string) (SignedIn, error) {
	parsed, err := protocol.ParseCredentialRequestResponseBytes([]byte(answer))
	if err != nil {
		return SignedIn{}, errAnswer
	}
	q, session, err := a.asked(ctx, challenge, toStepUp)
	if err != nil {
		return SignedIn{}, err
	}
	if q.session != caller.Session {
		return SignedIn{}, ErrChallenge
	}
	proved, err := a.checkAnswer(ctx, q, session, parsed)
	if err != nil {
		return SignedIn{}, err
	}
	var renewed SignedIn
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		if err := proved.spend(ctx, tx); err != nil {
			return err
		}
		renewed, err = a.freshen(ctx, tx, caller, "passkey", true)
		return err
	})
	if err != nil {
		return SignedIn{}, fmt.Errorf("step up with passkey: %w", err)
	}
	return renewed, nil
}

// answered is an answer that was right. It counts once it is spent.
type answered struct {
	who   Account
	spend func(context.Context, *db.Tx) error
}

// checkAnswer checks the answer of a passkey, and leaves a trace of a wrong one.
func (a *Accounts) checkAnswer(ctx context.Context, q question, session webauthn.SessionData, answer *protocol.ParsedCredentialAssertionData) (answered, error) {
	proved, err := a.readAnswer(ctx, q, session, answer)
	if errors.Is(err, errAnswer) {
		if err := a.recordRefused(ctx, q.account, "passkey"); err != nil {
			return answered{}, err
		}
	}
	return proved, err
}

func (a *Accounts) readAnswer(ctx context.Context, q question, session webauthn.SessionData, answer *protocol.ParsedCredentialAssertionData) (answered, error) {
	id := q.account
	if q.purpose == toLogin {
		handle, err := uuid.FromBytes(answer.Response.UserHandle)
		if err != nil {
			return answered{}, errAnswer
		}
		id = handle.String()
	}
	who := Account{ID: id}
	err := a.db.Reader().QueryRow(ctx, `SELECT email, operator FROM accounts WHERE id = $1`, id).Scan(&who.Email, &who.Operator)
	if errors.Is(err, sql.ErrNoRows) {
		return answered{}, errAnswer
	}
	if err != nil {
		return answered{}, fmt.Errorf("read the answer of a passkey: %w", err)
	}
	holder, err := a.holderOf(ctx, who)
	if err != nil {
		return answered{}, err
	}
	var key *webauthn.Credential
	if q.purpose == toLogin {
		_, key, err = a.passkeys.ValidatePasskeyLogin(func([]byte, []byte) (webauthn.User, error) { return holder, nil }, session, answer)
	} else {
		key, err = a.passkeys.ValidateLogin(holder, session, answer)
	}
	if err != nil || key.Authenticator.CloneWarning {
		return answered{}, errAnswer
	}
	row := holder.keys[string(key.ID)]
	return answered{who: who, spend: func(ctx context.Context, tx *db.Tx) error { return usePasskey(ctx, tx, row, key) }}, nil
}

// usePasskey keeps the count that a passkey is at. Of two copies that answer at once, one finds it used.
func usePasskey(ctx context.Context, tx *db.Tx, id string, key *webauthn.Credential) error {
	used, err := tx.Exec(ctx, `
		UPDATE passkeys
		SET sign_count = $2,
		    flags      = $3,
		    used_at    = $4
		WHERE id = $1
		  AND (sign_count < $2 OR $2 = 0 AND sign_count = 0)`,
		id, int64(key.Authenticator.SignCount), int64(key.Flags.ProtocolValue()), db.Micros(time.Now()))
	if err == nil && used == 0 {
		return errAnswer
	}
	return err
}
