package organization

import (
	"context"
	"fmt"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/clock"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/notify"
	"chom.dev/proto/contract"
)

// Topic wakes whoever follows an organization's state (db.Listen); the payload is its id.
const Topic = "organization"

// ErrNotClosing is for who reopens what is open.
var ErrNotClosing = fault.Conflict("the organization is not being closed")

// Close suspends an organization's sites and begins its period of grace. The name, typed once more, protects against slips.
// The owners are told by mail. Errors: ErrNotFound, ErrClosing, a fault of kind Invalid for another name.
func (o *Organizations) Close(ctx context.Context, caller account.Caller, id contract.OrganizationID, name string) (Organization, error) {
	closeAt := db.Time(db.Micros(time.Now().Add(o.config.ClosePeriod)))
	return o.turn(ctx, caller, id, "organization.close", func(tx *db.Tx, locked Locked) (string, error) {
		if name != locked.Name {
			return "", fault.Invalid("name", "must be the organization's name, as a confirmation")
		}
		if err := locked.Open(); err != nil {
			return "", err
		}
		if _, err := tx.Exec(ctx, `UPDATE organizations SET state = 'closing', close_at = $2 WHERE id = $1`, id, db.Micros(closeAt)); err != nil {
			return "", err
		}
		until := closeAt.Format(time.RFC3339)
		return "can be reopened until " + until, o.TellOwners(ctx, tx, locked.ID, "organization_closing", map[string]string{
			"organization": locked.Name, "closer": caller.Email, "close_time": until, "link": o.config.URL + "/organizations/" + id.String(),
		})
	})
}

// Reopen undoes Close. It works until the organization is closed, be it late. Errors: ErrNotFound, ErrNotClosing.
func (o *Organizations) Reopen(ctx context.Context, caller account.Caller, id contract.OrganizationID) (Organization, error) {
	return o.turn(ctx, caller, id, "organization.reopen", func(tx *db.Tx, locked Locked) (string, error) {
		if locked.State != Closing {
			return "", ErrNotClosing
		}
		_, err := tx.Exec(ctx, `UPDATE organizations SET state = 'active', close_at = NULL WHERE id = $1`, id)
		return "", err
	})
}

// turn is the way of all changes of the state by an owner.
func (o *Organizations) turn(ctx context.Context, caller account.Caller, id contract.OrganizationID, action string, do func(*db.Tx, Locked) (string, error)) (Organization, error) {
	var changed Organization
	err := db.InTx(ctx, o.db, func(tx *db.Tx) error {
		locked, err := Lock(ctx, tx, id, caller)
		if err != nil {
			return err
		}
		if !locked.Acting.AtLeast(Owner) {
			return errNoOwner
		}
		detail, err := do(tx, locked)
		if err != nil {
			return err
		}
		if changed, err = o.get(ctx, tx, id); err != nil {
			return err
		}
		tx.Notify(Topic, id.String())
		if err := publish(ctx, tx, changed, action); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: id.String(), Action: action, Object: id.String(), Detail: detail})
	}, db.ReadCommitted())
	if err != nil {
		return Organization{}, fmt.Errorf("%s %s: %w", action, id, err)
	}
	return changed, nil
}

// endEvery is how often closing organizations are looked through: a minute more or less means nothing after a month.
const endEvery = time.Minute

// Run closes organizations whose period of grace is over, until ctx ends.
func (o *Organizations) Run(ctx context.Context) error {
	ticker := time.NewTicker(min(endEvery, max(o.config.ClosePeriod/4, time.Second))) // a short period is kept as well
	defer ticker.Stop()
	var wall clock.Wall
	for {
		now := time.Now()
		if wall.Trust(now) {
			if err := o.End(ctx, now); err != nil && ctx.Err() == nil {
				o.log.ErrorContext(ctx, "organizations cannot be closed", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// End closes for good the organizations that are due at a moment.
func (o *Organizations) End(ctx context.Context, now time.Time) error {
	due, err := o.due(ctx, now)
	if err != nil {
		return fmt.Errorf("find organizations to close: %w", err)
	}
	for _, id := range due {
		if err := o.end(ctx, id, now); err != nil {
			return fmt.Errorf("close organization %s: %w", id, err)
		}
		o.log.InfoContext(ctx, "an organization is closed for good", "organization", id)
	}
	return nil
}

func (o *Organizations) due(ctx context.Context, now time.Time) ([]contract.OrganizationID, error) {
	rows, err := o.db.Reader().Query(ctx, `
		SELECT id
		FROM organizations
		WHERE state = 'closing'
		  AND close_at <= $1
		ORDER BY close_at`,
		db.Micros(now))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var due []contract.OrganizationID
	for rows.Next() {
		var id contract.OrganizationID
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		due = append(due, id)
	}
	return due, rows.Err()
}

func (o *Organizations) end(ctx context.Context, id contract.OrganizationID, now time.Time) error {
	return db.InTx(ctx, o.db, func(tx *db.Tx) error {
		// Somebody may have reopened it since it was found.
		closed, err := tx.Exec(ctx, `
			UPDATE organizations
			SET state = 'closed',
			    close_at = NULL
			WHERE id = $1
			  AND state = 'closing'
			  AND close_at <= $2`,
			id, db.Micros(now))
		if err != nil || closed == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM invitations WHERE organization_id = $1`, id); err != nil {
			return err
		}
		tx.Notify(Topic, id.String())
		return audit.Record(ctx, tx, audit.Event{Organization: id.String(), Action: "organization.end", Object: id.String()})
	}, db.ReadCommitted())
}

// TellOwners mails to each owner of an organization, in the transaction of what they are to hear of.
func (o *Organizations) TellOwners(ctx context.Context, tx *db.Tx, id contract.OrganizationID, template string, values map[string]string) error {
	owners, err := ownerAddresses(ctx, tx, id)
	if err != nil {
		return fmt.Errorf("find owners: %w", err)
	}
	for _, owner := range owners {
		if err := o.config.Mail(ctx, tx, notify.Mail{To: owner, Template: template, Values: values, Organization: id.String()}); err != nil {
			return fmt.Errorf("tell owners: %w", err)
		}
	}
	return nil
}

func ownerAddresses(ctx context.Context, tx *db.Tx, id contract.OrganizationID) ([]contract.Email, error) {
	rows, err := tx.Query(ctx, `
		SELECT a.email
		FROM members m
		JOIN accounts a ON a.id = m.account_id
		WHERE m.organization_id = $1
		  AND m.role = 'owner'
		ORDER BY a.email`,
		id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []contract.Email
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		address, err := contract.ParseEmail(text)
		if err != nil {
			return nil, err
		}
		all = append(all, address)
	}
	return all, rows.Err()
}
