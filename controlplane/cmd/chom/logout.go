package main

import (
	"context"
	"fmt"
	"strings"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	tokenv1 "chom.dev/proto/gen/chom/token/v1"
	"connectrpc.com/connect"
	"github.com/spf13/cobra"
)

func (p *program) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "End the token that login made, and forget the context",
		Long: `Logout ends the token that login had made and forgets the context. A token that login read with --token is used
elsewhere perhaps: it is only forgotten, and so is one that reaches too little to end itself.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := loadConfig(p.configFile)
			if err != nil {
				return err
			}
			name, t, err := conf.find(p.chosen())
			if err != nil {
				return err
			}
			if t.Made {
				p.revoke(cmd.Context(), t)
			}
			conf.forget(name)
			if err := conf.save(); err != nil {
				return err
			}
			p.note("Signed out of %s.", plain(t.URL))
			return nil
		},
	}
}

// revoke ends the token of a context. What it cannot end it says: forgetting the token is what was asked for, and works without
// the control plane.
func (p *program) revoke(ctx context.Context, t target) {
	c, err := newClient(t, p.note)
	if err == nil {
		var who *accountv1.GetCallerResponse
		if who, err = c.Accounts.GetCaller(ctx, &accountv1.GetCallerRequest{}); err == nil {
			_, err = c.Tokens.RevokeToken(ctx, &tokenv1.RevokeTokenRequest{TokenId: who.GetTokenId()})
		}
	}
	if err != nil && connect.CodeOf(err) != connect.CodeUnauthenticated { // over already
		p.say("warning: the token could not be ended: %s\n         end it on the control plane's page, or wait until it expires", explain(err).text)
	}
}

func (p *program) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Show who you are to the control plane, and how far your token reaches",
		Args:  exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			who, err := c.whoami(ctx)
			if err != nil {
				return err
			}
			return p.print(who, []string{who.GetEmail()}, func() error {
				f := who.GetFactors()
				var factors []string
				if f.GetTotp() {
					factors = append(factors, "authenticator app")
				}
				if f.GetPasskeys() > 0 {
					factors = append(factors, fmt.Sprintf("%d passkeys", f.GetPasskeys()))
				}
				scope := ""
				if who != nil {
					scope = short(who.GetScope(), "SCOPE_")
				}
				return printFields(p.out, [][2]string{
					{"control plane", c.base},
					{"you are", inWords(who)},
					{"account", who.GetAccountId()},
					{"acting operator", who.GetImpersonatorId()},
					{"token", who.GetTokenId()},
					{"scope", scope},
					{"second factors", strings.Join(factors, ", ")},
					{"organization", p.home},
				})
			})
		}),
	}
}
