package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

// Exit codes, for scripts. They do not change.
const (
	exitOK          = 0
	exitFailed      = 1 // anything without a code of its own
	exitUsage       = 2 // the command line is wrong, or the control plane found a value invalid
	exitNotFound    = 3 // what was named is not there
	exitTaskFailed  = 4 // the change was accepted, but the host could not carry it out
	exitDenied      = 5 // not signed in, or not allowed
	exitUnavailable = 6 // the control plane does not answer, or cannot now
)

const exitCodesHelp = `Exit codes:
  0  done
  1  failed, for any other reason
  2  the command line is wrong, or a value in it is invalid
  3  what was named does not exist
  4  the change was accepted, but its task failed on the host
  5  not signed in, or not allowed
  6  the control plane does not answer, or not now`

// problem is an error that knows its exit code and what to do about it.
type problem struct {
	code int
	text string
	next string // what to do, may be empty
}

func (p *problem) Error() string { return p.text }

func usagef(format string, args ...any) error {
	return &problem{code: exitUsage, text: fmt.Sprintf(format, args...), next: "add --help to see how the command is used"}
}

func notFoundf(next, format string, args ...any) error {
	return &problem{code: exitNotFound, text: fmt.Sprintf(format, args...), next: next}
}

// explain turns any error into a problem.
func explain(err error) *problem {
	var known *problem
	if errors.As(err, &known) {
		return known
	}
	if errors.Is(err, context.Canceled) {
		return &problem{code: exitFailed, text: "interrupted", next: "what was asked for goes on; see it with: chom task list"}
	}
	var remote *connect.Error
	if !errors.As(err, &remote) {
		return &problem{code: exitFailed, text: err.Error()}
	}
	p := &problem{code: exitFailed, text: plain(remote.Message())}
	switch remote.Code() {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		p.code = exitUsage
		p.text = strings.Join(append([]string{p.text}, violations(remote)...), "\n  ")
	case connect.CodeNotFound:
		p.code = exitNotFound
		p.next = "list what there is with: chom organization list, chom server list, chom site list"
	case connect.CodeUnauthenticated:
		p.code = exitDenied
		p.next = "sign in with: chom login --url URL"
	case connect.CodePermissionDenied:
		p.code = exitDenied
		p.next = "see who you are and how far your token reaches with: chom whoami; a token that reaches further: chom login --scope manage"
		if info, ok := detail[*errdetails.ErrorInfo](err); ok && info.GetReason() == stepUpRequired {
			p.next = "sign in on the control plane's page, confirm that it is you, and do it there"
		}
	case connect.CodeResourceExhausted:
		p.code = exitUnavailable
		p.next = tryAgain(err)
	case connect.CodeAborted:
		p.next = "somebody changed it meanwhile: look at it, then repeat the command"
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		p.code = exitUnavailable
		switch {
		case connect.IsWireError(err): // it answered, and said why
			p.next = tryAgain(err)
			return p
		case untrusted(err):
			p.next = "name the authority that signed its certificate: chom login --url URL --ca FILE (with CHOM_TOKEN: SSL_CERT_FILE=FILE)"
			return p
		}
		p.next = "see that chomd runs (curl URL/readyz) and that the URL is right (chom login --url URL); then try again"
	case connect.CodeUnimplemented:
		p.next = "the control plane is older than this command, or the URL is not that of a control plane"
	case connect.CodeInternal, connect.CodeUnknown:
		p.next = "the control plane's log says more"
		if id := remote.Meta().Get("X-Request-Id"); id != "" {
			p.next += "; look for request " + plain(id)
		}
	}
	return p
}

func tryAgain(err error) string {
	if wait := retryDelay(err); wait > 0 {
		return fmt.Sprintf("try again in %.0f s", math.Ceil(wait.Seconds()))
	}
	return "try again in a while"
}

// stepUpRequired is the reason in a refusal to a session that must first prove that its person still sits there.
const stepUpRequired = "STEP_UP_REQUIRED"

// detail is what a failure says besides its text, of one kind.
func detail[T any](err error) (T, bool) {
	var none T
	var remote *connect.Error
	if !errors.As(err, &remote) {
		return none, false
	}
	for _, d := range remote.Details() {
		value, err := d.Value()
		if err != nil {
			continue // a newer control plane's detail: its message says it as well
		}
		if found, ok := value.(T); ok {
			return found, true
		}
	}
	return none, false
}

// violations names the fields that the control plane refused.
func violations(err *connect.Error) []string {
	bad, _ := detail[*errdetails.BadRequest](err)
	var lines []string
	for _, v := range bad.GetFieldViolations() {
		if line := plain(v.GetField() + ": " + v.GetDescription()); !strings.Contains(err.Message(), line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// report prints the error and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	p := explain(err)
	fmt.Fprintln(w, "error:", p.text)
	if p.next != "" {
		fmt.Fprintln(w, "next: ", p.next)
	}
	return p.code
}
