// Package accounttest gives tests accounts with all that is around them within reach: the mails that were sent, the tries that
// were counted, and people who are signed in. Passwords cost next to nothing; everything else is as in the product.
package accounttest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/password"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/token"
)

// URL is that under which people reach the control plane of a test.
const URL = "https://chom.example.com"

// Password is everybody's.
const Password = "a sentence to keep in mind"

// Browser is where everybody sits.
var Browser = account.Client{Address: "192.0.2.7", UserAgent: "Browser/1.0"}

// World is accounts and what they use.
type World struct {
	*account.Accounts
	DB     *db.DB
	Mails  *Mails
	Limits *Limits
	Tokens *token.Tokens
}

// New keeps accounts in a database. Tries are counted but none is refused, until a test says so. Options change what New
// would take.
func New(t testing.TB, d *db.DB, options ...func(*account.Config)) *World {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	w := &World{DB: d, Mails: &Mails{}, Limits: &Limits{}, Tokens: token.New(d, log, organization.New(d, organization.Config{Log: log, URL: URL}))}
	c := account.Config{
		Log: log, Passwords: password.NewHasher(password.Parameters{MemoryKiB: 64, Passes: 1}),
		Mails: w.Mails, Seals: newSeals(), Limits: w.Limits, Tokens: w.Tokens, URL: URL,
	}
	for _, option := range options {
		option(&c)
	}
	var err error
	if w.Accounts, err = account.New(d, c); err != nil {
		t.Fatal(err)
	}
	return w
}

// SignUp makes somebody, with Password, and signs them in.
func (w *World) SignUp(t testing.TB, email string) account.SignedIn {
	t.Helper()
	if err := w.Accounts.SignUp(t.Context(), email, Password); err != nil {
		t.Fatal(err)
	}
	opened, err := w.VerifyEmail(t.Context(), w.Mails.Secret(t, email, "verify_email"), Password, Browser, "")
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// Caller is who calls with the cookie of a session.
func (w *World) Caller(t testing.TB, secret string) account.Caller {
	t.Helper()
	caller, ok, err := w.Authenticate(t.Context(), secret, Browser)
	if err != nil || !ok {
		t.Fatalf("the session is over: %v", err)
	}
	return caller
}

// Over reports whether a session is.
func (w *World) Over(t testing.TB, secret string) bool {
	t.Helper()
	_, ok, err := w.Authenticate(t.Context(), secret, Browser)
	if err != nil {
		t.Fatal(err)
	}
	return !ok
}

// Mails are those that were sent: each once its transaction has committed.
type Mails struct {
	mu   sync.Mutex
	sent []notify.Mail
}

// values are what the templates show: all of them, and nothing else.
var values = map[string][]string{
	"verify_email": {"link"}, "sign_up_exists": {"link"}, "reset_password": {"link"}, "confirm_email_change": {"link"},
	"password_changed": {"address", "link", "time"}, "email_changed": {"address", "email", "time"},
	"second_factor_changed": {"address", "change", "link", "time"}, "new_device": {"address", "device", "link", "time"},
}

// Enqueue keeps a mail. It fails where a template would.
func (m *Mails) Enqueue(_ context.Context, tx *db.Tx, mail notify.Mail) error {
	if have := slices.Sorted(maps.Keys(mail.Values)); !slices.Equal(have, values[mail.Template]) {
		return fmt.Errorf("the mail %s shows %v, and has %v", mail.Template, values[mail.Template], have)
	}
	tx.AfterCommit(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.sent = append(m.sent, mail)
	})
	return nil
}

// To are the mails of a template to an address, oldest first.
func (m *Mails) To(email, template string) []notify.Mail {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []notify.Mail
	for _, mail := range m.sent {
		if mail.To.String() == email && mail.Template == template {
			found = append(found, mail)
		}
	}
	return found
}

// Secret is the one in the link of the newest mail of a template to an address.
func (m *Mails) Secret(t testing.TB, email, template string) string {
	t.Helper()
	found := m.To(email, template)
	if len(found) == 0 {
		t.Fatalf("no mail %s to %s", template, email)
	}
	_, secret, _ := strings.Cut(found[len(found)-1].Values["link"], "#")
	return secret
}

// Limits refuses what is one too many within a minute, once Most is set.
type Limits struct {
	mu    sync.Mutex
	most  int
	tries map[string][]time.Time
}

// Most are the tries under one key that pass within a minute; 0 lets all pass.
func (l *Limits) Most(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.most, l.tries = n, map[string][]time.Time{}
}

// Allow counts a try.
func (l *Limits) Allow(_ context.Context, key, _ string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.most == 0 {
		return nil
	}
	now := time.Now()
	var recent []time.Time
	for _, at := range l.tries[key] {
		if now.Sub(at) < time.Minute {
			recent = append(recent, at)
		}
	}
	l.tries[key] = append(recent, now)
	if len(recent) >= l.most {
		return ErrLimited
	}
	return nil
}

// ErrLimited is what Limits says of one try too many.
var ErrLimited = fault.Unavailable("too many tries", time.Minute, nil)

// seals are AES-GCM under one key, bound to the place.
type seals struct{ cipher.AEAD }

func newSeals() seals {
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	sealed, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return seals{sealed}
}

func bind(p secret.Place) []byte {
	return []byte(strings.Join([]string{p.Organization, p.Table, p.Column, p.Row}, "\x00"))
}

func (s seals) Seal(p secret.Place, plain []byte) ([]byte, error) {
	if p.Organization == "" || p.Table == "" || p.Column == "" || p.Row == "" {
		return nil, errors.New("a sealed value without a place")
	}
	return s.AEAD.Seal(nil, nil, plain, bind(p)), nil
}

func (s seals) Open(p secret.Place, sealed []byte) ([]byte, error) {
	return s.AEAD.Open(nil, nil, sealed, bind(p))
}
