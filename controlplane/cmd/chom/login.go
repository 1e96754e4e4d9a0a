package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"connectrpc.com/connect"
	"github.com/spf13/cobra"
)

// login is what the flags say of how to sign in.
type login struct {
	url, ca      string
	email, scope string
	token, setup bool
	noBrowser    bool
}

func (p *program) loginCommand() *cobra.Command {
	var l login
	cmd := &cobra.Command{
		Use:   "login [--url URL]",
		Short: "Sign in to a control plane and remember it as a context",
		Long: `Login shows a code and opens the control plane's page in your browser. Enter the code there and allow this
program to act for you: it then has a token of its own for 90 days, which chom logout ends.

With --token a token that you have is read from standard input, or asked for on a terminal; it never stands on
the command line.

At its very first start chomd prints a one-time secret (chomsetup_...) on its console. With --setup-secret that
secret is read, and makes you the first operator; on its next line may follow a password to sign in with on the
page, of at least 10 characters. On a terminal you are asked for both.

The control plane is remembered as a context in ~/.config/chom/config.json, which only you can read. The context
has the name that --context says, else the one that it has already, else that of the host. Without --url the
context is renewed.`,
		Example: `  chom login --url https://chom.example.com
  chom login --url https://chom.example.com --context work --scope read
  chom login --url https://chom.example.com --token < token.txt
  chom login --url http://127.0.0.1:8080 --setup-secret --email ops@example.com < secret.txt`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.login(cmd.Context(), l) },
	}
	f := cmd.Flags()
	f.StringVar(&l.url, "url", "", "URL of the control plane, http(s)://HOST[:PORT]")
	f.StringVar(&l.ca, "ca", "", "file with a certificate authority to trust besides the system's")
	f.BoolVar(&l.token, "token", false, "read a token instead of signing in with the browser")
	f.BoolVar(&l.setup, "setup-secret", false, "read chomd's one-time setup secret, and become the first operator")
	f.StringVar(&l.email, "email", "", "the first operator's e-mail address")
	f.StringVar(&l.scope, "scope", "manage", "how far the token reaches: read, deploy or manage")
	f.BoolVar(&l.noBrowser, "no-browser", false, "only show where to sign in, open no browser")
	completeFlag(cmd, "scope", fixed("read", "deploy", "manage"))
	return cmd
}

func (p *program) login(ctx context.Context, l login) error {
	scope, known := accountv1.Scope_value["SCOPE_"+strings.ToUpper(l.scope)]
	switch {
	case !known || scope == 0:
		return usagef("--scope must be read, deploy or manage")
	case l.token && l.setup:
		return usagef("--token and --setup-secret exclude each other")
	case l.setup != (l.email != ""):
		return usagef("--setup-secret and --email belong together")
	}
	conf, err := loadConfig(p.configFile)
	if err != nil {
		return err
	}
	name, t, err := p.renewed(conf, l)
	if err != nil {
		return err
	}
	if warning := plaintextWarning(t.URL); warning != "" {
		p.say("warning: %s", warning)
	}
	if os.Getenv("CHOM_TOKEN") != "" {
		p.say("warning: CHOM_TOKEN is set: commands use it instead of this context, unless --context is given")
	}
	stranger, err := newClient(target{URL: t.URL, CA: t.CA}, p.note)
	if err != nil {
		return err
	}
	switch {
	case l.setup:
		t.Token, err = p.createFirstOperator(ctx, stranger, l.email)
	case l.token:
		t.Token, err = p.secret("API token: ")
	default:
		t.Token, err = p.deviceLogin(ctx, stranger, accountv1.Scope(scope), !l.noBrowser)
	}
	if err != nil {
		return err
	}
	t.Made = !l.token
	c, err := newClient(t, p.note)
	if err != nil {
		return err
	}
	conf.Contexts[name], conf.Current = t, name
	if t.Made {
		// The token exists only here: keep it before anything else can fail.
		if err := conf.save(); err != nil {
			return err
		}
	}
	who, err := c.whoami(ctx)
	if err != nil {
		return err
	}
	if err := conf.save(); err != nil {
		return err
	}
	p.note("This is the context %s now.", plain(name))
	return p.print(who, nil, func() error {
		_, err := fmt.Fprintf(p.out, "Signed in to %s as %s.\n", plain(t.URL), inWords(who))
		return err
	})
}

// renewed is the context that a login is for, with what its flags change. It is a new one for a URL that no context has.
func (p *program) renewed(conf *config, l login) (string, target, error) {
	name := p.chosen()
	if l.url == "" {
		name, t, err := conf.find(name)
		if err != nil {
			return "", target{}, usagef("--url is needed: %s", err)
		}
		return name, t.with(l), nil
	}
	base, err := url.Parse(l.url)
	if err != nil || base.Host == "" || base.User != nil || base.Scheme != "http" && base.Scheme != "https" {
		return "", target{}, usagef("--url must be http(s)://HOST[:PORT]")
	}
	if name == "" {
		name = base.Host
		for _, other := range conf.names() {
			if conf.Contexts[other].URL == l.url {
				name = other
			}
		}
	}
	if err := checkContextName(name); err != nil {
		return "", target{}, err
	}
	t := conf.Contexts[name]
	if t.URL != l.url {
		t = target{} // another control plane has other organizations
	}
	return name, t.with(l), nil
}

func (t target) with(l login) target {
	t.URL = cmp.Or(l.url, t.URL)
	if l.ca != "" {
		t.CA = l.ca
		if absolute, err := filepath.Abs(l.ca); err == nil { // commands run in other folders
			t.CA = absolute
		}
	}
	return t
}

func (p *program) createFirstOperator(ctx context.Context, c *client, email string) (string, error) {
	secret, err := p.secret("Setup secret: ")
	if err != nil {
		return "", err
	}
	password, err := p.newPassword()
	if err != nil {
		return "", err
	}
	made, err := c.Accounts.CreateFirstOperator(ctx, &accountv1.CreateFirstOperatorRequest{SetupSecret: secret, Email: email, Password: password})
	if err != nil {
		return "", stranger(err)
	}
	return made.GetToken(), nil
}

// newPassword asks for a password, twice where it cannot be seen; empty for none.
func (p *program) newPassword() (string, error) {
	for {
		password, err := p.hidden("Password to sign in with on the page (empty for none): ")
		if err != nil || password == "" || p.person() == nil {
			return password, err
		}
		again, err := p.hidden("The same again: ")
		if err != nil || again == password {
			return password, err
		}
		p.say("These were not the same.")
	}
}

// stranger explains a failure to somebody who has no token yet.
func stranger(err error) error {
	known := explain(err)
	if known.code == exitDenied {
		known.next = ""
	}
	return known
}

// whoami is whom the token stands for. That of an organization stands for no person: it is nil then.
func (c *client) whoami(ctx context.Context) (*accountv1.GetCallerResponse, error) {
	who, err := c.Accounts.GetCaller(ctx, &accountv1.GetCallerRequest{})
	if connect.CodeOf(err) == connect.CodePermissionDenied && strings.HasPrefix(c.token, organizationToken) {
		return nil, nil //nolint:nilnil // nobody, and that is no failure
	}
	return who, err
}

// organizationToken is what the tokens of organizations begin with.
const organizationToken = "chomorg_"

func inWords(who *accountv1.GetCallerResponse) string {
	switch {
	case who == nil:
		return "an organization (name it with --organization ID)"
	case who.GetOperator():
		return plain(who.GetEmail()) + ", an operator"
	}
	return plain(who.GetEmail())
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
