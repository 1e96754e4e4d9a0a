package certificate

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	shakeWithin   = 2 * time.Second  // a handshake with the host itself takes milliseconds
	observeWithin = 20 * time.Second // all of a site's
	observeAtOnce = 8
	maxNames      = 110 // of ObservedState.certificates
)

// trust is whose certificates are called valid.
type trust struct{ own [][]byte }

func newTrust(said *linkv1.Issuance) (trust, error) {
	var t trust
	for _, issuer := range said.GetIssuers() {
		t.own = append(t.own, issuer.GetRoots())
	}
	t.own = append(t.own, said.GetPlatformRoots())
	for _, roots := range t.own {
		if len(roots) > 0 && !x509.NewCertPool().AppendCertsFromPEM(roots) {
			return trust{}, errors.New("roots hold no certificate")
		}
	}
	return t, nil
}

// pool gives the roots: the system's, and those that the platform is configured
// with.
func (t trust) pool() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a host without any trusts what it is told to
	}
	for _, roots := range t.own {
		pool.AppendCertsFromPEM(roots)
	}
	return pool
}

// Observe looks what each of a site's names is served with, by a handshake with
// this host, and tells how getting the next certificate goes. It calls valid only
// what it has seen. It takes 20 s at most.
func (m *Manager) Observe(ctx context.Context, site task.Site) []*sitev1.ObservedCertificate {
	ctx, cancel := context.WithTimeout(ctx, observeWithin)
	defer cancel()
	var names []contract.Domain
	for _, text := range slices.Concat(site.Desired.GetDomains(), site.Desired.GetHttps().GetPlatformDomains()) {
		if d, err := contract.ParsePattern(text); err == nil && !slices.Contains(names, d) && len(names) < maxNames {
			names = append(names, d)
		}
	}
	m.mu.Lock()
	roots := m.trust.pool()
	m.mu.Unlock()
	out := make([]*sitev1.ObservedCertificate, len(names))
	slots := make(chan struct{}, observeAtOnce)
	var all sync.WaitGroup
	for i, name := range names {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			out[i] = m.observe(ctx, site, key{site.Handle, name}, roots)
		})
	}
	all.Wait()
	return out
}

func (m *Manager) observe(ctx context.Context, site task.Site, k key, roots *x509.CertPool) *sitev1.ObservedCertificate {
	now, trusted := m.now()
	seen := &sitev1.ObservedCertificate{Domain: k.name.String()}
	h, r := m.held(k), m.record(k)
	var problems []string
	chain, err := handshake(ctx, m.cfg.Probe, probed(k.name))
	if err != nil && h != nil {
		problems = append(problems, fmt.Sprintf("the web server does not serve it by HTTPS: %v", err))
	}
	if len(chain) > 0 {
		leaf := chain[0]
		print := fingerprint(leaf)
		seen.Sha256 = print[:]
		seen.Issuer = issuerOf(leaf)
		seen.NotBefore, seen.NotAfter = timestamppb.New(leaf.NotBefore), timestamppb.New(leaf.NotAfter)
		switch err := verify(chain, probed(k.name), roots, now); {
		case err != nil:
			problems = append(problems, "it is served with a certificate that is not valid: "+err.Error())
		default:
			seen.Valid = true
		}
		switch {
		case h != nil && h.sha256 == print:
			seen.Source = sources[h.source]
		case h != nil && !r.Unserved:
			problems = append(problems, "the web server serves another certificate than the one that is kept for the name")
		}
	}
	var wanted *want
	for _, w := range m.wanted(site) {
		if w.name == k.name {
			wanted = &w
		}
	}
	switch {
	case r.Problem != "":
		problems = append(problems, r.Problem)
		seen.Failures = uint32(r.Failures)
		if wanted != nil {
			seen.NextTryTime = timestamppb.New(later(now, nextTry(now, r, wanted.generation)))
		}
	case h == nil && wanted == nil && site.Desired.GetGeneration() == site.Converged:
		problems = append(problems, "no certificate is to be obtained yet: the name does not lead to this server, as far as the platform knows")
	case h == nil && wanted != nil && wanted.source == acmeCA && len(m.authorities()) == 0:
		problems = append(problems, noAuthority)
	case h == nil:
		problems = append(problems, "its certificate is on its way")
	case wanted != nil && wanted.source != uploaded:
		seen.NextTryTime = timestamppb.New(later(now, wanted.due(now, h, r)))
	}
	if !trusted {
		problems = append(problems, fmt.Sprintf("this server's clock says %s, which cannot be: set it; nothing is renewed before", stamp(m.wall())))
		seen.NextTryTime = nil
	}
	seen.Problem = task.Line(strings.Join(problems, "; "), maxProblem)
	return seen
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

var sources = map[source]sitev1.CertificateSource{
	acmeCA:   sitev1.CertificateSource_CERTIFICATE_SOURCE_ACME,
	uploaded: sitev1.CertificateSource_CERTIFICATE_SOURCE_UPLOADED,
	platform: sitev1.CertificateSource_CERTIFICATE_SOURCE_PLATFORM,
}

// probed is the name that is asked for: of a wildcard one below it.
func probed(name contract.Domain) string {
	if name.IsWildcard() {
		return "chom-probe." + name.Base().String()
	}
	return name.String()
}

// handshake gives the certificates that a server shows for a name. What they
// are worth is verify's to say: a handshake that fails would hide them.
func handshake(ctx context.Context, address, name string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, shakeWithin)
	defer cancel()
	d := tls.Dialer{NetDialer: new(net.Dialer), Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates, nil
}

// verify says why visitors would not accept a chain, in words.
func verify(chain []*x509.Certificate, name string, roots *x509.CertPool, now time.Time) error {
	leaf := chain[0]
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("it ended at %s", stamp(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("it begins at %s", stamp(leaf.NotBefore))
	case leaf.VerifyHostname(name) != nil:
		return fmt.Errorf("it is for %s", task.Line(strings.Join(leaf.DNSNames, ", "), 256))
	}
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between, CurrentTime: now})
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("browsers do not trust who signed it, %s", cmp.Or(issuerOf(leaf), "who has no name"))
	}
	return err
}

// issuerOf is who signed a certificate, as it says.
func issuerOf(c *x509.Certificate) string {
	return task.Line(cmp.Or(strings.TrimSpace(strings.Join(c.Issuer.Organization, " ")+" "+c.Issuer.CommonName), c.Issuer.String()), 256)
}
