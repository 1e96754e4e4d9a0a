package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chom.dev/proto/contract"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func request(t *testing.T, key crypto.Signer) *x509.CertificateRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, _, err := ParseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// client issues a certificate for a fresh agent.
func client(t *testing.T, a *Authority, now time.Time) (contract.ServerID, tls.Certificate) {
	t.Helper()
	id, key := contract.NewServerID(), newKey(t)
	c, err := a.IssueAgent(id, request(t, key), now)
	if err != nil {
		t.Fatal(err)
	}
	return id, tls.Certificate{Certificate: [][]byte{c.DER}, PrivateKey: key}
}

func TestOpen(t *testing.T) {
	t.Run("a second start finds the same keys", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "pki")
		a, b := open(t, dir), open(t, dir)
		if a.Pin() != b.Pin() || !bytes.Equal(a.Roots()[1], b.Roots()[1]) || !a.Signer().Equal(b.Signer()) {
			t.Error("the keys changed")
		}
	})
	t.Run("there are two different roots, and the pin is the current one's key", func(t *testing.T) {
		a := open(t, t.TempDir())
		roots := a.Roots()
		if len(roots) != 2 || bytes.Equal(roots[0], roots[1]) {
			t.Fatal("not two roots")
		}
		current, err := x509.ParseCertificate(roots[0])
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(current.RawSubjectPublicKeyInfo)
		if a.Pin() != hex.EncodeToString(sum[:]) {
			t.Error("the pin is another key's")
		}
	})
	for _, file := range []string{rootsFile, signerFile} {
		t.Run("refuses "+file+" when others can read it", func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir)
			path := filepath.Join(dir, file)
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
				t.Fatalf("made with mode %v, %v", fi.Mode(), err)
			}
			for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
				if err := os.Chmod(path, mode); err != nil {
					t.Fatal(err)
				}
				if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "open to others") {
					t.Errorf("mode %v: %v", mode, err)
				}
			}
		})
		t.Run("refuses an empty, cut or foreign "+file, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir)
			path := filepath.Join(dir, file)
			good, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range [][]byte{nil, good[:len(good)/2], []byte("key")} {
				if err := os.WriteFile(path, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := Open(dir); err == nil {
					t.Errorf("opened with %d of %d bytes", len(bad), len(good))
				}
			}
		})
		t.Run("refuses a link in place of "+file, func(t *testing.T) {
			dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "x")
			open(t, dir)
			path := filepath.Join(dir, file)
			if err := os.Rename(path, elsewhere); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(elsewhere, path); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil {
				t.Error("followed")
			}
		})
	}
}

func TestRotate(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	now := time.Now()
	_, old := client(t, a, now)
	before := a.Roots()
	if err := a.Rotate(now); err != nil {
		t.Fatal(err)
	}
	t.Run("the next root becomes the current one and a new next is made", func(t *testing.T) {
		after := a.Roots()
		if !bytes.Equal(after[0], before[1]) || bytes.Equal(after[1], before[0]) || bytes.Equal(after[1], before[1]) {
			t.Error("not so")
		}
		if b := open(t, dir); b.Pin() != a.Pin() || !bytes.Equal(b.Roots()[1], after[1]) {
			t.Error("a restart forgot it")
		}
	})
	t.Run("certificates of the former root stay good until they end, in a restarted process too", func(t *testing.T) {
		cert, err := x509.ParseCertificate(old.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []*Authority{a, open(t, dir)} {
			if _, err := a.VerifyAgent(cert, now); err != nil {
				t.Error(err)
			}
		}
		if _, err := a.VerifyAgent(cert, now.Add(AgentLife+time.Second)); err == nil {
			t.Error("good for ever")
		}
	})
	t.Run("an agent that knows only the former two roots still trusts the listener", func(t *testing.T) {
		l, err := NewListener(a, now)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		for _, der := range before {
			root, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			pool.AddCert(root)
		}
		cert, err := l.at(now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: LinkName, CurrentTime: now}); err != nil {
			t.Error(err)
		}
	})
	t.Run("the key of the former root is gone", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(dir, rootsFile))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "BEGIN PRIVATE KEY"); n != 2 {
			t.Errorf("%d keys on disk", n)
		}
	})
	t.Run("twice within 30 days is refused", func(t *testing.T) {
		pin := a.Pin()
		if err := a.Rotate(now.Add(29 * 24 * time.Hour)); err == nil || a.Pin() != pin {
			t.Errorf("rotated: %v", err)
		}
		if err := a.Rotate(now.Add(31 * 24 * time.Hour)); err != nil {
			t.Error(err)
		}
	})
}

func TestListenerRenewsItself(t *testing.T) {
	a := open(t, t.TempDir())
	now := time.Now()
	l, err := NewListener(a, now)
	if err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) *tls.Certificate {
		c, err := l.at(now.Add(d))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := at(0)
	if at(4*24*time.Hour) != first {
		t.Error("renewed far too early")
	}
	second := at(5 * 24 * time.Hour)
	if second == first {
		t.Error("not renewed with a third of its life left")
	}
	if err := a.Rotate(now); err != nil {
		t.Fatal(err)
	}
	if third := at(5 * 24 * time.Hour); third == second || !bytes.Equal(third.Certificate[1], a.Roots()[0]) {
		t.Error("still by the former root after a rotation")
	}
}

func TestParseRequest(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"RSA": rsaKey, "P-384": p384, "Ed25519": ed} {
		t.Run("refuses a key of type "+name, func(t *testing.T) {
			der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := ParseRequest(der); err == nil {
				t.Error("accepted")
			}
		})
	}
	t.Run("refuses a request whose sender does not hold the key", func(t *testing.T) {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		der[len(der)-3] ^= 1 // in the signature
		if _, _, err := ParseRequest(der); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("names in a request are ignored", func(t *testing.T) {
		a, key := open(t, t.TempDir()), newKey(t)
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
			URIs:     []*url.URL{agentURI(contract.NewServerID().String())},
			DNSNames: []string{LinkName},
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		csr, _, err := ParseRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		id := contract.NewServerID()
		c, err := a.IssueAgent(id, csr, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(c.DER)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := a.VerifyAgent(cert, time.Now()); err != nil || p.Server != id.String() || p.Serial != c.Serial || !bytes.Equal(p.KeyHash, c.KeyHash) {
			t.Errorf("got %+v, %v", p, err)
		}
	})
}

// TestHandshake is case E19: who gets through the agents' door.
func TestHandshake(t *testing.T) {
	a := open(t, t.TempDir())
	foreign := open(t, t.TempDir())
	l, err := NewListener(a, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	// with signs any template by the real root, as a bug elsewhere might.
	with := func(change func(*x509.Certificate)) tls.Certificate {
		key := newKey(t)
		template := &x509.Certificate{
			NotBefore:   time.Now().Add(-time.Hour),
			NotAfter:    time.Now().Add(time.Hour),
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			URIs:        []*url.URL{agentURI(contract.NewServerID().String())},
		}
		change(template)
		cert, _, err := a.sign(template, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	}
	_, good := client(t, a, time.Now())
	_, expired := client(t, a, time.Now().Add(-8*24*time.Hour))
	_, early := client(t, a, time.Now().Add(2*time.Hour))
	_, other := client(t, foreign, time.Now())
	listener, err := l.at(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for _, der := range a.Roots() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		pool.AddCert(root)
	}
	cases := []struct {
		name   string
		change func(*tls.Config)
		passes bool
	}{
		{"an agent's certificate", func(c *tls.Config) { c.Certificates = []tls.Certificate{good} }, true},
		{"no certificate, for enrolment", func(*tls.Config) {}, true},
		{"an expired certificate", func(c *tls.Config) { c.Certificates = []tls.Certificate{expired} }, false},
		{"a certificate of the future", func(c *tls.Config) { c.Certificates = []tls.Certificate{early} }, false},
		{"another CA's certificate", func(c *tls.Config) { c.Certificates = []tls.Certificate{other} }, false},
		{"the listener's own certificate as a client's", func(c *tls.Config) { c.Certificates = []tls.Certificate{*listener} }, false},
		{"a certificate for clients and servers", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{with(func(x *x509.Certificate) { x.ExtKeyUsage = append(x.ExtKeyUsage, x509.ExtKeyUsageServerAuth) })}
		}, false},
		{"two agents in one certificate", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{with(func(x *x509.Certificate) { x.URIs = append(x.URIs, agentURI(contract.NewServerID().String())) })}
		}, false},
		{"a DNS name beside the agent", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{with(func(x *x509.Certificate) { x.DNSNames = []string{"a.example"} })}
		}, false},
		{"no agent in the certificate", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{with(func(x *x509.Certificate) { x.URIs = nil })}
		}, false},
		{"another scheme", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{with(func(x *x509.Certificate) { x.URIs[0].Scheme = "https" })}
		}, false},
		{"another trust domain", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{with(func(x *x509.Certificate) { x.URIs[0].Host = "evil" })}
		}, false},
		{"a query behind the name", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{with(func(x *x509.Certificate) { x.URIs[0].RawQuery = "a=b" })}
		}, false},
		{"a name that is no UUID", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{with(func(x *x509.Certificate) { x.URIs[0].Path = "/server/../server/x" })}
		}, false},
		{"a CA as a client", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{with(func(x *x509.Certificate) { x.IsCA, x.BasicConstraintsValid = true, true })}
		}, false},
		{"TLS 1.2", func(c *tls.Config) { c.Certificates, c.MaxVersion = []tls.Certificate{good}, tls.VersionTLS12 }, false},
		{"TLS 1.1", func(c *tls.Config) {
			c.Certificates, c.MinVersion, c.MaxVersion = []tls.Certificate{good}, tls.VersionTLS10, tls.VersionTLS11
		}, false},
		{"HTTP/1.1", func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, false},
		{"no protocol at all", func(c *tls.Config) { c.NextProtos = nil }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			config := &tls.Config{RootCAs: pool, ServerName: LinkName, NextProtos: []string{"h2"}}
			c.change(config)
			err := handshake(t, l.Config(), config)
			if (err == nil) != c.passes {
				t.Errorf("the door said %v", err)
			}
		})
	}
	t.Run("a client of another CA does not trust the listener", func(t *testing.T) {
		if err := handshake(t, l.Config(), &tls.Config{RootCAs: x509.NewCertPool(), ServerName: LinkName, NextProtos: []string{"h2"}}); err == nil {
			t.Error("trusted")
		}
	})
}

// handshake gives the server's error, for only the server's word counts.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	result := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			result <- err
			return
		}
		defer conn.Close()
		result <- tls.Server(conn, server).HandshakeContext(t.Context())
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, client)
	if err := conn.HandshakeContext(t.Context()); err == nil {
		_, _ = conn.Read(make([]byte, 1)) // TLS 1.3 clients learn of a refusal only when they read
	}
	return <-result
}

func TestVerifyExpired(t *testing.T) {
	a := open(t, t.TempDir())
	now := time.Now()
	_, old := client(t, a, now.Add(-AgentLife-time.Minute))
	_, fresh := client(t, a, now)
	_, foreign := client(t, open(t, t.TempDir()), now.Add(-AgentLife-time.Minute))
	if _, _, err := a.VerifyExpired(old.Certificate[0], now); err != nil {
		t.Error(err)
	}
	for name, der := range map[string][]byte{"valid": fresh.Certificate[0], "another CA's": foreign.Certificate[0], "garbage": []byte("x")} {
		if _, _, err := a.VerifyExpired(der, now); err == nil {
			t.Errorf("a certificate that is %s passed", name)
		}
	}
}

func TestRotateSigner(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	first := a.Signer()
	if a.FormerSigner() != nil {
		t.Error("a new authority has a former signer")
	}
	if err := a.ForgetFormer(); err != nil {
		t.Error(err)
	}
	rotate := func() {
		t.Helper()
		if err := a.RotateSigner(); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(filepath.Join(dir, signerFile)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Fatalf("written with mode %v, %v", fi.Mode(), err)
		}
	}
	rotate()
	second := a.Signer()
	if second.Equal(first) || !a.FormerSigner().Equal(first) {
		t.Error("the signer is not a new one, or the one before is lost")
	}
	if keys := a.SignerKeys(); len(keys) != 1 || !second.Public().(ed25519.PublicKey).Equal(ed25519.PublicKey(keys[0])) {
		t.Errorf("agents are told of %d keys", len(keys))
	}
	rotate()
	if !a.FormerSigner().Equal(first) {
		t.Error("what waits was sealed by the first, and only the second is remembered")
	}
	a = open(t, dir)
	if a.Signer().Equal(second) || !a.FormerSigner().Equal(first) {
		t.Error("a start finds other keys")
	}
	if err := a.ForgetFormer(); err != nil {
		t.Fatal(err)
	}
	if b := open(t, dir); b.FormerSigner() != nil || !b.Signer().Equal(a.Signer()) {
		t.Error("the former signer is not forgotten, or the present one is")
	}
}
