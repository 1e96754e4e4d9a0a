package main

import (
	"context"

	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	"github.com/spf13/cobra"
)

func (p *program) invitationCommand() *cobra.Command {
	return group("invitation", "Invitations: how people become members", []string{"invitations"},
		p.invitationCreate(), p.invitationList(), p.invitationRevoke(), p.invitationShow(), p.invitationAccept())
}

func (p *program) invitationCreate() *cobra.Command {
	var role string
	var sites []string
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "create EMAIL",
		Short: "Invite somebody to an organization, by a mail with a link",
		Long: `Create mails a link that works once, for 7 days, and prints it. A new invitation to the same address replaces the
former one.

` + rolesHelp,
		Example: `  chom invitation create ben@acme.example --role member
  chom invitation create eva@agency.example --role viewer --site blog --organization acme`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			offered, err := word("--role", role, roles)
			if err != nil {
				return err
			}
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			ids, err := c.siteIDs(ctx, organization, sites)
			if err != nil {
				return err
			}
			made, err := c.Organizations.CreateInvitation(ctx, &organizationv1.CreateInvitationRequest{
				OrganizationId: organization, Email: args[0], Role: offered, SiteIds: ids,
			})
			if err != nil {
				return err
			}
			return p.printSecret(made, made.GetLink(), "This link was mailed and is shown this once. It works until "+at(made.GetInvitation().GetExpireTime())+":")
		}),
	})
	cmd.Flags().StringVar(&role, "role", "member", "what is offered: viewer, member, admin or owner")
	completeFlag(cmd, "role", fixed("viewer", "member", "admin", "owner"))
	cmd.Flags().StringSliceVar(&sites, "site", nil, "name or id of a site, for a viewer or member who is to reach only some; several times for more")
	return cmd
}

func (p *program) invitationList() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the open invitations of an organization",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := c.allInvitations(ctx, organization)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, i := range all {
				rows = append(rows, []string{
					i.GetEmail(), short(i.GetRole(), "ROLE_"), reached(i.GetAllSites(), i.GetSiteIds()), i.GetInviterEmail(), at(i.GetExpireTime()), i.GetId(),
				})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"EMAIL", "ROLE", "SITES", "INVITED BY", "UNTIL", "ID"}, rows)
			})
		}),
	})
}

func (p *program) invitationRevoke() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "revoke EMAIL",
		Short: "Withdraw an open invitation, named by its address or id",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := c.allInvitations(ctx, organization)
			if err != nil {
				return err
			}
			i, err := only(all, "invitation", args[0], "chom invitation list", (*organizationv1.Invitation).GetId, (*organizationv1.Invitation).GetEmail)
			if err != nil {
				return err
			}
			revoked, err := c.Organizations.RevokeInvitation(ctx, &organizationv1.RevokeInvitationRequest{OrganizationId: organization, InvitationId: i.GetId()})
			if err != nil {
				return err
			}
			return p.done(revoked, "The invitation of %s is withdrawn.", i.GetEmail())
		}),
	})
}

func (p *program) invitationShow() *cobra.Command {
	return p.strangers(&cobra.Command{
		Use:     "show",
		Short:   "Say what an invitation is for, by its link",
		Long:    "Show reads the link of an invitation from standard input, or asks for it on a terminal. No account is needed.",
		Example: `  chom invitation show --url https://chom.example.com < link.txt`,
		Args:    exactly(0),
	}, func(ctx context.Context, c *client, _ []string) error {
		link, err := p.secret("Link of the invitation: ")
		if err != nil {
			return err
		}
		got, err := c.Organizations.GetInvitation(ctx, &organizationv1.GetInvitationRequest{Token: linkSecret(link)})
		if err != nil {
			return err
		}
		i := got.GetInvitation()
		return p.print(got, nil, func() error {
			return printFields(p.out, [][2]string{
				{"organization", got.GetOrganizationName()},
				{"for", i.GetEmail()},
				{"role", short(i.GetRole(), "ROLE_")},
				{"sites", reached(i.GetAllSites(), i.GetSiteIds())},
				{"invited by", i.GetInviterEmail()},
				{"until", at(i.GetExpireTime())},
			})
		})
	})
}

func (p *program) invitationAccept() *cobra.Command {
	return &cobra.Command{
		Use:   "accept",
		Short: "Become a member, by the link of an invitation to your address",
		Long: `Accept reads the link of an invitation from standard input, or asks for it on a terminal. The invitation must be to
your own address.`,
		Example: `  chom invitation accept < link.txt`,
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			link, err := p.secret("Link of the invitation: ")
			if err != nil {
				return err
			}
			accepted, err := c.Organizations.AcceptInvitation(ctx, &organizationv1.AcceptInvitationRequest{Token: linkSecret(link)})
			if err != nil {
				return err
			}
			return p.done(accepted, "You are a member of %s now: %s.", accepted.GetOrganization().GetName(), short(accepted.GetMember().GetRole(), "ROLE_"))
		}),
	}
}

func (c *client) allInvitations(ctx context.Context, organization string) ([]*organizationv1.Invitation, error) {
	return pages(func(token string) ([]*organizationv1.Invitation, string, error) {
		page, err := c.Organizations.ListInvitations(ctx, &organizationv1.ListInvitationsRequest{OrganizationId: organization, PageSize: largestPage, PageToken: token})
		return page.GetInvitations(), page.GetNextPageToken(), err
	})
}
