package main

import (
	"context"

	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	"github.com/spf13/cobra"
)

func (p *program) organizationCommand() *cobra.Command {
	return group("organization", "Organizations: the tenants that own sites", []string{"org", "organizations"},
		p.organizationCreate(), p.organizationList())
}

func (p *program) organizationCreate() *cobra.Command {
	var owner string
	cmd := &cobra.Command{
		Use:     "create NAME --owner EMAIL",
		Short:   "Make an organization and its owner",
		Example: `  chom organization create acme --owner anna@acme.example`,
		Args:    exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			if owner == "" {
				return usagef("--owner is needed: the e-mail address of whoever the organization belongs to")
			}
			made, err := c.organizations.CreateOrganization(ctx, &organizationv1.CreateOrganizationRequest{Name: args[0], OwnerEmail: owner})
			if err != nil {
				return err
			}
			return p.printOrganizations(made.GetOrganization(), nil, made.GetOrganization())
		}),
	}
	cmd.Flags().StringVar(&owner, "owner", "", "e-mail address of the owner")
	return cmd
}

func (p *program) organizationList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List organizations",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			all, err := c.allOrganizations(ctx)
			if err != nil {
				return err
			}
			names := make([]string, len(all))
			for i, o := range all {
				names[i] = o.GetName()
			}
			return p.printOrganizations(list(all), names, all...)
		}),
	}
}

func (p *program) printOrganizations(value any, names []string, all ...*organizationv1.Organization) error {
	var rows [][]string
	for _, o := range all {
		rows = append(rows, []string{o.GetName(), o.GetOwnerEmail(), at(o.GetCreateTime()), o.GetId()})
	}
	return p.print(value, names, func() error {
		return printTable(p.out, []string{"NAME", "OWNER", "CREATED", "ID"}, rows)
	})
}
