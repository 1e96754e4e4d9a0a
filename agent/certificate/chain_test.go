package certificate

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"chom.dev/proto/contract"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func chainPEM(b *bundle) []byte {
	var out []byte
	for _, c := range b.chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: blockCert, Bytes: c.Raw})...)
	}
	return out
}

func uploads(id string, print [32]byte, names ...string) []*sitev1.UploadedCertificate {
	return []*sitev1.UploadedCertificate{{Id: id, Sha256: print[:], Domains: names}}
}

func TestParse(t *testing.T) {
	ca := newSigner(t)
	good := ca.bundle(t, acmeCA, day, "a.example.com")
	good.issuer, good.account, good.obtained = "le", "https://ca/acct/1", issued
	text, err := good.text()
	must(t, err)
	t.Run("gives back what was written", func(t *testing.T) {
		b, err := parse(text)
		must(t, err)
		if b.origin != good.origin || fingerprint(b.leaf()) != fingerprint(good.leaf()) {
			t.Errorf("got %+v", b.origin)
		}
	})
	other := ca.bundle(t, acmeCA, day, "a.example.com")
	stranger := newSigner(t)
	for what, bad := range map[string][]byte{
		"another key's":          bytes.Join([][]byte{handKey(t, other), chainPEM(good)}, nil),
		"a certificate alone":    chainPEM(good),
		"a key alone":            handKey(t, good),
		"two keys":               bytes.Join([][]byte{text, handKey(t, other)}, nil),
		"a chain that is none":   bytes.Join([][]byte{text, stranger.pem()}, nil),
		"cut in the middle":      text[:len(text)-100],
		"nothing":                nil,
		"something else":         []byte(strings.Repeat("x", 1000)),
		"more than is read":      bytes.Repeat([]byte("\n"), maxBundle+1),
		"an endless chain":       bytes.Join([][]byte{text, bytes.Repeat(ca.pem(), maxChain)}, nil),
		"a certificate of noise": bytes.Join([][]byte{text, pem.EncodeToMemory(&pem.Block{Type: blockCert, Bytes: []byte("x")})}, nil),
	} {
		t.Run("refuses "+what, func(t *testing.T) {
			if _, err := parse(bad); err == nil {
				t.Error("accepted")
			}
		})
	}
	t.Run("takes the root with it", func(t *testing.T) {
		if _, err := parse(text, ca.pem()); err != nil {
			t.Error(err)
		}
	})
}

// TestRootOfChain gives a chain an end that says that it issued itself.
func TestRootOfChain(t *testing.T) {
	ca, stranger := newSigner(t), newSigner(t)
	good := ca.bundle(t, uploaded, day, "a.example.com")
	// The CA's key and name, signed by another key of that name.
	der, err := x509.CreateCertificate(rand.Reader, ca.cert, stranger.cert, ca.key.Public(), stranger.key)
	must(t, err)
	foreign, err := x509.ParseCertificate(der)
	must(t, err)
	if !bytes.Equal(foreign.RawIssuer, foreign.RawSubject) || good.leaf().CheckSignatureFrom(foreign) != nil {
		t.Fatal("it is not what is to be refused")
	}
	old := *ca.cert
	old.SignatureAlgorithm = x509.ECDSAWithSHA1
	der, err = x509.CreateCertificate(rand.Reader, &old, &old, ca.key.Public(), ca.key)
	must(t, err)
	weak, err := x509.ParseCertificate(der)
	must(t, err)
	for what, c := range map[string]struct {
		root *x509.Certificate
		ok   bool
	}{
		"that did":          {ca.cert, true},
		"that did not":      {foreign, false},
		"that did by SHA-1": {weak, false},
	} {
		t.Run("by a certificate "+what, func(t *testing.T) {
			b := &bundle{key: good.key, chain: []*x509.Certificate{good.leaf(), c.root}}
			if err := b.linked(); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func handKey(t *testing.T, b *bundle) []byte {
	alone := &bundle{key: b.key}
	text, err := alone.text()
	must(t, err)
	return text
}

func TestOnly(t *testing.T) {
	ca := newSigner(t)
	k, err := newKey()
	must(t, err)
	name := domain(t, "a.example.com")
	for what, c := range map[string]struct {
		cert *x509.Certificate
		ok   bool
	}{
		"the name":           {ca.sign(t, k.Public(), day, nil, "a.example.com"), true},
		"another name":       {ca.sign(t, k.Public(), day, nil, "b.example.com"), false},
		"a wildcard over it": {ca.sign(t, k.Public(), day, nil, "*.example.com"), false},
		"two names":          {ca.sign(t, k.Public(), day, nil, "a.example.com", "b.example.com"), false},
		"no name":            {ca.sign(t, k.Public(), day, nil), false},
		"over":               {ca.sign(t, k.Public(), -time.Second, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-day) }, "a.example.com"), false},
		"not yet":            {ca.sign(t, k.Public(), day, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(time.Hour) }, "a.example.com"), false},
		"an address as well": {ca.sign(t, k.Public(), day, func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com"} }, "a.example.com"), false},
	} {
		t.Run(what, func(t *testing.T) {
			b := &bundle{key: k, chain: []*x509.Certificate{c.cert}}
			if err := b.only(name, time.Now()); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPaths(t *testing.T) {
	ca, w := newSigner(t), newWorld(t, nil)
	s := w.have(1, nil, "a.example.com", "*.example.com")
	names := []contract.Domain{domain(t, "a.example.com"), domain(t, "*.example.com")}
	stapled := ca.bundle(t, acmeCA, day, "*.example.com")
	stapled.chain[0] = ca.sign(t, stapled.key.Public(), day, func(c *x509.Certificate) { c.OCSPServer = []string{"http://ocsp.invalid"} }, "*.example.com")
	w.put(s, "*.example.com", stapled)
	over := ca.bundle(t, uploaded, day, "a.example.com")
	over.chain[0] = ca.sign(t, over.key.Public(), -time.Second, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-day) }, "a.example.com")
	w.put(s, "a.example.com", over)
	got := w.Paths(s.Handle, names)
	if got[names[0]].Path != w.cfg.Dir+"/"+s.Handle.String()+"/a.example.com.pem" || got[names[0]].OCSP || !got[names[0]].Trusted {
		t.Errorf("an expired one: %+v", got[names[0]])
	}
	if got[names[1]].Path != w.cfg.Dir+"/"+s.Handle.String()+"/_.example.com.pem" || !got[names[1]].OCSP {
		t.Errorf("a wildcard: %+v", got[names[1]])
	}
	for _, path := range []string{got[names[0]].Path, w.files.json(key{s.Handle, names[0]})} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
	for _, dir := range []string{w.cfg.Dir, w.files.site(s.Handle)} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, st.Mode(), err)
		}
	}
	text, err := os.ReadFile(got[names[0]].Path)
	must(t, err)
	for what, damaged := range map[string][]byte{
		"cut":                  text[:len(text)/2],
		"another name's":       must2(os.ReadFile(got[names[1]].Path))[:10],
		"of nobody knows whom": text[bytes.Index(text, []byte("-----BEGIN")):],
	} {
		must(t, os.WriteFile(got[names[0]].Path, damaged, 0o600))
		if left := w.Paths(s.Handle, names); len(left) != 1 {
			t.Errorf("a file that is %s is served: %v", what, left)
		}
	}
	must(t, w.Remove(s.Handle))
	if _, err := os.Stat(w.files.site(s.Handle)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("keys are left after the site: %v", err)
	}
	must(t, w.Remove(s.Handle)) // again
}

// TestUnreadable has no file opened for a moment. Nothing else runs meanwhile.
func TestUnreadable(t *testing.T) {
	ca, w := newSigner(t), newWorld(t, nil)
	s := w.have(1, nil, "a.example.com")
	k := key{s.Handle, domain(t, "a.example.com")}
	old, fresh := ca.bundle(t, acmeCA, day, "a.example.com"), ca.bundle(t, acmeCA, 2*day, "a.example.com")
	blind := func() *held {
		t.Helper()
		var limit syscall.Rlimit
		must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
		none := limit
		none.Cur = 0
		must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
		h := w.held(k)
		_, err := os.Open(os.DevNull)
		must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
		if !errors.Is(err, syscall.EMFILE) {
			t.Fatalf("files can be opened: %v", err)
		}
		return h
	}
	is := func(h *held, b *bundle) bool { return h != nil && h.sha256 == fingerprint(b.leaf()) }
	w.put(s, "a.example.com", old)
	w.again(nil)
	if blind() != nil || !is(w.held(k), old) {
		t.Error("a certificate that could not be read once is taken for none")
	}
	w.put(s, "a.example.com", fresh)
	if !is(blind(), old) || !is(w.held(k), fresh) {
		t.Error("one whose next could not be read once is taken for none")
	}
	must(t, os.WriteFile(w.files.pem(k), []byte("damaged"), 0o600))
	if w.held(k) != nil {
		t.Error("a damaged one is taken for what it was")
	}
	must(t, os.Remove(w.files.pem(k)))
	w.put(s, "a.example.com", old)
	must(t, os.Remove(w.files.pem(k)))
	if w.held(k) != nil {
		t.Error("one that is gone is taken for what it was")
	}
}

func must2(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
