package organization

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// maxOwned bounds what one person can make by themselves; agencies that need more ask an operator.
const maxOwned = 20

// ErrTooMany is what Found says to somebody who owns as many as one person may.
var ErrTooMany = fault.Conflict("you own 20 organizations already")

// Create makes an organization and its owner: the account with the address, which is made where there is none. It says
// ErrNameTaken where there is one with the name. It is for operators; others Found their own.
func (o *Organizations) Create(ctx context.Context, name, rawOwner string) (Organization, error) {
	owner, err := contract.ParseEmail(rawOwner)
	if err != nil {
		return Organization{}, invalid("owner_email", err)
	}
	return o.create(ctx, name, func(tx *db.Tx) (string, error) { return account.Ensure(ctx, tx, owner) })
}

// Found makes an organization that belongs to the caller. It says ErrNameTaken where there is one with the name, and
// ErrTooMany to who owns too many.
func (o *Organizations) Found(ctx context.Context, caller account.Caller, name string) (Organization, error) {
	return o.create(ctx, name, func(tx *db.Tx) (string, error) {
		if caller.Operator {
			return caller.ID, nil
		}
		// The row of the account is locked, so that what is counted after it is all there is.
		if _, err := tx.Exec(ctx, `UPDATE accounts SET email = email WHERE id = $1`, caller.ID); err != nil {
			return "", err
		}
		var owned int
		if err := tx.QueryRow(ctx, `
			SELECT COUNT(*)
			FROM members m
			JOIN organizations o ON o.id = m.organization_id
			WHERE m.account_id = $1
			  AND m.role = 'owner'
			  AND o.state <> 'closed'`,
			caller.ID).Scan(&owned); err != nil {
			return "", err
		}
		if owned >= maxOwned {
			return "", ErrTooMany
		}
		return caller.ID, nil
	})
}

func (o *Organizations) create(ctx context.Context, name string, owner func(*db.Tx) (string, error)) (Organization, error) {
	if err := checkName(name); err != nil {
		return Organization{}, err
	}
	made := Organization{ID: contract.NewOrganizationID(), Name: name, State: Active, CreatedAt: db.Time(db.Micros(time.Now())), Quota: o.config.Quota}
	err := db.InTx(ctx, o.db, func(tx *db.Tx) error {
		ownerID, err := owner(tx)
		if err != nil {
			return err
		}
		inserted, err := tx.Exec(ctx, `
			INSERT INTO organizations (id, name, state, require_second_factor, created_at)
			VALUES ($1, $2, 'active', FALSE, $3)
			ON CONFLICT (name) WHERE state <> 'closed' DO NOTHING`,
			made.ID, made.Name, db.Micros(made.CreatedAt))
		if err != nil {
			return err
		}
		if inserted == 0 {
			return ErrNameTaken
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO members (organization_id, account_id, role, all_sites, created_at)
			VALUES ($1, $2, 'owner', TRUE, $3)`,
			made.ID, ownerID, db.Micros(made.CreatedAt)); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT email FROM accounts WHERE id = $1`, ownerID).Scan(&made.OwnerEmail); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: made.ID.String(), Action: "organization.create", Object: made.ID.String(),
			Detail: made.Name + ", owned by " + made.OwnerEmail,
		})
	}, db.ReadCommitted()) // the row of the person and the unique name decide
	if err != nil {
		return Organization{}, fmt.Errorf("create organization: %w", err)
	}
	return made, nil
}

// invalid names the field whose typed value was refused.
func invalid(field string, err error) error {
	var wrong *contract.InvalidError
	if errors.As(err, &wrong) {
		return fault.Invalid(field, wrong.Rule)
	}
	return err
}
