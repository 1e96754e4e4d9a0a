package organization

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

const columns = `
	SELECT o.id,
	       o.name,
	       o.state,
	       o.close_at,
	       o.require_second_factor,
	       o.created_at,
	       COALESCE((SELECT a.email
	                 FROM members m
	                 JOIN accounts a ON a.id = m.account_id
	                 WHERE m.organization_id = o.id AND m.role = 'owner'
	                 ORDER BY m.created_at, m.account_id
	                 LIMIT 1), ''),
	       o.backup_quota,
	       COALESCE((SELECT SUM(r.bytes + r.put_bytes - r.measured_put_bytes)
	                 FROM repositories r
	                 WHERE r.organization_id = o.id), 0)
	FROM organizations o`

func (o *Organizations) scan(row interface{ Scan(...any) error }) (Organization, error) {
	found := Organization{Quota: o.config.Quota}
	var created, used int64
	var closes, quota sql.NullInt64
	if err := row.Scan(&found.ID, &found.Name, &found.State, &closes, &found.RequireSecondFactor, &created, &found.OwnerEmail, &quota, &used); err != nil {
		return Organization{}, err
	}
	if quota.Valid {
		found.Quota.BackupBytes = uint64(quota.Int64)
	}
	found.BackupBytes = uint64(max(used, 0))
	found.CreatedAt, found.CloseAt = db.Time(created), db.NullTime(closes)
	return found, nil
}

// Get returns one organization, or ErrNotFound. Whether the caller may see it is decided at the door.
func (o *Organizations) Get(ctx context.Context, id contract.OrganizationID) (Organization, error) {
	found, err := o.get(ctx, o.db.Reader(), id)
	if err != nil {
		return Organization{}, fmt.Errorf("get organization: %w", err)
	}
	return found, nil
}

func (o *Organizations) get(ctx context.Context, q db.Querier, id contract.OrganizationID) (Organization, error) {
	found, err := o.scan(q.QueryRow(ctx, columns+` WHERE o.id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return Organization{}, ErrNotFound
	}
	return found, err
}

// List returns a page of the organizations that a caller may see, oldest first: all of them for an operator, also closed ones
// when asked for; for anybody else those they are a member of and that are not closed. A token that is bound to one shows
// no other.
func (o *Organizations) List(ctx context.Context, caller account.Caller, size int32, token string, closed bool) ([]Organization, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	closed = closed && caller.Operator
	query := page.Query{"organizations", caller.ID, caller.Organization, fmt.Sprint(closed)}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	rows, err := o.db.Reader().Query(ctx, columns+`
		WHERE o.id > $1
		  AND ($2 OR EXISTS (SELECT 1 FROM members v WHERE v.organization_id = o.id AND v.account_id = $3))
		  AND ($4 = '' OR o.id = $4)
		  AND ($5 OR o.state <> 'closed')
		ORDER BY o.id
		LIMIT $6`,
		after, caller.Operator, caller.ID, caller.Organization, closed, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list organizations: %w", err)
	}
	defer rows.Close()
	var all []Organization
	for rows.Next() {
		found, err := o.scan(rows)
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
