// Package link is the agents' door: its own listener, TLS 1.3 with client
// certificates, over which agents enrol, say Hello, hold Watch or repeat Poll,
// and Report. It decides nothing about tasks or servers: packages task, fleet
// and site do.
//
// Who speaks is known from the certificate alone; no field of a message says
// it. Every call is checked against the database: the server is wanted, the
// certificate is its current or next one, the epoch its newest.
//
// What an agent is to be told lies in the database. Its Watch or Poll (one of
// them, the newest) is woken by a hint, reads what there is, and sends it:
//
//	commit -> hint -> hold wakes -> Check, Offer (one transaction) -> agent -> Report
//	   `--- lost hint: looked for every 2 s, by one query for all ---'
//
// A hold ends, besides by its agent, when
//
//	the agent opened another one            the older one ends, ABORTED
//	the epoch is over, an attempt was lost  FAILED_PRECONDITION: say Hello again
//	the server is not wanted any more       PERMISSION_DENIED, and all its connections are closed
//	this process stops                      Drain{window}
package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/sitelog"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
)

// Config is what the door opens to. All but the two numbers must be set.
type Config struct {
	DB        *db.DB
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	Authority *pki.Authority
	Fleet     *fleet.Fleet
	Tasks     *task.Tasks
	Sites     *site.Sites
	// Certificates is what hosts ask for; nil for a control plane that has none to give.
	Certificates Certificates
	// Backups is where hosts put backups; nil for a control plane that keeps none.
	Backups Backups
	// Repositories have the keys of sites' backups; nil for a control plane that keeps none.
	Repositories Repositories
	// History keeps what hosts measure; nil for a control plane that keeps none of it.
	History History
	// Logs are passed on to who looks at them; nil for a control plane that shows none.
	Logs *sitelog.Hub

	// ConnectionsPerSecond is how many handshakes are begun at most; half of it
	// from one address. 0 means 500, which takes a core's quarter.
	ConnectionsPerSecond int
	// EnrollmentsPerMinute is how many calls of Enroll and Recover may fail from
	// one address. 0 means 5.
	EnrollmentsPerMinute int
}

const (
	defaultConnections = 500
	defaultEnrollments = 5
)

// Server is the door. Make it with New, run Run beside Serve, end it with
// Shutdown.
type Server struct {
	db        *db.DB
	log       *slog.Logger
	authority *pki.Authority
	fleet     *fleet.Fleet
	tasks     *task.Tasks
	sites     *site.Sites

	certificates Certificates
	backups      Backups
	repositories Repositories
	history      History
	logs         *sitelog.Hub

	validator protovalidate.Validator
	errors    *connect.ErrorWriter
	metrics   *metrics
	noisy     *rate.Limiter // lines of the log that agents cause
	agents    agents
	strangers strangers

	http     *http.Server
	gate     *gate
	draining chan struct{} // closed when the process is about to stop
	window   atomic.Int64  // of Drain; valid once draining is closed
	once     sync.Once
}

// New makes the door. It listens to nothing before Serve.
func New(c Config) (*Server, error) {
	s := &Server{
		db: c.DB, log: c.Log, authority: c.Authority, fleet: c.Fleet, tasks: c.Tasks, sites: c.Sites, certificates: c.Certificates, backups: c.Backups,
		repositories: c.Repositories, history: c.History, logs: c.Logs,
		noisy:     rate.NewLimiter(5, 50),
		agents:    agents{byID: map[contract.ServerID]*agent{}},
		strangers: newStrangers(orElse(c.EnrollmentsPerMinute, defaultEnrollments)),
		draining:  make(chan struct{}),
	}
	listener, err := pki.NewListener(c.Authority, time.Now())
	if err != nil {
		return nil, fmt.Errorf("open the agents' door: %w", err)
	}
	if s.metrics, err = newMetrics(c.Metrics, s.agents.holding); err != nil {
		return nil, fmt.Errorf("open the agents' door: %w", err)
	}
	if s.validator, err = newValidator(); err != nil {
		return nil, fmt.Errorf("open the agents' door: %w", err)
	}
	options := s.options()
	s.errors = connect.NewErrorWriter(options...)
	mux := http.NewServeMux()
	mux.Handle(linkv1connect.NewLinkServiceHandler(s, options...))
	mux.Handle(linkv1connect.NewEnrollmentServiceHandler(s, options...))
	if s.logs != nil {
		s.logs.Connect(s.hears)
	}
	s.gate = newGate(s.warned(listener.Config()), orElse(c.ConnectionsPerSecond, defaultConnections), s.metrics)
	s.http = s.newHTTP(mux)
	return s, nil
}

// warned has people hear of agents whose certificates are not valid at this
// machine's time: that is a host that was off for long, or a clock that is wrong.
func (s *Server) warned(config *tls.Config) *tls.Config {
	verify := config.VerifyConnection
	config.VerifyConnection = func(c tls.ConnectionState) error {
		err := verify(c)
		var invalid x509.CertificateInvalidError
		if !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
			return err
		}
		cert := c.PeerCertificates[0]
		if peer, foreign := s.authority.VerifyAgent(cert, cert.NotAfter); foreign == nil && s.noisy.Allow() {
			s.log.Warn("an agent was turned away, since its certificate is not valid at the time that this machine's clock shows",
				"server", peer.Server, "from", cert.NotBefore, "until", cert.NotAfter, "now", time.Now().UTC())
		}
		return err
	}
	return config
}

func orElse(n, otherwise int) int {
	if n > 0 {
		return n
	}
	return otherwise
}

const (
	// headersFor also bounds the handshake.
	headersFor = 10 * time.Second
	// idleFor closes connections without a call; an agent always has one.
	idleFor = time.Minute
	// stuckFor closes a connection that takes no byte.
	stuckFor   = 30 * time.Second
	maxHeaders = 8 << 10
	// A host needs three streams: Watch or Poll, Report, Renew.
	streamsMax = 8
	// A table for our own headers costs kilobytes of each connection, and saves a
	// hundred bytes of an answer every 20 s. Agents' headers need the usual table:
	// they may use it before they have heard of any other.
	headerTable = 1
	// Windows bound what waits for a busy handler; memory is only used for what is there. A host that is 50 ms away gets a
	// connection's window twenty times a second through.
	streamWindow = 1 << 20
	connWindow   = 4 << 20
)

// newHTTP makes the server: no read and no write timeout, since streams last
// for days. Pings find the dead.
func (s *Server) newHTTP(calls http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:           s.admit(calls),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}, // the gate does TLS; this only says that HTTP/2 is wanted
		Protocols:         protocols,
		ReadHeaderTimeout: headersFor,
		IdleTimeout:       idleFor,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnState:         s.connState,
		ConnContext:       withGuest,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          streamsMax,
			MaxReadFrameSize:              16 << 10,
			MaxEncoderHeaderTableSize:     headerTable,
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: connWindow,
			SendPingTimeout:               15 * time.Second,
			PingTimeout:                   10 * time.Second,
			WriteByteTimeout:              stuckFor,
		},
	}
}

// Serve takes agents in until Shutdown, and then returns nil at once. The
// listener is closed in the end. It may be called once.
func (s *Server) Serve(l net.Listener) error {
	s.gate.open(l)
	err := s.http.Serve(s.gate)
	select {
	case <-s.draining:
		return nil
	default:
	}
	return fmt.Errorf("serve agents: %w", err)
}

const (
	// drainMin is what even a few agents are spread over.
	drainMin = 10 * time.Second
	// comeback is how many agents a second are welcome after a restart.
	comeback = 200
	// sayFor is how long streams have to say Drain; they need milliseconds.
	sayFor = 2 * time.Second
	// endFor is for calls under way, and for HTTP/2 to say goodbye (1 s).
	endFor = 2 * time.Second
)

// Shutdown tells all agents to go away and to come back spread over a while,
// ends their streams, and closes the door. It takes less than 5 s. It returns
// ctx's error if that ends first.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(func() {
		s.window.Store(int64(drainWindow(s.agents.holding())))
		close(s.draining)
	})
	err := s.gate.Close()
	s.awaitHolds(ctx)
	for _, a := range s.agents.list() {
		if h := a.held(); h != nil {
			h.cut(errDraining)
		}
	}
	end, cancel := context.WithTimeout(ctx, endFor)
	defer cancel()
	if late := s.http.Shutdown(end); late != nil {
		err = errors.Join(err, s.http.Close())
	}
	return errors.Join(err, ctx.Err())
}

func drainWindow(agents int) time.Duration {
	return max(drainMin, time.Duration(agents)*time.Second/comeback)
}

// awaitHolds waits until no agent holds anything, for a while.
func (s *Server) awaitHolds(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sayFor)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for s.agents.holding() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
