package main

import (
	"context"

	tokenv1 "chom.dev/proto/gen/chom/token/v1"
	"github.com/spf13/cobra"
)

func (p *program) impersonationCommand() *cobra.Command {
	return group("impersonation", "Impersonations: operators act as a member for an hour at most, to help", []string{"impersonations"},
		p.impersonationStart(), p.impersonationEnd())
}

func (p *program) impersonationStart() *cobra.Command {
	var reason string
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "start MEMBER --reason REASON",
		Short: "Print a token that acts as a member, for an hour at most",
		Long: `Start prints a token that does at most what the member may do in this organization. It shows no secrets, hands out
no rights and touches nothing that is the member's alone. The owners are told by mail, and the organization's
audit log holds it with the reason.

Keep your own sign-in apart from it, as the example does: login makes the context help the current one, and
chom context use NAME goes back to yours. The id that end needs is printed beside the token.`,
		Example: `  chom impersonation start ben@acme.example --organization acme --reason "ticket 4711: he sees no sites" > help.token
  chom login --url https://chom.example.com --context help --token < help.token
  chom site list --context help`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			if reason == "" {
				return usagef("--reason is needed: the owners and the audit log are told it")
			}
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			member, err := c.memberNamed(ctx, organization, args[0])
			if err != nil {
				return err
			}
			made, err := c.Tokens.StartImpersonation(ctx, &tokenv1.StartImpersonationRequest{
				OrganizationId: organization, AccountId: member.GetAccountId(), Reason: reason,
			})
			if err != nil {
				return err
			}
			return p.printSecret(made, made.GetSecret(), tokenWarning(made.GetToken())+"\nEnd it with: chom impersonation end "+made.GetToken().GetId())
		}),
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why, 10 to 200 characters on one line")
	return cmd
}

func (p *program) impersonationEnd() *cobra.Command {
	return &cobra.Command{
		Use:   "end ID",
		Short: "End an impersonation before its hour is over, by the id of its token",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			ended, err := c.Tokens.EndImpersonation(ctx, &tokenv1.EndImpersonationRequest{TokenId: args[0]})
			if err != nil {
				return err
			}
			return p.done(ended, "The impersonation is over.")
		}),
	}
}
