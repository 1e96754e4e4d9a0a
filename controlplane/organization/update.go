package organization

import (
	"context"
	"fmt"
	"strings"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Change says what to change of an organization; nil leaves a part as it is.
type Change struct {
	Name                *string
	RequireSecondFactor *bool
	// ETag is what the caller saw: the change is for nothing else; empty for any.
	ETag string
}

// ErrOwnSecondFactor is for who demands of others what they do not have.
var ErrOwnSecondFactor = fault.Denied("add a second factor to your own account first, and sign in with it")

// errNoOwner is for who lost their role between the door and here.
var errNoOwner = fault.Denied("this needs the role owner in the organization")

// Update renames an organization or demands a second factor of its members. Errors: ErrNotFound, ErrClosing, ErrChanged, ErrNameTaken,
// ErrOwnSecondFactor, a fault of kind Invalid that names the field.
func (o *Organizations) Update(ctx context.Context, caller account.Caller, id contract.OrganizationID, change Change) (Organization, error) {
	if change.Name == nil && change.RequireSecondFactor == nil {
		return Organization{}, fault.Invalid("update_mask", "must name at least one of: name, require_second_factor")
	}
	if change.Name != nil {
		if err := checkName(*change.Name); err != nil {
			return Organization{}, err
		}
	}
	if change.RequireSecondFactor != nil && *change.RequireSecondFactor && !caller.SecondFactor {
		return Organization{}, ErrOwnSecondFactor
	}
	var changed Organization
	err := db.InTx(ctx, o.db, func(tx *db.Tx) error {
		locked, err := Lock(ctx, tx, id, caller)
		if err != nil {
			return err
		}
		if !locked.Acting.AtLeast(Owner) {
			return errNoOwner
		}
		if err := locked.Open(); err != nil {
			return err
		}
		before, err := o.get(ctx, tx, id)
		if err != nil {
			return err
		}
		if change.ETag != "" && change.ETag != before.ETag() {
			return ErrChanged
		}
		var what []string
		if change.Name != nil {
			if err := rename(ctx, tx, id, *change.Name); err != nil {
				return err
			}
			what = append(what, "name: "+locked.Name+" -> "+*change.Name)
		}
		if change.RequireSecondFactor != nil {
			if _, err := tx.Exec(ctx, `UPDATE organizations SET require_second_factor = $2 WHERE id = $1`, id, *change.RequireSecondFactor); err != nil {
				return err
			}
			what = append(what, fmt.Sprintf("second factor required: %t", *change.RequireSecondFactor))
		}
		if changed, err = o.get(ctx, tx, id); err != nil {
			return err
		}
		if err := publish(ctx, tx, changed, "organization.update"); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: id.String(), Action: "organization.update", Object: id.String(), Detail: strings.Join(what, ", "),
		})
	}, db.ReadCommitted())
	if err != nil {
		return Organization{}, fmt.Errorf("update organization %s: %w", id, err)
	}
	return changed, nil
}

// rename looks before it leaps, since a broken constraint would end the transaction; the constraint decides a race.
func rename(ctx context.Context, tx *db.Tx, id contract.OrganizationID, name string) error {
	n, err := tx.Exec(ctx, `
		UPDATE organizations
		SET name = $2
		WHERE id = $1
		  AND NOT EXISTS (SELECT 1 FROM organizations other WHERE other.name = $2 AND other.id <> $1 AND other.state <> 'closed')`,
		id, name)
	if db.IsUnique(err) || err == nil && n == 0 {
		return ErrNameTaken
	}
	return err
}
