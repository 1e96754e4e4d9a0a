package organization

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// Invitation says what an invitation is for, and the name of its organization, to whoever holds its token. It says ErrInvitation
// for one that could not be accepted.
func (o *Organizations) Invitation(ctx context.Context, token string) (Invitation, string, error) {
	hash, ok := bearer.Hash(invitationPrefix, token)
	if !ok {
		return Invitation{}, "", ErrInvitation
	}
	found, err := openInvitation(ctx, o.db.Reader(), hash)
	if err != nil {
		return Invitation{}, "", fmt.Errorf("get invitation: %w", err)
	}
	var name string
	if err := o.db.Reader().QueryRow(ctx, `SELECT name FROM organizations WHERE id = $1`, found.Organization).Scan(&name); err != nil {
		return Invitation{}, "", fmt.Errorf("get invitation: %w", err)
	}
	return found, name, nil
}

// openInvitation finds one that is not over, and whose inviter could make it now as well: an operator, or a member who may still
// give that role.
func openInvitation(ctx context.Context, q db.Querier, hash []byte) (Invitation, error) {
	found, err := scanInvitation(q.QueryRow(ctx, invitationColumns+`
		WHERE i.secret_hash = $1
		  AND i.expires_at > $2`,
		hash, db.Micros(time.Now())))
	if errors.Is(err, sql.ErrNoRows) {
		return Invitation{}, ErrInvitation
	}
	if err != nil {
		return Invitation{}, err
	}
	var operator bool
	var has Role
	if err := q.QueryRow(ctx, `
		SELECT a.operator,
		       COALESCE(m.role, '')
		FROM invitations i
		JOIN accounts a ON a.id = i.invited_by
		LEFT JOIN members m ON m.organization_id = i.organization_id AND m.account_id = i.invited_by
		WHERE i.organization_id = $1
		  AND i.id = $2`,
		found.Organization, found.ID).Scan(&operator, &has); err != nil {
		return Invitation{}, err
	}
	if !stands(found.Role, operator, has) {
		return Invitation{}, ErrInvitation
	}
	return found, nil
}

// Invited reports whether an invitation to an address is open that could be accepted: who runs a closed platform lets its
// bearer sign up.
func Invited(ctx context.Context, tx *db.Tx, email string) (bool, error) {
	rows, err := tx.Query(ctx, `
		SELECT i.role,
		       a.operator,
		       COALESCE(m.role, '')
		FROM invitations i
		JOIN organizations o ON o.id = i.organization_id
		JOIN accounts a ON a.id = i.invited_by
		LEFT JOIN members m ON m.organization_id = i.organization_id AND m.account_id = i.invited_by
		WHERE i.email = $1
		  AND i.expires_at > $2
		  AND o.state = 'active'`,
		strings.ToLower(email), db.Micros(time.Now()))
	if err != nil {
		return false, fmt.Errorf("look for invitations: %w", err)
	}
	defer rows.Close()
	invited := false
	for rows.Next() {
		var offered, has Role
		var operator bool
		if err := rows.Scan(&offered, &operator, &has); err != nil {
			return false, fmt.Errorf("look for invitations: %w", err)
		}
		invited = invited || stands(offered, operator, has)
	}
	return invited, rows.Err()
}

// stands says whether an invitation's inviter could make it now as well.
func stands(offered Role, operator bool, has Role) bool {
	return operator || has.MayGive(offered) == nil
}

// Accept makes the caller a member by an invitation to their verified e-mail address, and consumes it. Errors: ErrInvitation,
// ErrForSomebodyElse, ErrIsMember, ErrClosing, ErrFull.
func (o *Organizations) Accept(ctx context.Context, caller account.Caller, token string) (Organization, Person, error) {
	hash, ok := bearer.Hash(invitationPrefix, token)
	if !ok {
		return Organization{}, Person{}, ErrInvitation
	}
	var joined Organization
	var member Person
	err := db.InTx(ctx, o.db, func(tx *db.Tx) error {
		id, err := invitationTo(ctx, tx, hash)
		if err != nil {
			return err
		}
		locked, err := lock(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := locked.Open(); err != nil {
			return err
		}
		invitation, err := openInvitation(ctx, tx, hash) // again, under the lock
		if err != nil {
			return err
		}
		if err := addressed(ctx, tx, invitation, caller); err != nil {
			return err
		}
		if err := join(ctx, tx, invitation, caller); err != nil {
			return err
		}
		if joined, err = o.get(ctx, tx, id); err != nil {
			return err
		}
		if member, err = person(ctx, tx, id, caller.ID); err != nil {
			return err
		}
		if err := publishMember(ctx, tx, id, webhook.MemberAdded, member); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: id.String(), Action: "invitation.accept", Object: invitation.ID,
			Detail: fmt.Sprintf("%s, %s, invited by %s", member.Email, member.Role, invitation.InviterEmail),
		})
	}, db.ReadCommitted())
	if err != nil {
		return Organization{}, Person{}, fmt.Errorf("accept invitation: %w", err)
	}
	return joined, member, nil
}

// invitationTo is the organization that an invitation is to.
func invitationTo(ctx context.Context, tx *db.Tx, hash []byte) (contract.OrganizationID, error) {
	var id contract.OrganizationID
	err := tx.QueryRow(ctx, `SELECT organization_id FROM invitations WHERE secret_hash = $1`, hash).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return id, ErrInvitation
	}
	return id, err
}

// addressed refuses who was not invited.
func addressed(ctx context.Context, tx *db.Tx, i Invitation, caller account.Caller) error {
	var email string
	var verified bool
	if err := tx.QueryRow(ctx, `SELECT email, verified_at IS NOT NULL FROM accounts WHERE id = $1`, caller.ID).Scan(&email, &verified); err != nil {
		return err
	}
	if !verified || email != i.Email {
		return ErrForSomebodyElse
	}
	return nil
}

// join turns an invitation into a membership.
func join(ctx context.Context, tx *db.Tx, i Invitation, caller account.Caller) error {
	if _, err := roleOf(ctx, tx, i.Organization, caller.ID); err == nil {
		return ErrIsMember
	} else if !errors.Is(err, ErrNoMember) {
		return err
	}
	n, err := tx.Exec(ctx, `
		INSERT INTO members (organization_id, account_id, role, all_sites, created_at)
		SELECT $1, $2, $3, $4, $5
		WHERE (SELECT COUNT(*) FROM members WHERE organization_id = $1) < $6`,
		i.Organization, caller.ID, string(i.Role), i.Sites == nil, db.Micros(time.Now()), maxMembers)
	if err != nil {
		return err
	}
	if n == 0 {
		return ErrFull
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO member_sites (organization_id, account_id, site_id)
		SELECT organization_id, $3, site_id
		FROM invitation_sites
		WHERE organization_id = $1
		  AND invitation_id = $2`,
		i.Organization, i.ID, caller.ID); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM invitations WHERE organization_id = $1 AND id = $2`, i.Organization, i.ID)
	return err
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }
