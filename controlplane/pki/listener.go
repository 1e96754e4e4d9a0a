package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Listener holds the certificate that the agents' door shows. It lives in
// memory only: every start makes a new one, and it renews itself when a third
// of its life is left or the roots were rotated.
type Listener struct {
	authority *Authority
	mu        sync.Mutex
	cert      *tls.Certificate
	renewAt   time.Time
	root      *x509.Certificate
}

// listenerLife is as long as an agent's; the process renews in time.
const listenerLife = 7 * 24 * time.Hour

// NewListener makes the first certificate.
func NewListener(a *Authority, now time.Time) (*Listener, error) {
	l := &Listener{authority: a}
	if _, err := l.at(now); err != nil {
		return nil, err
	}
	return l, nil
}

// Config is for the agents' door: TLS 1.3, HTTP/2, and a client certificate
// that is either absent (for the few calls that need none) or an agent's.
// Tickets are off: a resumed session would skip nothing we want to skip.
func (l *Listener) Config() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		ClientAuth:             tls.RequestClientCert, // verified below, against roots that may rotate
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return l.at(time.Now())
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.NegotiatedProtocol != "h2" {
				return errors.New("the link speaks HTTP/2 only")
			}
			if len(s.PeerCertificates) == 0 {
				return nil
			}
			_, err := l.authority.VerifyAgent(s.PeerCertificates[0], time.Now())
			return err
		},
	}
}

// at gives the certificate for a moment. The chain holds the root, so that an
// agent that knows nothing but the pin of a join token can check it.
func (l *Listener) at(now time.Time) (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.authority.mu.RLock()
	current := l.authority.roots.current.cert
	l.authority.mu.RUnlock()
	if l.cert != nil && now.Before(l.renewAt) && current == l.root {
		return l.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make listener certificate: %w", err)
	}
	cert, by, err := l.authority.sign(&x509.Certificate{
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(listenerLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{LinkName},
	}, key.Public())
	if err != nil {
		return nil, fmt.Errorf("make listener certificate: %w", err)
	}
	l.cert = &tls.Certificate{Certificate: [][]byte{cert.Raw, by.Raw}, PrivateKey: key, Leaf: cert}
	l.renewAt = now.Add(listenerLife * 2 / 3)
	l.root = by
	return l.cert, nil
}
