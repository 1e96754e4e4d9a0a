package rest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
)

// Problem is a failure as RFC 9457 has it.
type Problem struct {
	// Type is the kind of failure: where the documentation explains it. Programs compare it.
	Type string `json:"type"`
	// Title is the kind in words, the same for each failure of it.
	Title string `json:"title"`
	// Status is the HTTP status.
	Status int `json:"status"`
	// Detail says what went wrong with this request.
	Detail string `json:"detail"`
	// Errors name the fields that break a rule.
	Errors []FieldError `json:"errors,omitempty"`
	// RequestID is what the control plane's log calls the request.
	RequestID string `json:"request_id,omitempty"`
	// RetryAfter is how many seconds to wait before the same request may succeed; 0 where waiting does not help.
	RetryAfter int `json:"retry_after,omitempty"`
}

// FieldError is a field that breaks a rule.
type FieldError struct {
	// Field is its name as in the request, for example domains[2].
	Field string `json:"field"`
	// Rule is what it breaks.
	Rule string `json:"rule"`
}

// Kind is one of the ways in which a request can fail.
type Kind struct {
	// Name is the last part of the problem's type, and what Connect calls it where it knows it.
	Name string
	// Status is the HTTP status.
	Status int
	// Title says it in words.
	Title string
	// Advice is what to do about it.
	Advice string
}

// Kinds are all of them.
var Kinds = []Kind{
	{"invalid_argument", http.StatusBadRequest, "The request breaks a rule",
		"errors names the fields or parameters and their rules. The same call fails again."},
	{"unauthenticated", http.StatusUnauthorized, "Who calls is not known",
		"Send a token, or sign in. After five wrong tokens in a minute, an address must wait."},
	{"permission_denied", http.StatusForbidden, "The caller may not do this",
		"The role in the organization is too small, or the scope of the token. /api/docs/authorization says what is needed."},
	{"step_up_required", http.StatusForbidden, "The caller must first confirm that it is them",
		"The session must prove its second factor or password again; then repeat the call."},
	{"not_found", http.StatusNotFound, "There is no such thing",
		"It does not exist, or belongs to somebody else: both look the same."},
	{"method_not_allowed", http.StatusMethodNotAllowed, "The path has other methods",
		"The header Allow names the methods of the path."},
	{"failed_precondition", http.StatusConflict, "The thing is in another state than the request needs",
		"It is in a state in which this cannot be done, or a name is taken. Look at it, then decide."},
	{"aborted", http.StatusPreconditionFailed, "The thing was changed by somebody else",
		"The If-Match is not its ETag any more. Read it again, decide anew, and send the new ETag."},
	{"body_too_large", http.StatusRequestEntityTooLarge, "The body is too large",
		"A body has at most 1 MiB."},
	{"unsupported_media_type", http.StatusUnsupportedMediaType, "The body is not in a format that is understood",
		"Send the body as Content-Type: application/json, without a Content-Encoding."},
	{"resource_exhausted", http.StatusTooManyRequests, "Too many requests",
		"Wait for retry_after seconds. The headers RateLimit-* say how much is left before it happens."},
	{"canceled", 499, "The caller went away",
		"The call may have had its effect all the same."},
	{"internal", http.StatusInternalServerError, "The control plane failed",
		"A bug, or a broken machine. The log of the control plane knows it by request_id."},
	{"unimplemented", http.StatusNotImplemented, "This is not implemented",
		"A newer control plane may know it."},
	{"unavailable", http.StatusServiceUnavailable, "It may work later",
		"Something is away for a moment. Repeat the call after retry_after seconds; with an Idempotency-Key that is always safe."},
	{"deadline_exceeded", http.StatusGatewayTimeout, "It took too long",
		"It may have happened all the same. Repeat it with the same Idempotency-Key, or look."},
}

// TypePrefix and a Kind's name are a problem's type: a place in the documentation that the control plane serves.
const TypePrefix = "/api/docs#"

const (
	requestIDHeader = "X-Request-Id"
	contentProblem  = "application/problem+json"
)

// problem is a failure of a kind, by its name; internal for one that is not known.
func problem(name, detail string) Problem {
	for _, k := range Kinds {
		if k.Name == name {
			return Problem{Type: TypePrefix + k.Name, Title: k.Title, Status: k.Status, Detail: detail}
		}
	}
	return problem("internal", detail)
}

// problemOf is a failure by its HTTP status.
func problemOf(status int, detail string) Problem {
	for _, k := range Kinds {
		if k.Status == status {
			return problem(k.Name, detail)
		}
	}
	return problem("internal", detail)
}

// WriteProblem answers with a failure. It takes the request's id from the header that is set already.
func WriteProblem(w http.ResponseWriter, p Problem) {
	header := w.Header()
	p.RequestID = header.Get(requestIDHeader)
	header.Set("Content-Type", contentProblem)
	if p.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // it is never HTML
	if err := encoder.Encode(p); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(text.Bytes()) // a reader who went away needs no answer
}

// wireError is an error as Connect writes it.
type wireError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Details []struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	} `json:"details"`
}

// fromConnect reads an error that Connect wrote; where it wrote none, the status says what it was.
func fromConnect(text []byte, status int) Problem {
	var wire wireError
	if err := json.Unmarshal(text, &wire); err != nil || wire.Code == "" {
		return problemOf(status, http.StatusText(status))
	}
	p := problem(wire.Code, wire.Message)
	for _, detail := range wire.Details {
		if value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(detail.Value, "=")); err == nil {
			p.add(detail.Type, value)
		}
	}
	return p
}

// ProblemFrom is an error of a call as a problem.
func ProblemFrom(err *connect.Error) Problem {
	p := problem(err.Code().String(), err.Message())
	for _, detail := range err.Details() {
		p.add(detail.Type(), detail.Bytes())
	}
	return p
}

// WriteError answers with an error of a call.
func WriteError(w http.ResponseWriter, err *connect.Error) {
	for name, values := range err.Meta() {
		w.Header()[name] = values
	}
	WriteProblem(w, ProblemFrom(err))
}

// add takes over what an error's detail says.
func (p *Problem) add(kind string, detail []byte) {
	switch kind {
	case "google.rpc.BadRequest":
		var bad errdetails.BadRequest
		if proto.Unmarshal(detail, &bad) == nil {
			for _, v := range bad.GetFieldViolations() {
				p.Errors = append(p.Errors, FieldError{v.GetField(), v.GetDescription()})
			}
		}
	case "google.rpc.RetryInfo":
		var retry errdetails.RetryInfo
		if proto.Unmarshal(detail, &retry) == nil {
			p.RetryAfter = int(math.Ceil(retry.GetRetryDelay().AsDuration().Seconds()))
		}
	case "google.rpc.ErrorInfo":
		// Reasons that have a kind of their own are told from others of the same code by it.
		var info errdetails.ErrorInfo
		if proto.Unmarshal(detail, &info) == nil {
			if named := problem(strings.ToLower(info.GetReason()), p.Detail); named.Type != TypePrefix+"internal" {
				p.Type, p.Title, p.Status = named.Type, named.Title, named.Status
			}
		}
	}
}
