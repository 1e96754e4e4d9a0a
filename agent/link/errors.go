package link

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
)

// How a session may end, other than by a failure.
var (
	errStale    = errors.New("the epoch is over")
	errRenewed  = errors.New("the certificate was renewed")
	errTryOther = errors.New("the next identity was refused; the current one is tried")
	errSilent   = errors.New("the control plane fell silent")
	errEnded    = errors.New("the control plane ended the stream")
)

// drained asks to come back within a window.
type drained struct{ window time.Duration }

func (d drained) Error() string {
	return fmt.Sprintf("the control plane asks to come back within %s", d.window)
}

// stale reports whether a call was refused for its epoch.
func stale(err error) bool { return connect.CodeOf(err) == connect.CodeFailedPrecondition }

// refused reports whether the control plane won't have this agent, as opposed
// to not being able to.
func refused(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return true
	}
	return badCertificate(err)
}

// badCertificate reports whether the far end turned our certificate down in
// the handshake. crypto/tls has no type for a received alert.
func badCertificate(err error) bool {
	if err == nil {
		return false
	}
	s := err.Error()
	i := strings.Index(s, "remote error: tls: ")
	return i >= 0 && (strings.Contains(s[i:], "certificate") || strings.Contains(s[i:], "access denied"))
}

// retryAfter is how long the control plane asked to stay away, 0 when it
// didn't.
func retryAfter(err error) time.Duration {
	var c *connect.Error
	if !errors.As(err, &c) {
		return 0
	}
	seconds, err := strconv.ParseUint(c.Meta().Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
