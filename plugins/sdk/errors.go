package sdk

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrNotInstalled is returned by Update and Login when there is no application
// to work on.
var ErrNotInstalled = errors.New("the application is not installed")

// ErrUnsupported is what a caller gets for a call that the type doesn't offer.
var ErrUnsupported = errors.New("the site type does not offer this")

// FieldError blames one input: "settings.title", "database", "tree".
type FieldError struct {
	Field  string
	Reason string // continues the sentence: "must be at most 200 characters"
}

func (e *FieldError) Error() string { return e.Field + " " + e.Reason }

// Permanent wraps an error that would come back however often the call is
// repeated: an archive that lacks its core, a tree full of someone's files.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent reports whether repeating the call can't help: the error is
// Permanent, a *FieldError, or one of the errors of this package.
func IsPermanent(err error) bool {
	var permanent *permanentError
	var field *FieldError
	return errors.As(err, &permanent) || errors.As(err, &field) ||
		errors.Is(err, ErrNotInstalled) || errors.Is(err, ErrUnsupported)
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// maxErrorText bounds what a failing program's output adds to an error.
const maxErrorText = 4000

// toStatus is the one place where errors get their code on the wire.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	text := clean(err.Error(), maxErrorText)
	var field *FieldError
	var permanent *permanentError
	switch {
	case errors.As(err, &field):
		s, detailErr := status.New(codes.InvalidArgument, text).WithDetails(&errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{{
				Field:       clean(field.Field, maxPath),
				Description: clean(field.Reason, maxText),
			}},
		})
		if detailErr != nil {
			return status.Error(codes.InvalidArgument, text)
		}
		return s.Err()
	case errors.Is(err, ErrNotInstalled):
		return status.Error(codes.NotFound, text)
	case errors.Is(err, ErrUnsupported):
		return status.Error(codes.Unimplemented, text)
	case errors.As(err, &permanent):
		return status.Error(codes.FailedPrecondition, text)
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, text)
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, text)
	default:
		return status.Error(codes.Internal, text)
	}
}

// fromStatus undoes toStatus on the agent's side. The text is cleaned again:
// it comes from a process of the tenant's user.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := clean(s.Message(), maxErrorText)
	switch s.Code() {
	case codes.InvalidArgument:
		for _, detail := range s.Details() {
			if bad, ok := detail.(*errdetails.BadRequest); ok && len(bad.GetFieldViolations()) > 0 {
				v := bad.GetFieldViolations()[0]
				return &FieldError{Field: clean(v.GetField(), maxPath), Reason: clean(v.GetDescription(), maxText)}
			}
		}
		return Permanent(errors.New(text))
	case codes.NotFound:
		return ErrNotInstalled
	case codes.Unimplemented:
		return ErrUnsupported
	case codes.FailedPrecondition:
		return Permanent(errors.New(text))
	case codes.Unavailable: // gRPC's own: nobody answers any more
		return fmt.Errorf("the plugin's process ended during the call: %s", text)
	case codes.DeadlineExceeded:
		return &callError{text, context.DeadlineExceeded}
	case codes.Canceled:
		return &callError{text, context.Canceled}
	default:
		return errors.New(text)
	}
}

// callError keeps the plugin's words and still is what the context said.
type callError struct {
	text  string
	cause error
}

func (e *callError) Error() string { return e.text }
func (e *callError) Unwrap() error { return e.cause }
