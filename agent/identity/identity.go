// Package identity keeps who the agent is: its key, its certificate, whom it
// trusts, and the orders' signers. It makes keys and requests and stores what
// the control plane answers, so that a crash at any point loses nothing:
//
//	(nothing) --Begin--> enrolling.key --Enrolled--> current.pem
//
//	current.pem --NextKey--> + next.pem (key) --Renewed--> + next.pem (key, certificate) --Promote--> current.pem
//	                                                              |
//	                                                              +--DropNext: refused--> current.pem
//
// The next identity is used as soon as it has a certificate; the current one
// stays until the next has worked, for the control plane may have forgotten.
// Every file is replaced as a whole and synced.
//
// It talks to nobody: the calls are in package link.
package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// ServerName is what the control plane's certificate on the agents' door must
// be valid for, whatever address it is reached by.
const ServerName = "link.chom.internal"

const (
	maxRoots   = 8 // two are in use; the rest is room for rotation
	maxSigners = 8
)

// Identity is who the agent is, and whom it trusts.
type Identity struct {
	Server      contract.ServerID
	Key         *ecdsa.PrivateKey
	Certificate *x509.Certificate
	Trust
}

// Trust is whom the agent believes.
type Trust struct {
	Roots   []*x509.Certificate // of the control plane's door and of agents
	Signers []ed25519.PublicKey // of orders
}

// ParseTrust reads roots and signers as they travel. Neither may be empty: an
// agent that trusts nobody could never be told whom to trust.
func ParseTrust(roots, signers [][]byte) (Trust, error) {
	var t Trust
	if len(roots) == 0 || len(roots) > maxRoots || len(signers) == 0 || len(signers) > maxSigners {
		return t, fmt.Errorf("%d roots and %d signers were sent, 1 to %d and 1 to %d can be",
			len(roots), len(signers), maxRoots, maxSigners)
	}
	for _, der := range roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return t, fmt.Errorf("parse root: %w", err)
		}
		if !root.IsCA {
			return t, errors.New("a root is no certificate authority")
		}
		t.Roots = append(t.Roots, root)
	}
	for _, key := range signers {
		if len(key) != ed25519.PublicKeySize {
			return t, fmt.Errorf("a signer's key has %d bytes", len(key))
		}
		t.Signers = append(t.Signers, key)
	}
	return t, nil
}

// Same reports whether two agree to the byte.
func (t Trust) Same(o Trust) bool {
	if len(t.Roots) != len(o.Roots) || len(t.Signers) != len(o.Signers) {
		return false
	}
	for i := range t.Roots {
		if !t.Roots[i].Equal(o.Roots[i]) {
			return false
		}
	}
	for i := range t.Signers {
		if !bytes.Equal(t.Signers[i], o.Signers[i]) {
			return false
		}
	}
	return true
}

// Pool is the roots in the form that TLS wants.
func (t Trust) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, root := range t.Roots {
		pool.AddCert(root)
	}
	return pool
}

// parse joins an answer of the control plane with the key it was asked for.
func parse(sent *linkv1.Identity, key *ecdsa.PrivateKey) (*Identity, error) {
	id := &Identity{Key: key}
	var err error
	if id.Server, err = contract.ParseServerID(sent.GetServerId()); err != nil {
		return nil, err
	}
	if id.Certificate, err = x509.ParseCertificate(sent.GetCertificate()); err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	if id.Trust, err = ParseTrust(sent.GetRoots(), sent.GetSignerKeys()); err != nil {
		return nil, err
	}
	return id, id.check()
}

// check finds what could never work. Time is left out: the host's clock may be
// wrong, and the control plane decides what has expired.
func (id *Identity) check() error {
	if !id.Key.PublicKey.Equal(id.Certificate.PublicKey) {
		return errors.New("the certificate is for another key")
	}
	_, err := id.Certificate.Verify(x509.VerifyOptions{
		Roots:       id.Pool(),
		CurrentTime: id.Certificate.NotBefore.Add(time.Second),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("the certificate is not signed by the roots it came with: %w", err)
	}
	return nil
}

// TLS is how the agent speaks as this identity. Now gives the time by which
// certificates are judged.
func (id *Identity) TLS(now func() time.Time) *tls.Config {
	cfg := id.Anonymous(now)
	cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{id.Certificate.Raw}, PrivateKey: id.Key, Leaf: id.Certificate}}
	return cfg
}

// Anonymous is TLS without a client certificate, for Recover.
func (id *Identity) Anonymous(now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: ServerName,
		RootCAs:    id.Pool(),
		Time:       now,
	}
}

// NewKey draws an agent's key.
func NewKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// Request is the PKCS #10 request for a certificate over the key, in DER. It
// names nobody: the control plane knows who asks.
func Request(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "chom-agent"},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}

// ProveRecovery signs a request with the former key, for RecoverRequest.
func ProveRecovery(former *ecdsa.PrivateKey, csr []byte) ([]byte, error) {
	digest := contract.RecoverDigest(csr)
	return ecdsa.SignASN1(rand.Reader, former, digest[:])
}
