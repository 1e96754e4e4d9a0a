package token

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// Request describes a token that somebody wants, as they wrote it.
type Request struct {
	Name  string
	Scope account.Scope
	// Organization to be bound to; the zero value for none. An organization's own belongs to it.
	Organization contract.OrganizationID
	// Role of an organization's own.
	Role organization.Role
	// Sites to be bound to; nil for all.
	Sites []string
	// Life from now; 0 means DefaultLife.
	Life time.Duration
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._@/-]{0,62}$`)

func (r *Request) check() error {
	switch {
	case !namePattern.MatchString(r.Name):
		return fault.Invalid("name", "must be 1 to 63 letters, digits, spaces and . _ @ / -, beginning with a letter or digit")
	case r.Scope < account.Read || r.Scope > account.Manage:
		return fault.Invalid("scope", "must be read, deploy or manage")
	case r.Life != 0 && (r.Life < MinLife || r.Life > MaxLife):
		return fault.Invalid("lifetime", "must be an hour to 366 days")
	case r.Sites != nil && r.Organization.IsZero():
		return errUnboundSite
	}
	return nil
}

// Create makes a personal token of the caller, and returns its text, which is shown to them and stored nowhere. One that is made
// with a token ends no later than that one. Errors: organization.ErrNotFound where the caller is no member of the
// organization, ErrTokens, a fault of kind NotFound for a site that the organization does not have, an Invalid that names the
// field.
func (t *Tokens) Create(ctx context.Context, caller account.Caller, r Request) (Token, string, error) {
	if err := r.check(); err != nil {
		return Token{}, "", err
	}
	var made Token
	var text string
	err := db.InTx(ctx, t.db, func(tx *db.Tx) error {
		if !r.Organization.IsZero() {
			if _, err := organization.Lock(ctx, tx, r.Organization, caller); err != nil {
				return err
			}
		}
		made = r.token(Personal, caller)
		if err := capped(ctx, tx, caller.Token, &made); err != nil {
			return err
		}
		var err error
		if text, err = insert(ctx, tx, made, caller.ID, caller.ID); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: audit.Platform, Action: "token.create", Object: made.ID, Detail: made.inWords(),
		})
	}, db.ReadCommitted())
	if err != nil {
		return Token{}, "", fmt.Errorf("create token: %w", err)
	}
	return made, text, nil
}

// CreateForOrganization makes a token of an organization itself, and returns its text, which is shown to the caller and stored
// nowhere. Its role is below owner and not above the caller's. Errors: organization.ErrNotFound and ErrClosing, ErrTokens, a
// Denied for who may not, a fault of kind NotFound for a site that the organization does not have, an Invalid that names
// the field.
func (t *Tokens) CreateForOrganization(ctx context.Context, caller account.Caller, r Request) (Token, string, error) {
	if err := r.check(); err != nil {
		return Token{}, "", err
	}
	if !organization.Admin.AtLeast(r.Role) {
		return Token{}, "", fault.Invalid("role", "must be viewer, member or admin")
	}
	var made Token
	var text string
	err := db.InTx(ctx, t.db, func(tx *db.Tx) error {
		locked, err := organization.Lock(ctx, tx, r.Organization, caller)
		if err != nil {
			return err
		}
		if err := errors.Join(locked.Open(), locked.Acting.MayGive(r.Role)); err != nil {
			return err
		}
		made = r.token(Organization, caller)
		if err := capped(ctx, tx, caller.Token, &made); err != nil {
			return err
		}
		if text, err = insert(ctx, tx, made, "", caller.ID); err != nil {
			return err
		}
		if err := publish(ctx, tx, r.Organization, webhook.TokenCreated, made.ID, made.Name); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: made.Organization, Action: "token.create", Object: made.ID, Detail: made.inWords(),
		})
	}, db.ReadCommitted())
	if err != nil {
		return Token{}, "", fmt.Errorf("create token of %s: %w", r.Organization, err)
	}
	return made, text, nil
}

// Issue makes a personal token for somebody who has proved themselves in another way: by the setup secret, or by confirming a
// program's login. It returns its text, which is shown once.
func (t *Tokens) Issue(ctx context.Context, tx *db.Tx, accountID, name string, scope account.Scope, expires time.Time) (string, error) {
	r := Request{Name: name, Scope: scope}
	made := r.token(Personal, account.Caller{})
	made.ExpiresAt = db.Time(db.Micros(expires))
	text, err := insert(ctx, tx, made, accountID, accountID)
	if err != nil {
		return "", fmt.Errorf("issue token: %w", err)
	}
	return text, audit.Record(ctx, tx, audit.Event{
		Organization: audit.Platform, Action: "token.create", Object: made.ID, Detail: made.inWords() + ", of account " + accountID,
	})
}

func (r *Request) token(kind Kind, creator account.Caller) Token {
	now := db.Time(db.Micros(time.Now()))
	life := r.Life
	if life == 0 {
		life = DefaultLife
	}
	made := Token{
		ID: uuid.Must(uuid.NewV7()).String(), Kind: kind, Name: r.Name, Scope: r.Scope, Role: r.Role, Sites: slices.Clone(r.Sites),
		CreatorEmail: creator.Email, CreatedAt: now, ExpiresAt: now.Add(life),
	}
	if kind != Organization {
		made.Role = ""
	}
	if !r.Organization.IsZero() {
		made.Organization = r.Organization.String()
	}
	return made
}

// capped has a token end with the one that makes it, so that a leaked one has no offspring that outlives it.
func capped(ctx context.Context, tx *db.Tx, by string, made *Token) error {
	if by == "" {
		return nil
	}
	var expires int64
	if err := tx.QueryRow(ctx, `SELECT expires_at FROM tokens WHERE id = $1`, by).Scan(&expires); err != nil {
		return err
	}
	if end := db.Time(expires); end.Before(made.ExpiresAt) {
		made.ExpiresAt = end
	}
	return nil
}

// inWords is for readers of the audit.
func (t *Token) inWords() string {
	text := fmt.Sprintf("%s %q, %s", t.Kind, t.Name, t.Scope)
	if t.Role != "" {
		text += ", " + string(t.Role)
	}
	if t.Kind == Personal && t.Organization != "" {
		text += ", only organization " + t.Organization
	}
	if t.Sites != nil {
		text += fmt.Sprintf(", only sites %v", t.Sites)
	}
	return text + ", until " + t.ExpiresAt.Format(time.RFC3339)
}

// insert writes a token unless its owner has too many, and gives its text. owner is empty for an organization's own.
func insert(ctx context.Context, tx *db.Tx, made Token, owner, creator string) (string, error) {
	text, hash := bearer.New(prefixes[made.Kind])
	if made.Kind == Personal {
		// What is counted after the lock is all there is. Organizations were locked by who came here.
		if _, err := tx.Exec(ctx, `UPDATE accounts SET email = email WHERE id = $1`, owner); err != nil {
			return "", err
		}
	}
	nullable := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	n, err := tx.Exec(ctx, `
		INSERT INTO tokens (
			id, kind, secret_hash, name, account_id, organization_id, role, scope, all_sites,
			created_by, created_at, expires_at, last_used_address)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, ''
		WHERE (SELECT COUNT(*)
		       FROM tokens
		       WHERE kind = $2
		         AND (account_id = $5 OR ($2 = 'organization' AND organization_id = $6))
		         AND revoked_at IS NULL
		         AND expires_at > $11) < $13`,
		made.ID, string(made.Kind), hash, made.Name, nullable(owner), nullable(made.Organization), string(made.Role), made.Scope.String(),
		made.Sites == nil, creator, db.Micros(made.CreatedAt), db.Micros(made.ExpiresAt), maxTokens)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", ErrTokens
	}
	for _, site := range made.Sites {
		n, err := tx.Exec(ctx, `
			INSERT INTO token_sites (organization_id, token_id, site_id)
			SELECT organization_id, $2, id
			FROM sites
			WHERE organization_id = $1
			  AND id = $3
			  AND phase <> 'absent'`,
			made.Organization, made.ID, site)
		if err != nil {
			return "", err
		}
		if n == 0 {
			return "", errNoSite
		}
	}
	return text, nil
}
