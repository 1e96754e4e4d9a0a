package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"chom.dev/controlplane/keyfile"
	"chom.dev/proto/contract"
)

const (
	platformFile = "platform.pem"
	// previewLife is short enough for a host's key to be worth little once the site is gone; hosts renew at two thirds of it.
	previewLife = 90 * 24 * time.Hour
)

// Platform signs the preview names of sites, where the operator has no certificate for all of them. Browsers do not know it;
// whoever wants to have them trust it risks little, since it can sign for nothing but what is below the preview domain
// (RFC 5280, section 4.2.1.10). It has nothing to do with the roots that agents trust.
type Platform struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// OpenPlatform reads it from a directory, or makes it there for names below a domain. For another domain than before it makes
// another one: hosts then ask for new certificates as theirs end.
func OpenPlatform(dir, below string, now time.Time) (*Platform, error) {
	path := filepath.Join(dir, platformFile)
	text, err := keyfile.Read(path)
	if err == nil {
		p, err := parsePlatform(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", platformFile, err)
		}
		if len(p.cert.PermittedDNSDomains) == 1 && p.cert.PermittedDNSDomains[0] == below && now.Add(2*previewLife).Before(p.cert.NotAfter) {
			return p, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	p, err := newPlatform(below, now)
	if err != nil {
		return nil, fmt.Errorf("make the platform's CA: %w", err)
	}
	key, err := keyBlock(p.key, "")
	if err != nil {
		return nil, err
	}
	return p, keyfile.Write(path, append(p.Roots(), pem.EncodeToMemory(key)...))
}

func newPlatform(below string, now time.Time) (*Platform, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:                newSerial(),
		Subject:                     pkix.Name{CommonName: "CHOM previews below " + below},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(rootLife),
		KeyUsage:                    x509.KeyUsageCertSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{below},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Platform{cert, key}, err
}

func parsePlatform(text []byte) (*Platform, error) {
	first, rest := pem.Decode(text)
	second, _ := pem.Decode(rest)
	if first == nil || second == nil {
		return nil, errors.New("certificate or key is missing")
	}
	cert, err := x509.ParseCertificate(first.Bytes)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(second.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the key is not the certificate's")
	}
	return &Platform{cert, key}, nil
}

// Roots is what whoever trusts it needs, in PEM.
func (p *Platform) Roots() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})
}

// Issue certifies that the key of a request (ParseRequest) is of a name, and gives the chain in PEM. Everything else in the
// request is ignored.
func (p *Platform) Issue(csr *x509.CertificateRequest, name contract.Domain, now time.Time) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: "CHOM preview"}, // a name may be longer than the 64 characters that fit here
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(previewLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{name.String()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, csr.PublicKey, p.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
