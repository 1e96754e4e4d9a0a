package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chom.dev/proto/contract"
)

func TestPlatform(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	p, err := OpenPlatform(dir, "preview.example.com", now)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string) (*x509.Certificate, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"evil.example"}}, key)
		if err != nil {
			t.Fatal(err)
		}
		csr, _, err := ParseRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		domain, err := contract.ParseDomain(name)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := p.Issue(csr, domain, now)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(chain)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(p.Roots())
		_, err = cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now})
		return cert, err
	}
	t.Run("certifies a preview name, and nothing that the request says besides", func(t *testing.T) {
		cert, err := issue("abcdefgh27.preview.example.com")
		if err != nil || len(cert.DNSNames) != 1 {
			t.Errorf("%v, names %v", err, cert.DNSNames)
		}
	})
	t.Run("is trusted for nothing beyond the preview domain", func(t *testing.T) {
		if _, err := issue("bank.example"); err == nil {
			t.Error("a certificate for bank.example verifies")
		}
	})
	t.Run("stays the same, and is another for another domain", func(t *testing.T) {
		again, err := OpenPlatform(dir, "preview.example.com", now)
		if err != nil || !bytes.Equal(again.Roots(), p.Roots()) {
			t.Errorf("changed, %v", err)
		}
		other, err := OpenPlatform(dir, "sslip.io", now)
		if err != nil || bytes.Equal(other.Roots(), p.Roots()) {
			t.Errorf("did not change, %v", err)
		}
	})
	t.Run("its key is its owner's", func(t *testing.T) {
		info, err := os.Stat(filepath.Join(dir, platformFile))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	})
	t.Run("damage is told", func(t *testing.T) {
		broken := t.TempDir()
		if err := os.WriteFile(filepath.Join(broken, platformFile), []byte("nothing"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenPlatform(broken, "sslip.io", now); err == nil {
			t.Error("passed")
		}
	})
}
