package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path"
	"time"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

const (
	certificateRuns = 50
	certbotEvery    = 5 // certbot has its turn after so many of ours
	certificateFor  = time.Minute
)

// certificate points names to sites that wait for it, one after the other, and
// waits until each is served with a certificate of the CA; certbot orders from the
// same CA in between, on a host of its own.
func certificate(ctx context.Context, b *bench) (_ []row, err error) {
	s, err := b.build(ctx, rig.Options{Names: true, Args: []string{"--certificate-budget=1000"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	org, err := s.organization(ctx)
	if err != nil {
		return nil, err
	}
	host, server, err := s.server(ctx)
	if err != nil {
		return nil, err
	}
	bare, err := s.certbotHost(ctx)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA.Roots)
	var ours, certbot []time.Duration
	for i := range certificateRuns {
		took, err := s.secured(ctx, org, host, server, roots, i)
		if err != nil {
			return nil, fmt.Errorf("name %d by CHOM: %w", i, err)
		}
		ours = append(ours, took)
		b.detail("%d: CHOM %.0f ms", i, ms(took))
		if i%certbotEvery > 0 {
			continue
		}
		if took, err = s.certbot(ctx, bare, roots, i); err != nil {
			return nil, fmt.Errorf("name %d by certbot: %w", i, err)
		}
		certbot = append(certbot, took)
		b.detail("%d: certbot %.0f ms", i, ms(took))
	}
	return []row{{
		Name: "the DNS leads to the site, until its certificate is served", Value: percentile(ours, 95).Seconds(), Unit: "s",
		Statistic: "p95", Runs: len(ours), Bar: atMost(10),
		Comparison: &comparison{With: "certbot, from its start", Value: percentile(certbot, 95).Seconds(), Bar: atMost(1)},
	}, {
		Name: "half of them", Value: median(ours).Seconds(), Unit: "s", Statistic: "median", Runs: len(ours),
		Comparison: &comparison{With: "certbot, from its start", Value: median(certbot).Seconds()},
	}}, nil
}

// secured makes a site that waits for its name, points the name, and gives the time
// until a visitor's handshake ends well.
func (s *stage) secured(ctx context.Context, org string, h *lab.Host, server *fleetv1.Server, roots *x509.CertPool, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, certificateFor)
	defer cancel()
	name := fmt.Sprintf("n%d.bench.example", n)
	res, err := s.Sites.CreateSite(ctx, &sitev1.CreateSiteRequest{
		OrganizationId: org, Name: fmt.Sprintf("n%d", n), Type: "static", ServerId: server.GetId(), Domains: []string{name},
		Settings: map[string]string{"title": name},
	})
	if err != nil {
		return 0, fmt.Errorf("create site: %w", err)
	}
	if _, err := s.WaitDone(ctx, res.GetTask()); err != nil {
		return 0, err
	}
	if err := s.DNS.Set(ctx, name, "A", h.Addr().String()); err != nil {
		return 0, err
	}
	return until(ctx, h, name, roots)
}

// until waits for a good handshake and gives the time that it took.
func until(ctx context.Context, h *lab.Host, name string, roots *x509.CertPool) (time.Duration, error) {
	begin := time.Now()
	for {
		_, err := shake(ctx, h, name, roots)
		if err == nil {
			return time.Since(begin), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s is not served: %w", name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// shake gives the certificate that a host shows for a name, if a visitor who trusts
// these roots takes it.
func shake(ctx context.Context, h *lab.Host, name string, roots *x509.CertPool) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{ServerName: name, RootCAs: roots}}
	conn, err := dialer.DialContext(ctx, "tcp", h.Addr().String()+":443")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// certbotHost boots a host with nginx that CHOM has nothing to do with, and
// installs certbot on it.
func (s *stage) certbotHost(ctx context.Context) (*lab.Host, error) {
	base, err := lab.EnsureBase(ctx, lab.Bookworm, lab.Stack, s.Log)
	if err != nil {
		return nil, err
	}
	h, err := s.Lab.Boot(ctx, lab.Config{Name: "bare", Base: base})
	if err != nil {
		return nil, err
	}
	text, err := scripts.ReadFile("testdata/certbot.sh")
	if err != nil {
		return nil, err
	}
	if err := h.WriteFile(path.Join(scriptDir, "certbot.sh"), text, 0o755); err != nil {
		return nil, err
	}
	if err := h.WriteFile(path.Join(scriptDir, "roots.pem"), s.CA.Roots, 0o644); err != nil {
		return nil, err
	}
	_, err = h.Output(ctx, "/bin/bash", path.Join(scriptDir, "certbot.sh"), "prepare")
	return h, err
}

func (s *stage) certbot(ctx context.Context, h *lab.Host, roots *x509.CertPool, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, certificateFor)
	defer cancel()
	name := fmt.Sprintf("bare%d.bench.example", n)
	script := path.Join(scriptDir, "certbot.sh")
	if _, err := h.Output(ctx, "/bin/bash", script, "site", name); err != nil {
		return 0, err
	}
	if err := s.DNS.Set(ctx, name, "A", h.Addr().String()); err != nil {
		return 0, err
	}
	begin := time.Now()
	if _, err := h.Output(ctx, "/bin/bash", script, "secure", name, s.CA.DirectoryURL); err != nil {
		return 0, err
	}
	if _, err := until(ctx, h, name, roots); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}
