package secret

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

// ValuesColumn is where Values lie.
var ValuesColumn = Column{Table: "secret_values", Column: "sealed", Organization: "organization_id", Row: "name"}

// ErrNoValue says that an organization has no value with the name.
var ErrNoValue = fault.NotFound("secret")

// Values keeps secrets by name for nouns that have no column of their own for them, such as SSH keys and credentials of
// providers. Each belongs to one organization (Platform for the platform's own); no other can read, change or delete it.
// Whoever changes one records that.
type Values struct{ keys *Keyring }

// NewValues keeps values that a keyring seals.
func NewValues(k *Keyring) *Values { return &Values{keys: k} }

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._:-]{0,127}$`)

// Put writes a value, over the former one if there is one. A name says what it is for and for whom ("ssh-key:ID"); it is no
// secret: 1 to 128 of [a-z0-9._:-], beginning with a letter or a digit.
func (v *Values) Put(ctx context.Context, tx *db.Tx, organization, name string, value Secret) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("put secret %q: the name breaks its rule", name)
	}
	sealed, err := v.keys.Seal(placeOf(organization, name), value.Reveal())
	if err != nil {
		return fmt.Errorf("put secret: %w", err)
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO secret_values (organization_id, name, sealed, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $4)
		ON CONFLICT (organization_id, name) DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at`,
		organization, name, sealed, db.Micros(time.Now())); err != nil {
		return fmt.Errorf("put secret %s of organization %s: %w", name, organization, err)
	}
	return nil
}

// Get reads a value: ErrNoValue where the organization has none with the name.
func (v *Values) Get(ctx context.Context, q db.Querier, organization, name string) (Secret, error) {
	var sealed []byte
	err := q.QueryRow(ctx, `
		SELECT sealed
		FROM secret_values
		WHERE organization_id = $1
		AND name = $2`, organization, name).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return Secret{}, ErrNoValue
	}
	if err != nil {
		return Secret{}, fmt.Errorf("get secret %s of organization %s: %w", name, organization, err)
	}
	plain, err := v.keys.Open(placeOf(organization, name), sealed)
	if err != nil {
		return Secret{}, fmt.Errorf("get secret: %w", err)
	}
	return New(plain), nil
}

// Delete forgets a value: ErrNoValue where the organization has none with the name.
func (v *Values) Delete(ctx context.Context, tx *db.Tx, organization, name string) error {
	gone, err := tx.Exec(ctx, `
		DELETE FROM secret_values
		WHERE organization_id = $1
		AND name = $2`, organization, name)
	if err != nil {
		return fmt.Errorf("delete secret %s of organization %s: %w", name, organization, err)
	}
	if gone == 0 {
		return ErrNoValue
	}
	return nil
}

func placeOf(organization, name string) Place {
	return Place{Organization: organization, Table: ValuesColumn.Table, Column: ValuesColumn.Column, Row: name}
}
