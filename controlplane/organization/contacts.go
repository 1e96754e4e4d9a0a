package organization

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// Contacts gives the name of an organization and the addresses of its owners and admins: those who are told when something of
// it needs care. It says ErrNotFound where there is no such organization.
func (o *Organizations) Contacts(ctx context.Context, tx *db.Tx, id contract.OrganizationID) (name string, to []contract.Email, err error) {
	err = tx.QueryRow(ctx, `SELECT name FROM organizations WHERE id = $1`, id).Scan(&name)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil, ErrNotFound
	}
	if err != nil {
		return "", nil, fmt.Errorf("look up contacts: %w", err)
	}
	rows, err := tx.Query(ctx, `
		SELECT a.email
		FROM members m
		JOIN accounts a ON a.id = m.account_id
		WHERE m.organization_id = $1
		  AND m.role IN ('owner', 'admin')
		ORDER BY m.created_at, a.id`, id)
	if err != nil {
		return "", nil, fmt.Errorf("look up contacts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var one contract.Email
		if err := rows.Scan(&one); err != nil {
			return "", nil, fmt.Errorf("look up contacts: %w", err)
		}
		to = append(to, one)
	}
	if err := rows.Err(); err != nil {
		return "", nil, fmt.Errorf("look up contacts: %w", err)
	}
	return name, to, nil
}
