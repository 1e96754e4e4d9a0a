package notify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/mail"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/proto/contract"
)

// sink is a real mail server that keeps what it gets.
type sink struct {
	address string
	roots   *x509.CertPool
	ca      []byte // in PEM

	mu          sync.Mutex
	mails       []*mail.Message
	tls         []bool // of each mail
	connections int

	user, password string // empty: no password is asked for
	// What it does instead of taking a mail.
	onRcpt, onData func(n int) error
	rcpts, datas   int
	onTaken        func(n int) // before the answer that a mail was taken
}

type sinkOption func(*sink, *smtp.Server)

func withoutTLS(_ *sink, s *smtp.Server) { s.TLSConfig = nil }

func withPassword(user, password string) sinkOption {
	return func(k *sink, _ *smtp.Server) { k.user, k.password = user, password }
}

func newSink(t *testing.T, implicit bool, opts ...sinkOption) *sink {
	t.Helper()
	certificate, ca := authority(t)
	k := &sink{ca: ca, roots: pool(t, ca)}
	server := smtp.NewServer(k)
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.Domain = "sink.example"
	server.ReadTimeout, server.WriteTimeout = 30*time.Second, 30*time.Second
	server.ErrorLog = log.New(io.Discard, "", 0)
	for _, opt := range opts {
		opt(k, server)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	k.address = listener.Addr().String()
	listener = &counting{listener, k}
	if implicit {
		listener = tls.NewListener(listener, server.TLSConfig)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	return k
}

// counting counts connections.
type counting struct {
	net.Listener
	sink *sink
}

func (c *counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	c.sink.mu.Lock()
	defer c.sink.mu.Unlock()
	c.sink.connections++
	return conn, err
}

// authority makes a certificate authority and what it signed for the sink.
func authority(t *testing.T) (leaf tls.Certificate, ca []byte) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, root, root, caKey.Public(), caKey)
	must(t, err)
	parsed, err := x509.ParseCertificate(caDER)
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, parsed, key.Public(), caKey)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
}

func pool(t *testing.T, ca []byte) *x509.CertPool {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("the authority is none")
	}
	return roots
}

func (k *sink) NewSession(c *smtp.Conn) (smtp.Session, error) {
	return &session{sink: k, conn: c, in: k.user == ""}, nil
}

type session struct {
	*sink
	conn *smtp.Conn
	in   bool
}

func (s *session) AuthMechanisms() []string {
	if s.user == "" {
		return nil
	}
	return []string{sasl.Plain}
}

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != s.user || password != s.password {
			return smtp.ErrAuthFailed
		}
		s.in = true
		return nil
	}), nil
}

func (s *session) Mail(string, *smtp.MailOptions) error {
	if !s.in {
		return smtp.ErrAuthRequired
	}
	return nil
}

func (s *session) Rcpt(string, *smtp.RcptOptions) error {
	s.mu.Lock()
	s.rcpts++
	n, fn := s.rcpts, s.onRcpt
	s.mu.Unlock()
	if fn != nil {
		return fn(n)
	}
	return nil
}

func (s *session) Data(r io.Reader) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.datas++
	n, fn := s.datas, s.onData
	s.mu.Unlock()
	if fn != nil {
		if err := fn(n); errors.Is(err, errCut) {
			s.conn.Conn().Close()
			return err
		} else if err != nil {
			return err
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(body))
	if err != nil {
		return err
	}
	_, encrypted := s.conn.TLSConnectionState()
	s.mu.Lock()
	s.mails, s.tls = append(s.mails, m), append(s.tls, encrypted)
	taken, then := len(s.mails), s.onTaken
	s.mu.Unlock()
	if then != nil {
		then(taken)
	}
	return nil
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

// errCut ends the connection instead of an answer.
var errCut = errors.New("cut")

func (k *sink) got() []*mail.Message {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]*mail.Message(nil), k.mails...)
}

func (k *sink) sender(t *testing.T, encryption Encryption) *SMTP {
	t.Helper()
	s, err := NewSMTP(Server{Address: k.address, Encryption: encryption, User: k.user, Password: k.password, HELO: "chom.example.com", Roots: k.roots})
	must(t, err)
	return s
}

var from = mail.Address{Name: "CHOM", Address: "chom@example.com"}

func newMails(t *testing.T, d *db.DB, sender Sender) *Mails {
	t.Helper()
	m, err := New(d, secrettest.New(), slog.New(slog.NewTextHandler(t.Output(), nil)), prometheus.NewRegistry(),
		Config{From: from, PublicURL: publicURL, Sender: sender})
	must(t, err)
	return m
}

// run carries mails until the test ends, and tries again what failed without a pause.
func run(t *testing.T, d *db.DB, m *Mails) {
	t.Helper()
	o, err := outbox.Open(d, slog.New(slog.NewTextHandler(t.Output(), nil)), prometheus.NewRegistry())
	must(t, err)
	q := m.Queue()
	q.Backoff = outbox.Backoff{First: time.Millisecond, Most: time.Millisecond}
	o.Add(q)
	ctx, stop := t.Context(), make(chan struct{})
	go func() {
		defer close(stop)
		_ = o.Run(ctx)
	}()
	t.Cleanup(func() { <-stop })
}

func email(t *testing.T, s string) contract.Email {
	t.Helper()
	e, err := contract.ParseEmail(s)
	must(t, err)
	return e
}

// ask enqueues a mail with sample values.
func ask(t *testing.T, d *db.DB, m *Mails, to, template string) (id string) {
	t.Helper()
	must(t, db.InTx(t.Context(), d, func(tx *db.Tx) (err error) {
		id, err = m.enqueue(t.Context(), tx, Mail{To: email(t, to), Template: template, Values: sample(template)})
		return err
	}))
	return id
}

// ends waits until a mail is as wanted.
func ends(t *testing.T, m *Mails, id string, want outbox.State) Status {
	t.Helper()
	var have Status
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var err error
		have, err = m.Get(t.Context(), id)
		must(t, err)
		if have.State == want {
			return have
		}
	}
	t.Fatalf("the mail is %+v", have)
	return have
}
