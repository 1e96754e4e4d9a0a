package domain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Create claims a name for an organization. The claim is pending until its record is found in the DNS, which is looked for from
// now on; a claim that the organization has released is verified again at once. To claim a name twice changes nothing.
//
// That another organization holds the name is no error here: who can set the record may be told so later, but a stranger is
// not to learn it. Errors: a fault of kind Invalid that names the field, ErrTooMany, and that the organization does not exist.
func (d *Domains) Create(ctx context.Context, organization contract.OrganizationID, name string) (Claim, error) {
	parsed, err := ParseName(name)
	if err != nil {
		return Claim{}, err
	}
	var made row
	err = db.InTx(ctx, d.db, func(tx *db.Tx) error {
		made, err = claim(ctx, tx, organization, parsed)
		if err != nil {
			return err
		}
		if made.State == Released {
			return settle(ctx, tx, &made, made.Proof, time.Now())
		}
		return nil
	})
	if err != nil {
		return Claim{}, fmt.Errorf("claim %s: %w", parsed, err)
	}
	d.look()
	return made.Claim, nil
}

// Attest has an operator give a name to an organization without a proof in the DNS. Errors are those of Create, and ErrHeld.
func (d *Domains) Attest(ctx context.Context, organization contract.OrganizationID, name string) (Claim, error) {
	parsed, err := ParseName(name)
	if err != nil {
		return Claim{}, err
	}
	var made row
	err = db.InTx(ctx, d.db, func(tx *db.Tx) error {
		made, err = claim(ctx, tx, organization, parsed)
		if err != nil || made.State == Verified {
			return err
		}
		return settle(ctx, tx, &made, Operator, time.Now())
	})
	if err != nil {
		return Claim{}, fmt.Errorf("attest %s: %w", parsed, err)
	}
	return made.Claim, nil
}

// claim finds an organization's claim of a name, or makes a pending one.
func claim(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, name contract.Domain) (row, error) {
	have, err := named(ctx, tx, organization, name)
	if !errors.Is(err, ErrNotFound) {
		return have, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return row{}, err
	}
	// The tenant's row makes those who claim at the same time wait for each other; the count then is the last word.
	locked, err := tx.Exec(ctx, `UPDATE organizations SET name = name WHERE id = $1`, organization)
	if err != nil {
		return row{}, err
	}
	if locked == 0 {
		return row{}, errNoOrganization
	}
	token := rand.Text()
	now := db.Micros(time.Now())
	inserted, err := tx.Exec(ctx, `
		INSERT INTO claims (organization_id, id, name, state, token, proof, problem, looks, look_at, created_at)
		SELECT $1, $2, $3, 'pending', $4, '', '', 0, $5, $5
		WHERE (SELECT COUNT(*) FROM claims WHERE organization_id = $1) < $6`,
		organization, id.String(), name, token, now, Max)
	if err != nil {
		return row{}, err
	}
	if inserted == 0 {
		return row{}, ErrTooMany
	}
	made, err := one(ctx, tx, organization, id.String())
	if err != nil {
		return row{}, err
	}
	if err := wantProof(ctx, tx, &made); err != nil {
		return row{}, err
	}
	return made, record(ctx, tx, &made, "claim.create", "")
}

// settle makes a claim verified. For a released one nothing but the state changes: its name was kept.
func settle(ctx context.Context, tx *db.Tx, r *row, by Proof, now time.Time) error {
	if r.State == Pending {
		if err := hold(ctx, tx, r); err != nil {
			return err
		}
	}
	if r.State == Released && by == DNS {
		if err := wantProof(ctx, tx, r); err != nil {
			return err
		}
	}
	r.State, r.Proof, r.Problem, r.VerifiedAt, r.HeldUntil, r.looks = Verified, by, "", now, time.Time{}, 0
	r.NextLookAt = time.Time{}
	if by == DNS {
		r.NextLookAt = now.Add(verifiedEvery)
	}
	if err := r.save(ctx, tx); err != nil {
		return err
	}
	if err := record(ctx, tx, r, "claim.verify", "by "+string(by)); err != nil {
		return err
	}
	tx.Notify(Topic, r.Organization.String())
	return nil
}

// Release gives a name up. A pending claim is gone at once; a verified one's name is kept from others for HeldFor, in which
// Create takes it back. It is refused while a site of the organization answers to the name or to one below it.
func (d *Domains) Release(ctx context.Context, organization contract.OrganizationID, id string) (Claim, error) {
	var released row
	err := db.InTx(ctx, d.db, func(tx *db.Tx) error {
		r, err := lock(ctx, tx, organization, id) // and so Holds: a site that takes the name at this moment is seen below
		if err != nil {
			return err
		}
		released = r
		switch r.State {
		case Released:
			return nil
		case Pending:
			if err := drop(ctx, tx, organization, id, ""); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `DELETE FROM claims WHERE organization_id = $1 AND id = $2`, organization, id); err != nil {
				return err
			}
			return record(ctx, tx, &r, "claim.delete", "")
		}
		site, err := d.config.InUse(ctx, tx, organization, r.Name)
		if err != nil {
			return err
		}
		if site != "" {
			return fault.Conflict(fmt.Sprintf("the site %s answers to %s or a name below it: take it from the site first", site, r.Name))
		}
		released.State, released.Problem = Released, ""
		released.HeldUntil, released.NextLookAt = time.Now().Add(HeldFor), time.Time{}
		if err := released.save(ctx, tx); err != nil {
			return err
		}
		if err := drop(ctx, tx, organization, id, ""); err != nil {
			return err
		}
		return record(ctx, tx, &r, "claim.release", "")
	}, db.ReadCommitted())
	if err != nil {
		return Claim{}, fmt.Errorf("release claim: %w", err)
	}
	return released.Claim, nil
}

func record(ctx context.Context, tx *db.Tx, r *row, action, how string) error {
	detail := r.Name.String()
	if how != "" {
		detail += ", " + how
	}
	return audit.Record(ctx, tx, audit.Event{Organization: r.Organization.String(), Action: action, Object: r.ID, Detail: detail})
}
