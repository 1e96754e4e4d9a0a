package link

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
)

const (
	dialFor     = 10 * time.Second // long enough for the third repeat of a lost first packet
	callFor     = 30 * time.Second // for unary calls but Poll
	pingAfter   = 15 * time.Second // without it a black-holed connection goes unnoticed for minutes
	pingFor     = 10 * time.Second
	maxMessage  = 4 << 20     // of what we read; an order has 256 KiB at most, a Poll some of them
	maxHeaders  = 64 << 10    // of an answer
	bulkIdle    = time.Minute // of the connection for repositories, which is idle nearly always
	streamRoom  = 1 << 20     // flow control window of a stream, not memory
	connectRoom = 4 << 20
	frameRoom   = 256 << 10 // of backups on their way back: for each frame somebody has to wake up
)

// options hold for every client: nothing is read without a limit, and nothing
// is compressed, for the messages are small and an inflater is not.
func options() []connect.ClientOption {
	return []connect.ClientOption{
		connect.WithReadMaxBytes(maxMessage),
		connect.WithAcceptCompression("gzip", nil, nil),
	}
}

// connection is one HTTP/2 connection and the client that uses it.
type connection struct {
	http      *http.Client
	transport *http.Transport // its

	mu    sync.Mutex
	met   bool // the control plane has proved who it is
	conns []net.Conn
}

// open prepares a connection; the first call dials.
func open(cfg *tls.Config, dial func(context.Context, string, string) (net.Conn, error)) *connection {
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialFor}).DialContext
	}
	c := &connection{}
	cfg = cfg.Clone()
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		if verify != nil {
			if err := verify(s); err != nil {
				return err
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.met = true
		return nil
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	c.transport = &http.Transport{
		Proxy:           nil, // see the package comment
		TLSClientConfig: cfg,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.conns = append(c.conns, conn)
			return conn, nil
		},
		TLSHandshakeTimeout:    dialFor,
		MaxResponseHeaderBytes: maxHeaders,
		DisableCompression:     true,
		Protocols:              protocols,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingFor,
			MaxReceiveBufferPerStream:     streamRoom,
			MaxReceiveBufferPerConnection: connectRoom,
			MaxReadFrameSize:              frameRoom,
		},
	}
	c.http = &http.Client{
		Transport: c.transport,
		// Connect answers where it was asked, or not at all.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// letGoAfter has a connection closed that nobody has used for a while. Call it
// before the first use.
func (c *connection) letGoAfter(idle time.Duration) *connection {
	c.transport.IdleConnTimeout = idle
	return c
}

// wasMet tells whether the control plane was there and proved who it is,
// whatever came after that.
func (c *connection) wasMet() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.met
}

// close cuts the connection, whatever is under way.
func (c *connection) close() {
	c.http.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close() // there is nothing left to lose
	}
	c.conns = nil
}
