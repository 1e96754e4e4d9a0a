package api

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/limit"
	"chom.dev/proto/contract"
)

// codes is the only place where a kind of fault becomes a code of the protocol.
var codes = map[fault.Kind]connect.Code{
	fault.KindInternal:        connect.CodeInternal,
	fault.KindInvalid:         connect.CodeInvalidArgument,
	fault.KindUnauthenticated: connect.CodeUnauthenticated,
	fault.KindDenied:          connect.CodePermissionDenied,
	fault.KindStale:           connect.CodePermissionDenied, // told from a denial by its detail
	fault.KindNotFound:        connect.CodeNotFound,
	fault.KindConflict:        connect.CodeFailedPrecondition,
	fault.KindChanged:         connect.CodeAborted,
	fault.KindLimited:         connect.CodeResourceExhausted,
	fault.KindUnavailable:     connect.CodeUnavailable,
}

// errorDomain is the Domain of the ErrorInfo in answers: the reasons in it are ours.
const errorDomain = "chom.dev"

// StepUpRequired is the Reason in the ErrorInfo of a call that a session must first confirm.
const StepUpRequired = "STEP_UP_REQUIRED"

// toConnect turns any error into what a caller may see. What is not a fault is not for callers: hidden is true, and the
// door logs it.
func toConnect(err error, requestID string) (shown *connect.Error, hidden bool) {
	var ready *connect.Error
	var broken *protovalidate.ValidationError
	f, isFault := fault.Of(err)
	switch {
	case isFault:
		shown = connect.NewError(codes[f.Kind()], errors.New(f.Error()))
		if f.Kind() == fault.KindInvalid && f.Field() != "" {
			attach(shown, badRequest(violation{f.Field(), f.Rule()}))
		}
		if f.Kind() == fault.KindStale {
			attach(shown, &errdetails.ErrorInfo{Reason: StepUpRequired, Domain: errorDomain})
		}
		if f.Kind() == fault.KindUnavailable || f.Kind() == fault.KindLimited {
			after := max(f.RetryAfter(), time.Second)
			attach(shown, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
			shown.Meta().Set("Retry-After", strconv.Itoa(limit.Seconds(after)))
		}
	case errors.As(err, &broken):
		shown = fromValidation(broken)
	case errors.As(err, &ready):
		return ready, false // connect's own: a body too large, an encoding it does not know
	case errors.Is(err, context.DeadlineExceeded):
		shown = connect.NewError(connect.CodeDeadlineExceeded, errors.New("this took too long"))
	case errors.Is(err, context.Canceled):
		shown = connect.NewError(connect.CodeCanceled, errors.New("canceled"))
	default:
		shown = connect.NewError(connect.CodeInternal, errors.New("internal error; the control plane's log has it as request "+requestID))
		hidden = true
	}
	return shown, hidden
}

type violation struct{ field, rule string }

func badRequest(all ...violation) *errdetails.BadRequest {
	detail := &errdetails.BadRequest{}
	for _, v := range all {
		detail.FieldViolations = append(detail.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.field, Description: v.rule})
	}
	return detail
}

// maxViolations keeps an answer short when a list of ten thousand items is wrong in each.
const maxViolations = 10

// fromValidation names the fields that break the rules written in the proto files. It never repeats their values.
func fromValidation(err *protovalidate.ValidationError) *connect.Error {
	var all []violation
	for _, v := range err.Violations {
		if len(all) == maxViolations {
			break
		}
		all = append(all, violation{fieldName(v.Proto.GetField()), v.Proto.GetMessage()})
	}
	if len(all) == 0 {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the request is not valid"))
	}
	shown := connect.NewError(connect.CodeInvalidArgument, errors.New(all[0].field+": "+all[0].rule))
	attach(shown, badRequest(all...))
	return shown
}

var plainKey = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// fieldName is a field's path as domains[2] or settings.title; a key that is no plain word is a stranger's text and left out.
func fieldName(path *validate.FieldPath) string {
	var name strings.Builder
	for i, element := range path.GetElements() {
		if i > 0 {
			name.WriteByte('.')
		}
		name.WriteString(element.GetFieldName())
		switch subscript := element.GetSubscript().(type) {
		case *validate.FieldPathElement_Index:
			fmt.Fprintf(&name, "[%d]", subscript.Index)
		case *validate.FieldPathElement_StringKey:
			if plainKey.MatchString(subscript.StringKey) {
				name.WriteString("." + subscript.StringKey)
			}
		}
	}
	return name.String()
}

func attach(to *connect.Error, detail proto.Message) {
	if d, err := connect.NewErrorDetail(detail); err == nil {
		to.AddDetail(d)
	} // else the message says it as well
}

// invalid names the field whose typed value was refused.
func invalid(field string, err error) error {
	var wrong *contract.InvalidError
	if errors.As(err, &wrong) {
		return fault.Invalid(field, wrong.Rule)
	}
	return err
}
