package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// certificate is what the people's door shows. Whoever renews it writes the files anew and need not tell us: they are read
// again and again. A pair that cannot be used is logged, once, and the one before stays.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	shown     atomic.Pointer[tls.Certificate]
	cert, key []byte // the files as last read; only Run uses them
}

// certificateEvery is well below what anybody who has renewed a certificate waits before looking, and costs two small reads.
const certificateEvery = 10 * time.Second

// openCertificate reads the pair, which must be good now.
func openCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if _, err := c.read(); err != nil {
		return nil, fmt.Errorf("read people-cert and people-key: %w", err)
	}
	return c, nil
}

// Get is for tls.Config.
func (c *certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.shown.Load(), nil }

// Run reads the files again until ctx ends.
func (c *certificate) Run(ctx context.Context) error {
	tick := time.NewTicker(certificateEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changed, err := c.read()
		switch {
		case err != nil && (changed || !failing):
			c.log.Error("the new people-cert and people-key cannot be used; the ones before stay", "err", err)
		case err == nil && changed:
			c.log.Info("people-cert and people-key were renewed", "expires", c.shown.Load().Leaf.NotAfter)
		}
		failing = err != nil
	}
}

// read takes the files over where they have changed and fit each other.
func (c *certificate) read() (changed bool, err error) {
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return false, err
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return false, err
	}
	changed = !bytes.Equal(cert, c.cert) || !bytes.Equal(key, c.key)
	c.cert, c.key = cert, key
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return changed, err
	}
	if changed {
		c.shown.Store(&pair)
	}
	return changed, nil
}
