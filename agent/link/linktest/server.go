// Package linktest is a small control plane for tests: the agents' door over
// real mutual TLS on loopback, with its state in memory and faults on demand.
// It holds agents to the contract (epochs, serials, bound tokens, event
// numbers) and to nothing else.
package linktest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"chom.dev/proto/contract"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// Server is the control plane.
type Server struct {
	Address string
	Signer  ed25519.PrivateKey

	CertLife   time.Duration // of agents' certificates; 7 days by default
	Heartbeat  time.Duration // 1 s by default
	ServerTime func() time.Time

	// Fault is asked before each call and, for unary ones, again before its
	// answer leaves. An error of CutConnection ends the connection there.
	Fault func(procedure string, answered bool) error

	// Repositories answers for the repository of a site on a server; nil has none.
	// Set it before agents come.
	Repositories func(server, site string) http.Handler

	rootKey  *ecdsa.PrivateKey
	root     *x509.Certificate
	doorCert tls.Certificate
	http     *http.Server

	mu     sync.Mutex
	serial int64
	tokens map[string]*token
	agents map[string]*Agent
	conns  map[net.Conn]bool
	streamsBroken,
	stopped bool
}

// token is a join token and what it is bound to.
type token struct {
	server, enrolment string
	key               []byte
	answer            *linkv1.EnrollResponse
}

// Agent is what the control plane knows of one.
type Agent struct {
	Serial, Next string // of certificates
	Epoch        uint64
	Fence        uint64
	Refuse       error // given to every call
	Recoveries   int
	Hellos       []*linkv1.HelloRequest
	Facts        *fleetv1.Facts
	Samples      int
	Polls        int
	Watches      int
	Beats        int // reports without events
	Resend       []*linkv1.JournalEntry
	Logs         map[string][]string // lines that were reported, by watch
	Unwanted     map[string]bool     // watches that nobody wants

	queue  []*linkv1.LinkMessage
	wake   chan struct{} // closed and replaced when queue, epoch or Refuse change
	events map[string][]*linkv1.TaskEvent
	all    []*linkv1.TaskEvent // in order of arrival, repeats included
	refuse map[string]string   // events to refuse, by key and number

	// Invalid finds events for which a whole report is turned down.
	Invalid func(*linkv1.TaskEvent) bool
}

// errCut is how a fault ends the connection.
type errCut struct{}

func (errCut) Error() string { return "connection is cut" }

// CutConnection is a fault.
var CutConnection error = errCut{}

// New starts a control plane that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		CertLife: 7 * 24 * time.Hour, Heartbeat: time.Second, ServerTime: time.Now,
		tokens: map[string]*token{}, agents: map[string]*Agent{}, conns: map[net.Conn]bool{},
	}
	var err error
	if _, s.Signer, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	if err := s.makeRoot(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) makeRoot() (err error) {
	if s.rootKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "linktest root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, s.rootKey.Public(), s.rootKey)
	if err != nil {
		return err
	}
	if s.root, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	door := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		DNSNames: []string{"link.chom.internal"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if der, err = x509.CreateCertificate(rand.Reader, door, s.root, key.Public(), s.rootKey); err != nil {
		return err
	}
	s.doorCert = tls.Certificate{Certificate: [][]byte{der, s.root.Raw}, PrivateKey: key}
	return nil
}

// Start listens. It is called by New; a stopped server may be started again at
// its address.
func (s *Server) Start(address string) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s.Address = ln.Addr().String()
	mux := http.NewServeMux()
	limit := connect.WithReadMaxBytes(4 << 20)
	path, h := linkv1connect.NewEnrollmentServiceHandler(&enrolment{s}, limit)
	mux.Handle(path, h)
	path, h = linkv1connect.NewLinkServiceHandler(&door{s: s}, limit)
	mux.Handle(path, h)
	mux.HandleFunc(repositories+"{site}/", (&door{s: s}).repository)
	srv := &http.Server{
		Handler: s.faulty(mux),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.doorCert}, NextProtos: []string{"h2"},
			ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true, VerifyConnection: s.verify,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:    log.New(io.Discard, "", 0), // broken connections are what tests are about
		ConnState: func(c net.Conn, st http.ConnState) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if st == http.StateClosed {
				delete(s.conns, c)
			} else {
				s.conns[c] = true
			}
		},
	}
	s.mu.Lock()
	s.http, s.stopped = srv, false
	s.mu.Unlock()
	go func() { _ = srv.ServeTLS(ln, "", "") }() // ends with Stop, and only says so
	return nil
}

// Stop cuts everything.
func (s *Server) Stop() {
	s.mu.Lock()
	srv := s.http
	s.stopped = true
	s.mu.Unlock()
	_ = srv.Close() // it is the end of the test
}

// CutAll ends all connections; agents may come back.
func (s *Server) CutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// verify accepts no certificate, or one that is ours and in time.
func (s *Server) verify(st tls.ConnectionState) error {
	if len(st.PeerCertificates) == 0 {
		return nil
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.root)
	_, err := st.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

type (
	peerKey struct{}
	connKey struct{}
)

// faulty puts the peer's certificate into the context and faults around calls.
func (s *Server) faulty(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			r = r.WithContext(context.WithValue(r.Context(), peerKey{}, r.TLS.PeerCertificates[0]))
		}
		procedure := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		fault := func(answered bool) error {
			s.mu.Lock()
			f := s.Fault
			s.mu.Unlock()
			if f == nil {
				return nil
			}
			return f(procedure, answered)
		}
		if err := fault(false); err != nil {
			s.fail(w, r, err)
			return
		}
		if procedure == "Watch" {
			next.ServeHTTP(w, r)
			return
		}
		held := &held{header: http.Header{}, status: http.StatusOK}
		next.ServeHTTP(held, r)
		if err := fault(true); err != nil {
			s.fail(w, r, err)
			return
		}
		for k, v := range held.header {
			w.Header()[k] = v
		}
		w.WriteHeader(held.status)
		_, _ = w.Write(held.body) // a client that left doesn't want it
	})
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, CutConnection) {
		if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			c.Close()
		}
		panic(http.ErrAbortHandler)
	}
	_ = connect.NewErrorWriter().Write(w, r, err) // a client that left doesn't want it
}

// held keeps an answer back.
type held struct {
	header http.Header
	status int
	body   []byte
}

func (h *held) Header() http.Header { return h.header }
func (h *held) WriteHeader(s int)   { h.status = s }
func (h *held) Write(p []byte) (int, error) {
	h.body = append(h.body, p...)
	return len(p), nil
}

// SetFault changes Fault while the server runs.
func (s *Server) SetFault(f func(procedure string, answered bool) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Fault = f
}

// BreakStreams has Watch accept and never deliver, as some proxies do.
func (s *Server) BreakStreams(broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streamsBroken = broken
}

// Token makes a join token for a new server, and gives the server's id.
func (s *Server) Token() (text, server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	server = contract.NewServerID().String()
	pin := sha256.Sum256(s.root.RawSubjectPublicKeyInfo)
	var secret [20]byte
	rand.Read(secret[:])
	text = fmt.Sprintf("chom1.%d.%x.%s", len(s.tokens)+1, secret, hex.EncodeToString(pin[:]))
	s.tokens[text] = &token{server: server}
	s.agents[server] = &Agent{wake: make(chan struct{}), events: map[string][]*linkv1.TaskEvent{}, refuse: map[string]string{}}
	return text, server
}

// Look runs f with the agent's record locked.
func (s *Server) Look(server string, f func(*Agent)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[server]
	f(a)
	close(a.wake)
	a.wake = make(chan struct{})
}

// Send queues a message for the agent.
func (s *Server) Send(server string, m *linkv1.LinkMessage) {
	s.Look(server, func(a *Agent) { a.queue = append(a.queue, m) })
}

// Offer signs and queues an order. What is left out of it is filled in.
func (s *Server) Offer(server string, o *orderv1.Order) {
	s.Send(server, OfferOf(s.Sign(server, o)))
}

// OfferOf is the message that carries an order.
func OfferOf(so *orderv1.SignedOrder) *linkv1.LinkMessage {
	return &linkv1.LinkMessage{Message: &linkv1.LinkMessage_Offer{Offer: so}}
}

// certify makes an agent's certificate for the key in a request.
func (s *Server) certify(server string, csr []byte) (*linkv1.Identity, string, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, "", err
	}
	if err := req.CheckSignature(); err != nil {
		return nil, "", err
	}
	s.serial++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1000 + s.serial), NotBefore: time.Now().Add(-time.Second), NotAfter: time.Now().Add(s.CertLife),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "chom", Path: "/server/" + server}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, s.root, req.PublicKey, s.rootKey)
	if err != nil {
		return nil, "", err
	}
	return &linkv1.Identity{
		ServerId: server, Certificate: der, Roots: [][]byte{s.root.Raw},
		SignerKeys: [][]byte{s.Signer.Public().(ed25519.PublicKey)},
	}, tmpl.SerialNumber.String(), nil
}
