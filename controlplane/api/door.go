package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
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
	"chom.dev/controlplane/organization"
)

// door is what every call goes through, in this order: an id, the caller, the rule of the method, the body (bounded in size
// and time), its validation, the caller's role in the organization that it names, and only then the noun. On the way
// out: the error in the protocol's words, a line in the log, a count in the metrics.
type door struct {
	db            *db.DB
	log           *slog.Logger
	accounts      *account.Accounts
	organizations *organization.Organizations
	validator     protovalidate.Validator
	metrics       *metrics
	errors        *connect.ErrorWriter
	closing       context.Context // ends when the process is about to: streams end then
	streams       atomic.Int64    // open now
}

// maxStreams bounds what watching costs: each stream looks into the database whenever its task changes.
const maxStreams = 2000

var errStreams = fault.Unavailable("too many streams are open", 5*time.Second, nil)

var errClosing = fault.Unavailable("the control plane is going down", time.Second, nil)

// Limits of one call.
const (
	maxBody       = 1 << 20          // bytes; the largest request we know has 300 KiB
	minCompressed = 1 << 10          // bytes; a smaller answer takes longer to pack than to send
	bodyTimeout   = 20 * time.Second // to send it
	unaryTimeout  = 25 * time.Second // a site login waits up to 15 s for its host
	sendTimeout   = 20 * time.Second // for each message of a stream: who reads slower is cut off
)

// call is what is known of a call. It travels in the context.
type call struct {
	id         string
	caller     *account.Account // nil for nobody
	rule       rule
	controller *http.ResponseController
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// callerOf is the account that calls. Handlers of methods that anybody may call must not ask.
func callerOf(ctx context.Context) account.Account {
	if c := callOf(ctx); c != nil && c.caller != nil {
		return *c.caller
	}
	return account.Account{}
}

// admit decides, from headers alone, who calls and whether the method is theirs. It stands in front of connect's handlers:
// nobody's body is read before.
func (d *door) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		c := &call{id: rand.Text(), controller: http.NewResponseController(w)}
		w.Header().Set("X-Request-Id", c.id)
		w.Header().Set("Cache-Control", "no-store")
		caller, err := d.authenticate(r)
		if err == nil {
			c.caller = caller
			c.rule = rules[r.URL.Path] // no row is the zero rule, which denies
			err = decideCaller(c.rule, caller)
		}
		if err != nil {
			shown := d.finish(r.Context(), c, r.URL.Path, began, err)
			if d.errors.IsSupported(r) {
				_ = d.errors.Write(w, r, shown) // a caller who went away needs no answer
			} else {
				http.Error(w, shown.Message(), http.StatusUnauthorized)
			}
			return
		}
		// A controller that cannot set deadlines is a test's recorder.
		_ = c.controller.SetReadDeadline(time.Now().Add(bodyTimeout))
		ctx := context.WithValue(r.Context(), callKey{}, c)
		if caller != nil {
			ctx = audit.As(ctx, caller.ID)
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// authenticate finds the caller by the token; nil where there is none.
func (d *door) authenticate(r *http.Request) (*account.Account, error) {
	header := r.Header.Values("Authorization")
	if len(header) == 0 {
		return nil, nil
	}
	scheme, token, found := strings.Cut(header[0], " ")
	if len(header) > 1 || !found || !strings.EqualFold(scheme, "Bearer") {
		return nil, fault.Unauthenticated(`the Authorization header must be "Bearer <token>", once`)
	}
	caller, err := d.accounts.Authenticate(r.Context(), token)
	if err != nil {
		return nil, err
	}
	return &caller, nil
}

// check validates a request and decides on it. It runs before a handler sees the request.
func (d *door) check(ctx context.Context, procedure string, request any) error {
	c := callOf(ctx)
	if c == nil {
		return fault.Denied("nobody may do this") // a handler that was mounted past admit
	}
	message, ok := request.(proto.Message)
	if !ok {
		return fmt.Errorf("request of %s is a %T", procedure, request)
	}
	if err := d.validator.Validate(message); err != nil {
		return err
	}
	if c.rule.who != inOrganization {
		return nil
	}
	id, platform, err := organizationOf(message)
	if err != nil {
		return err
	}
	var has organization.Role
	if !platform && !c.caller.Operator {
		if has, err = d.organizations.RoleOf(ctx, id, c.caller.ID); err != nil {
			return err
		}
	}
	refused := decideMember(c.rule, c.caller, platform, has)
	if refused == nil {
		return nil
	}
	if err := d.recordRefusal(ctx, procedure, id.String()); err != nil {
		return err
	}
	return refused
}

// recordRefusal leaves a trace of whoever reaches for what is not theirs.
func (d *door) recordRefusal(ctx context.Context, procedure, target string) error {
	return db.InTx(ctx, d.db, func(tx *db.Tx) error {
		return audit.Record(ctx, tx, audit.Event{
			Organization: audit.Platform, Action: "access.refuse", Object: target, Detail: procedure,
		})
	})
}

// WrapUnary is the way of a call with one answer.
func (d *door) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (answer connect.AnyResponse, err error) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
		defer cancel()
		defer func() {
			if caught := recover(); caught != nil {
				err = d.caught(caught)
			}
			if shown := d.finish(ctx, callOf(ctx), request.Spec().Procedure, began, err); shown != nil {
				answer, err = nil, shown
			}
		}()
		if err := d.check(ctx, request.Spec().Procedure, request.Any()); err != nil {
			return nil, err
		}
		return next(ctx, request)
	}
}

// WrapStreamingHandler is the way of a call with a stream of answers.
func (d *door) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		began := time.Now()
		defer func() {
			if caught := recover(); caught != nil {
				err = d.caught(caught)
			}
			if shown := d.finish(ctx, callOf(ctx), conn.Spec().Procedure, began, err); shown != nil {
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
		err = next(ctx, &checkedConn{StreamingHandlerConn: conn, ctx: ctx, door: d})
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

// checkedConn checks what comes in and times what goes out.
type checkedConn struct {
	connect.StreamingHandlerConn
	ctx  context.Context
	door *door
}

func (c *checkedConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	if of := callOf(c.ctx); of != nil {
		_ = of.controller.SetReadDeadline(time.Time{}) // the request is here; the stream may last
	}
	return c.door.check(c.ctx, c.Spec().Procedure, message)
}

func (c *checkedConn) Send(message any) error {
	of := callOf(c.ctx)
	if of == nil {
		return c.StreamingHandlerConn.Send(message)
	}
	_ = of.controller.SetWriteDeadline(time.Now().Add(sendTimeout))
	err := c.StreamingHandlerConn.Send(message)
	// It would end the stream later, in a moment of quiet.
	_ = of.controller.SetWriteDeadline(time.Time{})
	return err
}

// caught turns a panic into an error: one request fails, the others do not notice.
func (d *door) caught(value any) error {
	if err, ok := value.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(value) // net/http's own way to end a connection
	}
	return fmt.Errorf("panic: %v\n%s", value, debug.Stack())
}

// finish counts and logs a call and gives the error as the caller sees it, nil when there is none. What it logs holds no
// token, no header and no body.
func (d *door) finish(ctx context.Context, c *call, procedure string, began time.Time, err error) *connect.Error {
	if c == nil {
		c = &call{id: "none"}
	}
	if _, known := rules[procedure]; !known {
		procedure = "unknown" // a stranger's text belongs neither in labels nor in the log
	}
	took := time.Since(began)
	attributes := []slog.Attr{
		slog.String("request", c.id),
		slog.String("procedure", procedure),
		slog.Duration("took", took),
	}
	if c.caller != nil {
		attributes = append(attributes, slog.String("account", c.caller.ID))
	}
	if err == nil {
		d.metrics.count(procedure, "ok", took)
		d.log.LogAttrs(ctx, slog.LevelInfo, "call", attributes...)
		return nil
	}
	shown, hidden := toConnect(err, c.id)
	d.metrics.count(procedure, shown.Code().String(), took)
	attributes = append(attributes, slog.String("code", shown.Code().String()))
	level := slog.LevelInfo
	if hidden || shown.Code() == connect.CodeUnavailable {
		level = slog.LevelError
		attributes = append(attributes, slog.Any("err", withCause(err)))
	}
	d.log.LogAttrs(ctx, level, "call", attributes...)
	return shown
}

// withCause adds what a fault keeps from the caller.
func withCause(err error) error {
	if f, ok := fault.Of(err); ok && f.Unwrap() != nil {
		return fmt.Errorf("%w: %w", err, f.Unwrap())
	}
	return err
}
