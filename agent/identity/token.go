package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Token is a join token: chom1.<id>.<secret>.<pin>. It prints as its id alone.
type Token struct {
	text string
	ID   string
	pin  [sha256.Size]byte // of the root's public key
}

const maxToken = 256 // limit of chom.link.v1.EnrollRequest

// ParseToken reads a token, white space around it ignored. Errors never repeat it.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	parts := strings.Split(s, ".")
	if len(s) > maxToken || len(parts) != 4 || parts[0] != "chom1" || parts[1] == "" || parts[2] == "" {
		return Token{}, errors.New("this is not a join token: it must look like chom1.<id>.<secret>.<pin>")
	}
	pin, err := hex.DecodeString(parts[3])
	if err != nil {
		pin, err = base64.RawURLEncoding.DecodeString(parts[3])
	}
	if err != nil || len(pin) != sha256.Size {
		return Token{}, errors.New("this is not a join token: its last part must be a SHA-256")
	}
	return Token{text: s, ID: parts[1], pin: [sha256.Size]byte(pin)}, nil
}

// ErrOtherServer says that who answered is not the token's control plane.
// Asking again does not change that.
var ErrOtherServer = errors.New("the server is not the one that the join token names: its certificate authority has another key")

// Secret is the whole token, for the one call that needs it.
func (t Token) Secret() string { return t.text }

// String gives the token's id.
func (t Token) String() string { return t.ID }

// TLS is how the first contact is made: nothing is known but the pin, so the
// chain that the server shows must hold a root with that public key, and lead
// from it to a certificate for ServerName.
func (t Token) TLS(now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: ServerName,
		// The usual check needs roots beforehand. VerifyConnection below
		// takes its place, and is called on every handshake.
		InsecureSkipVerify: true,
		VerifyConnection:   func(s tls.ConnectionState) error { return t.verify(s.PeerCertificates, now()) },
	}
}

func (t Token) verify(chain []*x509.Certificate, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("the server showed no certificate")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	pinned := false
	for _, c := range chain {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		if c.IsCA && bytes.Equal(sum[:], t.pin[:]) {
			roots.AddCert(c)
			pinned = true
			continue
		}
		between.AddCert(c)
	}
	if !pinned {
		return ErrOtherServer
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		DNSName: ServerName, Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("%w; if this host's clock is wrong (it shows %s), set it", err, now.UTC().Format(time.RFC3339))
	}
	return err
}
