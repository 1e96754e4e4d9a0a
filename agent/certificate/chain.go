package certificate

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chom.dev/agent/task"
	"chom.dev/proto/contract"
)

// source is where a certificate comes from.
type source string

const (
	acmeCA   source = "acme"
	uploaded source = "uploaded"
	platform source = "platform"
)

// origin is what is kept with a certificate, in the same file: the two can't
// get out of step.
type origin struct {
	source   source
	issuer   string    // of acmeCA: the name of the CA
	account  string    // of acmeCA: the account's URL
	obtained time.Time // when it was stored
}

// bundle is a key and the chain that belongs to it, the leaf first.
type bundle struct {
	origin
	key   crypto.Signer
	chain []*x509.Certificate
}

func (b *bundle) leaf() *x509.Certificate { return b.chain[0] }

// Bounds of what is read: a chain of a public CA takes 6 KB.
const (
	maxBundle = 256 << 10
	maxChain  = 10
)

const (
	blockKey  = "PRIVATE KEY"
	blockCert = "CERTIFICATE"
)

// parse reads keys and certificates in PEM, in one text or two, and checks that
// they belong together. It trusts nobody: who signed it is the caller's to ask.
func parse(texts ...[]byte) (*bundle, error) {
	b := new(bundle)
	for _, text := range texts {
		if len(text) > maxBundle {
			return nil, errors.New("it is too large")
		}
		b.origin.parse(text)
		for {
			var block *pem.Block
			if block, text = pem.Decode(text); block == nil {
				break
			}
			if err := b.add(block); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case b.key == nil:
		return nil, errors.New("it holds no key")
	case len(b.chain) == 0:
		return nil, errors.New("it holds no certificate")
	}
	return b, b.linked()
}

func (b *bundle) add(block *pem.Block) error {
	switch {
	case block.Type == blockCert:
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("a certificate cannot be read: %w", err)
		}
		if len(b.chain) == maxChain {
			return fmt.Errorf("it holds more than %d certificates", maxChain)
		}
		b.chain = append(b.chain, cert)
	case strings.HasSuffix(block.Type, blockKey):
		if b.key != nil {
			return errors.New("it holds two keys")
		}
		var err error
		b.key, err = parseKey(block.Bytes)
		return err
	}
	return nil // parameters of curves and the like
}

// parseKey reads the three forms in which keys are around.
func parseKey(der []byte) (crypto.Signer, error) {
	var parsed any
	var err error
	if parsed, err = x509.ParsePKCS8PrivateKey(der); err != nil {
		if parsed, err = x509.ParseECPrivateKey(der); err != nil {
			parsed, err = x509.ParsePKCS1PrivateKey(der)
		}
	}
	signer, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("the key cannot be read") // the error would quote it
	}
	return signer, nil
}

// linked checks that the key is the leaf's, each certificate signed the one
// before it, and a root at the end itself.
func (b *bundle) linked() error {
	public, ok := b.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(b.leaf().PublicKey) {
		return errors.New("the certificate is for another key")
	}
	for i, parent := range b.chain[1:] {
		if err := b.chain[i].CheckSignatureFrom(parent); err != nil {
			return fmt.Errorf("certificate %d of the chain was not signed by the next: %w", i+1, err)
		}
	}
	// Nothing follows the last one: where it calls itself a root, it has to be one.
	last := b.chain[len(b.chain)-1]
	if !bytes.Equal(last.RawIssuer, last.RawSubject) {
		return nil
	}
	switch last.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return fmt.Errorf("the root at the end of the chain is signed with %s, which can be forged; leave it out", last.SignatureAlgorithm)
	}
	if err := last.CheckSignature(last.SignatureAlgorithm, last.RawTBSCertificate, last.Signature); err != nil {
		return fmt.Errorf("the certificate at the end of the chain names itself as its issuer and did not sign itself: %w", err)
	}
	return nil
}

// covers checks that the leaf is for a name.
func (b *bundle) covers(name contract.Domain) error {
	for _, text := range b.leaf().DNSNames {
		if d, err := contract.ParsePattern(text); err == nil && d.Covers(name) {
			return nil
		}
	}
	return fmt.Errorf("the certificate is not for %s but for %s", name, task.Line(strings.Join(b.leaf().DNSNames, ", "), 256))
}

// only checks that the leaf is for one name and nothing else, and valid now: a
// CA's answer has to be what was ordered.
func (b *bundle) only(name contract.Domain, now time.Time) error {
	leaf := b.leaf()
	if len(leaf.DNSNames) != 1 || len(leaf.IPAddresses)+len(leaf.EmailAddresses)+len(leaf.URIs) > 0 || !strings.EqualFold(leaf.DNSNames[0], name.String()) {
		return fmt.Errorf("the certificate is not for %s alone", name)
	}
	if now.Before(leaf.NotBefore) || !now.Before(leaf.NotAfter) {
		return fmt.Errorf("the certificate is valid from %s to %s, which is not now", stamp(leaf.NotBefore), stamp(leaf.NotAfter))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// text gives the bundle as its file: origin, key, chain. What stands before the
// first block is read by nobody else.
func (b *bundle) text() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(b.key)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, line := range [][2]string{
		{"Source", string(b.source)},
		{"Issuer", b.issuer},
		{"Account", b.account},
		{"Obtained", b.obtained.UTC().Format(time.RFC3339)},
	} {
		fmt.Fprintf(&out, "%s: %s\n", line[0], task.Line(line[1], 512))
	}
	blocks := []*pem.Block{{Type: blockKey, Bytes: der}}
	for _, cert := range b.chain {
		blocks = append(blocks, &pem.Block{Type: blockCert, Bytes: cert.Raw})
	}
	for _, block := range blocks {
		if err := pem.Encode(&out, block); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// parse reads what text wrote before the first block.
func (o *origin) parse(text []byte) {
	head, _, _ := bytes.Cut(text, []byte("-----BEGIN "))
	for line := range strings.Lines(string(head)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "Source":
			if s := source(value); slices.Contains([]source{acmeCA, uploaded, platform}, s) {
				o.source = s
			}
		case "Issuer":
			o.issuer = value
		case "Account":
			o.account = value
		case "Obtained":
			o.obtained, _ = time.Parse(time.RFC3339, value) // zero when somebody changed it: nothing hangs on it but a rest
		}
	}
}

// newKey makes the key of a certificate.
func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// request asks for a certificate for one name over a key.
func request(name contract.Domain, k crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name.String()}}, k)
}

func fingerprint(c *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(c.Raw) }
