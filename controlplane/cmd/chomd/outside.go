package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/install"
	notices "chom.dev/controlplane/notify"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/webhook"
)

// outsideConfig is how the control plane reaches people and programs that did not call it: mails and webhooks.
type outsideConfig struct {
	MailFrom         string `koanf:"mail-from"`
	MailDir          string `koanf:"mail-dir"`
	SMTPServer       string `koanf:"smtp-server"`
	SMTPEncryption   string `koanf:"smtp-encryption"`
	SMTPUser         string `koanf:"smtp-user"`
	SMTPPasswordFile string `koanf:"smtp-password-file"`
	OutboundAllow    string `koanf:"outbound-allow"`
}

func outsideFlags(f *pflag.FlagSet) {
	f.String("mail-from", "", "sender of mails, as NAME <ADDRESS> (default CHOM <no-reply@HOST>, with the host of public-url)")
	f.String("smtp-server", "", "HOST:PORT of the mail server that takes mails for everybody; without one mails wait in the queue")
	f.String("smtp-encryption", string(notices.StartTLS), "starttls, tls (from the first byte), or none, for a mail server on this machine")
	f.String("smtp-user", "", "name to sign in to the mail server with; empty where it asks for none")
	f.String("smtp-password-file", "", "file with its password, readable by its owner only")
	f.String("mail-dir", "", "directory to write mails into instead of sending them, for development")
	f.String("outbound-allow", "", "networks (CIDR, comma-separated) that webhooks may reach although they are not public: those of a closed network")
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
	if o.MailFrom != "" {
		_, err := mail.ParseAddress(o.MailFrom)
		rule(err == nil, "mail-from", "must be an address, as NAME <ADDRESS>")
	}
	_, err := o.allowed()
	rule(err == nil, "outbound-allow", "must be networks as 10.0.0.0/8, with commas between them")
}

func (o outsideConfig) allowed() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for text := range strings.SplitSeq(o.OutboundAllow, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		all = append(all, network)
	}
	return all, nil
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
		password, err := readPassword(c.SMTPPasswordFile)
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
		log.Warn("no mail server is configured: mails wait in the queue until smtp-server is set")
	}
	return notices.New(d, keys, log, registry, settings)
}

// maxPassword bounds what is read from the password's file.
const maxPassword = 1024

// readPassword reads a file that nobody but its owner may read. An empty path has no password.
func readPassword(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return "", errors.New("it must be a file that its owner alone may read: chmod 600")
	}
	text, err := io.ReadAll(io.LimitReader(file, maxPassword))
	return strings.TrimSpace(string(text)), err
}

func (c *config) openWebhooks(d *db.DB, keys *secret.Keyring, log *slog.Logger, mails *notices.Mails, organizations *organization.Organizations, address install.Address) (*webhook.Webhooks, error) {
	allowed, err := c.allowed()
	if err != nil {
		return nil, fmt.Errorf("read outbound-allow: %w", err)
	}
	return webhook.New(d, log, webhook.Config{
		Keys: keys, Mails: mails, Organizations: organizations, Dialer: outbound.New(outbound.Allow(allowed...)), PublicURL: address.URL,
	}), nil
}
