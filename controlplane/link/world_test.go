package link_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/link"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// world is a control plane without its people's door.
type world struct {
	t         testing.TB
	d         *db.DB
	authority *pki.Authority
	dir       string // of the authority
	metrics   *prometheus.Registry
	fleet     *fleet.Fleet
	tasks     *task.Tasks
	sites     *site.Sites
	link      *link.Server
	addr      string
	stop      func() // ends the loops and the door, politely
	kill      func() // ends them rudely: streams break
}

type option func(*link.Config)

func newWorld(t testing.TB, d *db.DB, opts ...option) *world {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, d: d, dir: dir, authority: authority}
	w.start("127.0.0.1:0", opts...)
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// start brings up everything over the database, as a new process would.
func (w *world) start(addr string, opts ...option) {
	w.t.Helper()
	log := w.log()
	w.metrics = prometheus.NewRegistry()
	w.fleet = fleet.New(w.d, log)
	var err error
	if w.tasks, err = task.NewTasks(w.d, w.authority.Signer(), log, w.metrics, task.OnEnd(task.ConvergeSite, site.Ended)); err != nil {
		w.t.Fatal(err)
	}
	w.sites = site.New(w.d, w.tasks, log, site.Config{AnyName: true})
	config := link.Config{
		DB: w.d, Log: log, Metrics: w.metrics, Authority: w.authority, Fleet: w.fleet, Tasks: w.tasks, Sites: w.sites,
		EnrollmentsPerMinute: 1000, ConnectionsPerSecond: 10_000,
	}
	for _, opt := range opts {
		opt(&config)
	}
	if w.link, err = link.New(config); err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	run := func(name string, loop func(context.Context) error) {
		loops.Go(func() {
			if err := loop(ctx); err != nil && !errors.Is(err, context.Canceled) {
				w.t.Errorf("%s: %v", name, err)
			}
		})
	}
	run("fleet", w.fleet.Run)
	run("tasks", w.tasks.Run)
	run("link", w.link.Run)
	run("serve", func(context.Context) error { return w.link.Serve(l) })
	var once sync.Once
	end := func(shutdown context.Context) {
		once.Do(func() {
			if err := w.link.Shutdown(shutdown); err != nil && shutdown.Err() == nil {
				w.t.Errorf("shutdown: %v", err)
			}
			cancel()
			loops.Wait()
		})
	}
	w.stop = func() { end(context.Background()) }
	w.kill = func() {
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		end(gone)
	}
}

// tx runs fn in a transaction.
func (w *world) tx(fn func(ctx context.Context, tx *db.Tx) error) {
	w.t.Helper()
	if err := db.InTx(context.Background(), w.d, func(tx *db.Tx) error { return fn(context.Background(), tx) }); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(query string, args ...any) int {
	w.t.Helper()
	var n int
	if err := w.d.Reader().QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// server makes one that waits for its host.
func (w *world) server(name string) (contract.ServerID, string) {
	w.t.Helper()
	s, token, err := w.fleet.Create(context.Background(), name, fleet.Shared, contract.OrganizationID{}, w.authority.Pin())
	if err != nil {
		w.t.Fatal(err)
	}
	return s.ID, token.Text
}

// noop asks the server's agent to do nothing, in steps.
func (w *world) noop(server string) task.Task {
	w.t.Helper()
	var made task.Task
	w.tx(func(ctx context.Context, tx *db.Tx) (err error) {
		made, err = task.Enqueue(ctx, tx, task.New{Server: server, Kind: task.Noop, Parameters: &orderv1.Noop{Steps: 1}})
		return err
	})
	return made
}

func (w *world) task(id string) task.Task {
	w.t.Helper()
	got, err := w.tasks.Get(context.Background(), task.Platform, id)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

// host is an agent by hand: its identity, and a connection.
type host struct {
	w      *world
	id     string
	key    *ecdsa.PrivateKey
	cert   []byte
	roots  [][]byte
	signer ed25519.PublicKey
	name   string // of its process
	epoch  uint64
	client linkv1connect.LinkServiceClient
	close  func()
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// trust is how a client checks the door.
func trust(roots [][]byte, cert []byte, key *ecdsa.PrivateKey) *tls.Config {
	pool := x509.NewCertPool()
	for _, der := range roots {
		if c, err := x509.ParseCertificate(der); err == nil {
			pool.AddCert(c)
		}
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: pki.LinkName}
	if cert != nil {
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}
	}
	return c
}

// dial gives a client with one HTTP/2 connection of its own.
func dial(c *tls.Config) (*http.Client, func()) {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	t := &http.Transport{TLSClientConfig: c, Protocols: protocols, DisableCompression: true}
	return &http.Client{Transport: t}, t.CloseIdleConnections
}

func (w *world) stranger() (linkv1connect.EnrollmentServiceClient, func()) {
	c, end := dial(trust(w.authority.Roots(), nil, nil))
	return linkv1connect.NewEnrollmentServiceClient(c, "https://"+w.addr), end
}

// enroll makes a server and its host. The task that prepares it is canceled.
func (w *world) enroll(name string) *host {
	w.t.Helper()
	_, token := w.server(name)
	h := &host{w: w, key: newKey(w.t), name: uuid.NewString()}
	client, end := w.stranger()
	defer end()
	res, err := client.Enroll(context.Background(), &linkv1.EnrollRequest{
		Token: token, EnrollmentId: uuid.NewString(), Csr: newCSR(w.t, h.key), Facts: &fleetv1.Facts{Hostname: name, Prepared: true},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	h.take(res.GetIdentity())
	w.tx(func(ctx context.Context, tx *db.Tx) error {
		s, err := w.fleet.Get(ctx, must(contract.ParseServerID(h.id)))
		if err != nil {
			return err
		}
		_, err = w.tasks.Cancel(ctx, tx, task.Platform, s.PrepareTaskID)
		return err
	})
	h.dial()
	return h
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (h *host) take(id *linkv1.Identity) {
	h.id, h.cert, h.roots = id.GetServerId(), id.GetCertificate(), id.GetRoots()
	h.signer = id.GetSignerKeys()[0]
}

// dial begins a new connection.
func (h *host) dial() {
	c, end := dial(trust(h.roots, h.cert, h.key))
	h.client = linkv1connect.NewLinkServiceClient(c, "https://"+h.w.addr)
	h.close = end
	h.w.t.Cleanup(end)
}

// twin is the same identity in another process, on another connection.
func (h *host) twin() *host {
	twin := *h
	twin.name = uuid.NewString()
	twin.dial()
	return &twin
}

func (h *host) tryHello(journal ...*linkv1.JournalEntry) (*linkv1.HelloResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	res, err := h.client.Hello(ctx, &linkv1.HelloRequest{
		ProtocolVersion: 1, InstanceId: h.name, Facts: &fleetv1.Facts{Hostname: "h", Prepared: true}, Journal: journal,
	})
	if err == nil {
		h.epoch = res.GetEpoch()
	}
	return res, err
}

func (h *host) hello(journal ...*linkv1.JournalEntry) *linkv1.HelloResponse {
	h.w.t.Helper()
	res, err := h.tryHello(journal...)
	if err != nil {
		h.w.t.Fatalf("hello: %v", err)
	}
	return res
}

func (h *host) report(events ...*linkv1.TaskEvent) (*linkv1.ReportResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return h.client.Report(ctx, &linkv1.ReportRequest{Epoch: h.epoch, Events: events})
}

func (h *host) mustReport(events ...*linkv1.TaskEvent) *linkv1.ReportResponse {
	h.w.t.Helper()
	res, err := h.report(events...)
	if err != nil {
		h.w.t.Fatalf("report: %v", err)
	}
	return res
}

// stream is a Watch whose messages come by a channel; it is closed at the end,
// and err is valid then.
type stream struct {
	messages chan *linkv1.LinkMessage
	err      error
	stop     context.CancelFunc
}

func (h *host) watch() *stream {
	ctx, stop := context.WithCancel(context.Background())
	s := &stream{messages: make(chan *linkv1.LinkMessage, 100), stop: stop}
	go func() {
		defer close(s.messages)
		defer stop()
		in, err := h.client.Watch(ctx, &linkv1.WatchRequest{Epoch: h.epoch})
		if err != nil {
			s.err = err
			return
		}
		defer in.Close()
		for in.Receive() {
			s.messages <- in.Msg().GetMessage()
		}
		s.err = in.Err()
	}()
	h.w.t.Cleanup(stop)
	return s
}

// opened waits for the keep-alive that a stream begins with.
func (s *stream) opened(t testing.TB) *stream {
	t.Helper()
	if m := s.next(t, 10*time.Second); m.GetKeepAlive() == nil {
		t.Fatalf("the stream begins with %v", m)
	}
	return s
}

func (s *stream) next(t testing.TB, within time.Duration) *linkv1.LinkMessage {
	t.Helper()
	select {
	case m, ok := <-s.messages:
		if !ok {
			t.Fatalf("the stream has ended: %v", s.err)
		}
		return m
	case <-time.After(within):
		t.Fatal("nothing came in time")
	}
	return nil
}

// end waits for the stream's end and gives its error; messages before it are dropped.
func (s *stream) end(t testing.TB, within time.Duration) error {
	t.Helper()
	late := time.After(within)
	for {
		select {
		case _, ok := <-s.messages:
			if !ok {
				return s.err
			}
		case <-late:
			t.Fatal("the stream did not end in time")
		}
	}
}

// order opens an offer as an agent would.
func (h *host) order(m *linkv1.LinkMessage) *orderv1.Order {
	h.w.t.Helper()
	o, err := contract.VerifyOrder([]ed25519.PublicKey{h.signer}, m.GetOffer())
	if err != nil {
		h.w.t.Fatalf("%v: %v", m, err)
	}
	if o.GetServerId() != h.id {
		h.w.t.Fatalf("server %s got an order for %s", h.id, o.GetServerId())
	}
	return o
}

func accepted(o *orderv1.Order) *linkv1.TaskEvent {
	return &linkv1.TaskEvent{
		TaskId: o.GetTaskId(), Attempt: o.GetAttempt(), Fence: o.GetFence(), Sequence: 1,
		Event: &linkv1.TaskEvent_Accepted{Accepted: &linkv1.Accepted{StepCount: 1}},
	}
}

func result(o *orderv1.Order, sequence uint64, outcome orderv1.Outcome) *linkv1.TaskEvent {
	return &linkv1.TaskEvent{
		TaskId: o.GetTaskId(), Attempt: o.GetAttempt(), Fence: o.GetFence(), Sequence: sequence,
		Event: &linkv1.TaskEvent_Result{Result: &orderv1.Result{Outcome: outcome}},
	}
}

const succeeded = orderv1.Outcome_OUTCOME_SUCCEEDED

func wantCode(t testing.TB, err error, want connect.Code) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
