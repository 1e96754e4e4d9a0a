package main

import (
	"context"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"github.com/spf13/cobra"
)

func (p *program) sessionCommand() *cobra.Command {
	cmd := group("session", "Sessions: the browsers in which you are signed in", []string{"sessions"},
		p.sessionList(), p.sessionRevoke(), p.sessionRevokeOthers())
	cmd.Long = `Sessions begin, are proved again and are signed out in the browser itself. Here they are listed, and ended from
elsewhere. Programs have tokens instead: chom token.`
	return cmd
}

func (p *program) sessionList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the browsers in which you are signed in, the one used last first",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			answer, err := c.Sessions.ListSessions(ctx, &accountv1.ListSessionsRequest{})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, s := range answer.GetSessions() {
				rows = append(rows, []string{s.GetId(), s.GetAddress(), at(s.GetCreateTime()), at(s.GetLastUsedTime()), s.GetUserAgent()})
			}
			return p.print(list(answer.GetSessions()), column(rows, 0), func() error {
				return printTable(p.out, []string{"ID", "FROM", "SINCE", "LAST USED", "BROWSER"}, rows)
			})
		}),
	}
}

func (p *program) sessionRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Sign a browser out",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			revoked, err := c.Sessions.RevokeSession(ctx, &accountv1.RevokeSessionRequest{SessionId: args[0]})
			if err != nil {
				return err
			}
			return p.done(revoked, "That browser is signed out.")
		}),
	}
}

func (p *program) sessionRevokeOthers() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke-others",
		Aliases: []string{"revoke-all"},
		Short:   "Sign out all browsers",
		Long:    "Revoke-others ends all sessions. This command itself has a token and no session, so that none is left out.",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			answer, err := c.Sessions.RevokeOtherSessions(ctx, &accountv1.RevokeOtherSessionsRequest{})
			if err != nil {
				return err
			}
			return p.done(answer, "Sessions ended: %d.", answer.GetEnded())
		}),
	}
}
