package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"chom.dev/controlplane/outbox"
)

// Encryption is how a mail server is spoken to.
type Encryption string

// Encryptions.
const (
	StartTLS Encryption = "starttls" // TLS is asked for, and nothing is sent to a server that has none
	Implicit Encryption = "tls"      // TLS from the first byte
	None     Encryption = "none"     // for a server on this machine
)

// Server is a mail server that takes mails for everybody, and brings them on.
type Server struct {
	Address    string // HOST:PORT
	Encryption Encryption
	User       string // empty: it asks for no password
	Password   string
	HELO       string // the name that it is greeted with
	// Roots are the certificate authorities to trust; nil means the system's.
	Roots *x509.CertPool
}

const (
	// commandWithin is the patience with one answer of the server.
	commandWithin = 30 * time.Second
	// mailPause bounds the rate of a connection: 10 mails a second are more than a control plane has to say, and few enough
	// for any relay.
	mailPause = 100 * time.Millisecond
	// mailsMax is how many mails a connection carries. Servers end longer ones.
	mailsMax = 50
	// idleFor is how long a connection waits for the next mail.
	idleFor = 10 * time.Second
)

// SMTP sends through a mail server. It keeps connections open for a while. Make it with NewSMTP.
type SMTP struct {
	server  Server
	host    string
	options []gomail.Option

	mu   sync.Mutex
	idle []*connection
}

// connection is one to the mail server. It belongs to whoever took it.
type connection struct {
	client *gomail.Client
	smtp   *smtp.Client
	socket net.Conn
	mails  int
	next   time.Time // when it may carry the next mail
	expire *time.Timer
}

// NewSMTP prepares to send through a server. It does not connect.
func NewSMTP(s Server) (*SMTP, error) {
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		return nil, fmt.Errorf("mail server: %w", err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("mail server: port %q is no number", port)
	}
	options := []gomail.Option{gomail.WithPort(number), gomail.WithTimeout(commandWithin), gomail.WithHELO(s.HELO), gomail.WithoutRset()}
	switch s.Encryption {
	case StartTLS:
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory), gomail.WithTLSConfig(s.tls(host)))
	case Implicit:
		options = append(options, gomail.WithSSL())
	case None:
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	default:
		return nil, fmt.Errorf("mail server: unknown encryption %q", s.Encryption)
	}
	if s.User != "" {
		// Each of them refuses to send the password in clear over a network.
		options = append(options, gomail.WithUsername(s.User), gomail.WithPassword(s.Password),
			gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin))
	}
	if _, err := gomail.NewClient(host, options...); err != nil {
		return nil, fmt.Errorf("mail server: %w", err)
	}
	return &SMTP{server: s, host: host, options: options}, nil
}

func (s Server) tls(host string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: s.Roots}
}

// String names the server.
func (s *SMTP) String() string { return "smtp://" + s.server.Address }

// Send hands a mail to the server. It is Permanent when the server refuses the recipient or the mail itself; whatever else a
// server refuses, such as a password, is a matter of the configuration, and is tried again.
func (s *SMTP) Send(ctx context.Context, m *gomail.Msg) error {
	c, fresh, err := s.take(ctx)
	if err != nil {
		return err
	}
	err = s.sendOn(ctx, c, m)
	var failed *gomail.SendError
	if !fresh && errors.As(err, &failed) && failed.Reason == gomail.ErrConnCheck {
		// The server ended a connection that was kept; nothing was sent on it.
		if c, err = s.dial(ctx); err != nil {
			return err
		}
		err = s.sendOn(ctx, c, m)
	}
	return explain(ctx, err)
}

// sendOn sends on a connection and then keeps or closes it.
func (s *SMTP) sendOn(ctx context.Context, c *connection, m *gomail.Msg) error {
	// go-mail knows no contexts: closing the socket is what ends a call of it.
	stop := context.AfterFunc(ctx, func() { c.socket.Close() }) //nolint:errcheck // it may be closed already
	defer stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(c.next)):
	}
	err := c.client.SendWithSMTPClient(c.smtp, m)
	c.mails++
	c.next = time.Now().Add(mailPause)
	if err != nil || !stop() || c.mails >= mailsMax {
		c.close()
		return err
	}
	s.keep(c)
	return nil
}

// take gives a connection that is kept, else a fresh one.
func (s *SMTP) take(ctx context.Context) (c *connection, fresh bool, err error) {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		c = s.idle[n-1]
		s.idle = s.idle[:n-1]
		c.expire.Stop()
	}
	s.mu.Unlock()
	if c != nil {
		return c, false, nil
	}
	c, err = s.dial(ctx)
	return c, true, err
}

// keep lets a connection wait for the next mail.
func (s *SMTP) keep(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, c)
	c.expire = time.AfterFunc(idleFor, func() { s.drop(c) })
}

// drop closes a connection that nobody took.
func (s *SMTP) drop(c *connection) {
	s.mu.Lock()
	found := false
	for i, have := range s.idle {
		if have == c {
			s.idle = append(s.idle[:i:i], s.idle[i+1:]...)
			found = true
			break
		}
	}
	s.mu.Unlock()
	if found {
		c.close()
	}
}

// close says good-bye; a server that does not hear it is left all the same.
func (c *connection) close() {
	_ = c.socket.SetDeadline(time.Now().Add(time.Second)) // a closed one says so again below
	_ = c.smtp.Quit()
	_ = c.socket.Close()
}

// dial connects, encrypts and signs in.
func (s *SMTP) dial(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	socket, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.server.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to the mail server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() }) //nolint:errcheck // whoever reads from it is told
	defer stop()
	conn := socket
	if s.server.Encryption == Implicit {
		encrypted := tls.Client(socket, s.server.tls(s.host))
		if err := encrypted.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("encrypt the connection to the mail server: %w", err), socket.Close())
		}
		conn = encrypted
	}
	dialed := gomail.WithDialContextFunc(func(context.Context, string, string) (net.Conn, error) { return conn, nil })
	client, err := gomail.NewClient(s.host, append(s.options[:len(s.options):len(s.options)], dialed)...)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	session, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("greet the mail server: %w", err), socket.Close())
	}
	return &connection{client: client, smtp: session, socket: conn}, nil
}

// explain tells what is over for good from what may pass.
func explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the mail server did not take it in time: %w", err)
	}
	var failed *gomail.SendError
	if errors.As(err, &failed) && failed.ErrorCode() >= 500 {
		switch failed.Reason {
		case gomail.ErrSMTPRcptTo, gomail.ErrSMTPData, gomail.ErrSMTPDataClose:
			return outbox.Permanent(err)
		}
	}
	return err
}
