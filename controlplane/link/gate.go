package link

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"chom.dev/controlplane/pki"
)

// gate is the listener in front of TLS. A handshake costs us a hundred times
// what it costs to ask for one, so whoever comes when there are too many is
// turned away before it, with a reset that costs nothing. Agents come back with
// jitter.
//
// No address gets more than half of anything: half-open connections from one
// place don't lock the others out. Half, and not less, because a whole fleet may
// sit behind one address.
type gate struct {
	net.Listener
	config  *tls.Config
	metrics *metrics

	mu         sync.Mutex
	rate       *rate.Limiter
	handshakes int // under way
	anonymous  int // connections without a certificate
	places     map[netip.Addr]*place
	closed     bool
}

// place is what one address has under way.
type place struct {
	rate       *rate.Limiter
	handshakes int
	anonymous  int
}

const (
	// handshakesMax bounds the memory and the wait of handshakes under way: at
	// a millisecond each on two busy cores the last one waits for half a second.
	handshakesMax = 1024
	// anonymousMax is how many connections without a certificate there may be:
	// they are for one call, of a host that enrols.
	anonymousMax = 256
	// placesMax is where addresses that rest are forgotten.
	placesMax = 4096
)

func newGate(config *tls.Config, perSecond int, m *metrics) *gate {
	return &gate{
		config:  config,
		metrics: m,
		rate:    rate.NewLimiter(rate.Limit(perSecond), perSecond),
		places:  map[netip.Addr]*place{},
	}
}

// open puts the gate in front of a listener.
func (g *gate) open(l net.Listener) {
	g.mu.Lock()
	closed := g.closed
	g.Listener = l
	g.mu.Unlock()
	if closed {
		_ = l.Close() // Accept says so
	}
}

// Accept gives the next connection that may begin its handshake.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := addrOf(c.RemoteAddr())
		if why := g.admit(addr); why != "" {
			g.metrics.turnedAway.WithLabelValues(why).Inc()
			turnAway(c)
			continue
		}
		return tls.Server(&guest{Conn: c, gate: g, addr: addr}, g.config), nil
	}
}

// admit counts a handshake in, or says why not.
func (g *gate) admit(addr netip.Addr) (refused string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.places[addr]
	if p == nil {
		g.forget()
		half := max(g.rate.Burst()/2, 1)
		p = &place{rate: rate.NewLimiter(g.rate.Limit()/2, half)}
		g.places[addr] = p
	}
	switch {
	case g.handshakes >= handshakesMax, p.handshakes >= handshakesMax/2:
		return "handshakes"
	case !p.rate.Allow(), !g.rate.Allow():
		return "rate"
	}
	g.handshakes++
	p.handshakes++
	return ""
}

// forget drops addresses with nothing under way and a full bucket, when there
// are many. A flood from more addresses than that meets the limit for all.
func (g *gate) forget() {
	if len(g.places) < placesMax {
		return
	}
	for addr, p := range g.places {
		if p.handshakes == 0 && p.anonymous == 0 && p.rate.Tokens() >= float64(p.rate.Burst()) {
			delete(g.places, addr)
		}
	}
}

func (g *gate) finished(addr netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handshakes--
	g.places[addr].handshakes--
}

// stranger counts a connection without a certificate in, and says whether there
// may be one more.
func (g *gate) stranger(addr netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.places[addr]
	g.anonymous++
	p.anonymous++
	return g.anonymous <= anonymousMax && p.anonymous <= anonymousMax/2
}

func (g *gate) strangerLeft(addr netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.anonymous--
	g.places[addr].anonymous--
}

// Close stops accepting. Closing twice is harmless.
func (g *gate) Close() error {
	g.mu.Lock()
	closed, l := g.closed, g.Listener
	g.closed = true
	g.mu.Unlock()
	if closed || l == nil {
		return nil
	}
	return l.Close()
}

// guest is a connection below TLS. Its handshake counts until it is done or the
// connection is closed.
type guest struct {
	net.Conn
	gate *gate
	addr netip.Addr
	once sync.Once

	// Set once the handshake is done, before the first call.
	welcome bool
	agent   *agent // nil without a client certificate
	peer    pki.Peer
	expire  *time.Timer // ends a connection without one
}

// shaken says that the handshake is over, and whether this is the first word of it.
func (c *guest) shaken() (first bool) {
	c.once.Do(func() {
		first = true
		c.gate.finished(c.addr)
	})
	return first
}

// Close closes at once, without TLS's goodbye, for which a dead peer would make
// us wait.
func (c *guest) Close() error {
	if c.shaken() {
		c.gate.metrics.turnedAway.WithLabelValues("tls").Inc()
	}
	return c.Conn.Close()
}

// turnAway closes without leaving anything behind in the kernel.
func turnAway(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // then it is closed the slow way
	}
	_ = c.Close() // there was nothing to lose
}

// addrOf is the place that an address counts for: a host of IPv6 has a whole
// network of 64 bits to itself.
func addrOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr := t.AddrPort().Addr().Unmap().WithZone("")
	if addr.Is6() {
		return netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return addr
}
