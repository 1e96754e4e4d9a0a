package main

import (
	"context"

	domainv1 "chom.dev/proto/gen/chom/domain/v1"
	"github.com/spf13/cobra"
)

func (p *program) domainCommand() *cobra.Command {
	cmd := group("domain", "Domains: names that an organization holds, for its sites to answer to", []string{"domains"},
		p.domainClaim(), p.domainAttest(), p.domainList(), p.domainShow(), p.domainCheck(), p.domainRelease(), p.providerCommand())
	cmd.Long = `A site answers to a name only while its organization holds it. Claim the name, set the record that is printed, and
everything else happens by itself; with a DNS provider so does the record. A claim covers all names below its own: that of
example.com also www.example.com.`
	return cmd
}

func (p *program) domainClaim() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "claim NAME",
		Short: "Claim a name, and print the DNS record that proves it",
		Long: `The record is looked for from now on: every few seconds at first, later every hour, for 30 days. Leave it in place
afterwards. To claim a name that was released takes it back.`,
		Example: `  chom domain claim example.com
  chom domain check example.com`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			made, err := c.Claims.CreateClaim(ctx, &domainv1.CreateClaimRequest{OrganizationId: organization, Name: args[0]})
			if err != nil {
				return err
			}
			return p.showClaim(made.GetClaim())
		}),
	})
}

func (p *program) domainAttest() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "attest NAME",
		Short: "As an operator, give an organization a name without a DNS record",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			made, err := c.Claims.AttestClaim(ctx, &domainv1.AttestClaimRequest{OrganizationId: organization, Name: args[0]})
			if err != nil {
				return err
			}
			return p.showClaim(made.GetClaim())
		}),
	})
}

func (p *program) domainList() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the names that an organization claims",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := allClaims(ctx, c, organization)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, one := range all {
				rows = append(rows, []string{one.GetName(), short(one.GetState(), "CLAIM_STATE_"), short(one.GetProof(), "PROOF_"), one.GetProblem()})
				if one.GetProof() == domainv1.Proof_PROOF_UNSPECIFIED {
					rows[len(rows)-1][2] = ""
				}
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "STATE", "PROVED BY", "PROBLEM"}, rows)
			})
		}),
	})
}

func (p *program) domainShow() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "show NAME",
		Short: "Show a claim: its record, and what the last look found",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.claimID(ctx, c, args[0])
			if err != nil {
				return err
			}
			found, err := c.Claims.GetClaim(ctx, &domainv1.GetClaimRequest{OrganizationId: organization, ClaimId: id})
			if err != nil {
				return err
			}
			return p.showClaim(found.GetClaim())
		}),
	})
}

func (p *program) domainCheck() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "check NAME",
		Short: "Look for a claim's record now",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.claimID(ctx, c, args[0])
			if err != nil {
				return err
			}
			found, err := c.Claims.CheckClaim(ctx, &domainv1.CheckClaimRequest{OrganizationId: organization, ClaimId: id})
			if err != nil {
				return err
			}
			return p.showClaim(found.GetClaim())
		}),
	})
}

func (p *program) domainRelease() *cobra.Command {
	var yes bool
	return yesFlag(p.organizationFlag(&cobra.Command{
		Use:   "release NAME",
		Short: "Give a name up",
		Long:  "For three days nobody else can have the name, and chom domain claim takes it back. A name that a site has is not released.",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.claimID(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := p.confirm(yes, "This gives up "+plain(args[0]), args[0]); err != nil {
				return err
			}
			released, err := c.Claims.ReleaseClaim(ctx, &domainv1.ReleaseClaimRequest{OrganizationId: organization, ClaimId: id})
			if err != nil {
				return err
			}
			return p.done(released, "%s is released.", args[0])
		}),
	}), &yes)
}

func allClaims(ctx context.Context, c *client, organization string) ([]*domainv1.Claim, error) {
	var all []*domainv1.Claim
	for request := (&domainv1.ListClaimsRequest{OrganizationId: organization, PageSize: largestPage}); ; {
		page, err := c.Claims.ListClaims(ctx, request)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetClaims()...)
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return all, nil
		}
	}
}

// claimID finds a claim by its name or id.
func (p *program) claimID(ctx context.Context, c *client, nameOrID string) (organization, claim string, err error) {
	if organization, err = p.organizationID(ctx, c); err != nil || isID(nameOrID) {
		return organization, nameOrID, err
	}
	all, err := allClaims(ctx, c, organization)
	if err != nil {
		return "", "", err
	}
	found, err := only(all, "claim", nameOrID, "chom domain list", (*domainv1.Claim).GetId, (*domainv1.Claim).GetName)
	return organization, found.GetId(), err
}

func (p *program) showClaim(c *domainv1.Claim) error {
	return p.print(c, nil, func() error {
		fields := [][2]string{
			{"name", c.GetName()},
			{"id", c.GetId()},
			{"state", short(c.GetState(), "CLAIM_STATE_")},
			{"problem", c.GetProblem()},
		}
		if c.GetProof() != domainv1.Proof_PROOF_OPERATOR {
			fields = append(fields, [][2]string{
				{"record", c.GetRecord().GetName()},
				{"type", c.GetRecord().GetType()},
				{"value", c.GetRecord().GetValue()},
				{"looked for", at(c.GetCheckTime())},
				{"looked for next", at(c.GetNextCheckTime())},
			}...)
		}
		return printFields(p.out, append(fields, [][2]string{
			{"verified", at(c.GetVerifyTime())},
			{"kept until", at(c.GetHoldTime())},
			{"created", at(c.GetCreateTime())},
		}...))
	})
}
