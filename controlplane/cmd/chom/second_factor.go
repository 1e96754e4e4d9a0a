package main

import (
	"context"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"github.com/spf13/cobra"
)

func (p *program) secondFactorCommand() *cobra.Command {
	cmd := group("second-factor", "Second factors: what you have besides a password", []string{"two-factor", "2fa"}, p.secondFactorPasskeys())
	cmd.Long = `An authenticator app, passkeys and recovery codes are added, renamed and removed by the person, signed in with a
browser, on the control plane's page /account/second-factors: a token will not do, and a passkey is made by the
browser itself. Here you see what there is; chom whoami says whether you have an authenticator app.`
	return cmd
}

func (p *program) secondFactorPasskeys() *cobra.Command {
	return &cobra.Command{
		Use:     "passkeys",
		Aliases: []string{"list", "ls"},
		Short:   "List your passkeys, oldest first",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			answer, err := c.SecondFactors.ListPasskeys(ctx, &accountv1.ListPasskeysRequest{})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, k := range answer.GetPasskeys() {
				rows = append(rows, []string{k.GetName(), at(k.GetCreateTime()), at(k.GetLastUsedTime()), k.GetId()})
			}
			return p.print(list(answer.GetPasskeys()), column(rows, 3), func() error {
				return printTable(p.out, []string{"NAME", "MADE", "LAST USED", "ID"}, rows)
			})
		}),
	}
}
