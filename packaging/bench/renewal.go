package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

const (
	// What is renewed are names: 500 of them, of fewer sites, since making 500 sites takes longer than all else here.
	renewalSites = 50
	renewalNames = 500
	// renewalLife of a certificate stands for 90 days. Pebble's window for the renewal (RFC 9773) is the whole of so short a
	// life, so that names are renewed evenly over nine tenths of it.
	renewalLife   = 10 * time.Minute
	reloadWindow  = 5 * time.Second
	renewalWithin = 2 * renewalLife
)

// renewal fills a host with sites, ends the control plane, and watches from outside
// until every certificate was renewed: none may run out, and nginx may not be
// reloaded all the time.
func renewal(ctx context.Context, b *bench) (_ []row, err error) {
	s, err := b.build(ctx, rig.Options{Names: true, Validity: renewalLife, Args: []string{"--certificate-budget=1000"}})
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
	if err := s.DNS.Set(ctx, "*.bench.example", "A", host.Addr().String()); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA.Roots)
	if err := s.fill(ctx, org, host, server, roots); err != nil {
		return nil, err
	}
	s.Terminate()
	off := time.Now()
	b.detail("%d names are served with certificates; the control plane is off", renewalNames)

	watching, stop := context.WithCancel(ctx)
	defer stop()
	var reloads []time.Time
	var watch errgroup.Group
	watch.Go(func() (err error) {
		reloads, err = reloadsOf(watching, host)
		return err
	})
	renewed, broken, err := s.renewed(ctx, host, roots, off)
	stop()
	if err = errors.Join(err, watch.Wait()); err != nil {
		return nil, err
	}
	most := 0
	for i, from := range reloads {
		n := 0
		for _, at := range reloads[i:] {
			if at.Sub(from) < reloadWindow {
				n++
			}
		}
		most = max(most, n)
	}
	b.detail("%d reloads in %s", len(reloads), time.Since(off).Round(time.Second))
	rows := []row{
		{Name: "names renewed with the control plane off", Value: float64(renewed), Unit: "names", Bar: exactly(renewalNames)},
		{Name: "handshakes meanwhile that a browser would refuse", Value: float64(broken), Unit: "handshakes", Bar: exactly(0)},
		{Name: "most reloads of nginx in 5 s", Value: float64(most), Unit: "reloads", Bar: atMost(1)},
		{Name: "reloads for all of them", Value: float64(len(reloads)), Unit: "reloads"},
	}
	for i := range rows {
		rows[i].Statistic, rows[i].Runs = "once", 1
	}
	return rows, nil
}

func renewalName(n int) string { return fmt.Sprintf("r%d.bench.example", n) }

// fill makes the sites and waits until all are served with certificates.
func (s *stage) fill(ctx context.Context, org string, h *lab.Host, server *fleetv1.Server, roots *x509.CertPool) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for n := range renewalSites {
		var domains []string
		for i := n; i < renewalNames; i += renewalSites {
			domains = append(domains, renewalName(i))
		}
		g.Go(func() error {
			res, err := s.Sites.CreateSite(gctx, &sitev1.CreateSiteRequest{
				OrganizationId: org, Name: fmt.Sprintf("r%d", n), Type: "static", ServerId: server.GetId(), Domains: domains,
				Settings: map[string]string{"title": domains[0]},
			})
			if err != nil {
				return fmt.Errorf("create site %d: %w", n, err)
			}
			_, err = s.WaitDone(gctx, res.GetTask())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for n := range renewalNames {
		if _, err := until(ctx, h, renewalName(n), roots); err != nil {
			return err
		}
	}
	return nil
}

// renewed looks at every name again and again until each shows a certificate that
// was made after a moment, and counts those that do and the handshakes that failed.
func (s *stage) renewed(ctx context.Context, h *lab.Host, roots *x509.CertPool, after time.Time) (renewed, broken int, err error) {
	ctx, cancel := context.WithTimeout(ctx, renewalWithin)
	defer cancel()
	fresh := map[int]bool{}
	for len(fresh) < renewalNames {
		for n := range renewalNames {
			shown, err := shake(ctx, h, renewalName(n), roots)
			switch {
			case ctx.Err() != nil:
				return len(fresh), broken, nil // what was seen until then is the figure
			case err != nil:
				broken++
				s.b.detail("%s: %v", renewalName(n), err)
			case shown.NotBefore.After(after):
				fresh[n] = true
			}
		}
		if err := pause(ctx, 3*time.Second); err != nil {
			return len(fresh), broken, nil
		}
		s.b.detail("%d of %d renewed", len(fresh), renewalNames)
	}
	return len(fresh), broken, nil
}

// reloadsOf watches which generation nginx serves, and gives the moments at which
// that changed, until ctx ends.
func reloadsOf(ctx context.Context, h *lab.Host) ([]time.Time, error) {
	const watch = `last=; while sleep 0.1; do now=$(curl -s -m 2 -H 'Host: generation.chom.invalid' http://127.0.0.1/); if [ -n "$now" ] && [ "$now" != "$last" ]; then last=$now; date +%s.%N; fi; done`
	var out bytes.Buffer
	_, err := h.Run(ctx, lab.Command{Argv: []string{"/bin/bash", "-c", watch}, Stdout: &out})
	if ctx.Err() == nil {
		return nil, fmt.Errorf("watch nginx: %w", err)
	}
	var all []time.Time
	for line := range strings.Lines(out.String()) {
		seconds, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
		if err != nil {
			return nil, fmt.Errorf("watch nginx: %w", err)
		}
		all = append(all, time.UnixMicro(int64(seconds*1e6)))
	}
	if len(all) == 0 {
		return nil, errors.New("watch nginx: it showed no generation")
	}
	return all[1:], nil // the first one was there before
}
