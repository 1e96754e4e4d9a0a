// Package pki is the control plane's private certificate authority and the
// signer of orders. It certifies agents for themselves and this process for the
// agents; it has nothing to do with the certificates of customers' sites.
//
// Everything lies in two files of a directory outside the database, so that
// write access to the database can't command an agent:
//
//	roots.pem   the roots: previous (certificate only), current and next (with keys)
//	signer.pem  the Ed25519 key that signs orders, and for a while the one before
//
// Both are readable by their owner only; files that others can read are
// refused. Replicas share them as copies.
//
// # Rotation of the roots
//
// There are always two roots with keys. Agents trust both, since every Hello
// and every certificate brings the whole list.
//
//	            signs new certificates   trusted by agents      trusted by the door
//	before      current                  current, next          previous, current, next
//	Rotate      next becomes current,    previous is dropped    previous is the former
//	            a new next is made       with their next Hello  current
//
// What was signed by the former current root stays valid until it ends (7 days
// for agents), because the door goes on to trust that root as previous. An agent
// that was away meets a listener certificate by a root that it knew as next. Two
// rotations while it is away would lock it out, so Rotate refuses a second one
// within 30 days: after these an agent needs an operator anyhow.
//
// # Rotation of the signer
//
// Agents are told the signer's public key in every Hello, over a link that the
// roots vouch for, and before any order. So a new key needs nothing but a restart,
// at any time and as often as one likes. What waits in the database is sealed by
// the key before, which is kept for the one start that seals it anew (package
// task, Reseal).
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// rootLife is long because replacing a root needs every agent to have been
	// online once; Rotate is for keys that may have leaked, not for the calendar.
	rootLife = 10 * 365 * 24 * time.Hour
	// AgentLife is how long an agent's certificate is valid. It bounds what a stolen certificate is worth when the database
	// that would refuse it is restored from a backup.
	AgentLife = 7 * 24 * time.Hour
	// backdate bears clocks that are behind ours.
	backdate = time.Hour
	// rotatePause is how long an agent may be away and still find its way back.
	rotatePause = 30 * 24 * time.Hour
)

// LinkName is the DNS name in the listener's certificate. It resolves nowhere:
// agents dial an address and expect this name.
const LinkName = "link.chom.internal"

// Authority is the private CA. It is safe for concurrent use.
type Authority struct {
	dir     string
	mu      sync.RWMutex
	roots   roots
	signers signers
	sealKey []byte // of rows in the database; see SealKey
}

// roots are the CA's generations; previous is nil before the first rotation.
type roots struct {
	previous, current, next *root
}

// root is one self-signed certificate and, unless it is a previous one, its key.
type root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Open reads the authority in dir, which it makes, with all keys, when there
// is none. Files that others may read are refused.
func Open(dir string) (*Authority, error) {
	a := &Authority{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	if err := a.loadRoots(); err != nil {
		return nil, fmt.Errorf("open authority %s: %w", dir, err)
	}
	if err := a.loadSigners(); err != nil {
		return nil, fmt.Errorf("open authority %s: %w", dir, err)
	}
	if err := a.loadSealKey(); err != nil {
		return nil, fmt.Errorf("open authority %s: %w", dir, err)
	}
	return a, nil
}

// Rotate makes the next root the current one and makes a new next one. See the
// package comment for its phases and why it refuses to run twice in 30 days.
func (a *Authority) Rotate(now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	// The next root is always made by the rotation before.
	if p := a.roots.previous; p != nil && now.Sub(a.roots.next.cert.NotBefore.Add(backdate)) < rotatePause {
		return fmt.Errorf("rotate roots: the last rotation is less than %d days old; agents that were away since would be locked out", int(rotatePause.Hours()/24))
	}
	next, err := newRoot(now)
	if err != nil {
		return fmt.Errorf("rotate roots: %w", err)
	}
	rotated := roots{
		previous: &root{cert: a.roots.current.cert}, // its key is of no use any more
		current:  a.roots.next,
		next:     next,
	}
	if err := rotated.save(filepath.Join(a.dir, rootsFile)); err != nil {
		return fmt.Errorf("rotate roots: %w", err)
	}
	a.roots = rotated
	return nil
}

// Pin is the hexadecimal SHA-256 of the current root's public key, the last
// part of every join token.
func (a *Authority) Pin() string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	sum := sha256.Sum256(a.roots.current.cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Roots gives the certificates that agents must trust, in DER: the current and
// the next.
func (a *Authority) Roots() [][]byte {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return [][]byte{a.roots.current.cert.Raw, a.roots.next.cert.Raw}
}

// SealKey is the key of rows that somebody with nothing but the database must
// not be able to make or change (db.SetSealKey). It stays when the signer is rotated.
func (a *Authority) SealKey() []byte { return a.sealKey }

// pool is what client certificates may be signed by.
func (a *Authority) pool() *x509.CertPool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	p := x509.NewCertPool()
	for _, r := range []*root{a.roots.previous, a.roots.current, a.roots.next} {
		if r != nil {
			p.AddCert(r.cert)
		}
	}
	return p
}

// sign makes a certificate over public by the current root, and gives that root.
func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey) (cert *x509.Certificate, by *x509.Certificate, err error) {
	a.mu.RLock()
	by, key := a.roots.current.cert, a.roots.current.key
	a.mu.RUnlock()
	if template.NotAfter.After(by.NotAfter) {
		return nil, nil, errors.New("the current root ends first: rotate the roots")
	}
	template.SerialNumber = newSerial()
	der, err := x509.CreateCertificate(rand.Reader, template, by, public, key)
	if err != nil {
		return nil, nil, err
	}
	cert, err = x509.ParseCertificate(der)
	return cert, by, err
}

func newRoot(now time.Time) (*root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "CHOM root " + now.UTC().Format("2006-01-02T15:04:05Z")},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // no intermediate exists
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &root{cert, key}, nil
}

// newSerial draws 127 random bits: positive, as RFC 5280 wants, and never 0 in practice.
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}
