package organization

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// Locked is an organization that nobody else changes until the transaction ends.
type Locked struct {
	ID    contract.OrganizationID
	Name  string
	State State
	// Acting is what the caller may do in it now: Owner for operators.
	Acting Role
}

// Lock keeps others from changing an organization, its members and its invitations until the transaction ends, and says what
// the caller may do in it. ReadCommitted is enough for whatever decides after it. It says ErrNotFound where the caller
// has no role, and for closed organizations.
func Lock(ctx context.Context, tx *db.Tx, id contract.OrganizationID, caller account.Caller) (Locked, error) {
	locked, err := lock(ctx, tx, id)
	if err != nil {
		return Locked{}, err
	}
	switch {
	case caller.Operator:
		locked.Acting = Owner
	case caller.Role != "" && caller.Organization == id.String():
		locked.Acting = Role(caller.Role)
	default:
		has, err := roleOf(ctx, tx, id, caller.ID)
		if errors.Is(err, ErrNoMember) {
			return Locked{}, ErrNotFound
		}
		if err != nil {
			return Locked{}, err
		}
		locked.Acting = has
	}
	return locked, nil
}

// lock is Lock for whom it does not matter who calls.
func lock(ctx context.Context, tx *db.Tx, id contract.OrganizationID) (Locked, error) {
	locked := Locked{ID: id}
	err := tx.QueryRow(ctx, `
		UPDATE organizations
		SET state = state
		WHERE id = $1
		  AND state <> 'closed'
		RETURNING name, state`,
		id).Scan(&locked.Name, &locked.State)
	if errors.Is(err, sql.ErrNoRows) {
		return Locked{}, ErrNotFound
	}
	if err != nil {
		return Locked{}, fmt.Errorf("lock organization: %w", err)
	}
	return locked, nil
}

// Open refuses an organization that is being closed.
func (l Locked) Open() error {
	if l.State != Active {
		return ErrClosing
	}
	return nil
}

// roleOf is what a member has, or ErrNoMember.
func roleOf(ctx context.Context, q db.Querier, id contract.OrganizationID, account string) (Role, error) {
	var role string
	err := q.QueryRow(ctx, `
		SELECT role
		FROM members
		WHERE organization_id = $1
		  AND account_id = $2`,
		id, account).Scan(&role)
	if errors.Is(err, sql.ErrNoRows) {
		return "", ErrNoMember
	}
	if err != nil {
		return "", fmt.Errorf("look up role: %w", err)
	}
	return Role(role), nil
}
