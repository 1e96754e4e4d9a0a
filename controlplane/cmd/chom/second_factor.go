package main

import (
	"context"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
)

func (p *program) secondFactorCommand() *cobra.Command {
	cmd := group("second-factor", "Second factors: what you have besides a password", []string{"two-factor", "2fa"}, p.secondFactorShow())
	cmd.Long = `An authenticator app, passkeys and recovery codes are added, renamed and removed by the person, signed in with a
browser, on the control plane's page /account/second-factors: a token will not do, and a passkey is made by the
browser itself. Here you see what there is.`
	return cmd
}

func (p *program) secondFactorShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Aliases: []string{"list", "ls"},
		Short:   "Show what you have besides a password, and your passkeys",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			caller, err := c.accounts.GetCaller(ctx, &accountv1.GetCallerRequest{})
			if err != nil {
				return err
			}
			answer, err := c.factors.ListPasskeys(ctx, &accountv1.ListPasskeysRequest{})
			if err != nil {
				return err
			}
			if p.json() {
				return printJSON(p.out, map[string]proto.Message{"factors": caller.GetFactors(), "passkeys": answer})
			}
			if err := printFields(p.out, [][2]string{{"second factors", factorsText(caller.GetFactors())}}); err != nil {
				return err
			}
			if len(answer.GetPasskeys()) == 0 {
				return nil
			}
			var rows [][]string
			for _, k := range answer.GetPasskeys() {
				rows = append(rows, []string{k.GetName(), at(k.GetCreateTime()), at(k.GetLastUsedTime()), k.GetId()})
			}
			return printTable(p.out, []string{"PASSKEY", "MADE", "LAST USED", "ID"}, rows)
		}),
	}
}
