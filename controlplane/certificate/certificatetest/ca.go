// Package certificatetest issues certificates for tests, by a CA that lives as long as the test.
package certificatetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// CA issues through one between itself and the leaves, as those of the public do.
type CA struct {
	Root, Between *x509.Certificate
	betweenKey    crypto.Signer
}

// New makes one.
func New(t testing.TB) *CA {
	t.Helper()
	rootKey, betweenKey := Key(t), Key(t)
	ca := &CA{betweenKey: betweenKey}
	ca.Root = Sign(t, authority("Test Root"), nil, rootKey, rootKey)
	ca.Between = Sign(t, authority("Test Between"), ca.Root, betweenKey, rootKey)
	return ca
}

func authority(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

// Key makes a key of the common kind.
func Key(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Leaf describes a certificate for names that is valid for 90 days, from an hour ago on.
func Leaf(names ...string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
}

// Sign makes a certificate of a template for a key, signed with a parent's; by itself where there is none.
func Sign(t testing.TB, template, parent *x509.Certificate, key, by crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Issue signs a leaf for a key.
func (ca *CA) Issue(t testing.TB, leaf *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	return Sign(t, leaf, ca.Between, key, ca.betweenKey)
}

// Files are what a CA's customer gets: the chain without its root, and the key (PKCS #8), both in PEM.
func (ca *CA) Files(t testing.TB, leaf *x509.Certificate) (chain, key string) {
	t.Helper()
	own := Key(t)
	return PEM(ca.Issue(t, leaf, own), ca.Between), KeyPEM(t, own)
}

// PEM writes certificates one after the other.
func PEM(chain ...*x509.Certificate) string {
	var text []byte
	for _, one := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Raw})...)
	}
	return string(text)
}

// KeyPEM writes a key as PKCS #8.
func KeyPEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
