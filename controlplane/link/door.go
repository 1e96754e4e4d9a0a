package link

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
)

// A call comes through here: the connection's certificate says who it is, the
// agent's own limits let it in, its body is bounded in size and time, validated
// and cleaned, and the database says whether it may. On the way out: the error
// in the protocol's words, a line in the log, a count in the metrics.

const (
	// bodyFor is for sending a request.
	bodyFor = 20 * time.Second
	// callFor is for answering it; Poll and Watch have their own.
	callFor = 30 * time.Second
	// challengeFor is for those that wait for a DNS provider and the zone's name servers, 140 s at most; agents wait as long.
	challengeFor = 150 * time.Second
	// anonymousFor is for a connection without a certificate and its one call.
	anonymousFor = time.Minute
)

// maxBody of the methods that carry more than a few fields.
var maxBody = map[string]int{
	linkv1connect.LinkServiceHelloProcedure:  4 << 20,
	linkv1connect.LinkServiceReportProcedure: 4 << 20,
	// A backup names its database's tables, ten thousand at most.
	linkv1connect.LinkServiceReportBackupProcedure: 1 << 20,
	// 200 lines of 4 KiB, and what is around them.
	linkv1connect.LinkServiceReportLogsProcedure: 1 << 20,
}

// answerFor is how long the methods may take that wait for somebody else.
var answerFor = map[string]time.Duration{
	linkv1connect.LinkServicePresentChallengeProcedure: challengeFor,
	linkv1connect.LinkServiceRemoveChallengeProcedure:  challengeFor,
}

const maxBodyElse = 16 << 10

// envelope is what a stream's message has around it.
const envelope = 5

func bodyOf(procedure string) int { return orElse(maxBody[procedure], maxBodyElse) }

func (s *Server) options() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithInterceptors(s),
		// Messages are small, and an inflater is not; a bomb needs one.
		connect.WithCompression("gzip", nil, nil),
		connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
			return []connect.HandlerOption{connect.WithReadMaxBytes(bodyOf(spec.Procedure))}
		}),
	}
}

// newValidator compiles the rules of all requests now: a rule that does not
// compile must not wait for its first request.
func newValidator() (protovalidate.Validator, error) {
	var requests []proto.Message
	services := linkv1.File_chom_link_v1_link_service_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			requests = append(requests, newMessage(methods.Get(j).Input()))
		}
	}
	v, err := protovalidate.New(protovalidate.WithMessages(requests...))
	if err != nil {
		return nil, fmt.Errorf("compile the rules of requests: %w", err)
	}
	for _, request := range requests {
		var broken *protovalidate.ValidationError
		if err := v.Validate(request); err != nil && !errors.As(err, &broken) {
			return nil, fmt.Errorf("rules of %s: %w", request.ProtoReflect().Descriptor().FullName(), err)
		}
	}
	return v, nil
}

func newMessage(d protoreflect.MessageDescriptor) proto.Message { return dynamicpb.NewMessage(d) }

type guestKey struct{}

// withGuest gives handlers the connection below TLS.
func withGuest(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, guestKey{}, guestOf(c))
}

func guestOf(c net.Conn) *guest {
	if t, ok := c.(*tls.Conn); ok {
		if g, ok := t.NetConn().(*guest); ok {
			return g
		}
	}
	return nil
}

// connState notes when a handshake is done and when a connection is gone. The
// first comes before any call of the connection.
func (s *Server) connState(c net.Conn, state http.ConnState) {
	g := guestOf(c)
	if g == nil {
		return
	}
	switch state {
	case http.StateActive, http.StateIdle:
		if g.shaken() {
			s.welcome(g, c.(*tls.Conn))
		}
	case http.StateClosed:
		if g.welcome {
			s.farewell(g)
		}
	}
}

// welcome notes whose connection it is. The handshake has verified the
// certificate, if there is one.
func (s *Server) welcome(g *guest, c *tls.Conn) {
	g.welcome = true
	s.metrics.connections.Inc()
	if certs := c.ConnectionState().PeerCertificates; len(certs) > 0 {
		peer, err := pki.PeerOf(certs[0])
		if err != nil {
			_ = g.Close() // can't be: the handshake has asked the same
			return
		}
		id, err := contract.ParseServerID(peer.Server)
		if err != nil {
			_ = g.Close()
			return
		}
		g.peer, g.agent = peer, s.agents.get(id)
		g.agent.connect(g)
		return
	}
	g.expire = time.AfterFunc(anonymousFor, func() { _ = g.Close() })
	if !s.gate.stranger(g.addr) {
		s.metrics.turnedAway.WithLabelValues("anonymous").Inc()
		_ = g.Close()
	}
}

func (s *Server) farewell(g *guest) {
	s.metrics.connections.Dec()
	if g.agent != nil {
		g.agent.disconnect(g)
	}
	if g.expire != nil {
		g.expire.Stop()
		s.gate.strangerLeft(g.addr)
	}
}

// caller is who makes a call: of an agent what its certificate says, of a
// stranger the address.
type caller struct {
	agent      *agent // nil for a stranger
	peer       pki.Peer
	addr       netip.Addr
	controller *http.ResponseController
}

func (c *caller) actor() audit.Actor {
	if c.agent == nil {
		return audit.Actor{Kind: audit.Stranger, Address: c.addr}
	}
	return audit.Actor{Kind: audit.Agent, ID: c.agent.id.String(), Address: c.addr}
}

type callerKey struct{}

// callerOf gives the caller. Every call has one: admit stands before all of them.
func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

const (
	linkPath   = "/" + linkv1connect.LinkServiceName + "/"
	enrollPath = "/" + linkv1connect.EnrollmentServiceName + "/"
)

// admit decides, from the connection alone, who calls and whether the call may
// come in. It stands in front of connect's handlers: nobody's body is read before.
func (s *Server) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g, _ := r.Context().Value(guestKey{}).(*guest)
		if g == nil {
			http.Error(w, "not for this listener", http.StatusForbidden)
			return
		}
		c := &caller{agent: g.agent, peer: g.peer, addr: g.addr, controller: http.NewResponseController(w)}
		leave, err := s.enter(r, c)
		if err != nil {
			s.refuse(w, r, c, err)
			return
		}
		if isBackup(r.URL.Path) {
			s.backup(w, r.WithContext(audit.As(context.WithValue(r.Context(), callerKey{}, c), c.actor())), c)
			return
		}
		// Connect stops at the limit too, but reads on to the end to see how large it is.
		read := &metered{ReadCloser: http.MaxBytesReader(w, r.Body, int64(bodyOf(r.URL.Path))+envelope)}
		defer func() { leave(read.n) }()
		_ = c.controller.SetReadDeadline(time.Now().Add(bodyFor)) // HTTP/2 always can
		r.Body = read
		ctx := audit.As(context.WithValue(r.Context(), callerKey{}, c), c.actor())
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// enter asks the limits of whoever calls.
func (s *Server) enter(r *http.Request, c *caller) (leave func(read int), err error) {
	select {
	case <-s.draining:
		return nil, errDraining
	default:
	}
	switch {
	case isBackup(r.URL.Path) && s.backups != nil:
		return nil, c.proven() // its limits are its own
	case strings.HasPrefix(r.URL.Path, linkPath):
		if err := c.proven(); err != nil {
			return nil, err
		}
		holds := r.URL.Path == linkv1connect.LinkServiceWatchProcedure || r.URL.Path == linkv1connect.LinkServicePollProcedure
		if err := c.agent.enter(r.Context(), !holds); err != nil {
			return nil, err
		}
		return func(read int) { c.agent.leave(!holds, read) }, nil
	case strings.HasPrefix(r.URL.Path, enrollPath):
		if err := s.strangers.enter(c.addr, time.Now()); err != nil {
			return nil, err
		}
		return func(int) {}, nil
	}
	return nil, fault.NotFound("method")
}

// proven refuses a caller without a certificate that is valid now.
func (c *caller) proven() error {
	if c.agent == nil {
		return errNobody
	}
	if time.Now().After(c.peer.Expires) {
		return errExpired
	}
	return nil
}

// refuse answers a call that was not let in.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, c *caller, err error) {
	shown := s.finish(r.Context(), c, r.URL.Path, time.Now(), err)
	if s.errors.IsSupported(r) {
		_ = s.errors.Write(w, r, shown) // a caller who went away needs no answer
		return
	}
	refuseBackup(w, shown)
}

// metered counts what is read.
type metered struct {
	io.ReadCloser
	n int
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.n += n
	return n, err
}

// check validates and cleans a request, and asks the database whether its
// sender may make it. A message with an epoch belongs to a session.
func (s *Server) check(ctx context.Context, request any) error {
	c := callerOf(ctx)
	message, ok := request.(proto.Message)
	if !ok || c == nil {
		return fmt.Errorf("request is a %T", request)
	}
	if err := s.validator.Validate(message); err != nil {
		return err
	}
	clean(message)
	session, ok := message.(interface{ GetEpoch() uint64 })
	if !ok {
		return nil // Hello, Enroll, Recover: their nouns look for themselves
	}
	return s.wanted(ctx, c, session.GetEpoch())
}

// wanted asks the database. Whoever is not wanted any more is cut at once.
func (s *Server) wanted(ctx context.Context, c *caller, epoch uint64) error {
	err := s.fleet.Check(ctx, c.peer, epoch)
	s.banishDenied(c, err)
	return err
}

// WrapUnary is the way of a call with one answer.
func (s *Server) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (answer connect.AnyResponse, err error) {
		began := time.Now()
		procedure := request.Spec().Procedure
		ctx, cancel := context.WithTimeout(ctx, cmp.Or(answerFor[procedure], callFor))
		defer cancel()
		defer func() {
			if caught := recover(); caught != nil {
				err = fmt.Errorf("panic: %v\n%s", caught, debug.Stack())
			}
			if shown := s.finish(ctx, callerOf(ctx), procedure, began, err); shown != nil {
				answer, err = nil, shown
			}
		}()
		if err := s.check(ctx, request.Any()); err != nil {
			return nil, err
		}
		return next(ctx, request)
	}
}

// WrapStreamingHandler is the way of a call with a stream of answers.
func (s *Server) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		began := time.Now()
		defer func() {
			if caught := recover(); caught != nil {
				err = fmt.Errorf("panic: %v\n%s", caught, debug.Stack())
			}
			if shown := s.finish(ctx, callerOf(ctx), conn.Spec().Procedure, began, err); shown != nil {
				err = shown
			}
		}()
		return next(ctx, &checked{StreamingHandlerConn: conn, ctx: ctx, server: s})
	}
}

// WrapStreamingClient is for clients, which this is not.
func (s *Server) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// sendFor is how long one message of a stream may take: who reads slower has
// stopped to.
const sendFor = 10 * time.Second

// checked checks what comes in and bounds what goes out.
type checked struct {
	connect.StreamingHandlerConn
	ctx    context.Context
	server *Server
}

func (c *checked) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	_ = callerOf(c.ctx).controller.SetReadDeadline(time.Time{}) // the request is here; the stream may last
	return c.server.check(c.ctx, message)
}

func (c *checked) Send(message any) error {
	controller := callerOf(c.ctx).controller
	_ = controller.SetWriteDeadline(time.Now().Add(sendFor))
	err := c.StreamingHandlerConn.Send(message)
	// It would end the stream later, in a moment of quiet.
	_ = controller.SetWriteDeadline(time.Time{})
	return err
}

// finish counts a call, logs what went wrong with it, and gives the error as
// the caller sees it, nil when there is none.
func (s *Server) finish(ctx context.Context, c *caller, procedure string, began time.Time, err error) *connect.Error {
	switch {
	case isBackup(procedure):
		procedure = "backup" // what follows is a site, and an object's name
	case !isProcedure(procedure):
		procedure = "unknown" // a stranger's text belongs neither in labels nor in the log
	}
	holds := procedure == linkv1connect.LinkServiceWatchProcedure || procedure == linkv1connect.LinkServicePollProcedure
	if !holds && procedure != "backup" { // of which one takes a blink, another an hour
		s.metrics.took.WithLabelValues(procedure).Observe(time.Since(began).Seconds())
	}
	if err == nil {
		s.metrics.calls.WithLabelValues(procedure, "ok").Inc()
		return nil
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		s.metrics.calls.WithLabelValues(procedure, "canceled").Inc()
		return connect.NewError(connect.CodeCanceled, errors.New("canceled")) // the agent went away
	}
	shown, hidden := toConnect(err)
	s.metrics.calls.WithLabelValues(procedure, shown.Code().String()).Inc()
	level := slog.LevelDebug
	switch {
	case hidden:
		level = slog.LevelError
	case shown.Code() == connect.CodePermissionDenied, shown.Code() == connect.CodeUnauthenticated, shown.Code() == connect.CodeInvalidArgument:
		level = slog.LevelWarn
	}
	s.logCall(ctx, level, c, procedure, err)
	return shown
}

// logCall writes a line that an agent caused, unless agents cause too many.
func (s *Server) logCall(ctx context.Context, level slog.Level, c *caller, procedure string, err error) {
	if !s.log.Enabled(ctx, level) || !s.noisy.Allow() {
		return
	}
	attributes := []slog.Attr{slog.String("procedure", procedure), slog.Any("err", withCause(err))}
	if c != nil {
		attributes = append(attributes, slog.String("address", c.addr.String()))
		if c.agent != nil {
			attributes = append(attributes, slog.String("server", c.agent.id.String()))
		}
	}
	s.log.LogAttrs(ctx, level, "an agent's call failed", attributes...)
}

func isProcedure(path string) bool {
	switch path {
	case linkv1connect.EnrollmentServiceEnrollProcedure, linkv1connect.EnrollmentServiceRecoverProcedure,
		linkv1connect.LinkServiceHelloProcedure, linkv1connect.LinkServiceWatchProcedure, linkv1connect.LinkServicePollProcedure,
		linkv1connect.LinkServiceReportProcedure, linkv1connect.LinkServiceRenewProcedure,
		linkv1connect.LinkServiceIssuePlatformCertificateProcedure, linkv1connect.LinkServiceFetchCertificateProcedure,
		linkv1connect.LinkServicePresentChallengeProcedure, linkv1connect.LinkServiceRemoveChallengeProcedure,
		linkv1connect.LinkServiceFetchRepositoryKeyProcedure, linkv1connect.LinkServiceReportBackupProcedure,
		linkv1connect.LinkServiceReportLogsProcedure:
		return true
	}
	return false
}
