// Package organization is the tenants: who they are and who belongs to them. What they own is with its own noun; every row of
// theirs carries the organization's id.
package organization

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// Organization is a tenant.
type Organization struct {
	ID         contract.OrganizationID
	Name       string
	OwnerEmail string // of the member who has been an owner for the longest time
	CreatedAt  time.Time
}

// Role is what a member may do. Each may do what the ones after it may.
type Role string

// Roles, the mightiest first.
const (
	Owner  Role = "owner"
	Admin  Role = "admin"
	Member Role = "member"
	Viewer Role = "viewer"
)

// rank grows with what a role may do; 0 for no role at all.
func (r Role) rank() int {
	switch r {
	case Owner:
		return 4
	case Admin:
		return 3
	case Member:
		return 2
	case Viewer:
		return 1
	}
	return 0
}

// AtLeast reports whether the role may do what another one may. No role may do nothing.
func (r Role) AtLeast(other Role) bool { return other.rank() > 0 && r.rank() >= other.rank() }

// Errors.
var (
	ErrNotFound  = fault.NotFound("organization")
	ErrNameTaken = fault.Conflict("there is an organization with this name already")
)

// Organizations keeps them. It is safe for concurrent use.
type Organizations struct{ db *db.DB }

// New keeps organizations in a database.
func New(d *db.DB) *Organizations { return &Organizations{db: d} }

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Create makes an organization and its owner: the account with the address, which is made where there is none. It says
// ErrNameTaken where there is one with the name.
func (o *Organizations) Create(ctx context.Context, name, rawOwner string) (Organization, error) {
	if !namePattern.MatchString(name) {
		return Organization{}, fault.Invalid("name", "must be 1 to 63 lower-case letters, digits and hyphens, beginning with a letter")
	}
	owner, err := contract.ParseEmail(rawOwner)
	if err != nil {
		var wrong *contract.InvalidError
		if errors.As(err, &wrong) {
			return Organization{}, fault.Invalid("owner_email", wrong.Rule)
		}
		return Organization{}, err
	}
	made := Organization{ID: contract.NewOrganizationID(), Name: name, CreatedAt: db.Time(db.Micros(time.Now()))}
	err = db.InTx(ctx, o.db, func(tx *db.Tx) error {
		inserted, err := tx.Exec(ctx, `
			INSERT INTO organizations (id, name, created_at)
			VALUES ($1, $2, $3)
			ON CONFLICT (name) DO NOTHING`,
			made.ID, made.Name, db.Micros(made.CreatedAt))
		if err != nil {
			return err
		}
		if inserted == 0 {
			return ErrNameTaken
		}
		ownerID, err := account.Ensure(ctx, tx, owner)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO members (organization_id, account_id, role, created_at)
			VALUES ($1, $2, $3, $4)`,
			made.ID, ownerID, string(Owner), db.Micros(made.CreatedAt)); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT email FROM accounts WHERE id = $1`, ownerID).Scan(&made.OwnerEmail); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: made.ID.String(), Action: "organization.create", Object: made.ID.String(), Detail: made.Name,
		})
	})
	if err != nil {
		return Organization{}, fmt.Errorf("create organization: %w", err)
	}
	return made, nil
}

// Membership is what an account is in an organization. The zero value is that of a stranger.
type Membership struct {
	// Role is empty for somebody who is no member, and where there is no such organization.
	Role Role
	// Sites are the only ones that a member is granted, UUIDs; nil for all.
	Sites []string
	// NeedsSecondFactor says that the organization lets nobody in without one.
	NeedsSecondFactor bool
}

// Reaches reports whether the member is granted a site.
func (m Membership) Reaches(site string) bool {
	return m.Sites == nil || slices.Contains(m.Sites, site)
}

// MembershipOf looks up what an account is in an organization now.
func (o *Organizations) MembershipOf(ctx context.Context, id contract.OrganizationID, accountID string) (Membership, error) {
	var role string
	err := o.db.Reader().QueryRow(ctx, `
		SELECT role
		FROM members
		WHERE organization_id = $1
		  AND account_id = $2`,
		id, accountID).Scan(&role)
	if errors.Is(err, sql.ErrNoRows) {
		return Membership{}, nil
	}
	if err != nil {
		return Membership{}, fmt.Errorf("look up membership: %w", err)
	}
	return Membership{Role: Role(role)}, nil
}

const columns = `
	SELECT o.id,
	       o.name,
	       o.created_at,
	       COALESCE((SELECT a.email
	                 FROM members m
	                 JOIN accounts a ON a.id = m.account_id
	                 WHERE m.organization_id = o.id AND m.role = 'owner'
	                 ORDER BY m.created_at, m.account_id
	                 LIMIT 1), '')
	FROM organizations o`

func scan(row interface{ Scan(...any) error }) (Organization, error) {
	var found Organization
	var created int64
	if err := row.Scan(&found.ID, &found.Name, &created, &found.OwnerEmail); err != nil {
		return Organization{}, err
	}
	found.CreatedAt = db.Time(created)
	return found, nil
}

// Get returns one organization. Whether the caller may see it is decided at the door.
func (o *Organizations) Get(ctx context.Context, id contract.OrganizationID) (Organization, error) {
	found, err := scan(o.db.Reader().QueryRow(ctx, columns+` WHERE o.id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return Organization{}, ErrNotFound
	}
	if err != nil {
		return Organization{}, fmt.Errorf("get organization: %w", err)
	}
	return found, nil
}

// List returns a page of the organizations that a caller may see, oldest first: all of them for an operator, for anybody
// else those they are a member of.
func (o *Organizations) List(ctx context.Context, caller account.Caller, size int32, token string) ([]Organization, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"organizations", caller.ID}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	rows, err := o.db.Reader().Query(ctx, columns+`
		WHERE o.id > $1
		  AND ($2 OR EXISTS (SELECT 1 FROM members v WHERE v.organization_id = o.id AND v.account_id = $3))
		ORDER BY o.id
		LIMIT $4`,
		after, caller.Operator, caller.ID, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list organizations: %w", err)
	}
	defer rows.Close()
	var all []Organization
	for rows.Next() {
		found, err := scan(rows)
		if err != nil {
			return nil, "", fmt.Errorf("list organizations: %w", err)
		}
		all = append(all, found)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list organizations: %w", err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].ID.String() })
	return all[:min(len(all), limit)], next, nil
}
