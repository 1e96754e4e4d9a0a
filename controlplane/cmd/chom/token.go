package main

import (
	"context"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	tokenv1 "chom.dev/proto/gen/chom/token/v1"
	"github.com/spf13/cobra"
)

// scopes are the words for how far a token reaches.
var scopes = map[string]accountv1.Scope{
	"read": accountv1.Scope_SCOPE_READ, "deploy": accountv1.Scope_SCOPE_DEPLOY, "manage": accountv1.Scope_SCOPE_MANAGE,
}

func (p *program) tokenCommand() *cobra.Command {
	cmd := group("token", "Tokens: how programs call the API", []string{"tokens"},
		p.tokenCreate(), p.tokenList(), p.tokenRevoke())
	cmd.Long = `A personal token stands for you: it does what you may do, and nothing once you may nothing. With --organization, a
token is the organization's own: it does what its own role allows, whatever becomes of who made it.

Scopes, each of which holds the ones before it:
  read    look
  deploy  change sites
  manage  everything that its owner may do`
	return cmd
}

func (p *program) tokenCreate() *cobra.Command {
	var scope, role, within, expires string
	var sites []string
	cmd := p.tokenOwnerFlag(&cobra.Command{
		Use:   "create NAME --scope SCOPE",
		Short: "Make a token and print it, this once",
		Long: `Create prints the token on standard output, this once: it is not kept anywhere. Keep it like a password, and give
each program its own.`,
		Example: `  chom token create laptop --scope manage
  chom token create ci --scope deploy --within acme --site blog --expires 30d
  chom token create monitoring --organization acme --role viewer --scope read --expires 366d`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			reach, err := word("--scope", scope, scopes)
			if err != nil {
				return err
			}
			life, err := lifetime("expires", expires)
			if err != nil {
				return err
			}
			if p.organization != "" && within != "" {
				return usagef("--organization and --within exclude each other: an organization's own token reaches into no other")
			}
			if p.organization == "" {
				if role != "" {
					return usagef("--role is for tokens of an organization: a personal one does what you may do")
				}
				create := &tokenv1.CreateTokenRequest{Name: args[0], Scope: reach, Lifetime: life}
				if within != "" {
					if create.OrganizationId, err = p.inOrganization(ctx, c, within); err != nil {
						return err
					}
				} else if len(sites) > 0 {
					return usagef("--site needs --within or --organization: the organization that owns the sites")
				}
				if create.SiteIds, err = c.siteIDs(ctx, create.GetOrganizationId(), sites); err != nil {
					return err
				}
				made, err := c.Tokens.CreateToken(ctx, create)
				if err != nil {
					return err
				}
				return p.printSecret(made, made.GetSecret(), tokenWarning(made.GetToken()))
			}
			create := &tokenv1.CreateOrganizationTokenRequest{Name: args[0], Scope: reach, Lifetime: life}
			if create.Role, err = word("--role", role, tokenRoles); err != nil {
				return err
			}
			if create.OrganizationId, err = p.organizationID(ctx, c); err != nil {
				return err
			}
			if create.SiteIds, err = c.siteIDs(ctx, create.GetOrganizationId(), sites); err != nil {
				return err
			}
			made, err := c.Tokens.CreateOrganizationToken(ctx, create)
			if err != nil {
				return err
			}
			return p.printSecret(made, made.GetSecret(), tokenWarning(made.GetToken()))
		}),
	})
	cmd.Flags().StringVar(&scope, "scope", "", "how far it reaches: read, deploy or manage")
	cmd.Flags().StringVar(&role, "role", "", "what an organization's own token may do: viewer, member or admin")
	cmd.Flags().StringVar(&within, "within", "", "name or id of the only organization that a personal token reaches")
	cmd.Flags().StringSliceVar(&sites, "site", nil, "name or id of a site, for a token that reaches only some; several times for more")
	cmd.Flags().StringVar(&expires, "expires", "", "how long it works, for example 30d or 12h; an hour to 366d (default 90d)")
	completeFlag(cmd, "scope", fixed("read", "deploy", "manage"))
	completeFlag(cmd, "role", fixed("viewer", "member", "admin"))
	completeFlag(cmd, "within", p.organizationNames)
	return cmd
}

// tokenRoles are those that an organization's own token can have.
var tokenRoles = map[string]organizationv1.Role{
	"viewer": organizationv1.Role_ROLE_VIEWER, "member": organizationv1.Role_ROLE_MEMBER, "admin": organizationv1.Role_ROLE_ADMIN,
}

func tokenWarning(t *tokenv1.Token) string {
	return "Keep this token like a password: it is shown this once. It works until " + at(t.GetExpireTime()) + "."
}

// tokenOwnerFlag says whose tokens a command is about.
func (p *program) tokenOwnerFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&p.organization, "organization", "", "name or id of the organization whose own tokens are meant (default your personal ones)")
	completeFlag(cmd, "organization", p.organizationNames)
	return cmd
}

func (p *program) tokenList() *cobra.Command {
	return p.tokenOwnerFlag(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the tokens that work, yours or an organization's own",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			all, _, err := p.allTokens(ctx, c)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, t := range all {
				rows = append(rows, []string{
					t.GetName(), short(t.GetScope(), "SCOPE_"), reached(t.GetAllSites(), t.GetSiteIds()), t.GetCreatorEmail(),
					at(t.GetLastUsedTime()), at(t.GetExpireTime()), t.GetId(),
				})
			}
			return p.print(list(all), column(rows, 6), func() error {
				return printTable(p.out, []string{"NAME", "SCOPE", "SITES", "MADE BY", "LAST USED", "UNTIL", "ID"}, rows)
			})
		}),
	})
}

func (p *program) tokenRevoke() *cobra.Command {
	var yes bool
	return yesFlag(p.tokenOwnerFlag(&cobra.Command{
		Use:   "revoke NAME",
		Short: "End a token, named by its name or id",
		Long:  "Revoke ends a token: it is refused from the next call on, and whatever uses it stops working.",
		Example: `  chom token revoke laptop
  chom token revoke monitoring --organization acme --yes`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			all, organization, err := p.allTokens(ctx, c)
			if err != nil {
				return err
			}
			t, err := only(all, "token", args[0], "chom token list", (*tokenv1.Token).GetId, (*tokenv1.Token).GetName)
			if err != nil {
				return err
			}
			if err := p.confirm(yes, "This stops whatever uses the token "+plain(t.GetName()), t.GetName()); err != nil {
				return err
			}
			if organization == "" {
				revoked, err := c.Tokens.RevokeToken(ctx, &tokenv1.RevokeTokenRequest{TokenId: t.GetId()})
				if err != nil {
					return err
				}
				return p.done(revoked, "The token %s is revoked.", t.GetName())
			}
			revoked, err := c.Tokens.RevokeOrganizationToken(ctx, &tokenv1.RevokeOrganizationTokenRequest{OrganizationId: organization, TokenId: t.GetId()})
			if err != nil {
				return err
			}
			return p.done(revoked, "The token %s is revoked.", t.GetName())
		}),
	}), &yes)
}

// allTokens are those of the organization that --organization names, or the caller's own where it names none.
func (p *program) allTokens(ctx context.Context, c *client) (all []*tokenv1.Token, organization string, err error) {
	if p.organization == "" {
		all, err = pages(func(token string) ([]*tokenv1.Token, string, error) {
			page, err := c.Tokens.ListTokens(ctx, &tokenv1.ListTokensRequest{PageSize: largestPage, PageToken: token})
			return page.GetTokens(), page.GetNextPageToken(), err
		})
		return all, "", err
	}
	if organization, err = p.organizationID(ctx, c); err != nil {
		return nil, "", err
	}
	all, err = pages(func(token string) ([]*tokenv1.Token, string, error) {
		page, err := c.Tokens.ListOrganizationTokens(ctx, &tokenv1.ListOrganizationTokensRequest{OrganizationId: organization, PageSize: largestPage, PageToken: token})
		return page.GetTokens(), page.GetNextPageToken(), err
	})
	return all, organization, err
}
