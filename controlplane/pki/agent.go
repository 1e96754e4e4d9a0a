package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"time"

	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Peer is what a valid client certificate says of its holder. It says nothing
// of whether the server is still wanted: that is in the database.
type Peer struct {
	Server  string // the server's id
	Serial  string // the certificate's serial in hexadecimal
	KeyHash []byte // SHA-256 of its public key
	Expires time.Time
}

// Certificate is an issued client certificate.
type Certificate struct {
	DER     []byte
	Serial  string
	KeyHash []byte
	Expires time.Time
}

// agentURI is the name of an agent in its certificate.
func agentURI(server string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: "chom", Path: "/server/" + server}
}

// ParseRequest checks a PKCS #10 request: a valid signature, so that its sender
// holds the key, over an ECDSA P-256 key. Everything else in it is ignored. It
// gives the key's hash.
func ParseRequest(der []byte) (*x509.CertificateRequest, []byte, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, nil, fault.Invalid("csr", "must be a PKCS #10 request in DER")
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, nil, fault.Invalid("csr", "must be for an ECDSA P-256 key")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, nil, fault.Invalid("csr", "must be signed by its own key")
	}
	return csr, keyHash(csr.RawSubjectPublicKeyInfo), nil
}

// IssueAgent certifies that the key of the request is the agent of server.
func (a *Authority) IssueAgent(server contract.ServerID, csr *x509.CertificateRequest, now time.Time) (Certificate, error) {
	cert, _, err := a.sign(&x509.Certificate{
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(AgentLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{agentURI(server.String())},
	}, csr.PublicKey)
	if err != nil {
		return Certificate{}, fmt.Errorf("issue certificate for server %s: %w", server, err)
	}
	return Certificate{
		DER:     cert.Raw,
		Serial:  serialText(cert),
		KeyHash: keyHash(cert.RawSubjectPublicKeyInfo),
		Expires: cert.NotAfter,
	}, nil
}

// VerifyAgent checks a client certificate: by one of our roots, in time, for
// client authentication only, naming exactly one agent and nothing else.
func (a *Authority) VerifyAgent(cert *x509.Certificate, now time.Time) (Peer, error) {
	_, err := cert.Verify(x509.VerifyOptions{
		Roots:       a.pool(),
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Peer{}, fmt.Errorf("verify client certificate: %w", err)
	}
	return PeerOf(cert)
}

// VerifyExpired is VerifyAgent for a certificate whose time is over; one that
// is still valid, or not yet, is refused.
func (a *Authority) VerifyExpired(der []byte, now time.Time) (*x509.Certificate, Peer, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, Peer{}, fault.Invalid("certificate", "must be a certificate in DER")
	}
	if !now.After(cert.NotAfter) {
		return nil, Peer{}, fault.Invalid("certificate", "has not ended: renew it instead")
	}
	// Was it good on its last second?
	peer, err := a.VerifyAgent(cert, cert.NotAfter)
	return cert, peer, err
}

// PeerOf reads who an agent is from a certificate that was verified before.
func PeerOf(cert *x509.Certificate) (Peer, error) {
	if cert.IsCA || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(cert.UnknownExtKeyUsage) != 0 {
		return Peer{}, errors.New("verify client certificate: it must be for client authentication only")
	}
	if len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) != 0 {
		return Peer{}, errors.New("verify client certificate: it must name exactly one agent")
	}
	uri := cert.URIs[0]
	id, err := contract.ParseServerID(trimServer(uri))
	if err != nil || *uri != *agentURI(id.String()) {
		return Peer{}, errors.New("verify client certificate: its name is not an agent's")
	}
	return Peer{
		Server:  id.String(),
		Serial:  serialText(cert),
		KeyHash: keyHash(cert.RawSubjectPublicKeyInfo),
		Expires: cert.NotAfter,
	}, nil
}

func trimServer(u *url.URL) string {
	const prefix = "/server/"
	if len(u.Path) <= len(prefix) {
		return ""
	}
	return u.Path[len(prefix):]
}

func serialText(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

func keyHash(spki []byte) []byte {
	sum := sha256.Sum256(spki)
	return sum[:]
}
