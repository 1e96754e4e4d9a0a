package fleet

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Create makes a server that waits for its host, and the token for it. Organization is zero unless the server is Dedicated.
// pin is the hexadecimal SHA-256 of the CA's public key. It says ErrNameTaken where there is one with the name.
func (f *Fleet) Create(ctx context.Context, name string, tenancy Tenancy, organization contract.OrganizationID, pin string) (Server, JoinToken, error) {
	if err := checkNew(name, tenancy, organization); err != nil {
		return Server{}, JoinToken{}, err
	}
	id, now := contract.NewServerID(), time.Now()
	var made Server
	var token JoinToken
	err := db.InTx(ctx, f.db, func(tx *db.Tx) error {
		if err := insert(ctx, tx, id, name, tenancy, organization, now); err != nil {
			return err
		}
		if err := audit.Record(ctx, tx, audit.Event{
			Organization: audit.Platform, Action: "server.create", Object: id.String(), Detail: name,
		}); err != nil {
			return err
		}
		var err error
		if token, err = createToken(ctx, tx, id, pin, now); err != nil {
			return err
		}
		made, err = get(ctx, tx, id)
		return err
	})
	if err != nil {
		return Server{}, JoinToken{}, fmt.Errorf("create server: %w", err)
	}
	return made, token, nil
}

func checkNew(name string, tenancy Tenancy, organization contract.OrganizationID) error {
	switch {
	case !namePattern.MatchString(name):
		return fault.Invalid("name", "must be 1 to 63 lower-case letters, digits and hyphens, beginning with a letter")
	case tenancy != Shared && tenancy != Dedicated:
		return fault.Invalid("tenancy", "must be shared or dedicated")
	case tenancy == Dedicated && organization.IsZero():
		return fault.Invalid("organization_id", "must name the organization that a dedicated server is for")
	case tenancy == Shared && !organization.IsZero():
		return fault.Invalid("organization_id", "must be left out for a shared server")
	}
	return nil
}

func insert(ctx context.Context, tx *db.Tx, id contract.ServerID, name string, tenancy Tenancy, organization contract.OrganizationID, now time.Time) error {
	var owner any
	if !organization.IsZero() {
		owner = organization
	}
	inserted, err := tx.Exec(ctx, `
		INSERT INTO servers (
			id, name, tenancy, organization_id, state, problem, created_at, changed_at, prepared, prepare_task_id,
			serial, next_serial, recoveries, epoch, instance_id, task_sequence)
		VALUES ($1, $2, $3, $4, 'pending', '', $5, $5, FALSE, '', '', '', 0, 0, '', 0)
		ON CONFLICT (name) WHERE state <> 'removed' DO NOTHING`,
		id, name, string(tenancy), owner, db.Micros(now))
	switch {
	case db.IsForeignKey(err):
		return fault.Invalid("organization_id", "there is no such organization")
	case err != nil:
		return err
	case inserted == 0:
		return ErrNameTaken
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO server_links (server_id, fence)
		VALUES ($1, 0)`,
		id)
	return err
}
