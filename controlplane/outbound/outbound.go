// Package outbound is the one way from the control plane to addresses that people chose: webhooks, and whatever else may
// follow. A person who may name an address must not thereby look into the network in which the control plane stands
// (server-side request forgery).
//
// What counts is the address that is connected to, in the moment of connecting: not a host name, which may resolve to something
// else a moment later, and not how an address is spelled. Only public unicast addresses are let through, and what an operator
// allows besides. Redirects are not followed, proxies of the environment are not used, and TLS is at least 1.2.
//
// Callers must keep to themselves what they learn from a failure: Explain gives the few words that may be shown. A name that
// does not resolve and one that leads to a private address look the same.
//
// What operators configure (a mail server, a database) does not go this way: such addresses are often private.
package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// Dialer connects to public addresses. Make it with New.
type Dialer struct {
	allow    []netip.Prefix
	resolver *net.Resolver
	roots    *x509.CertPool
	own      func() ([]net.Addr, error)
}

// Option changes a Dialer.
type Option func(*Dialer)

// Allow adds networks that may be reached though they are not public: those of a closed network.
func Allow(networks ...netip.Prefix) Option {
	return func(d *Dialer) { d.allow = append(d.allow, networks...) }
}

// WithResolver asks another resolver than the system's.
func WithResolver(r *net.Resolver) Option { return func(d *Dialer) { d.resolver = r } }

// WithRoots trusts other certificate authorities than the system's.
func WithRoots(roots *x509.CertPool) Option { return func(d *Dialer) { d.roots = roots } }

// New makes a dialer. Without options it reaches public addresses only.
func New(opts ...Option) *Dialer {
	d := &Dialer{own: net.InterfaceAddrs}
	for _, opt := range opts {
		opt(d)
	}
	return d
}

// Limits of a call.
const (
	connectWithin = 5 * time.Second
	tlsWithin     = 5 * time.Second
	idleFor       = 30 * time.Second // several events in a row share a connection
	idleMax       = 100              // connections that are kept, to all hosts
	headersMax    = 16 << 10         // bytes of an answer's headers
)

// refused is why a connection was not made.
type refused struct{ address netip.Addr }

func (r *refused) Error() string { return fmt.Sprintf("%s is no public address", r.address) }

// DialContext connects as net.Dialer does, if the address is one that may be reached. It speaks TCP only.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, fmt.Errorf("dial %s: only TCP is spoken", network)
	}
	dialer := net.Dialer{
		Timeout:  connectWithin,
		Resolver: d.resolver,
		// It is called with the socket, after the name was resolved and before the first packet: nothing can change between this
		// decision and the connection.
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error { return d.check(address) },
	}
	return dialer.DialContext(ctx, network, address)
}

// Allows says whether an address is a public one, or in a network that was added by Allow.
func (d *Dialer) Allows(address netip.Addr) bool {
	return Public(address) || d.allowed(address.Unmap())
}

func (d *Dialer) allowed(ip netip.Addr) bool {
	return slices.ContainsFunc(d.allow, func(network netip.Prefix) bool { return network.Contains(ip) })
}

// check decides on an address as a socket has it.
func (d *Dialer) check(address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("check address: %w", err)
	}
	ip := to.Addr().WithZone("").Unmap()
	if d.allowed(ip) {
		return nil
	}
	if !Public(ip) || to.Addr().Zone() != "" {
		return &refused{ip}
	}
	// This machine's own public addresses are reached past its firewall.
	own, err := d.own()
	if err != nil {
		return fmt.Errorf("check address: %w", err)
	}
	for _, a := range own {
		if network, ok := a.(*net.IPNet); ok && network.IP.Equal(ip.AsSlice()) {
			return &refused{ip}
		}
	}
	return nil
}

// Client calls over this dialer. Each call ends after timeout, with everything that belongs to it. The answer's body is the
// caller's to close; it must not be read without a limit, nor handed to whoever chose the address.
func (d *Dialer) Client(timeout time.Duration) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			Proxy:                  nil, // the environment's would connect in our place
			DialContext:            d.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: d.roots},
			TLSHandshakeTimeout:    tlsWithin,
			ResponseHeaderTimeout:  timeout,
			MaxResponseHeaderBytes: headersMax,
			MaxIdleConns:           idleMax,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        idleFor,
			DisableCompression:     true,
			Protocols:              protocols,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// IsRefused says whether a call failed before anything was sent, since its address may not be reached or the name has none. How
// long it took must then not be shown: it tells of the network around the control plane.
func IsRefused(err error) bool {
	var no *refused
	var dns *net.DNSError
	return errors.As(err, &no) || errors.As(err, &dns)
}

// Explain says in a few fixed words why a call failed. They may be shown to whoever chose the address: they tell nothing of
// the network around the control plane.
func Explain(err error) string {
	var network net.Error
	var op *net.OpError
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case IsRefused(err):
		return "the name has no public address"
	case errors.As(err, &certificate):
		return "the certificate is not valid for this name"
	case errors.As(err, &record), errors.As(err, &op) && op.Op == "remote error": // crypto/tls names alerts so
		return "TLS failed"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "no answer in time"
	case errors.As(err, &op) && op.Op == "dial":
		return "the connection was refused"
	}
	return "the connection broke"
}
