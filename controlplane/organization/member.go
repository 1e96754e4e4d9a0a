package organization

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/page"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// Person is a member as others see them.
type Person struct {
	Account string // a UUID
	Email   string
	Role    Role
	Sites   []string // the only ones that they are granted, UUIDs; nil for all
	Since   time.Time
}

// ETag names what the member is: it changes with each change of that.
func (p Person) ETag() string {
	return etag(string(p.Role), sitesInWords(slices.Sorted(slices.Values(p.Sites))), strconv.FormatBool(p.Sites == nil))
}

// maxMembers bounds an organization.
const maxMembers = 500

// Errors about members.
var (
	ErrNoMember   = fault.NotFound("member")
	ErrLastOwner  = fault.Conflict("the organization would be left without an owner who can sign in: make somebody else an owner first")
	ErrNotWorking = fault.Conflict("this person cannot sign in yet: their e-mail address is not verified")
	ErrNotOwner   = fault.Denied("only who is an owner can hand the organization over")
	ErrFull       = fault.Conflict("the organization has 500 members already")
	errBound      = fault.Invalid("site_ids", "owners and admins reach all sites: only the roles viewer and member can be bound to some")
	errNoSite     = fault.NotFound("site")
)

const personColumns = `
	SELECT m.account_id,
	       a.email,
	       m.role,
	       m.all_sites,
	       COALESCE((SELECT string_agg(s.site_id, ' ')
	                 FROM member_sites s
	                 WHERE s.organization_id = m.organization_id AND s.account_id = m.account_id), ''),
	       m.created_at
	FROM members m
	JOIN accounts a ON a.id = m.account_id`

func scanPerson(row interface{ Scan(...any) error }) (Person, error) {
	var found Person
	var all bool
	var sites string
	var since int64
	if err := row.Scan(&found.Account, &found.Email, &found.Role, &all, &sites, &since); err != nil {
		return Person{}, err
	}
	found.Sites, found.Since = ParseSites(all, sites), db.Time(since)
	return found, nil
}

func person(ctx context.Context, q db.Querier, id contract.OrganizationID, account string) (Person, error) {
	found, err := scanPerson(q.QueryRow(ctx, personColumns+` WHERE m.organization_id = $1 AND m.account_id = $2`, id, account))
	if errors.Is(err, sql.ErrNoRows) {
		return Person{}, ErrNoMember
	}
	return found, err
}

// Members returns a page of an organization's members, in the order of their accounts' age.
func (o *Organizations) Members(ctx context.Context, id contract.OrganizationID, size int32, token string) ([]Person, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"members", id.String()}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	rows, err := o.db.Reader().Query(ctx, personColumns+`
		WHERE m.organization_id = $1
		  AND m.account_id > $2
		ORDER BY m.account_id
		LIMIT $3`,
		id, after, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list members: %w", err)
	}
	defer rows.Close()
	var all []Person
	for rows.Next() {
		found, err := scanPerson(rows)
		if err != nil {
			return nil, "", fmt.Errorf("list members: %w", err)
		}
		all = append(all, found)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list members: %w", err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].Account })
	return all[:min(len(all), limit)], next, nil
}

// MemberChange says what to change of a member.
type MemberChange struct {
	// Role to have; empty leaves it.
	Role Role
	// Sites to be bound to, nil for all; ignored unless Bounds.
	Sites  []string
	Bounds bool
	// ETag is what the caller saw: the change is for nothing else; empty for any.
	ETag string
}

// UpdateMember changes a member's role or the sites that they reach. Errors: ErrNotFound, ErrNoMember, ErrChanged, ErrLastOwner,
// a fault of kind NotFound for a site that the organization does not have, a Denied for who may not, an Invalid that names the
// field.
func (o *Organizations) UpdateMember(ctx context.Context, caller account.Caller, id contract.OrganizationID, accountID string, change MemberChange) (Person, error) {
	var changed Person
	err := db.InTx(ctx, o.db, func(tx *db.Tx) error {
		locked, err := Lock(ctx, tx, id, caller)
		if err != nil {
			return err
		}
		before, err := person(ctx, tx, id, accountID)
		if err != nil {
			return err
		}
		if err := locked.Acting.mayChange(before.Role); err != nil {
			return err
		}
		if change.ETag != "" && change.ETag != before.ETag() {
			return ErrChanged
		}
		role := before.Role
		if change.Role != "" {
			role = change.Role
		}
		if err := locked.Acting.MayGive(role); err != nil {
			return err
		}
		sites := before.Sites
		if change.Bounds {
			sites = change.Sites
		} else if !role.bindable() {
			sites = nil
		}
		if sites != nil && !role.bindable() {
			return errBound
		}
		if err := setMember(ctx, tx, id, accountID, role, sites); err != nil {
			return err
		}
		if changed, err = person(ctx, tx, id, accountID); err != nil {
			return err
		}
		if err := publishMember(ctx, tx, id, webhook.MemberUpdated, changed); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: id.String(), Action: "member.update", Object: accountID,
			Detail: fmt.Sprintf("%s: %s, %s -> %s, %s", changed.Email, before.Role, sitesInWords(before.Sites), changed.Role, sitesInWords(changed.Sites)),
		})
	}, db.ReadCommitted())
	if err != nil {
		return Person{}, fmt.Errorf("update member %s of %s: %w", accountID, id, err)
	}
	return changed, nil
}

// sitesInWords is for readers of the audit.
func sitesInWords(sites []string) string {
	if sites == nil {
		return "all sites"
	}
	return "sites " + strings.Join(sites, " ")
}

// setMember gives a member a role and their bounds, unless the last owner who can sign in would go.
func setMember(ctx context.Context, tx *db.Tx, id contract.OrganizationID, accountID string, role Role, sites []string) error {
	n, err := tx.Exec(ctx, `
		UPDATE members
		SET role = $3,
		    all_sites = $4
		WHERE organization_id = $1
		  AND account_id = $2
		  AND ($3 = 'owner' OR role <> 'owner' OR EXISTS (
		        SELECT 1
		        FROM members other
		        JOIN accounts a ON a.id = other.account_id
		        WHERE other.organization_id = $1
		          AND other.account_id <> $2
		          AND other.role = 'owner'
		          AND a.verified_at IS NOT NULL))`,
		id, accountID, string(role), sites == nil)
	if err != nil {
		return err
	}
	if n == 0 {
		return ErrLastOwner
	}
	if _, err := tx.Exec(ctx, `DELETE FROM member_sites WHERE organization_id = $1 AND account_id = $2`, id, accountID); err != nil {
		return err
	}
	for _, site := range sites {
		n, err := tx.Exec(ctx, `
			INSERT INTO member_sites (organization_id, account_id, site_id)
			SELECT organization_id, $2, id
			FROM sites
			WHERE organization_id = $1
			  AND id = $3
			  AND phase <> 'absent'`,
			id, accountID, site)
		if err != nil {
			return err
		}
		if n == 0 {
			return errNoSite
		}
	}
	return nil
}

// RemoveMember takes a person's membership. Errors: ErrNotFound, ErrNoMember, ErrLastOwner, a Denied for who may not.
func (o *Organizations) RemoveMember(ctx context.Context, caller account.Caller, id contract.OrganizationID, accountID string) error {
	return o.remove(ctx, caller, id, accountID, "member.remove", Role.mayChange)
}

// Leave ends the caller's own membership. Errors: ErrNotFound, ErrNoMember for an operator who is no member, ErrLastOwner.
func (o *Organizations) Leave(ctx context.Context, caller account.Caller, id contract.OrganizationID) error {
	return o.remove(ctx, caller, id, caller.ID, "member.leave", func(Role, Role) error { return nil })
}

func (o *Organizations) remove(ctx context.Context, caller account.Caller, id contract.OrganizationID, accountID, action string, may func(acting, has Role) error) error {
	err := db.InTx(ctx, o.db, func(tx *db.Tx) error {
		locked, err := Lock(ctx, tx, id, caller)
		if err != nil {
			return err
		}
		gone, err := person(ctx, tx, id, accountID)
		if err != nil {
			return err
		}
		if err := may(locked.Acting, gone.Role); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `
			DELETE FROM members
			WHERE organization_id = $1
			  AND account_id = $2
			  AND (role <> 'owner' OR EXISTS (
			        SELECT 1
			        FROM members other
			        JOIN accounts a ON a.id = other.account_id
			        WHERE other.organization_id = $1
			          AND other.account_id <> $2
			          AND other.role = 'owner'
			          AND a.verified_at IS NOT NULL))`,
			id, accountID)
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrLastOwner
		}
		if err := publishMember(ctx, tx, id, webhook.MemberRemoved, gone); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: id.String(), Action: action, Object: accountID, Detail: fmt.Sprintf("%s, %s", gone.Email, gone.Role),
		})
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("%s %s of %s: %w", action, accountID, id, err)
	}
	return nil
}

// Transfer makes another member an owner and the caller, who must be one, an admin. Errors: ErrNotFound, ErrNoMember,
// ErrNotOwner, ErrNotWorking for a person who cannot sign in, ErrLastOwner for oneself.
func (o *Organizations) Transfer(ctx context.Context, caller account.Caller, id contract.OrganizationID, accountID string) (Person, error) {
	var owner Person
	err := db.InTx(ctx, o.db, func(tx *db.Tx) error {
		if _, err := Lock(ctx, tx, id, caller); err != nil {
			return err
		}
		// An operator may do what owners may, but has no ownership to give.
		if has, err := roleOf(ctx, tx, id, caller.ID); err != nil && !errors.Is(err, ErrNoMember) {
			return err
		} else if has != Owner {
			return ErrNotOwner
		}
		if accountID == caller.ID {
			return ErrLastOwner
		}
		if _, err := roleOf(ctx, tx, id, accountID); err != nil {
			return err
		}
		var works bool
		if err := tx.QueryRow(ctx, `SELECT verified_at IS NOT NULL FROM accounts WHERE id = $1`, accountID).Scan(&works); err != nil {
			return err
		}
		if !works {
			return ErrNotWorking
		}
		if err := setMember(ctx, tx, id, accountID, Owner, nil); err != nil {
			return err
		}
		if err := setMember(ctx, tx, id, caller.ID, Admin, nil); err != nil {
			return err
		}
		var err error
		if owner, err = person(ctx, tx, id, accountID); err != nil {
			return err
		}
		former, err := person(ctx, tx, id, caller.ID)
		if err != nil {
			return err
		}
		for _, member := range []Person{owner, former} {
			if err := publishMember(ctx, tx, id, webhook.MemberUpdated, member); err != nil {
				return err
			}
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: id.String(), Action: "organization.transfer", Object: accountID, Detail: caller.Email + " -> " + owner.Email,
		})
	}, db.ReadCommitted())
	if err != nil {
		return Person{}, fmt.Errorf("transfer %s to %s: %w", id, accountID, err)
	}
	return owner, nil
}
