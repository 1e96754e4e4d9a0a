package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/limit"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/repeat"
	"chom.dev/controlplane/rest"
	"chom.dev/controlplane/token"
)

// door is what every request goes through, in the order that order.go lists.
type door struct {
	db            *db.DB
	log           *slog.Logger
	accounts      *account.Accounts
	tokens        *token.Tokens
	cookies       cookies
	organizations *organization.Organizations
	limits        *limit.Limiter
	repeats       *repeat.Repeats
	validator     protovalidate.Validator
	metrics       *metrics
	refusals      *refusals
	errors        *connect.ErrorWriter
	closing       context.Context // ends when the process is about to: streams end then
	streams       atomic.Int64    // open now

	proxies []netip.Prefix // whose X-Forwarded-For is believed
	origins []string       // whose pages may read answers
	pages   *http.CrossOriginProtection
	tls     bool
}

// maxStreams bounds what watching costs: each stream looks into the database whenever its task changes.
const maxStreams = 2000

var errStreams = fault.Unavailable("too many streams are open", 5*time.Second, nil)

var errClosing = fault.Unavailable("the control plane is going down", time.Second, nil)

// Limits of one call.
const (
	maxBody       = rest.MaxBody
	minCompressed = 1 << 10          // bytes; a smaller answer takes longer to pack than to send
	bodyTimeout   = 20 * time.Second // to send it
	unaryTimeout  = 25 * time.Second // a site login waits up to 15 s for its host
	sendTimeout   = 20 * time.Second // for each message of a stream: who reads slower is cut off
)

// call is what is known of a request. It travels in the context.
type call struct {
	id         string
	address    netip.Addr
	from       account.Client  // the same, with what a browser says of itself
	caller     *account.Caller // nil for nobody
	rule       rule
	recognize  func(context.Context) (*account.Caller, error) // who the proof of the call stands for now
	reach      []string                                       // sites of the organization in the request that the caller is bound to; nil for all
	controller *http.ResponseController

	raw bool // a REST call whose body is bytes and no message

	begun  bool           // its request reached the handlers, readable
	failed *connect.Error // what it ended with, as the caller sees it
	hidden error          // what it ended with, if that is not for the caller
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// callerOf is who calls. Handlers of methods that anybody may call must not ask.
func callerOf(ctx context.Context) account.Caller {
	if c := callOf(ctx); c != nil && c.caller != nil {
		return *c.caller
	}
	return account.Caller{}
}

// clientOf is where a call comes from.
func clientOf(ctx context.Context) account.Client {
	if c := callOf(ctx); c != nil {
		return c.from
	}
	return account.Client{}
}

// reachOf are the sites that the caller is bound to in the organization of the request; nil for all. Handlers of methods
// that the table calls asReached must ask.
func reachOf(ctx context.Context) []string {
	if c := callOf(ctx); c != nil {
		return c.reach
	}
	return []string{}
}

// identify gives a request an id, which its answer and the log name, and finds out where it comes from.
func (d *door) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{id: rand.Text(), address: addressOf(r, d.proxies), controller: http.NewResponseController(w)}
		c.from = account.Client{Address: c.address.String(), UserAgent: r.UserAgent(), Device: d.cookies.device(r)}
		w.Header().Set("X-Request-Id", c.id)
		ctx := audit.As(context.WithValue(r.Context(), callKey{}, c), actorOf(c)) // a stranger, until recognized
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// decide is the part of the decision that needs no request.
func (d *door) decide(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := callOf(r.Context())
		r = r.WithContext(audit.As(r.Context(), actorOf(c)))
		err := decideCaller(c.rule, c.caller, time.Now())
		if c.caller != nil && fault.KindOf(err) == fault.KindDenied {
			err = cmp.Or(d.refusals.record(r.Context(), audit.Platform, known(r.URL.Path), ""), err)
		}
		if err != nil {
			d.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// bound gives the body its time.
func (d *door) bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		// A controller that cannot set deadlines is a test's recorder.
		_ = callOf(r.Context()).controller.SetReadDeadline(time.Now().Add(bodyTimeout))
		next.ServeHTTP(w, r)
	})
}

// check is a step that looks at a request before a handler sees it.
type check func(ctx context.Context, procedure string, request proto.Message) error

func (check check) run(ctx context.Context, procedure string, request any) error {
	message, ok := request.(proto.Message)
	if !ok {
		return fmt.Errorf("request of %s is a %T", procedure, request)
	}
	return check(ctx, procedure, message)
}

// WrapUnary implements connect.Interceptor.
func (check check) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		if err := check.run(ctx, request.Spec().Procedure, request.Any()); err != nil {
			return nil, err
		}
		return next(ctx, request)
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (check check) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return next(ctx, &checkedConn{StreamingHandlerConn: conn, ctx: ctx, check: check})
	}
}

// WrapStreamingClient implements connect.Interceptor. It is for clients, which this is not.
func (check check) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

type checkedConn struct {
	connect.StreamingHandlerConn
	ctx   context.Context
	check check
}

func (c *checkedConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	return c.check.run(c.ctx, c.Spec().Procedure, message)
}

// validate holds a request to the rules that the protos state.
func (d *door) validate(_ context.Context, _ string, request proto.Message) error {
	return d.validator.Validate(request)
}

// membership is the rest of the decision.
func (d *door) membership(ctx context.Context, procedure string, request proto.Message) error {
	c := callOf(ctx)
	if c == nil {
		return fault.Denied("nobody may do this") // a handler that was mounted past the door
	}
	if c.rule.who != inOrganization {
		return nil
	}
	s, err := d.standing(ctx, c.rule, c.caller, request)
	if err != nil {
		return err
	}
	if c.reach = s.reach; s.refused == nil {
		return nil
	}
	trail := trailOf(s.organization, c.caller, string(s.role))
	return cmp.Or(d.refusals.record(ctx, trail, procedure, cmp.Or(siteOf(request), s.organization)), s.refused)
}

// standing is what a caller is, at this moment, in the organization that a request names.
type standing struct {
	organization string // the zero id for the platform
	role         organization.Role
	reach        []string // sites; nil for all
	refused      error    // why this is not enough for the request
}

func (d *door) standing(ctx context.Context, rule rule, caller *account.Caller, request proto.Message) (standing, error) {
	id, platform, err := organizationOf(request)
	if err != nil {
		return standing{}, err
	}
	var member organization.Membership
	if !platform && !caller.Operator && caller.Role == "" {
		if member, err = d.organizations.MembershipOf(ctx, id, caller.ID); err != nil {
			return standing{}, err
		}
	}
	named := id.String()
	if platform {
		named = audit.Platform
	}
	return standing{
		organization: named, role: member.Role, reach: reach(caller, member),
		refused: decideMember(rule, caller, named, platform, member, siteOf(request)),
	}, nil
}

// WrapUnary is the way of a call with one answer.
func (d *door) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (answer connect.AnyResponse, err error) {
		ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
		defer cancel()
		defer func() {
			if caught := recover(); caught != nil {
				err = d.caught(caught)
			}
			if shown := d.end(ctx, err); shown != nil {
				answer, err = nil, shown
			}
		}()
		answer, err = next(ctx, request)
		if err == nil {
			tag(answer)
		}
		return answer, err
	}
}

// tag writes the ETag of the thing in an answer into its header.
func tag(answer connect.AnyResponse) {
	if message, ok := answer.Any().(proto.Message); ok {
		if etag := rest.ETagOf(message.ProtoReflect()); etag != "" {
			answer.Header().Set("ETag", etag)
		}
	}
}

// WrapStreamingHandler is the way of a call with a stream of answers.
func (d *door) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		defer func() {
			if caught := recover(); caught != nil {
				err = d.caught(caught)
			}
			if shown := d.end(ctx, err); shown != nil {
				err = shown
			}
		}()
		defer d.streams.Add(-1)
		if d.streams.Add(1) > maxStreams {
			return errStreams
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(d.closing, func() { cancel(errClosing) })()
		err = next(ctx, &timedConn{StreamingHandlerConn: conn, call: callOf(ctx)})
		if err != nil && errors.Is(context.Cause(ctx), errClosing) {
			return errClosing
		}
		return err
	}
}

// WrapStreamingClient is for clients, which this is not.
func (d *door) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// timedConn times what comes in and what goes out.
type timedConn struct {
	connect.StreamingHandlerConn
	call *call // nil for a handler that was mounted past the door
}

func (c *timedConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	if c.call != nil {
		_ = c.call.controller.SetReadDeadline(time.Time{}) // the request is here; the stream may last
	}
	return nil
}

func (c *timedConn) Send(message any) error {
	if c.call == nil {
		return c.StreamingHandlerConn.Send(message)
	}
	_ = c.call.controller.SetWriteDeadline(time.Now().Add(sendTimeout))
	err := c.StreamingHandlerConn.Send(message)
	// It would end the stream later, in a moment of quiet.
	_ = c.call.controller.SetWriteDeadline(time.Time{})
	return err
}

// caught turns a panic into an error: one request fails, the others do not notice.
func (d *door) caught(value any) error {
	if err, ok := value.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(value) // net/http's own way to end a connection
	}
	return fmt.Errorf("panic: %v\n%s", value, debug.Stack())
}

// end keeps what a call ended with, for measure, and gives the error as the caller sees it, nil when there is none.
func (d *door) end(ctx context.Context, err error) *connect.Error {
	c := callOf(ctx)
	if c == nil {
		c = &call{id: "none"}
	}
	c.begun = true
	if err == nil {
		return nil
	}
	shown, hidden := toConnect(err, c.id)
	c.failed = shown
	if hidden || shown.Code() == connect.CodeUnavailable {
		c.hidden = withCause(err)
	}
	return shown
}

// refuse ends a request with an error before a handler sees it, in the words of its protocol.
func (d *door) refuse(w http.ResponseWriter, r *http.Request, err error) {
	shown := d.end(r.Context(), err)
	if shown.Code() == connect.CodeUnauthenticated {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/api/"), isRaw(r.Context()):
		rest.WriteError(w, shown)
	case d.errors.IsSupported(r):
		_ = d.errors.Write(w, r, shown) // a caller who went away needs no answer
	default: // no protocol of ours
		http.Error(w, shown.Message(), rest.ProblemFrom(shown).Status)
	}
}

func isRaw(ctx context.Context) bool {
	c := callOf(ctx)
	return c != nil && c.raw
}

// measure counts and logs a call. What it logs holds no token, no header and no body.
func (d *door) measure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		next.ServeHTTP(w, r)
		d.finish(r.Context(), callOf(r.Context()), known(r.URL.Path), time.Since(began))
	})
}

// unreadable is the code of a call that connect turned away: another HTTP method, no message in the body, too large.
const unreadable = "unreadable"

func (d *door) finish(ctx context.Context, c *call, procedure string, took time.Duration) {
	code, level := "ok", slog.LevelInfo
	switch {
	case c.failed != nil:
		code = c.failed.Code().String()
	case !c.begun:
		code = unreadable
	}
	d.metrics.count(procedure, code, took)
	attributes := make([]slog.Attr, 0, 7)
	attributes = append(attributes,
		slog.String("request", c.id),
		slog.String("procedure", procedure),
		slog.Duration("took", took),
		slog.String("address", c.address.String()),
	)
	if c.caller != nil {
		attributes = append(attributes, slog.String("account", c.caller.ID))
	}
	if code != "ok" {
		attributes = append(attributes, slog.String("code", code))
	}
	if c.hidden != nil {
		level = slog.LevelError
		attributes = append(attributes, slog.Any("err", c.hidden))
	}
	d.log.LogAttrs(ctx, level, "call", attributes...)
}

// known is a procedure's name, if it is one: a stranger's text belongs neither in labels nor in the log nor in the trail.
func known(procedure string) string {
	if _, ok := rules[procedure]; !ok {
		return "unknown"
	}
	return procedure
}

// withCause adds what a fault keeps from the caller.
func withCause(err error) error {
	if f, ok := fault.Of(err); ok && f.Unwrap() != nil {
		return fmt.Errorf("%w: %w", err, f.Unwrap())
	}
	return err
}
