package domain

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

const columns = `
	SELECT organization_id, id, name, state, token, proof, problem, looks, looked_at, look_at, verified_at, held_until, created_at
	FROM claims`

// row is a claim with what only this package needs.
type row struct {
	Claim
	token string
	looks int64
}

func scan(from interface{ Scan(...any) error }) (row, error) {
	var r row
	var looked, next, verified, held sql.NullInt64
	var created int64
	if err := from.Scan(&r.Organization, &r.ID, &r.Name, &r.State, &r.token, &r.Proof, &r.Problem, &r.looks, &looked, &next, &verified, &held, &created); err != nil {
		return row{}, err
	}
	r.Record = recordOf(r.Name, r.token)
	r.LookedAt, r.NextLookAt = db.NullTime(looked), db.NullTime(next)
	r.VerifiedAt, r.HeldUntil, r.CreatedAt = db.NullTime(verified), db.NullTime(held), db.Time(created)
	return r, nil
}

// one finds a claim of an organization, or ErrNotFound.
func one(ctx context.Context, q db.Querier, organization contract.OrganizationID, id string) (row, error) {
	return found(scan(q.QueryRow(ctx, columns+` WHERE organization_id = $1 AND id = $2`, organization, id)))
}

// lock finds a claim and keeps others from deciding upon it until the transaction ends.
func lock(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id string) (row, error) {
	if _, err := tx.Exec(ctx, `
		UPDATE claims
		SET name = name
		WHERE organization_id = $1
		  AND id = $2`, organization, id); err != nil {
		return row{}, fmt.Errorf("lock claim: %w", err)
	}
	return one(ctx, tx, organization, id)
}

// named finds an organization's claim of a name, or ErrNotFound.
func named(ctx context.Context, q db.Querier, organization contract.OrganizationID, name contract.Domain) (row, error) {
	return found(scan(q.QueryRow(ctx, columns+` WHERE organization_id = $1 AND name = $2`, organization, name)))
}

func found(r row, err error) (row, error) {
	if errors.Is(err, sql.ErrNoRows) {
		return row{}, ErrNotFound
	}
	if err != nil {
		return row{}, fmt.Errorf("read claim: %w", err)
	}
	return r, nil
}

// save writes what may change of a claim, and who holds its name.
func (r *row) save(ctx context.Context, tx *db.Tx) error {
	if _, err := tx.Exec(ctx, `
		UPDATE claims
		SET state = $3,
		    proof = $4,
		    problem = $5,
		    looks = $6,
		    looked_at = $7,
		    look_at = $8,
		    verified_at = $9,
		    held_until = $10
		WHERE organization_id = $1
		  AND id = $2`,
		r.Organization, r.ID, r.State, r.Proof, r.Problem, r.looks, db.NullMicros(r.LookedAt), db.NullMicros(r.NextLookAt),
		db.NullMicros(r.VerifiedAt), db.NullMicros(r.HeldUntil)); err != nil {
		return fmt.Errorf("write claim: %w", err)
	}
	return nil
}

// Get returns one claim, or ErrNotFound.
func (d *Domains) Get(ctx context.Context, organization contract.OrganizationID, id string) (Claim, error) {
	r, err := one(ctx, d.db.Reader(), organization, id)
	return r.Claim, err
}

// List returns a page of an organization's claims, oldest first, and the token of the next page, empty after the last.
func (d *Domains) List(ctx context.Context, organization contract.OrganizationID, pageSize int32, pageToken string) ([]Claim, string, error) {
	size, err := page.Size(pageSize)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"claims", organization.String()}
	after, err := query.After(pageToken)
	if err != nil {
		return nil, "", err
	}
	rows, err := d.db.Reader().Query(ctx, columns+`
		WHERE organization_id = $1
		  AND id > $2
		ORDER BY id
		LIMIT $3`, organization, after, size+1)
	if err != nil {
		return nil, "", fmt.Errorf("list claims: %w", err)
	}
	defer rows.Close()
	var all []Claim
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, "", fmt.Errorf("list claims: %w", err)
		}
		all = append(all, r.Claim)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list claims: %w", err)
	}
	next := query.Next(len(all), size, func() string { return all[size-1].ID })
	return all[:min(len(all), size)], next, nil
}

// Holds says whether an organization holds a name: by a verified claim of it, or of a name above it; a wildcard by one of the
// name below which it stands. That stays so until the transaction ends.
func Holds(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, name contract.Domain) (bool, error) {
	for _, held := range append([]string{name.String()}, above(name)...) {
		var id string
		err := tx.QueryRow(ctx, `
			SELECT id
			FROM claims
			WHERE organization_id = $1
			  AND name = $2
			  AND state = 'verified'`+tx.ForUpdate(), organization, held).Scan(&id)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return false, fmt.Errorf("look who holds %s: %w", name, err)
		}
	}
	return false, nil
}

// Awaited are the records that prove an organization's pending claims, by name.
type Awaited map[contract.Domain]Record

// ReadAwaited reads an organization's.
func ReadAwaited(ctx context.Context, q db.Querier, organization contract.OrganizationID) (Awaited, error) {
	rows, err := q.Query(ctx, columns+` WHERE organization_id = $1 AND state = 'pending'`, organization)
	if err != nil {
		return nil, fmt.Errorf("read pending claims: %w", err)
	}
	defer rows.Close()
	all := Awaited{}
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("read pending claims: %w", err)
		}
		all[r.Name] = r.Record
	}
	return all, rows.Err()
}

// For is the record of the claim of a name, or else of the nearest name above it; false where none is pending.
func (a Awaited) For(name contract.Domain) (Record, bool) {
	if record, is := a[name]; is {
		return record, true
	}
	for _, text := range above(name) {
		if parent, err := contract.ParseDomain(text); err == nil {
			if record, is := a[parent]; is {
				return record, true
			}
		}
	}
	return Record{}, false
}

// hold writes that an organization holds a name from now on. It says ErrHeld where another one has it, a name above or one
// below, be it released or not.
func hold(ctx context.Context, tx *db.Tx, r *row) error {
	names := append([]string{r.Name.String()}, above(r.Name)...)
	for i, name := range names {
		// Another's claim of the name itself or of one above stands under its own name; one of a name below stands under ours.
		var taken bool
		if err := tx.QueryRow(ctx, `
			SELECT EXISTS (
				SELECT 1
				FROM claim_names
				WHERE name = $1
				  AND organization_id <> $2
				  AND (own OR $3)
			)`, name, r.Organization, i == 0).Scan(&taken); err != nil {
			return fmt.Errorf("hold %s: %w", r.Name, err)
		}
		if taken {
			return ErrHeld
		}
	}
	for i, name := range names {
		if _, err := tx.Exec(ctx, `
			INSERT INTO claim_names (name, claim_id, organization_id, own)
			VALUES ($1, $2, $3, $4)`,
			name, r.ID, r.Organization, i == 0); err != nil {
			return fmt.Errorf("hold %s: %w", r.Name, err)
		}
	}
	return nil
}
