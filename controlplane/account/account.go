// Package account is people who may call the control plane: how they sign up, how they prove who they are, and how they stay
// signed in. What they may do is not decided here: an operator runs the platform itself, and everybody else has rights
// through the organizations that they are a member of (package organization).
//
// # Signing up and signing in
//
//	SignUp ---- mail ----> VerifyEmail, with the password --> account, session
//	Login, with address and password ----------------------> session
//	                        \-> login under way, 10 min ----> session, with a code or a passkey as second factor
//	BeginPasskeyLogin ------> LoginWithPasskey -------------> session, with a passkey alone
//
// Until VerifyEmail there is no account at all, only a row of what somebody wants: who signs up with the address of somebody
// else gets nothing, whatever its owner clicks. A login under way is no session either. It is found by nothing but the calls
// that complete it, so a right password alone opens no door.
//
// # Sessions
//
//	login --> session --> StepUp, change of password or second factor: the same session with a new secret
//	             |
//	             +--> over: Logout, revoked, 24 h unused, 14 days old, password reset, replaced by another login
//
// A session is a row, looked up at each call, so that whatever ends it ends it at once everywhere. The browser holds 256
// random bits in a cookie, the database their hash. A session library was considered: those that were found keep a
// session as an opaque value under its token, which can neither be listed and revoked by person nor change in the
// transaction of the login, with its audit event. One small table does.
//
// A session counts as fresh for 5 minutes after its person proved who they are. What destroys, what shows secrets and
// what changes how one signs in asks for that.
//
// # The first operator
//
//	start, no operator --> a secret is printed on the console, its hash stored
//	start again        --> a new secret, the former one is dead
//	CreateFirstOperator with the secret --> operator, token; the secret is consumed and the door is gone for good
//
// Nothing on the network can open that door: only who reads the console holds the secret.
package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/password"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
)

// Account is somebody who may call.
type Account struct {
	// ID is a UUID.
	ID string
	// Email is unique, in lower case.
	Email string
	// Operator runs the platform.
	Operator bool
}

// Client is where a call comes from, as far as that can be known. Its texts are a stranger's.
type Client struct {
	// Address is the IP address, without a port.
	Address string
	// UserAgent is what the browser says it is.
	UserAgent string
	// Device is the secret by which a browser is known in which somebody signed in before; empty for one that has none.
	Device string
}

// Config is what accounts need of others.
type Config struct {
	Log       *slog.Logger
	Passwords *password.Hasher
	Mails     Mailer
	Seals     Sealer
	Limits    Limiter
	Tokens    Issuer
	// URL is the one under which people reach the control plane, without a slash at its end. Links in mails and the names
	// to which passkeys are bound come from it and never from a request.
	URL string
	// Invited closes the sign-up for addresses of which it says false; nil leaves it open to everybody. Those whom somebody
	// has named already, as the owner of an organization, may always.
	Invited func(ctx context.Context, tx *db.Tx, email string) (bool, error)
}

// Sealer encrypts what must be read again, by keys that are not in the database. It is secret.Keyring.
type Sealer interface {
	Seal(p secret.Place, plain []byte) ([]byte, error)
	Open(p secret.Place, sealed []byte) ([]byte, error)
}

// Limiter bounds guessing.
type Limiter interface {
	// Allow counts a try of a class under a key. It returns the fault that refuses the try when it is one too many.
	Allow(ctx context.Context, key, class string) error
}

// Classes of tries: ClassAuth, 5 a minute, for whatever could be guessed; ClassSensitive, 2 a minute, for what sends mail.
const (
	ClassAuth      = "auth"
	ClassSensitive = "sensitive"
)

// Accounts keeps them. It is safe for concurrent use.
type Accounts struct {
	db        *db.DB
	log       *slog.Logger
	passwords *password.Hasher
	mails     Mailer
	seals     Sealer
	limits    Limiter
	tokens    Issuer
	url       string
	host      string
	invited   func(ctx context.Context, tx *db.Tx, email string) (bool, error)
	passkeys  *webauthn.WebAuthn // nil where the URL names an IP address, which passkeys cannot be bound to
	used      used
}

// New keeps accounts in a database.
func New(d *db.DB, c Config) (*Accounts, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("keep accounts: the public URL %q names no host", c.URL)
	}
	a := &Accounts{
		db: d, log: c.Log, passwords: c.Passwords, mails: c.Mails, seals: c.Seals, limits: c.Limits, tokens: c.Tokens,
		url: c.URL, host: u.Hostname(), invited: c.Invited, used: used{at: map[string]time.Time{}},
	}
	if a.passkeys, err = newPasskeys(u); err != nil {
		return nil, fmt.Errorf("keep accounts: %w", err)
	}
	return a, nil
}

// Ensure returns the id of the account with this address, which it makes where there is none. email must be parsed.
func Ensure(ctx context.Context, tx *db.Tx, email contract.Email) (string, error) {
	// The update changes nothing, but makes RETURNING speak of the row that was there.
	var found string
	err := tx.QueryRow(ctx, `
		INSERT INTO accounts (id, email, operator, created_at)
		VALUES ($1, $2, FALSE, $3)
		ON CONFLICT (email) DO UPDATE SET email = excluded.email
		RETURNING id`,
		newID(), address(email), db.Micros(time.Now())).Scan(&found)
	if err != nil {
		return "", fmt.Errorf("make account: %w", err)
	}
	return found, nil
}

// OperatorsAmong gives the e-mail addresses of those of some accounts, by their ids, who run the platform now.
func (a *Accounts) OperatorsAmong(ctx context.Context, ids []string) (map[string]string, error) {
	found := map[string]string{}
	if len(ids) == 0 {
		return found, nil
	}
	places, args := make([]string, len(ids)), make([]any, len(ids))
	for i, id := range ids {
		places[i], args[i] = fmt.Sprintf("$%d", i+1), id
	}
	rows, err := a.db.Reader().Query(ctx, `
		SELECT id, email
		FROM accounts
		WHERE id IN (`+strings.Join(places, ", ")+`)
		  AND operator`, args...)
	if err != nil {
		return nil, fmt.Errorf("look up operators: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, email string
		if err := rows.Scan(&id, &email); err != nil {
			return nil, fmt.Errorf("look up operators: %w", err)
		}
		found[id] = email
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look up operators: %w", err)
	}
	return found, nil
}

// address is how an e-mail address is stored and compared.
func address(e contract.Email) string { return strings.ToLower(e.String()) }

// setupPrefix says what the first operator's secret is.
const setupPrefix = "chomsetup_"

// newSecret makes 256 random bits behind a prefix; only their hash may be stored. A fast hash is enough for so many.
func newSecret(prefix string) (secret string, hash []byte) {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	secret = prefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, hashOf(secret)
}

func hashOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// newID sorts by birth.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

// record writes the event that a person did something to an account, their own.
func record(ctx context.Context, tx *db.Tx, account, action, detail string) error {
	actor := audit.ActorOf(ctx) // perhaps a stranger, until this very call
	actor.Kind, actor.ID = audit.Person, account
	return audit.Record(audit.As(ctx, actor), tx, audit.Event{
		Organization: audit.Platform, Action: action, Object: account, Detail: detail,
	})
}

// recordRefused leaves a trace of a proof that was wrong. account is empty for somebody whom nobody knows: they cost the same
// write, so that how long an answer takes does not tell who is known.
func (a *Accounts) recordRefused(ctx context.Context, account, detail string) error {
	return db.InTx(ctx, a.db, func(tx *db.Tx) error {
		return audit.Record(ctx, tx, audit.Event{
			Organization: audit.Platform, Action: "account.refuse", Object: account, Detail: detail, Refused: true,
		})
	})
}

// parseEmail says fault.Invalid about the field "email".
func parseEmail(raw string) (contract.Email, error) {
	email, err := contract.ParseEmail(raw)
	var wrong *contract.InvalidError
	if errors.As(err, &wrong) {
		return contract.Email{}, fault.Invalid("email", wrong.Rule)
	}
	return email, err
}
