package api

import (
	"net"
	"net/http"
	"strings"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/fault"
)

// authenticate finds the caller by the token; nil where there is none.
func (d *door) authenticate(r *http.Request) (*account.Caller, error) {
	header := r.Header.Values("Authorization")
	if len(header) == 0 {
		return nil, nil
	}
	scheme, token, found := strings.Cut(header[0], " ")
	if len(header) > 1 || !found || !strings.EqualFold(scheme, "Bearer") {
		return nil, fault.Unauthenticated(`the Authorization header must be "Bearer <token>", once`)
	}
	caller, err := d.tokens.Authenticate(r.Context(), token, addressOf(r))
	if err != nil {
		return nil, err
	}
	return &caller, nil
}

// addressOf is where a request comes from.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}
