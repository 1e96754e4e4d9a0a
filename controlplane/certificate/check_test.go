package certificate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/certificate/certificatetest"
	"chom.dev/controlplane/fault"
)

func TestCheck(t *testing.T) {
	ca, now := certificatetest.New(t), time.Now()
	key := certificatetest.Key(t)
	leaf := ca.Issue(t, certificatetest.Leaf("example.com", "*.Example.com", "example.com"), key)
	chain, keyText := certificatetest.PEM(leaf, ca.Between), certificatetest.KeyPEM(t, key)
	rsaKey := func(bits int) *rsa.PrivateKey {
		made, err := rsa.GenerateKey(rand.Reader, bits)
		must(t, err)
		return made
	}
	rsa2048 := rsaKey(2048)
	rsaChain := certificatetest.PEM(ca.Issue(t, certificatetest.Leaf("example.com"), rsa2048))
	of := func(change func(*x509.Certificate)) string {
		template := certificatetest.Leaf("example.com")
		change(template)
		return certificatetest.PEM(ca.Issue(t, template, key), ca.Between)
	}
	pemOf := func(kind string, der []byte, err error) string {
		must(t, err)
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	sec1, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	must(t, err)

	for name, good := range map[string][2]string{
		"a leaf and the one between":    {chain, keyText},
		"with the root":                 {certificatetest.PEM(leaf, ca.Between, ca.Root), keyText},
		"the leaf alone":                {certificatetest.PEM(leaf), keyText},
		"signed by itself":              {certificatetest.PEM(certificatetest.Sign(t, certificatetest.Leaf("example.com"), nil, key, key)), keyText},
		"a key of SEC 1":                {chain, pemOf("EC PRIVATE KEY", sec1, nil)},
		"a key of RSA":                  {rsaChain, certificatetest.KeyPEM(t, rsa2048)},
		"a key of RSA, PKCS #1":         {rsaChain, pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsa2048), nil)},
		"empty lines and other endings": {"\n\n" + strings.ReplaceAll(chain, "\n", "\r\n") + "\n", "  " + keyText},
		"over in more than an hour":     {of(func(c *x509.Certificate) { c.NotAfter = now.Add(61 * time.Minute) }), keyText},
	} {
		t.Run("takes "+name, func(t *testing.T) {
			got, err := check(good[0], good[1], now)
			must(t, err)
			if pair, err := tls.X509KeyPair(got.chain, got.key); err != nil || len(pair.Certificate) == 0 || !strings.HasPrefix(string(got.key), "-----BEGIN PRIVATE KEY-----") {
				t.Errorf("what is kept cannot be served: %v", err)
			}
		})
	}
	got, err := check(chain, keyText, now)
	must(t, err)
	if joinNames(got.domains, " ") != "example.com *.example.com" || got.issuer != "CN=Test Between" || string(got.chain) != chain {
		t.Errorf("checked is %v %q", got.domains, got.issuer)
	}

	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	must(t, err)
	weak := rsaKey(1024)
	other := certificatetest.New(t)
	notCA := ca.Issue(t, certificatetest.Leaf("between.example.com"), key)
	// Go signs nothing with SHA-1: the leaf's own bytes say that it was.
	sha1 := strings.ReplaceAll(string(ca.Issue(t, certificatetest.Leaf("example.com"), key).Raw), "\x2a\x86\x48\xce\x3d\x04\x03\x02", "\x2a\x86\x48\xce\x3d\x04\x01")
	for name, bad := range map[string]struct{ chain, key, field, rule string }{
		"nothing":                         {"", keyText, "chain", "PEM and nothing else"},
		"a text":                          {"hello", keyText, "chain", "PEM and nothing else"},
		"DER":                             {string(leaf.Raw), keyText, "chain", "PEM and nothing else"},
		"a text before":                   {"subject=leaf\n" + chain, keyText, "chain", "PEM and nothing else"},
		"a text between":                  {certificatetest.PEM(leaf) + "i:Between\n" + certificatetest.PEM(ca.Between), keyText, "chain", "PEM and nothing else"},
		"a text after":                    {chain + "bye", keyText, "chain", "PEM and nothing else"},
		"a block that is cut off":         {chain[:len(chain)-30], keyText, "chain", "PEM and nothing else"},
		"a broken block before":           {"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n" + chain, keyText, "chain", "PEM and nothing else"},
		"headers":                         {strings.Replace(chain, "-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\na: b\n\n", 1), keyText, "chain", "without headers"},
		"a key among them":                {chain + keyText, keyText, "chain", "must not hold a key"},
		"another block":                   {chain + pemOf("X509 CRL", []byte("x"), nil), keyText, "chain", "block 3 is none"},
		"a block of rubbish":              {pemOf("CERTIFICATE", []byte("rubbish"), nil), keyText, "chain", "block 1 cannot be read"},
		"eleven":                          {strings.Repeat(certificatetest.PEM(ca.Root), 11), keyText, "chain", "at most 10"},
		"the leaf last":                   {certificatetest.PEM(ca.Between, leaf), keyText, "chain", "certificate 2 did not sign certificate 1"},
		"the root in the middle":          {certificatetest.PEM(leaf, ca.Root, ca.Between), keyText, "chain", "certificate 2 did not sign certificate 1"},
		"another's between":               {certificatetest.PEM(leaf, other.Between), keyText, "chain", "certificate 2 did not sign certificate 1"},
		"a signer that is no CA":          {certificatetest.PEM(certificatetest.Sign(t, certificatetest.Leaf("example.com"), notCA, key, key), notCA), keyText, "chain", "certificate 2 did not sign certificate 1"},
		"a CA's own":                      {certificatetest.PEM(ca.Between, ca.Root), keyText, "chain", "that of a CA"},
		"no use for servers":              {of(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), keyText, "chain", "serverAuth"},
		"no use at all":                   {of(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), keyText, "chain", "serverAuth"},
		"one that is over":                {of(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }), keyText, "chain", "it ended on"},
		"one that is nearly over":         {of(func(c *x509.Certificate) { c.NotAfter = now.Add(59 * time.Minute) }), keyText, "chain", "for another hour"},
		"one that has not begun":          {of(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }), keyText, "chain", "it begins on"},
		"no names":                        {of(func(c *x509.Certificate) { c.DNSNames = nil }), keyText, "chain", "at least one domain name"},
		"a name of one label":             {of(func(c *x509.Certificate) { c.DNSNames = []string{"example.com", "intranet"} }), keyText, "chain", `"intranet"`},
		"an asterisk within":              {of(func(c *x509.Certificate) { c.DNSNames = []string{"www.*.example.com"} }), keyText, "chain", "must be for domain names"},
		"an asterisk in a label":          {of(func(c *x509.Certificate) { c.DNSNames = []string{"w*.example.com"} }), keyText, "chain", "must be for domain names"},
		"RSA of 1024 bits":                {certificatetest.PEM(ca.Issue(t, certificatetest.Leaf("example.com"), weak)), certificatetest.KeyPEM(t, weak), "chain", "2048 to 8192 bits"},
		"Ed25519":                         {certificatetest.PEM(ca.Issue(t, certificatetest.Leaf("example.com"), edKey)), certificatetest.KeyPEM(t, edKey), "chain", "P-256 or P-384"},
		"P-521":                           {certificatetest.PEM(ca.Issue(t, certificatetest.Leaf("example.com"), p521)), certificatetest.KeyPEM(t, p521), "chain", "P-256 or P-384"},
		"SHA-1":                           {pemOf("CERTIFICATE", resized([]byte(sha1)), nil), keyText, "chain", "can be forged"},
		"no key":                          {chain, "", "key", "one key in PEM"},
		"two keys":                        {chain, keyText + keyText, "key", "one key in PEM"},
		"a text around the key":           {chain, "x" + keyText, "key", "one key in PEM"},
		"the chain as the key":            {chain, certificatetest.PEM(leaf), "key", "must be a private key"},
		"another's key":                   {chain, certificatetest.KeyPEM(t, certificatetest.Key(t)), "key", "belongs to another one"},
		"a key of another kind":           {chain, certificatetest.KeyPEM(t, rsa2048), "key", "belongs to another one"},
		"a weak key":                      {chain, certificatetest.KeyPEM(t, weak), "key", "2048 to 8192 bits"},
		"a key with a password":           {chain, pemOf("ENCRYPTED PRIVATE KEY", []byte("x"), nil), "key", "must not have a password"},
		"a key with a password, formerly": {chain, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "x"}, Bytes: []byte("x")})), "key", "must not have a password"},
		"a public key":                    {chain, pemOf("PUBLIC KEY", []byte("x"), nil), "key", "must be a private key"},
		"a key of rubbish":                {chain, pemOf("PRIVATE KEY", []byte("rubbish"), nil), "key", "cannot be read"},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			_, err := check(bad.chain, bad.key, now)
			var f *fault.Fault
			if !errors.As(err, &f) || f.Kind() != fault.KindInvalid || f.Field() != bad.field || !strings.Contains(f.Rule(), bad.rule) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// resized sets the lengths of a certificate whose two algorithm names became one byte shorter each.
func resized(der []byte) []byte {
	fix := func(at, by int) { // of a length in two bytes, after 0x30 0x82
		n := int(der[at])<<8 | int(der[at+1])
		der[at], der[at+1] = byte((n-by)>>8), byte(n-by)
	}
	fix(2, 2)
	fix(6, 1)
	const name = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x01"
	return []byte(strings.ReplaceAll(string(der), name, "\x30\x09\x06\x07"+name[4:]))
}

// FuzzCheck claims that nothing is taken that could not be served, whatever is uploaded.
func FuzzCheck(f *testing.F) {
	ca := certificatetest.New(f)
	key := certificatetest.Key(f)
	leaf := ca.Issue(f, certificatetest.Leaf("example.com"), key)
	chain, keyText := certificatetest.PEM(leaf, ca.Between), certificatetest.KeyPEM(f, key)
	f.Add(chain, keyText)
	f.Add(keyText, chain)
	f.Add(chain+chain, keyText+"x")
	f.Add(chain[5:], keyText[:100])
	f.Fuzz(func(t *testing.T, chain, key string) {
		good, err := check(chain, key, time.Now())
		if err != nil {
			if fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("%v", err)
			}
			return
		}
		pair, err := tls.X509KeyPair(good.chain, good.key)
		if err != nil || len(good.domains) == 0 || len(pair.Certificate) > maxChain {
			t.Errorf("taken: %v", err)
		}
		if again, err := check(string(good.chain), string(good.key), time.Now()); err != nil || fmt.Sprint(again) != fmt.Sprint(good) {
			t.Errorf("what is kept is not taken again: %v", err)
		}
		if _, ok := pair.PrivateKey.(crypto.Signer); !ok {
			t.Error("the key signs nothing")
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
