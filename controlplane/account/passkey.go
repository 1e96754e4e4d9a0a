package account

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

// maxPasskeys bounds what one person has: more than anybody has devices.
const maxPasskeys = 20

// Errors of passkeys.
var (
	ErrNoPasskey         = fault.NotFound("passkey")
	ErrPasskeyTaken      = fault.Conflict("this passkey is registered already")
	ErrManyPasskeys      = fault.Conflict("an account has at most 20 passkeys: remove one first")
	ErrPasskeysNeedAName = fault.Conflict("passkeys are bound to a name: this control plane is reached by an IP address (see public-url)")
)

// Passkey is a key pair in a device of somebody's. It proves them as second factor, or alone where the device checks who holds it.
type Passkey struct {
	// ID is a UUID.
	ID        string
	Name      string
	CreatedAt time.Time
	// UsedAt is the time of its last login; zero for never.
	UsedAt time.Time
}

// newPasskeys binds passkeys to the host of the public URL; nil where that is an IP address.
func newPasskeys(public *url.URL) (*webauthn.WebAuthn, error) {
	if isName := protocol.ValidateRPID(public.Hostname()) == nil; !isName {
		return nil, nil
	}
	return webauthn.New(&webauthn.Config{
		RPID:                  public.Hostname(),
		RPDisplayName:         public.Hostname(),
		RPOrigins:             []string{public.Scheme + "://" + public.Host},
		AttestationPreference: protocol.PreferNoAttestation, // any device will do: which one it is, is not our business
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey:      protocol.ResidentKeyRequirementPreferred,
			UserVerification: protocol.VerificationPreferred,
		},
	})
}

// holder is somebody with their passkeys, as the library wants to see them.
type holder struct {
	Account
	keys map[string]string // id of the row by credential id
	all  []webauthn.Credential
}

func (h *holder) WebAuthnID() []byte {
	id := uuid.MustParse(h.ID)
	return id[:]
}
func (h *holder) WebAuthnName() string                       { return h.Email }
func (h *holder) WebAuthnDisplayName() string                { return h.Email }
func (h *holder) WebAuthnCredentials() []webauthn.Credential { return h.all }

// holderOf reads somebody's passkeys.
func (a *Accounts) holderOf(ctx context.Context, who Account) (*holder, error) {
	rows, err := a.db.Reader().Query(ctx, `
		SELECT id,
		       credential_id,
		       public_key,
		       sign_count,
		       flags,
		       transports
		FROM passkeys
		WHERE account_id = $1
		ORDER BY id`,
		who.ID)
	if err != nil {
		return nil, fmt.Errorf("read passkeys: %w", err)
	}
	defer rows.Close()
	found := &holder{Account: who, keys: map[string]string{}}
	for rows.Next() {
		var id, transports string
		var flags uint8
		var key webauthn.Credential
		if err := rows.Scan(&id, &key.ID, &key.PublicKey, &key.Authenticator.SignCount, &flags, &transports); err != nil {
			return nil, fmt.Errorf("read passkeys: %w", err)
		}
		key.Flags = webauthn.NewCredentialFlags(protocol.AuthenticatorFlags(flags))
		for _, transport := range strings.FieldsFunc(transports, func(r rune) bool { return r == ',' }) {
			key.Transport = append(key.Transport, protocol.AuthenticatorTransport(transport))
		}
		found.keys[string(key.ID)] = id
		found.all = append(found.all, key)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read passkeys: %w", err)
	}
	return found, nil
}

// BeginPasskey asks the caller's browser for a new passkey. What it answers goes to CreatePasskey within 5 minutes. Errors:
// ErrManyPasskeys, ErrPasskeysNeedAName.
func (a *Accounts) BeginPasskey(ctx context.Context, caller Caller) (Challenge, error) {
	if a.passkeys == nil {
		return Challenge{}, ErrPasskeysNeedAName
	}
	who, err := a.holderOf(ctx, caller.Account)
	if err != nil {
		return Challenge{}, err
	}
	if len(who.all) >= maxPasskeys {
		return Challenge{}, ErrManyPasskeys
	}
	options, session, err := a.passkeys.BeginRegistration(who, webauthn.WithExclusions(webauthn.Credentials(who.all).CredentialDescriptors()))
	if err != nil {
		return Challenge{}, fmt.Errorf("begin passkey: %w", err)
	}
	return a.ask(ctx, question{purpose: toCreate, account: caller.ID, session: caller.Session}, options.Response, session)
}

// CreatePasskey keeps a new passkey of the caller's. answer is what the browser made of the challenge, as JSON
// (PublicKeyCredential.toJSON). It returns recovery codes when they are the caller's first; they are shown once. All other
// sessions end. Errors: ErrChallenge, fault.Invalid about the credential, ErrPasskeyTaken, ErrManyPasskeys.
func (a *Accounts) CreatePasskey(ctx context.Context, caller Caller, challenge, name, answer string) (Passkey, SignedIn, []string, error) {
	parsed, err := protocol.ParseCredentialCreationResponseBytes([]byte(answer))
	if err != nil {
		return Passkey{}, SignedIn{}, nil, errAnswer
	}
	asked, session, err := a.asked(ctx, challenge, toCreate)
	if err != nil {
		return Passkey{}, SignedIn{}, nil, err
	}
	if asked.session != caller.Session {
		return Passkey{}, SignedIn{}, nil, ErrChallenge
	}
	key, err := a.passkeys.CreateCredential(&holder{Account: caller.Account}, session, parsed)
	if err != nil {
		return Passkey{}, SignedIn{}, nil, errAnswer
	}
	made := Passkey{ID: newID(), Name: name, CreatedAt: db.Time(db.Micros(time.Now()))}
	var renewed SignedIn
	var codes []string
	err = db.InTx(ctx, a.db, func(tx *db.Tx) error {
		if err := insertPasskey(ctx, tx, caller.ID, made, key); err != nil {
			return err
		}
		renewed, codes, err = a.factorAdded(ctx, tx, caller, fmt.Sprintf("The passkey %q", name))
		return err
	})
	if err != nil {
		return Passkey{}, SignedIn{}, nil, fmt.Errorf("create passkey: %w", err)
	}
	return made, renewed, codes, nil
}

func insertPasskey(ctx context.Context, tx *db.Tx, account string, made Passkey, key *webauthn.Credential) error {
	have, err := factorsOf(ctx, tx, account)
	if err != nil {
		return err
	}
	if have.Passkeys >= maxPasskeys {
		return ErrManyPasskeys
	}
	var transports []string
	for _, transport := range key.Transport {
		if known[transport] {
			transports = append(transports, string(transport))
		}
	}
	inserted, err := tx.Exec(ctx, `
		INSERT INTO passkeys (id, account_id, name, credential_id, public_key, sign_count, flags, transports, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (credential_id) DO NOTHING`,
		made.ID, account, made.Name, key.ID, key.PublicKey, int64(key.Authenticator.SignCount), int64(key.Flags.ProtocolValue()),
		strings.Join(transports, ","), db.Micros(made.CreatedAt))
	if err == nil && inserted == 0 {
		return ErrPasskeyTaken
	}
	return err
}

// known are the ways in which a browser reaches a device. Any other word is a stranger's.
var known = map[protocol.AuthenticatorTransport]bool{
	protocol.USB: true, protocol.NFC: true, protocol.BLE: true, protocol.Internal: true, protocol.Hybrid: true, protocol.SmartCard: true,
}

// ListPasskeys returns somebody's passkeys, oldest first.
func (a *Accounts) ListPasskeys(ctx context.Context, account string) ([]Passkey, error) {
	rows, err := a.db.Reader().Query(ctx, `
		SELECT id,
		       name,
		       created_at,
		       COALESCE(used_at, 0)
		FROM passkeys
		WHERE account_id = $1
		ORDER BY id`,
		account)
	if err != nil {
		return nil, fmt.Errorf("list passkeys: %w", err)
	}
	defer rows.Close()
	var all []Passkey
	for rows.Next() {
		var p Passkey
		var created, used int64
		if err := rows.Scan(&p.ID, &p.Name, &created, &used); err != nil {
			return nil, fmt.Errorf("list passkeys: %w", err)
		}
		p.CreatedAt, p.UsedAt = db.Time(created), db.Time(used)
		all = append(all, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list passkeys: %w", err)
	}
	return all, nil
}

// RenamePasskey says ErrNoPasskey where the caller has none with the id.
func (a *Accounts) RenamePasskey(ctx context.Context, caller Caller, id, name string) (Passkey, error) {
	renamed := Passkey{ID: id, Name: name}
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		changed, err := tx.Exec(ctx, `UPDATE passkeys SET name = $3 WHERE id = $1 AND account_id = $2`, id, caller.ID, name)
		if err != nil {
			return err
		}
		if changed == 0 {
			return ErrNoPasskey
		}
		var created, used int64
		if err := tx.QueryRow(ctx, `SELECT created_at, COALESCE(used_at, 0) FROM passkeys WHERE id = $1`, id).Scan(&created, &used); err != nil {
			return err
		}
		renamed.CreatedAt, renamed.UsedAt = db.Time(created), db.Time(used)
		return record(ctx, tx, caller.ID, "account.rename_passkey", id)
	})
	if err != nil {
		return Passkey{}, fmt.Errorf("rename passkey: %w", err)
	}
	return renamed, nil
}

// DeletePasskey forgets a passkey of the caller's. All other sessions end. It says ErrNoPasskey where they have none with the id.
func (a *Accounts) DeletePasskey(ctx context.Context, caller Caller, id string) (SignedIn, error) {
	var renewed SignedIn
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		var name string
		if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(name), '') FROM passkeys WHERE id = $1 AND account_id = $2`, id, caller.ID).Scan(&name); err != nil {
			return err
		}
		removed, err := tx.Exec(ctx, `DELETE FROM passkeys WHERE id = $1 AND account_id = $2`, id, caller.ID)
		if err != nil {
			return err
		}
		if removed == 0 {
			return ErrNoPasskey
		}
		renewed, err = a.factorRemoved(ctx, tx, caller, fmt.Sprintf("The passkey %q", name))
		return err
	})
	if err != nil {
		return SignedIn{}, fmt.Errorf("delete passkey: %w", err)
	}
	return renewed, nil
}
