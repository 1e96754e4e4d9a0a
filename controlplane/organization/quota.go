package organization

import (
	"context"
	"database/sql"
	"fmt"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Quota is how much an organization may use.
type Quota struct {
	BackupBytes uint64 // of backups, of all its sites together; 0 for no limit
}

// MaxQuota is the largest there is: a pebibyte.
const MaxQuota = 1 << 50

// errNotOperator is for who lost that between the door and here.
var errNotOperator = fault.Denied("only operators set quotas")

// SetQuota says how much an organization may use from now on; nil stands for what the platform gives all. What is there is
// kept, also where that is more. Errors: ErrNotFound, a fault of kind Invalid that names the field.
func (o *Organizations) SetQuota(ctx context.Context, caller account.Caller, id contract.OrganizationID, quota *Quota) (Organization, error) {
	if !caller.Operator {
		return Organization{}, errNotOperator
	}
	var backups sql.NullInt64
	detail := "backups: as the platform's own"
	if quota != nil {
		if quota.BackupBytes > MaxQuota {
			return Organization{}, fault.Invalid("quota.backup_bytes", "must be at most 1125899906842624")
		}
		backups = sql.NullInt64{Int64: int64(quota.BackupBytes), Valid: true}
		detail = fmt.Sprintf("backups: %d bytes", quota.BackupBytes)
		if quota.BackupBytes == 0 {
			detail = "backups: no limit"
		}
	}
	var changed Organization
	err := db.InTx(ctx, o.db, func(tx *db.Tx) error {
		if _, err := Lock(ctx, tx, id, caller); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			UPDATE organizations
			SET backup_quota = $2,
			    backup_refused_at = NULL
			WHERE id = $1`, id, backups)
		if err != nil {
			return err
		}
		if changed, err = o.get(ctx, tx, id); err != nil {
			return err
		}
		if err := publish(ctx, tx, changed, "organization.set_quota"); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: id.String(), Action: "organization.set_quota", Object: id.String(), Detail: detail})
	}, db.ReadCommitted())
	if err != nil {
		return Organization{}, fmt.Errorf("set the quota of organization %s: %w", id, err)
	}
	return changed, nil
}
