package main

import (
	"context"
	"fmt"

	"chom.dev/proto/contract"
	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func (p *program) organizationCommand() *cobra.Command {
	return group("organization", "Organizations: the tenants that own sites", []string{"org", "organizations"},
		p.organizationCreate(), p.organizationList(), p.organizationShow(), p.organizationUpdate(),
		p.organizationQuota(), p.organizationClose(), p.organizationReopen(), p.organizationLeave(), p.organizationTransfer())
}

func (p *program) organizationCreate() *cobra.Command {
	var owner string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an organization",
		Long: `Create makes an organization that belongs to you. Operators may name another owner, who gets an account if there
is none yet.`,
		Example: `  chom organization create acme
  chom organization create acme --owner anna@acme.example`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			made, err := c.Organizations.CreateOrganization(ctx, &organizationv1.CreateOrganizationRequest{Name: args[0], OwnerEmail: owner})
			if err != nil {
				return err
			}
			return p.showOrganization(made.GetOrganization())
		}),
	}
	cmd.Flags().StringVar(&owner, "owner", "", "e-mail address of the owner, for operators (default you)")
	return cmd
}

func (p *program) organizationList() *cobra.Command {
	var closed bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List organizations: your own, or for operators all",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			all, err := pages(func(token string) ([]*organizationv1.Organization, string, error) {
				page, err := c.Organizations.ListOrganizations(ctx, &organizationv1.ListOrganizationsRequest{PageSize: largestPage, PageToken: token, ShowClosed: closed})
				return page.GetOrganizations(), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, o := range all {
				rows = append(rows, []string{o.GetName(), o.GetOwnerEmail(), short(o.GetState(), "STATE_"), at(o.GetCreateTime()), o.GetId()})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "OWNER", "STATE", "CREATED", "ID"}, rows)
			})
		}),
	}
	cmd.Flags().BoolVar(&closed, "closed", false, "also list closed ones, which only operators still see")
	return cmd
}

func (p *program) organizationShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show an organization",
		Args:              exactly(1),
		ValidArgsFunction: first(p.organizationNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := p.inOrganization(ctx, c, args[0])
			if err != nil {
				return err
			}
			got, err := c.Organizations.GetOrganization(ctx, &organizationv1.GetOrganizationRequest{OrganizationId: id})
			if err != nil {
				return err
			}
			return p.showOrganization(got.GetOrganization())
		}),
	}
}

func (p *program) organizationUpdate() *cobra.Command {
	var name string
	var secondFactor bool
	cmd := &cobra.Command{
		Use:     "update NAME",
		Aliases: []string{"rename"},
		Short:   "Rename an organization, or demand a second factor of its members",
		Long: `Update changes what is named and leaves the rest. Members without a second factor are turned away while one is
demanded, until they have added one; to demand it you must have one yourself.`,
		Example: `  chom organization update acme --name acme-hosting
  chom organization update acme --require-second-factor
  chom organization update acme --require-second-factor=false`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.organizationNames),
	}
	cmd.RunE = p.action(func(ctx context.Context, c *client, args []string) error {
		update := &organizationv1.UpdateOrganizationRequest{Name: name, RequireSecondFactor: secondFactor, UpdateMask: &fieldmaskpb.FieldMask{}}
		if cmd.Flags().Changed("name") {
			update.UpdateMask.Paths = append(update.UpdateMask.Paths, "name")
		}
		if cmd.Flags().Changed("require-second-factor") {
			update.UpdateMask.Paths = append(update.UpdateMask.Paths, "require_second_factor")
		}
		if len(update.UpdateMask.Paths) == 0 {
			return usagef("nothing to change")
		}
		var err error
		if update.OrganizationId, err = p.inOrganization(ctx, c, args[0]); err != nil {
			return err
		}
		changed, err := c.Organizations.UpdateOrganization(ctx, update)
		if err != nil {
			return err
		}
		return p.showOrganization(changed.GetOrganization())
	})
	cmd.Flags().StringVar(&name, "name", "", "the new name")
	cmd.Flags().BoolVar(&secondFactor, "require-second-factor", false, "turn away members who have no second factor")
	return cmd
}

func (p *program) organizationQuota() *cobra.Command {
	var backups string
	var unset bool
	cmd := &cobra.Command{
		Use:   "quota NAME",
		Short: "Show how much an organization may use, or set it",
		Long: `Quota shows how much an organization uses, and may use. Operators set it: a backup that would take more fails. What is there
already stays, and can be restored. --default has the organization go by what the platform gives all.`,
		Example: `  chom organization quota acme
  chom organization quota acme --backup-bytes 50G
  chom organization quota acme --backup-bytes 0`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.organizationNames),
	}
	cmd.RunE = p.action(func(ctx context.Context, c *client, args []string) error {
		id, err := p.inOrganization(ctx, c, args[0])
		if err != nil {
			return err
		}
		set := &organizationv1.SetQuotaRequest{OrganizationId: id}
		switch named := cmd.Flags().Changed("backup-bytes"); {
		case named && unset:
			return usagef("--backup-bytes and --default exclude each other")
		case named:
			set.Quota = &organizationv1.Quota{}
			if backups == "0" {
				break
			}
			size, err := contract.ParseByteSize(backups)
			if err != nil {
				return usagef("--backup-bytes: %s", err)
			}
			set.Quota.BackupBytes = uint64(size.Bytes())
		case !unset:
			got, err := c.Organizations.GetOrganization(ctx, &organizationv1.GetOrganizationRequest{OrganizationId: id})
			if err != nil {
				return err
			}
			return p.showOrganization(got.GetOrganization())
		}
		changed, err := c.Organizations.SetQuota(ctx, set)
		if err != nil {
			return err
		}
		return p.showOrganization(changed.GetOrganization())
	})
	cmd.Flags().StringVar(&backups, "backup-bytes", "", "how much all its backups may take, for example 50G; 0 for no limit")
	cmd.Flags().BoolVar(&unset, "default", false, "what the platform gives all")
	return cmd
}

func (p *program) organizationClose() *cobra.Command {
	var yes bool
	return yesFlag(&cobra.Command{
		Use:   "close NAME",
		Short: "Suspend all sites of an organization and close it after a period of grace",
		Long: `Close suspends all sites at once. When the period of grace ends, 30 days unless the operators set another, the
organization is closed for good and its sites go to the trash; until then chom organization reopen NAME undoes
all of it. The owners are told by mail.`,
		Example: `  chom organization close acme
  chom organization close acme --yes`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.organizationNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := p.inOrganization(ctx, c, args[0])
			if err != nil {
				return err
			}
			got, err := c.Organizations.GetOrganization(ctx, &organizationv1.GetOrganizationRequest{OrganizationId: id})
			if err != nil {
				return err
			}
			name := got.GetOrganization().GetName()
			if err := p.confirm(yes, "This suspends all sites of "+plain(name), name); err != nil {
				return err
			}
			closing, err := c.Organizations.CloseOrganization(ctx, &organizationv1.CloseOrganizationRequest{OrganizationId: id, Name: name})
			if err != nil {
				return err
			}
			return p.showOrganization(closing.GetOrganization())
		}),
	}, &yes)
}

func (p *program) organizationReopen() *cobra.Command {
	return &cobra.Command{
		Use:               "reopen NAME",
		Short:             "Undo the closing of an organization",
		Long:              "Reopen works until the period of grace ends. Sites that a member had suspended stay suspended.",
		Args:              exactly(1),
		ValidArgsFunction: first(p.organizationNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := p.inOrganization(ctx, c, args[0])
			if err != nil {
				return err
			}
			open, err := c.Organizations.ReopenOrganization(ctx, &organizationv1.ReopenOrganizationRequest{OrganizationId: id})
			if err != nil {
				return err
			}
			return p.showOrganization(open.GetOrganization())
		}),
	}
}

func (p *program) organizationLeave() *cobra.Command {
	var yes bool
	return yesFlag(&cobra.Command{
		Use:               "leave NAME",
		Short:             "End your own membership",
		Long:              "Leave is refused to the last owner who can sign in: hand the organization over first.",
		Args:              exactly(1),
		ValidArgsFunction: first(p.organizationNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := p.inOrganization(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := p.confirm(yes, "This ends your membership in "+plain(args[0]), args[0]); err != nil {
				return err
			}
			left, err := c.Organizations.LeaveOrganization(ctx, &organizationv1.LeaveOrganizationRequest{OrganizationId: id})
			if err != nil {
				return err
			}
			return p.done(left, "You left %s.", args[0])
		}),
	}, &yes)
}

func (p *program) organizationTransfer() *cobra.Command {
	var to string
	var yes bool
	cmd := yesFlag(&cobra.Command{
		Use:               "transfer NAME --to MEMBER",
		Short:             "Make another member the owner and yourself an admin, in one step",
		Example:           `  chom organization transfer acme --to ben@acme.example`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.organizationNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			if to == "" {
				return usagef("--to is needed: the e-mail address of the member who becomes the owner")
			}
			id, err := p.inOrganization(ctx, c, args[0])
			if err != nil {
				return err
			}
			member, err := c.memberNamed(ctx, id, to)
			if err != nil {
				return err
			}
			if err := p.confirm(yes, "This makes "+plain(member.GetEmail())+" an owner of "+plain(args[0])+" and you an admin", args[0]); err != nil {
				return err
			}
			moved, err := c.Organizations.TransferOwnership(ctx, &organizationv1.TransferOwnershipRequest{OrganizationId: id, AccountId: member.GetAccountId()})
			if err != nil {
				return err
			}
			return p.showMembers(moved.GetMember(), nil, moved.GetMember())
		}),
	}, &yes)
	cmd.Flags().StringVar(&to, "to", "", "e-mail address or account id of the member")
	return cmd
}

func (p *program) showOrganization(o *organizationv1.Organization) error {
	return p.print(o, nil, func() error {
		return printFields(p.out, [][2]string{
			{"name", o.GetName()},
			{"id", o.GetId()},
			{"owner", o.GetOwnerEmail()},
			{"state", short(o.GetState(), "STATE_")},
			{"your role", accessText(o.GetAccess())},
			{"closed for good", at(o.GetCloseTime())},
			{"demands a second factor", yesNo(o.GetRequireSecondFactor())},
			{"backups", usedText(o.GetBackupBytes(), o.GetQuota())},
			{"created", at(o.GetCreateTime())},
		})
	})
}

// accessText is what the caller may do, where that was told.
func accessText(a *organizationv1.Access) string {
	switch {
	case a == nil:
		return ""
	case a.GetAllSites():
		return short(a.GetRole(), "ROLE_")
	}
	return fmt.Sprintf("%s, of %d of its sites", short(a.GetRole(), "ROLE_"), len(a.GetSiteIds()))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
