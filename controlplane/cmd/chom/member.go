package main

import (
	"context"

	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// roles are the words for what a member may do.
var roles = map[string]organizationv1.Role{
	"viewer": organizationv1.Role_ROLE_VIEWER, "member": organizationv1.Role_ROLE_MEMBER,
	"admin": organizationv1.Role_ROLE_ADMIN, "owner": organizationv1.Role_ROLE_OWNER,
}

const rolesHelp = `Roles, each of which may do what the ones before it may:
  viewer  looks
  member  works on sites
  admin   deletes sites; invites, changes and removes everybody but owners; makes the organization's tokens
  owner   everything: makes and removes owners, renames and closes the organization`

func (p *program) memberCommand() *cobra.Command {
	cmd := group("member", "Members: who belongs to an organization, and what they may do in it", []string{"members"},
		p.memberList(), p.memberRole(), p.memberSites(), p.memberRemove())
	cmd.Long = "Members are named by their e-mail address or the id of their account. They join by an invitation: chom invitation.\n\n" + rolesHelp
	return cmd
}

func (p *program) memberList() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List an organization's members",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := c.allMembers(ctx, organization)
			if err != nil {
				return err
			}
			emails := make([]string, len(all))
			for i, m := range all {
				emails[i] = m.GetEmail()
			}
			return p.showMembers(list(all), emails, all...)
		}),
	})
}

func (p *program) memberRole() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:     "set-role MEMBER ROLE",
		Short:   "Change what a member may do",
		Long:    "Set-role changes a member's role. Owners and admins reach all sites: whoever becomes one loses a limit to some.\n\n" + rolesHelp,
		Example: `  chom member set-role ben@acme.example admin`,
		Args:    exactly(2),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			role, err := word("ROLE", args[1], roles)
			if err != nil {
				return err
			}
			return p.updateMember(ctx, c, args[0], &organizationv1.UpdateMemberRequest{Role: role, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"role"}}}, nil)
		}),
	})
}

func (p *program) memberSites() *cobra.Command {
	var sites []string
	var all, none bool
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "set-sites MEMBER",
		Short: "Say which sites a viewer or member reaches",
		Long:  "Set-sites replaces the sites that a member reaches as a whole. Owners and admins always reach all.",
		Example: `  chom member set-sites ben@acme.example --site blog --site shop
  chom member set-sites ben@acme.example --all
  chom member set-sites ben@acme.example --none`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			if !oneOf(len(sites) > 0, all, none) {
				return usagef("one of --site, --all and --none is needed")
			}
			update := &organizationv1.UpdateMemberRequest{AllSites: all, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"all_sites", "site_ids"}}}
			return p.updateMember(ctx, c, args[0], update, sites)
		}),
	})
	cmd.Flags().StringSliceVar(&sites, "site", nil, "name or id of a site; several times for more")
	cmd.Flags().BoolVar(&all, "all", false, "all sites, those of the future too")
	cmd.Flags().BoolVar(&none, "none", false, "no site")
	return cmd
}

// oneOf reports whether exactly one is true.
func oneOf(all ...bool) bool {
	n := 0
	for _, one := range all {
		if one {
			n++
		}
	}
	return n == 1
}

// updateMember fills in who and where, makes the change and shows what came of it.
func (p *program) updateMember(ctx context.Context, c *client, nameOrID string, update *organizationv1.UpdateMemberRequest, sites []string) error {
	organization, err := p.organizationID(ctx, c)
	if err != nil {
		return err
	}
	member, err := c.memberNamed(ctx, organization, nameOrID)
	if err != nil {
		return err
	}
	update.OrganizationId, update.AccountId = organization, member.GetAccountId()
	if update.SiteIds, err = c.siteIDs(ctx, organization, sites); err != nil {
		return err
	}
	changed, err := c.Organizations.UpdateMember(ctx, update)
	if err != nil {
		return err
	}
	return p.showMembers(changed.GetMember(), nil, changed.GetMember())
}

func (p *program) memberRemove() *cobra.Command {
	var yes bool
	return yesFlag(p.organizationFlag(&cobra.Command{
		Use:   "rm MEMBER",
		Short: "Take a person's membership",
		Long: `Rm works from the person's next call on. Tokens of the organization itself that they made go on: see them with
chom token list --organization NAME.`,
		Example: `  chom member rm ben@acme.example --organization acme`,
		Args:    exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			member, err := c.memberNamed(ctx, organization, args[0])
			if err != nil {
				return err
			}
			if err := p.confirm(yes, "This takes the membership of "+plain(member.GetEmail()), member.GetEmail()); err != nil {
				return err
			}
			removed, err := c.Organizations.RemoveMember(ctx, &organizationv1.RemoveMemberRequest{OrganizationId: organization, AccountId: member.GetAccountId()})
			if err != nil {
				return err
			}
			return p.done(removed, "%s is no member any more.", member.GetEmail())
		}),
	}), &yes)
}

func (c *client) allMembers(ctx context.Context, organization string) ([]*organizationv1.Member, error) {
	return pages(func(token string) ([]*organizationv1.Member, string, error) {
		page, err := c.Organizations.ListMembers(ctx, &organizationv1.ListMembersRequest{OrganizationId: organization, PageSize: largestPage, PageToken: token})
		return page.GetMembers(), page.GetNextPageToken(), err
	})
}

// memberNamed is the member with an e-mail address or an account's id.
func (c *client) memberNamed(ctx context.Context, organization, emailOrID string) (*organizationv1.Member, error) {
	all, err := c.allMembers(ctx, organization)
	if err != nil {
		return nil, err
	}
	return only(all, "member", emailOrID, "chom member list", (*organizationv1.Member).GetAccountId, (*organizationv1.Member).GetEmail)
}

func (p *program) showMembers(value any, emails []string, all ...*organizationv1.Member) error {
	var rows [][]string
	for _, m := range all {
		rows = append(rows, []string{m.GetEmail(), short(m.GetRole(), "ROLE_"), reached(m.GetAllSites(), m.GetSiteIds()), at(m.GetCreateTime()), m.GetAccountId()})
	}
	return p.print(value, emails, func() error {
		return printTable(p.out, []string{"EMAIL", "ROLE", "SITES", "SINCE", "ACCOUNT"}, rows)
	})
}
