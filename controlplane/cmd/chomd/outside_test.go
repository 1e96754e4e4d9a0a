package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"chom.dev/proto/gen/chom/account/v1/accountv1connect"
)

func TestOutsideConfig(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	password := file("password", "s3cret word\n", 0o600)
	server := []string{"--smtp-server", "mail.example.com:587", "--smtp-user", "chom"}
	with := func(args ...string) []string { return append(server[:len(server):len(server)], args...) }
	t.Run("reads the password of the mail server", func(t *testing.T) {
		c, err := load(t, "", nil, with("--smtp-password-file", password)...)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := c.password(); err != nil || text != "s3cret word" {
			t.Errorf("got %q, %v", text, err)
		}
	})
	t.Run("finds it among systemd's credentials", func(t *testing.T) {
		credentials := t.TempDir()
		if err := os.WriteFile(filepath.Join(credentials, "smtp-password"), []byte("from systemd"), 0o440); err != nil {
			t.Fatal(err)
		}
		c, err := load(t, "", []string{"CREDENTIALS_DIRECTORY=" + credentials}, server...)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := c.password(); err != nil || text != "from systemd" {
			t.Errorf("got %q, %v", text, err)
		}
	})
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a server and a directory":             {with("--smtp-password-file", password, "--mail-dir", "/tmp/x"), "mail-dir: and smtp-server cannot both be given"},
		"a server without a port":              {[]string{"--smtp-server", "mail.example.com"}, "smtp-server: must be HOST:PORT"},
		"a user without a password":            {server, "smtp-user: and smtp-password-file must be given together"},
		"a password without a user":            {[]string{"--smtp-password-file", password}, "smtp-user: and smtp-password-file must be given together"},
		"a password that others can read":      {with("--smtp-password-file", file("open", "x", 0o644)), "smtp-password-file: "},
		"a password that is empty":             {with("--smtp-password-file", file("empty", "\n", 0o600)), "smtp-password-file: must hold the password"},
		"a password of two lines":              {with("--smtp-password-file", file("two", "a\nb\n", 0o600)), "smtp-password-file: must hold the password"},
		"a password that is not there":         {with("--smtp-password-file", "/nonexistent"), "smtp-password-file: "},
		"an unknown encryption":                {[]string{"--smtp-encryption", "maybe"}, "smtp-encryption: must be"},
		"no encryption over a network":         {[]string{"--smtp-server", "mail.example.com:25", "--smtp-encryption", "none"}, "smtp-encryption: none is for a mail server on loopback only"},
		"a sender who is nobody":               {[]string{"--mail-from", "CHOM"}, "mail-from: must be"},
		"a sender with a header":               {[]string{"--mail-from", "a@example.com\r\nBcc: b@example.com"}, "mail-from: must be"},
		"a network to reach that is none":      {[]string{"--outbound-allow", "intranet.example"}, "outbound-allow: must be"},
		"a network to reach with a host in it": {[]string{"--outbound-allow", "10.0.0.1/8"}, "outbound-allow: must be"},
		"a password on the command line":       {[]string{"--smtp-password", "x"}, "unknown flag"},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			var out bytes.Buffer
			code := run(t.Context(), append([]string{"validate"}, test.args...), &out, &out)
			if code != exitUsage || !strings.Contains(out.String(), test.want) {
				t.Errorf("exit code %d: %s", code, out.String())
			}
			if strings.Contains(out.String(), "s3cret") {
				t.Error("it shows the password")
			}
		})
	}
	t.Run("allows no encryption on loopback", func(t *testing.T) {
		if _, err := load(t, "", nil, "--smtp-server", "127.0.0.1:25", "--smtp-encryption", "none"); err != nil {
			t.Error(err)
		}
	})
	t.Run("reads the networks to reach", func(t *testing.T) {
		c, err := load(t, "", nil, "--outbound-allow", "10.1.0.0/16, fd00::/8,192.168.1.5")
		if err != nil {
			t.Fatal(err)
		}
		if all, err := c.allowed(); err != nil || len(all) != 3 || all[2].String() != "192.168.1.5/32" {
			t.Errorf("got %v, %v", all, err)
		}
	})
}

func TestMailPreview(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"text":               {[]string{"invitation"}, exitOK, "Subject: Invitation to acme\n\n"},
		"HTML":               {[]string{"invitation", "--html"}, exitOK, "<!doctype html>"},
		"another URL":        {[]string{"reset_password", "--text", "--public-url", "https://panel.example:8443"}, exitOK, "\nhttps://panel.example:8443/a/page?token="},
		"no name":            {nil, exitUsage, "verify_email"},
		"an unknown name":    {[]string{"nonsense"}, exitUsage, "verify_email"},
		"both":               {[]string{"test", "--html", "--text"}, exitUsage, "exclude each other"},
		"a URL that is none": {[]string{"test", "--public-url", "panel"}, exitUsage, "the public URL must be"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if code := run(t.Context(), append([]string{"mail", "preview"}, test.args...), &out, &out); code != test.code || !strings.Contains(out.String(), test.want) {
				t.Errorf("exit code %d: %s", code, out.String())
			}
		})
	}
}

// TestMailDir runs the control plane with a directory for mails, and signs somebody up.
func TestMailDir(t *testing.T) {
	dir := t.TempDir()
	r := start(t, "--data-dir", filepath.Join(dir, "data"), "--mail-dir", filepath.Join(dir, "mails"))
	defer r.stop()
	accounts := accountv1connect.NewAccountServiceClient(http.DefaultClient, r.url)
	if _, err := accounts.SignUp(t.Context(), &accountv1.SignUpRequest{Email: "anna@example.com", Password: "a passphrase of some length"}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		written, err := filepath.Glob(filepath.Join(dir, "mails", "*.eml"))
		if err != nil {
			t.Fatal(err)
		}
		if len(written) == 1 {
			text, err := os.ReadFile(written[0])
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), "To: <anna@example.com>\r\n") || !strings.Contains(string(text), "Subject: Confirm your e-mail address\r\n") || !strings.Contains(string(text), r.url+"/verify-email#") {
				t.Errorf("it is\n%s", text)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d mails were written", len(written))
		}
	}
}
