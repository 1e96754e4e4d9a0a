package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"time"
)

// Due tells whether a certificate is to be renewed: from half of its life on,
// moved by up to 10 % of that half either way, so that agents which enrolled
// together don't come together. Jitter is from -1 to 1.
func Due(now time.Time, cert *x509.Certificate, jitter float64) bool {
	return !now.Before(DueAt(cert, jitter))
}

// DueAt is the moment from which Due holds.
func DueAt(cert *x509.Certificate, jitter float64) time.Time {
	half := cert.NotAfter.Sub(cert.NotBefore) / 2
	return cert.NotBefore.Add(half + time.Duration(float64(half)*0.1*min(max(jitter, -1), 1)))
}

// Jitter gives a certificate's own jitter for Due. It is the same after each
// restart: one that restarts often must not draw until it hits an early one.
func Jitter(cert *x509.Certificate) float64 {
	sum := sha256.Sum256(cert.Raw)
	return float64(binary.BigEndian.Uint32(sum[:]))/(1<<31) - 1
}

// Expired tells whether a certificate's life is over.
func Expired(now time.Time, cert *x509.Certificate) bool { return now.After(cert.NotAfter) }
