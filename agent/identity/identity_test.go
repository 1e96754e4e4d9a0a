package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// authority signs for tests.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	a.cert = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, key)
	return a
}

func (a *authority) sign(tmpl *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent := a.cert
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// answer is an identity for a key, as the control plane sends it.
func (a *authority) answer(server string, key *ecdsa.PrivateKey) *linkv1.Identity {
	cert := a.sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key)
	return &linkv1.Identity{
		ServerId: server, Certificate: cert.Raw, Roots: [][]byte{a.cert.Raw}, SignerKeys: [][]byte{make([]byte, ed25519.PublicKeySize)},
	}
}

// enrolled is a store with an identity.
func enrolled(t *testing.T, a *authority) (*Store, *Identity, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "identity")
	s, err := NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Enrolled(e, a.answer(contract.NewServerID().String(), e.Key))
	if err != nil {
		t.Fatal(err)
	}
	return s, id, dir
}

// reopen is what a new process sees.
func reopen(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEnrolment(t *testing.T) {
	a := newAuthority(t)
	t.Run("keeps key and id over a crash", func(t *testing.T) {
		dir := t.TempDir()
		first, err := reopen(t, dir).Begin()
		if err != nil {
			t.Fatal(err)
		}
		second, err := reopen(t, dir).Begin()
		if err != nil || second.ID != first.ID || !second.Key.Equal(first.Key) {
			t.Errorf("%v, id %s then %s", err, first.ID, second.ID)
		}
	})
	t.Run("gives everything back after a restart, in files for root alone", func(t *testing.T) {
		_, id, dir := enrolled(t, a)
		got, err := reopen(t, dir).Current()
		if err != nil || got.Server != id.Server || !got.Key.Equal(id.Key) || !got.Certificate.Equal(id.Certificate) || !got.Same(id.Trust) {
			t.Errorf("%+v, %v", got, err)
		}
		for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "current.pem"): 0o600} {
			if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
				t.Errorf("%s has mode %v, want %v, %v", path, st.Mode().Perm(), mode, err)
			}
		}
	})
	t.Run("says so when there is none", func(t *testing.T) {
		if _, err := reopen(t, t.TempDir()).Current(); !errors.Is(err, ErrNone) {
			t.Error(err)
		}
	})
	for name, spoil := range map[string]func(*linkv1.Identity, *authority){
		"a certificate for another key": func(id *linkv1.Identity, a *authority) {
			key, _ := NewKey()
			id.Certificate = a.answer(id.ServerId, key).Certificate
		},
		"a certificate by a root that is not sent": func(id *linkv1.Identity, a *authority) { id.Roots = [][]byte{newAuthority(a.t).cert.Raw} },
		"no roots":                         func(id *linkv1.Identity, _ *authority) { id.Roots = nil },
		"a root that is no authority":      func(id *linkv1.Identity, _ *authority) { id.Roots = [][]byte{id.Certificate} },
		"no signers":                       func(id *linkv1.Identity, _ *authority) { id.SignerKeys = nil },
		"a signer's key of the wrong size": func(id *linkv1.Identity, _ *authority) { id.SignerKeys = [][]byte{{1}} },
		"too many signers":                 func(id *linkv1.Identity, _ *authority) { id.SignerKeys = make([][]byte, 9) },
		"a server id that is none":         func(id *linkv1.Identity, _ *authority) { id.ServerId = "../x" },
	} {
		t.Run("refuses an answer with "+name, func(t *testing.T) {
			s := reopen(t, t.TempDir())
			e, err := s.Begin()
			if err != nil {
				t.Fatal(err)
			}
			sent := a.answer(contract.NewServerID().String(), e.Key)
			spoil(sent, a)
			if _, err := s.Enrolled(e, sent); err == nil {
				t.Error("it was taken")
			}
			if _, err := s.Current(); !errors.Is(err, ErrNone) {
				t.Error("it was stored", err)
			}
		})
	}
}

func TestRenewal(t *testing.T) {
	a := newAuthority(t)
	t.Run("keeps both identities until the next one has worked", func(t *testing.T) {
		s, id, dir := enrolled(t, a)
		key, err := s.NextKey()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := reopen(t, dir).NextKey(); err != nil || !again.Equal(key) {
			t.Error("a crash lost the next key", err)
		}
		if next, err := s.Next(); next != nil || err != nil {
			t.Error("a key alone is no identity", err)
		}
		if err := s.Renewed(a.answer(id.Server.String(), key)); err != nil {
			t.Fatal(err)
		}
		s = reopen(t, dir)
		next, err := s.Next()
		if err != nil || !next.Key.Equal(key) {
			t.Fatal("a crash lost the next identity", err)
		}
		if now, err := s.Current(); err != nil || !now.Certificate.Equal(id.Certificate) {
			t.Error("the current identity changed too early", err)
		}
		if err := s.Promote(); err != nil {
			t.Fatal(err)
		}
		s = reopen(t, dir)
		if now, err := s.Current(); err != nil || !now.Certificate.Equal(next.Certificate) {
			t.Error("the next identity didn't take over", err)
		}
		if next, err := s.Next(); next != nil || err != nil {
			t.Error("it is still the next one, too", err)
		}
	})
	t.Run("refuses a certificate for another server", func(t *testing.T) {
		s, _, _ := enrolled(t, a)
		key, err := s.NextKey()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Renewed(a.answer(contract.NewServerID().String(), key)); err == nil {
			t.Error("it was taken")
		}
	})
	t.Run("draws a new key after one was dropped", func(t *testing.T) {
		s, _, _ := enrolled(t, a)
		first, err := s.NextKey()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.DropNext(); err != nil {
			t.Fatal(err)
		}
		if second, err := s.NextKey(); err != nil || second.Equal(first) {
			t.Error("the key is the same", err)
		}
	})
	t.Run("takes over new roots and signers", func(t *testing.T) {
		s, id, dir := enrolled(t, a)
		other := newAuthority(t)
		want := Trust{Roots: []*x509.Certificate{a.cert, other.cert}, Signers: []ed25519.PublicKey{bytes.Repeat([]byte{7}, 32)}}
		if err := s.Believe(want); err != nil {
			t.Fatal(err)
		}
		if got, err := reopen(t, dir).Current(); err != nil || !got.Same(want) || !got.Key.Equal(id.Key) {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("refuses a damaged file rather than half of it", func(t *testing.T) {
		s, _, dir := enrolled(t, a)
		path := filepath.Join(dir, "current.pem")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for cut := 1; cut < len(text); cut += 97 {
			if err := os.WriteFile(path, text[:cut], 0o600); err != nil {
				t.Fatal(err)
			}
			if id, err := s.Current(); err == nil && (id.Certificate == nil || len(id.Roots) == 0 || len(id.Signers) == 0) {
				t.Fatalf("cut at %d of %d it gives half an identity", cut, len(text))
			}
		}
	})
	t.Run("forgets everything on reset", func(t *testing.T) {
		s, _, dir := enrolled(t, a)
		if _, err := s.NextKey(); err != nil {
			t.Fatal(err)
		}
		if err := s.Reset(); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left are %v, %v", left, err)
		}
	})
}

func TestDue(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{NotBefore: start, NotAfter: start.Add(100 * time.Hour)}
	for _, c := range []struct {
		claim  string
		after  time.Duration
		jitter float64
		want   bool
	}{
		{"not in the first half of its life", 49 * time.Hour, 0, false},
		{"in the second half", 50 * time.Hour, 0, true},
		{"a tenth earlier at the earliest", 45 * time.Hour, -1, true},
		{"and not before that", 44 * time.Hour, -1, false},
		{"a tenth later at the latest", 54 * time.Hour, 1, false},
		{"and not after that", 55 * time.Hour, 1, true},
		{"bounded whatever the jitter", 55 * time.Hour, 99, true},
		{"when it is over", 1000 * time.Hour, 1, true},
		{"not by a clock that is years behind", -10 * 8760 * time.Hour, -1, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			if got := Due(start.Add(c.after), cert, c.jitter); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
	t.Run("by a jitter that is spread and stays the same", func(t *testing.T) {
		low, high := 1.0, -1.0
		for i := range 200 {
			c := &x509.Certificate{Raw: big.NewInt(int64(i)).Bytes()}
			j := Jitter(c)
			if j != Jitter(c) {
				t.Fatal("it changes")
			}
			low, high = min(low, j), max(high, j)
		}
		if low < -1 || low > -0.8 || high > 1 || high < 0.8 {
			t.Errorf("it is from %f to %f", low, high)
		}
	})
}

func TestToken(t *testing.T) {
	a := newAuthority(t)
	pin := sha256.Sum256(a.cert.RawSubjectPublicKeyInfo)
	text := func(pin string) string { return "chom1.abc.s3cret-s3cret-s3cret-." + pin }
	good, err := ParseToken(" " + text(hex.EncodeToString(pin[:])) + "\n")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("takes the pin in hexadecimal and in base64", func(t *testing.T) {
		if _, err := ParseToken(text(base64.RawURLEncoding.EncodeToString(pin[:]))); err != nil {
			t.Error(err)
		}
	})
	t.Run("refuses what is none, and never repeats it", func(t *testing.T) {
		for _, bad := range []string{
			"", "chom1", "chom2.abc.s3cret." + hex.EncodeToString(pin[:]), text("abcd"), text(hex.EncodeToString(pin[:])) + ".x",
			"chom1..s3cret." + hex.EncodeToString(pin[:]), text(strings.Repeat("x", 300)),
		} {
			if _, err := ParseToken(bad); err == nil || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%q: %v", bad, err)
			}
		}
	})
	t.Run("prints without its secret", func(t *testing.T) {
		if s := good.String(); s != "abc" {
			t.Error(s)
		}
	})

	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	serverAuth := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	door := func(a *authority, edit func(*x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{DNSNames: []string{ServerName}, ExtKeyUsage: serverAuth}
		edit(c)
		return a.sign(c, key)
	}
	as := func(*x509.Certificate) {}
	other := newAuthority(t)
	for _, c := range []struct {
		claim string
		chain []*x509.Certificate
		want  string // part of the error, "" for none
	}{
		{"trusts a chain to the pinned root", []*x509.Certificate{door(a, as), a.cert}, ""},
		{"refuses a chain without that root", []*x509.Certificate{door(a, as)}, "not the one that the join token names"},
		{"refuses another root", []*x509.Certificate{door(other, as), other.cert}, "not the one that the join token names"},
		{"refuses another root's certificate beside the pinned root", []*x509.Certificate{door(other, as), a.cert}, "unknown authority"},
		{"refuses another name", []*x509.Certificate{door(a, func(c *x509.Certificate) { c.DNSNames = []string{"evil.example"} }), a.cert}, "evil.example"},
		{"refuses an agent's certificate", []*x509.Certificate{door(a, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), a.cert}, "key usage"},
		{"names the clock when the time doesn't fit", []*x509.Certificate{door(a, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		}), a.cert}, "clock"},
		{"refuses no certificate", nil, "no certificate"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			err := good.verify(c.chain, time.Now())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v", err)
			}
		})
	}
}
