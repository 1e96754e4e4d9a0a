package site

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/outbound"
	"chom.dev/proto/contract"
)

// Resolver asks the DNS. *domain.NameServer is one.
type Resolver interface {
	// Addresses gives those of a name; domain.ErrNoName for a name that does not exist.
	Addresses(ctx context.Context, name contract.Domain) ([]netip.Addr, error)
	// CAA gives the records that count for a name, and where they are.
	CAA(ctx context.Context, name contract.Domain) (at string, records []domain.CAA, err error)
}

// Dialer connects to addresses that people chose. *outbound.Dialer is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	// probePath is what every host answers with the handle of the site that a name leads to. It is below the path of challenges, so
	// that what keeps a CA from those keeps us from this.
	probePath   = "/.well-known/acme-challenge/chom-probe"
	probeWithin = 5 * time.Second
	probeMax    = 256 // bytes that are read of an answer
	// probesOfOne bounds what a name with a crowd of addresses costs. A CA asks one or two.
	probesOfOne = 6
	// probeLabel stands for the asterisk of a wildcard.
	probeLabel = "chom-probe."
)

// ask finds out what decide needs of a name.
func (s *Sites) ask(ctx context.Context, r nameRow) (facts, error) {
	site, err := s.Get(ctx, r.organization, r.site)
	if err != nil {
		return facts{}, err
	}
	f := facts{
		name:    r.name,
		cas:     s.config.CAs,
		arrived: site.Observed != nil && site.Observed.Generation >= site.Wanted.Generation,
		covered: slices.ContainsFunc(site.certificates.uploaded, func(u Upload) bool { return slices.Contains(u.Names, r.name) }),
	}
	if f.servers, err = fleet.Addresses(ctx, s.db.Reader(), site.Server); err != nil {
		return facts{}, err
	}
	f.public = s.public(f.servers)
	if s.config.Provider != nil {
		if f.provider, err = s.config.Provider(ctx, s.db.Reader(), r.organization, r.name); err != nil {
			return facts{}, err
		}
	}
	if s.config.Resolver == nil {
		f.silent = true
		return f, nil
	}
	f.addresses, err = s.config.Resolver.Addresses(ctx, r.name)
	f.missing = errors.Is(err, domain.ErrNoName)
	f.silent = err != nil && !f.missing
	if len(f.addresses) == 0 {
		return f, nil
	}
	if len(s.config.CAs) > 0 {
		f.caaAt, f.caa, err = s.config.Resolver.CAA(ctx, r.name)
		f.caaSilent = err != nil
	}
	f.answers = s.probe(ctx, r.name, site.Handle, f.addresses)
	return f, nil
}

// probe asks all addresses of a name at once whether they lead to a site.
func (s *Sites) probe(ctx context.Context, name contract.Domain, handle contract.Handle, addresses []netip.Addr) []answer {
	answers := make([]answer, min(len(addresses), probesOfOne))
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() { answers[i] = s.probeOne(ctx, name, handle, addresses[i]) })
	}
	all.Wait()
	return answers
}

func (s *Sites) probeOne(ctx context.Context, name contract.Domain, handle contract.Handle, address netip.Addr) answer {
	a := answer{address: address, what: unasked}
	if s.config.Dialer == nil {
		return a
	}
	host := name.String()
	if name.IsWildcard() {
		host = probeLabel + name.Base().String()
	}
	to := netip.AddrPortFrom(address, s.config.HTTPPort).String()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return s.config.Dialer.DialContext(ctx, network, to)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
	}
	client := http.Client{
		Transport:     transport,
		Timeout:       probeWithin,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if s.config.HTTPPort != 80 {
		host = net.JoinHostPort(host, strconv.Itoa(int(s.config.HTTPPort)))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+probePath, http.NoBody)
	if err != nil {
		return a
	}
	response, err := client.Do(request)
	switch {
	case outbound.IsRefused(err), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL): // it says nothing of the address
		return a
	case err != nil:
		a.what = closed
		return a
	}
	defer response.Body.Close() //nolint:errcheck // it was read as far as it matters
	body, err := io.ReadAll(io.LimitReader(response.Body, probeMax))
	a.what, a.status = foreign, response.StatusCode
	if err == nil && response.StatusCode == http.StatusOK && strings.TrimSpace(string(body)) == handle.String() {
		a.what = ours
	}
	return a
}
