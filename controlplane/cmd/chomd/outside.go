package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/dns"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/install"
	"chom.dev/controlplane/keyfile"
	notices "chom.dev/controlplane/notify"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/webhook"
)

// outsideConfig is how the control plane reaches people and programs that did not call it: mails, webhooks and DNS providers.
type outsideConfig struct {
	MailFrom         string `koanf:"mail-from"`
	MailDir          string `koanf:"mail-dir"`
	SMTPServer       string `koanf:"smtp-server"`
	SMTPEncryption   string `koanf:"smtp-encryption"`
	SMTPUser         string `koanf:"smtp-user"`
	SMTPPasswordFile string `koanf:"smtp-password-file"`
	OutboundAllow    string `koanf:"outbound-allow"`

	passwordCredential bool // SMTPPasswordFile is one of systemd's
}

func outsideFlags(f *pflag.FlagSet) {
	f.String("mail-from", "", "sender of mails, as NAME <ADDRESS> (default CHOM <no-reply@HOST>, with the host of public-url)")
	f.String("smtp-server", "", "HOST:PORT of the mail server that takes mails for everybody; without one mails wait in the queue")
	f.String("smtp-encryption", string(notices.StartTLS), "starttls, tls (from the first byte), or none, for a mail server on this machine")
	f.String("smtp-user", "", "name to sign in to the mail server with; empty where it asks for none")
	f.String("smtp-password-file", "", "file with its password, readable by its owner only (default smtp-password among systemd's credentials)")
	f.String("mail-dir", "", "directory to write mails into instead of sending them, for development")
	f.String("outbound-allow", "", "networks (CIDR, comma-separated) that webhooks, DNS providers and looks at names of sites may reach although they are not public: those of a closed network")
}

// takePassword looks for the mail server's password among systemd's credentials, where no file is named.
func (o *outsideConfig) takePassword(credentials string) {
	if o.SMTPUser == "" || o.SMTPPasswordFile != "" || credentials == "" {
		return
	}
	if path := filepath.Join(credentials, "smtp-password"); exists(path) {
		o.SMTPPasswordFile, o.passwordCredential = path, true
	}
}

func (o outsideConfig) checkOutside(rule func(ok bool, key, rule string)) {
	rule(o.SMTPServer == "" || o.MailDir == "", "mail-dir", "and smtp-server cannot both be given")
	rule(o.SMTPServer == "" || isAddress(o.SMTPServer), "smtp-server", "must be HOST:PORT")
	switch notices.Encryption(o.SMTPEncryption) {
	case notices.StartTLS, notices.Implicit:
	case notices.None:
		rule(o.SMTPServer == "" || isLoopback(o.SMTPServer), "smtp-encryption", "none is for a mail server on loopback only")
	default:
		rule(false, "smtp-encryption", "must be starttls, tls or none")
	}
	rule((o.SMTPUser == "") == (o.SMTPPasswordFile == ""), "smtp-user", "and smtp-password-file must be given together")
	rule(o.SMTPUser == "" || o.SMTPServer != "", "smtp-user", "is for an smtp-server")
	if _, err := o.password(); err != nil {
		rule(false, "smtp-password-file", err.Error())
	}
	if o.MailFrom != "" {
		_, err := mail.ParseAddress(o.MailFrom)
		rule(err == nil, "mail-from", "must be an address, as NAME <ADDRESS>")
	}
	if _, err := o.allowed(); err != nil {
		rule(false, "outbound-allow", err.Error())
	}
}

func (o outsideConfig) allowed() ([]netip.Prefix, error) { return networks(o.OutboundAllow) }

// password reads that of the mail server; empty where it asks for none.
func (o outsideConfig) password() (string, error) {
	if o.SMTPPasswordFile == "" {
		return "", nil
	}
	read := keyfile.Read
	if o.passwordCredential {
		read = keyfile.ReadCredential
	}
	text, err := read(o.SMTPPasswordFile)
	if err != nil {
		return "", err
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if password == "" || strings.ContainsAny(password, "\r\n\x00") {
		return "", errors.New("must hold the password, in one line")
	}
	return password, nil
}

// openMails prepares the queue of mails and who takes them.
func (c *config) openMails(d *db.DB, keys *secret.Keyring, log *slog.Logger, registry *prometheus.Registry, address install.Address) (*notices.Mails, error) {
	public, err := url.Parse(address.URL)
	if err != nil {
		return nil, fmt.Errorf("prepare mails: %w", err)
	}
	settings := notices.Config{From: mail.Address{Name: "CHOM", Address: "no-reply@" + public.Hostname()}, PublicURL: address.URL}
	if c.MailFrom != "" {
		from, err := mail.ParseAddress(c.MailFrom)
		if err != nil {
			return nil, fmt.Errorf("prepare mails: %w", err)
		}
		settings.From = *from
	}
	switch {
	case c.MailDir != "":
		dir, err := notices.NewDir(c.MailDir)
		if err != nil {
			return nil, err
		}
		settings.Sender = dir
	case c.SMTPServer != "":
		password, err := c.password()
		if err != nil {
			return nil, fmt.Errorf("read smtp-password-file: %w", err)
		}
		server, err := notices.NewSMTP(notices.Server{
			Address: c.SMTPServer, Encryption: notices.Encryption(c.SMTPEncryption), User: c.SMTPUser, Password: password, HELO: public.Hostname(),
		})
		if err != nil {
			return nil, err
		}
		settings.Sender = server
	default:
		log.Warn("no mail server is configured: nobody gets mails; they wait for a day at most until smtp-server is set")
	}
	return notices.New(d, keys, log, registry, settings)
}

// dialer reaches addresses that people chose.
func (o outsideConfig) dialer(options ...outbound.Option) (*outbound.Dialer, error) {
	allowed, err := o.allowed()
	if err != nil {
		return nil, fmt.Errorf("read outbound-allow: %w", err)
	}
	return outbound.New(append(options, outbound.Allow(allowed...))...), nil
}

func (c *config) openProviders(d *db.DB, keys *secret.Keyring, log *slog.Logger) (*domain.Providers, error) {
	dialer, err := c.dialer()
	if err != nil {
		return nil, err
	}
	return domain.NewProviders(d, log, domain.ProvidersConfig{
		Keys: keys, Dialer: dialer, NameServers: domain.DelegatedTo(domain.NewResolver(c.Resolver)),
		Open: func(credentials dns.Credentials) (domain.Service, error) { return dns.Open(credentials, dialer) },
	}), nil
}

func (c *config) openWebhooks(d *db.DB, keys *secret.Keyring, log *slog.Logger, mails *notices.Mails, organizations *organization.Organizations, address install.Address) (*webhook.Webhooks, error) {
	dialer, err := c.dialer()
	if err != nil {
		return nil, err
	}
	return webhook.New(d, log, webhook.Config{
		Keys: keys, Mails: mails, Organizations: organizations, Dialer: dialer, PublicURL: address.URL,
	}), nil
}
