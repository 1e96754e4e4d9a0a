package organization

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// Invitation offers membership to whoever can read a mailbox. Its row is there while it is open: accepted, withdrawn and
// replaced ones are only in the audit.
type Invitation struct {
	ID           string // a UUID
	Organization contract.OrganizationID
	Email        string
	Role         Role
	Sites        []string // the only ones that are offered, UUIDs; nil for all
	InviterEmail string
	CreatedAt    time.Time
	ExpiresAt    time.Time
}

// Offer is what somebody wants to invite to, as they wrote it.
type Offer struct {
	Email string
	Role  Role
	Sites []string // nil for all
}

// Limits of invitations.
const (
	invitationPrefix = "chominv_"
	invitationLife   = 7 * 24 * time.Hour
	maxInvitations   = 100 // open at once
)

// Errors about invitations.
var (
	// ErrInvitation is the one answer to a token that is malformed, unknown, used, withdrawn or over, and to one whose inviter
	// could not give that role any more.
	ErrInvitation      = fault.NotFound("invitation")
	ErrInvitations     = fault.Conflict("the organization has 100 open invitations already: withdraw some")
	ErrIsMember        = fault.Conflict("this person is a member already")
	ErrForSomebodyElse = fault.Denied("this invitation is for another e-mail address: sign in with that one, or verify it")
)

// Invite mails an offer of membership, and returns its link, which is shown to the inviter and to nobody else. One that is open
// to the same address is replaced. Errors: ErrNotFound, ErrClosing, ErrIsMember, ErrInvitations, a fault of kind NotFound
// for a site that the organization does not have, a Denied for who may not, an Invalid that names the field.
func (o *Organizations) Invite(ctx context.Context, caller account.Caller, id contract.OrganizationID, offer Offer) (Invitation, string, error) {
	to, err := contract.ParseEmail(offer.Email)
	if err != nil {
		return Invitation{}, "", invalid("email", err)
	}
	if offer.Sites != nil && !offer.Role.bindable() {
		return Invitation{}, "", errBound
	}
	text, hash := bearer.New(invitationPrefix)
	// Behind the # it stays in the browser: no server on the way logs it.
	link := o.config.URL + "/invitation#" + text
	now := db.Time(db.Micros(time.Now()))
	made := Invitation{
		ID: newID(), Organization: id, Email: strings.ToLower(to.String()), Role: offer.Role, Sites: offer.Sites,
		InviterEmail: caller.Email, CreatedAt: now, ExpiresAt: now.Add(invitationLife),
	}
	err = db.InTx(ctx, o.db, func(tx *db.Tx) error {
		locked, err := Lock(ctx, tx, id, caller)
		if err != nil {
			return err
		}
		if err := locked.Open(); err != nil {
			return err
		}
		if err := locked.Acting.MayGive(offer.Role); err != nil {
			return err
		}
		if err := insertInvitation(ctx, tx, made, caller.ID, hash); err != nil {
			return err
		}
		if err := o.config.Mail(ctx, tx, notify.Mail{To: to, Template: "invitation", Organization: id.String(), Values: map[string]string{
			"organization": locked.Name, "inviter": caller.Email, "role": string(offer.Role), "link": link,
			"expire_time": made.ExpiresAt.Format(time.RFC3339),
		}}); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: id.String(), Action: "invitation.create", Object: made.ID,
			Detail: fmt.Sprintf("%s, %s, %s", made.Email, made.Role, sitesInWords(made.Sites)),
		})
	}, db.ReadCommitted())
	if err != nil {
		return Invitation{}, "", fmt.Errorf("invite to %s: %w", id, err)
	}
	return made, link, nil
}

func insertInvitation(ctx context.Context, tx *db.Tx, i Invitation, inviter string, hash []byte) error {
	var members int
	if err := tx.QueryRow(ctx, `
		SELECT COUNT(*)
		FROM members m
		JOIN accounts a ON a.id = m.account_id
		WHERE m.organization_id = $1
		  AND a.email = $2`,
		i.Organization, i.Email).Scan(&members); err != nil {
		return err
	}
	if members > 0 {
		return ErrIsMember
	}
	if _, err := tx.Exec(ctx, `
		DELETE FROM invitations
		WHERE organization_id = $1
		  AND (email = $2 OR expires_at <= $3)`,
		i.Organization, i.Email, db.Micros(i.CreatedAt)); err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `
		INSERT INTO invitations (organization_id, id, secret_hash, email, role, all_sites, invited_by, created_at, expires_at)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
		WHERE (SELECT COUNT(*) FROM invitations WHERE organization_id = $1) < $10`,
		i.Organization, i.ID, hash, i.Email, string(i.Role), i.Sites == nil, inviter, db.Micros(i.CreatedAt), db.Micros(i.ExpiresAt), maxInvitations)
	if err != nil {
		return err
	}
	if n == 0 {
		return ErrInvitations
	}
	for _, site := range i.Sites {
		n, err := tx.Exec(ctx, `
			INSERT INTO invitation_sites (organization_id, invitation_id, site_id)
			SELECT organization_id, $2, id
			FROM sites
			WHERE organization_id = $1
			  AND id = $3
			  AND phase <> 'absent'`,
			i.Organization, i.ID, site)
		if err != nil {
			return err
		}
		if n == 0 {
			return errNoSite
		}
	}
	return nil
}

const invitationColumns = `
	SELECT i.id,
	       i.organization_id,
	       i.email,
	       i.role,
	       i.all_sites,
	       COALESCE((SELECT string_agg(s.site_id, ' ')
	                 FROM invitation_sites s
	                 WHERE s.organization_id = i.organization_id AND s.invitation_id = i.id), ''),
	       a.email,
	       i.created_at,
	       i.expires_at
	FROM invitations i
	JOIN accounts a ON a.id = i.invited_by`

func scanInvitation(row interface{ Scan(...any) error }) (Invitation, error) {
	var found Invitation
	var all bool
	var sites string
	var created, expires int64
	if err := row.Scan(&found.ID, &found.Organization, &found.Email, &found.Role, &all, &sites, &found.InviterEmail, &created, &expires); err != nil {
		return Invitation{}, err
	}
	found.Sites, found.CreatedAt, found.ExpiresAt = ParseSites(all, sites), db.Time(created), db.Time(expires)
	return found, nil
}

// Invitations returns a page of an organization's open invitations, oldest first. What they hold accepts nothing.
func (o *Organizations) Invitations(ctx context.Context, id contract.OrganizationID, size int32, token string) ([]Invitation, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"invitations", id.String()}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	rows, err := o.db.Reader().Query(ctx, invitationColumns+`
		WHERE i.organization_id = $1
		  AND i.id > $2
		  AND i.expires_at > $3
		ORDER BY i.id
		LIMIT $4`,
		id, after, db.Micros(time.Now()), limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list invitations: %w", err)
	}
	defer rows.Close()
	var all []Invitation
	for rows.Next() {
		found, err := scanInvitation(rows)
		if err != nil {
			return nil, "", fmt.Errorf("list invitations: %w", err)
		}
		all = append(all, found)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list invitations: %w", err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].ID })
	return all[:min(len(all), limit)], next, nil
}

// RevokeInvitation withdraws an open invitation. Errors: ErrNotFound, ErrInvitation, a Denied for who could not have made it.
func (o *Organizations) RevokeInvitation(ctx context.Context, caller account.Caller, id contract.OrganizationID, invitation string) error {
	err := db.InTx(ctx, o.db, func(tx *db.Tx) error {
		locked, err := Lock(ctx, tx, id, caller)
		if err != nil {
			return err
		}
		var email string
		var role Role
		err = tx.QueryRow(ctx, `
			SELECT email,
			       role
			FROM invitations
			WHERE organization_id = $1
			  AND id = $2`,
			id, invitation).Scan(&email, &role)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrInvitation
		}
		if err != nil {
			return err
		}
		if err := locked.Acting.mayChange(role); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM invitations WHERE organization_id = $1 AND id = $2`, id, invitation); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: id.String(), Action: "invitation.revoke", Object: invitation, Detail: email})
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("revoke invitation %s: %w", invitation, err)
	}
	return nil
}
