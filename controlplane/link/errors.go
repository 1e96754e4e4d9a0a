package link

import (
	"context"
	"errors"
	"strconv"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"

	"chom.dev/controlplane/fault"
)

// codes is the only place where a kind of fault becomes a code of the link.
// An agent takes FAILED_PRECONDITION for a stale epoch and says Hello again,
// and PERMISSION_DENIED and UNAUTHENTICATED for a word of an operator.
var codes = map[fault.Kind]connect.Code{
	fault.KindInternal:        connect.CodeInternal,
	fault.KindInvalid:         connect.CodeInvalidArgument,
	fault.KindUnauthenticated: connect.CodeUnauthenticated,
	fault.KindDenied:          connect.CodePermissionDenied,
	fault.KindNotFound:        connect.CodeNotFound,
	fault.KindConflict:        connect.CodeFailedPrecondition,
	fault.KindLimited:         connect.CodeResourceExhausted,
	fault.KindUnavailable:     connect.CodeUnavailable,
}

// Faults of the door itself.
var (
	errNobody   = fault.Unauthenticated("a client certificate is needed")
	errExpired  = fault.Unauthenticated("the client certificate has ended")
	errDraining = fault.Unavailable("the control plane is about to stop", 2*time.Second, nil)
	// errLost makes an agent say Hello again, since only its journal knows what
	// became of an attempt.
	errLost = fault.Conflict("an attempt was lost sight of: say Hello again")
)

// errReplaced ends a Watch or Poll whose agent has opened another one.
var errReplaced = errors.New("another Watch or Poll of this agent took over")

// tooMuch says that somebody asks for more than is theirs.
func tooMuch(text string, after time.Duration) *connect.Error {
	e := connect.NewError(connect.CodeResourceExhausted, errors.New(text))
	retryAfter(e, after)
	return e
}

// toConnect turns any error into what an agent may see. Hidden says that its
// text was kept back, so that the door must log it.
func toConnect(err error) (shown *connect.Error, hidden bool) {
	var ready *connect.Error
	var broken *protovalidate.ValidationError
	f, isFault := fault.Of(err)
	switch {
	case isFault:
		shown = connect.NewError(codes[f.Kind()], errors.New(f.Error()))
		if f.Kind() == fault.KindUnavailable || f.Kind() == fault.KindLimited {
			retryAfter(shown, f.RetryAfter())
		}
	case errors.Is(err, errReplaced):
		shown = connect.NewError(connect.CodeAborted, errReplaced)
	case errors.As(err, &broken):
		shown = connect.NewError(connect.CodeInvalidArgument, errors.New(firstViolation(broken)))
	case errors.As(err, &ready):
		shown = ready
	case errors.Is(err, context.DeadlineExceeded):
		shown = connect.NewError(connect.CodeDeadlineExceeded, errors.New("this took too long"))
	case errors.Is(err, context.Canceled):
		shown = connect.NewError(connect.CodeCanceled, errors.New("canceled"))
	default:
		shown = connect.NewError(connect.CodeInternal, errors.New("internal error"))
		hidden = true
	}
	return shown, hidden
}

// firstViolation names the field that breaks a rule, never its value.
func firstViolation(err *protovalidate.ValidationError) string {
	for _, v := range err.Violations {
		return protovalidate.FieldPathString(v.Proto.GetField()) + ": " + v.Proto.GetMessage()
	}
	return "the request is not valid"
}

// retryAfter tells in whole seconds, at least one, when to come back.
func retryAfter(e *connect.Error, d time.Duration) {
	seconds := int64((max(d, time.Second) + time.Second - 1) / time.Second)
	e.Meta().Set("Retry-After", strconv.FormatInt(seconds, 10))
}

// withCause adds what a fault keeps from the caller, for the log.
func withCause(err error) error {
	if f, ok := fault.Of(err); ok && f.Unwrap() != nil {
		return errors.Join(err, f.Unwrap())
	}
	return err
}
