package main

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"github.com/spf13/cobra"
)

func (p *program) loginCommand() *cobra.Command {
	var conf config
	var setup bool
	var email string
	cmd := &cobra.Command{
		Use:   "login --url URL",
		Short: "Remember the control plane and a token for it",
		Long: `Login checks a token with the control plane and remembers both in ~/.config/chom/config.json, which only
you can read. The token comes from standard input, or is asked for on a terminal; it never stands on the
command line.

At its very first start chomd prints a one-time secret (chomsetup_...) on its console. With --setup-secret,
that secret is read instead of a token, and makes you the first operator.`,
		Example: `  chom login --url https://chom.example.com
  chom login --url http://127.0.0.1:8080 --setup-secret --email ops@example.com < secret.txt`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if conf.URL == "" {
				return usagef("--url is needed")
			}
			if setup != (email != "") {
				return usagef("--setup-secret and --email belong together")
			}
			path, err := configPath(p.configFile)
			if err != nil {
				return err
			}
			if warning := plaintextWarning(conf.URL); warning != "" {
				p.note("warning: %s", warning)
			}
			if setup {
				if conf.Token, err = p.createFirstOperator(cmd, conf, email); err != nil {
					return err
				}
			} else if conf.Token, err = p.secret("API token: "); err != nil {
				return err
			}
			c, err := newClient(conf)
			if err != nil {
				return err
			}
			if setup {
				// The token exists only here: keep it before anything else can fail.
				if err := conf.save(path); err != nil {
					return err
				}
			}
			caller, err := c.accounts.GetCaller(cmd.Context(), &accountv1.GetCallerRequest{})
			if err != nil {
				return err
			}
			if err := conf.save(path); err != nil {
				return err
			}
			if p.json() {
				return printJSON(p.out, caller)
			}
			role := ""
			if caller.GetOperator() {
				role = ", an operator"
			}
			_, err = fmt.Fprintf(p.out, "Signed in to %s as %s%s.\n", conf.URL, plain(caller.GetEmail()), role)
			return err
		},
	}
	cmd.Flags().StringVar(&conf.URL, "url", "", "URL of the control plane, http(s)://HOST[:PORT]")
	cmd.Flags().StringVar(&conf.CA, "ca", "", "file with a certificate authority to trust besides the system's")
	cmd.Flags().BoolVar(&setup, "setup-secret", false, "read chomd's one-time setup secret instead of a token, and become the first operator")
	cmd.Flags().StringVar(&email, "email", "", "the first operator's e-mail address")
	return cmd
}

func (p *program) createFirstOperator(cmd *cobra.Command, conf config, email string) (string, error) {
	secret, err := p.secret("Setup secret: ")
	if err != nil {
		return "", err
	}
	c, err := newClient(conf)
	if err != nil {
		return "", err
	}
	made, err := c.accounts.CreateFirstOperator(cmd.Context(), &accountv1.CreateFirstOperatorRequest{SetupSecret: secret, Email: email})
	if err != nil {
		return "", err
	}
	return made.GetToken(), nil
}

// plaintextWarning says when a token would cross a network unencrypted.
func plaintextWarning(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" {
		return ""
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() || strings.EqualFold(host, "localhost") {
		return ""
	}
	return "http:// to another machine: everybody on the way can read your token"
}
