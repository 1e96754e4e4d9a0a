package secret

import (
	"context"
	"fmt"
	"iter"

	"chom.dev/controlplane/db"
)

// Column is a column that holds sealed values. All of them must be known to Rotate and Check: what they do not know of is
// lost with the key that sealed it. The names are parts of SQL and come from programs only.
type Column struct {
	Table  string
	Column string
	// Organization is the column with the organization's id; empty where all rows belong to people or to the platform.
	Organization string
	// Row is the column with the row's id.
	Row string
}

func (c Column) String() string { return c.Table + "." + c.Column }

// cell is a sealed value in its place.
type cell struct {
	place  Place
	sealed []byte
}

// cellsPage is how many sealed values are read, and sealed anew in one transaction, at once.
const cellsPage = 100

// cells reads all sealed values of the column, in batches.
func (c Column) cells(ctx context.Context, q db.Querier) iter.Seq2[[]cell, error] {
	return func(yield func([]cell, error) bool) {
		var last Place
		for {
			batch, err := c.batch(ctx, q, last)
			if err != nil {
				yield(nil, fmt.Errorf("read %s: %w", c, err))
				return
			}
			if len(batch) == 0 || !yield(batch, nil) {
				return
			}
			last = batch[len(batch)-1].place
		}
	}
}

// batch reads the values behind a place.
func (c Column) batch(ctx context.Context, q db.Querier, after Place) ([]cell, error) {
	query := fmt.Sprintf(`
		SELECT '%[4]s', %[2]s, %[3]s
		FROM %[1]s
		WHERE %[2]s > $1
		AND %[3]s IS NOT NULL
		ORDER BY %[2]s
		LIMIT %[5]d`, c.Table, c.Row, c.Column, Platform, cellsPage)
	args := []any{after.Row}
	if c.Organization != "" {
		query = fmt.Sprintf(`
			SELECT %[4]s, %[2]s, %[3]s
			FROM %[1]s
			WHERE (%[4]s, %[2]s) > ($2, $1)
			AND %[3]s IS NOT NULL
			ORDER BY %[4]s, %[2]s
			LIMIT %[5]d`, c.Table, c.Row, c.Column, c.Organization, cellsPage)
		args = append(args, after.Organization)
	}
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []cell
	for rows.Next() {
		one := cell{place: Place{Table: c.Table, Column: c.Column}}
		if err := rows.Scan(&one.place.Organization, &one.place.Row, &one.sealed); err != nil {
			return nil, err
		}
		found = append(found, one)
	}
	return found, rows.Err()
}

// replace puts another sealed value into a place, if it still holds the former one: whoever writes meanwhile seals with the
// newest key.
func (c Column) replace(ctx context.Context, tx *db.Tx, former cell, sealed []byte) (bool, error) {
	query := fmt.Sprintf(`
		UPDATE %[1]s
		SET %[2]s = $1
		WHERE %[3]s = $2
		AND %[2]s = $3`, c.Table, c.Column, c.Row)
	args := []any{sealed, former.place.Row, former.sealed}
	if c.Organization != "" {
		query += fmt.Sprintf(` AND %s = $4`, c.Organization)
		args = append(args, former.place.Organization)
	}
	changed, err := tx.Exec(ctx, query, args...)
	return changed > 0, err
}
