package organization

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"chom.dev/proto/contract"
)

// Membership is what an account is in an organization. The zero value is that of a stranger.
type Membership struct {
	// Role is empty for somebody who is no member, and where there is no such organization or it is closed.
	Role Role
	// Sites are the only ones that a member is granted, UUIDs; nil for all.
	Sites []string
	// NeedsSecondFactor says that the organization lets nobody in without one.
	NeedsSecondFactor bool
}

// Reaches reports whether the member is granted a site.
func (m Membership) Reaches(site string) bool {
	return m.Sites == nil || slices.Contains(m.Sites, site)
}

// MembershipOf looks up what an account is in an organization now.
func (o *Organizations) MembershipOf(ctx context.Context, id contract.OrganizationID, accountID string) (Membership, error) {
	_, found, err := scanMembership(o.db.Reader().QueryRow(ctx, membership+`
		WHERE m.organization_id = $1
		  AND m.account_id = $2
		  AND o.state <> 'closed'`, id, accountID))
	if errors.Is(err, sql.ErrNoRows) {
		return Membership{}, nil
	}
	if err != nil {
		return Membership{}, fmt.Errorf("look up membership: %w", err)
	}
	return found, nil
}

// MembershipsOf looks up what an account is in all organizations now; those where it is a stranger are not there.
func (o *Organizations) MembershipsOf(ctx context.Context, accountID string) (map[contract.OrganizationID]Membership, error) {
	rows, err := o.db.Reader().Query(ctx, membership+`
		WHERE m.account_id = $1
		  AND o.state <> 'closed'`, accountID)
	if err != nil {
		return nil, fmt.Errorf("look up memberships: %w", err)
	}
	defer rows.Close()
	all := map[contract.OrganizationID]Membership{}
	for rows.Next() {
		id, found, err := scanMembership(rows)
		if err != nil {
			return nil, fmt.Errorf("look up memberships: %w", err)
		}
		all[id] = found
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look up memberships: %w", err)
	}
	return all, nil
}

const membership = `
	SELECT m.organization_id,
	       m.role,
	       o.require_second_factor,
	       m.all_sites,
	       CASE WHEN m.all_sites THEN ''
	            ELSE COALESCE((SELECT string_agg(s.site_id, ' ')
	                           FROM member_sites s
	                           WHERE s.organization_id = m.organization_id AND s.account_id = m.account_id), '') END
	FROM members m
	JOIN organizations o ON o.id = m.organization_id`

func scanMembership(row interface{ Scan(...any) error }) (id contract.OrganizationID, found Membership, err error) {
	var all bool
	var sites string
	if err := row.Scan(&id, &found.Role, &found.NeedsSecondFactor, &all, &sites); err != nil {
		return id, Membership{}, err
	}
	found.Sites = ParseSites(all, sites)
	return id, found, nil
}

// ParseSites reads the bounds of a member, an invitation or a token as queries give them: whether there are none, and else the
// ids, with spaces between. It gives nil for all sites; who is bound to none gets an empty list.
func ParseSites(all bool, ids string) []string {
	if all {
		return nil
	}
	return append([]string{}, strings.Fields(ids)...)
}
