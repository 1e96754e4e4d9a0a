package api

import (
	"net/http"
	"strings"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/fault"
)

// authenticate finds the caller by the token, or by the cookie of a session where there is no token; nil where neither is there.
//
// A wrong token is refused, since a program sent it on purpose. A wrong cookie is none: a browser sends what it has, and whoever
// sits there must be able to sign in again.
func (d *door) authenticate(r *http.Request) (*account.Caller, error) {
	header := r.Header.Values("Authorization")
	if len(header) == 0 {
		return d.authenticateSession(r)
	}
	scheme, token, found := strings.Cut(header[0], " ")
	if len(header) > 1 || !found || !strings.EqualFold(scheme, "Bearer") {
		return nil, fault.Unauthenticated(`the Authorization header must be "Bearer <token>", once`)
	}
	caller, err := d.tokens.Authenticate(r.Context(), token, clientOf(r.Context()).Address)
	if err != nil {
		return nil, err
	}
	caller.From = clientOf(r.Context())
	return &caller, nil
}

func (d *door) authenticateSession(r *http.Request) (*account.Caller, error) {
	secret := d.cookies.session(r)
	if secret == "" {
		return nil, nil
	}
	caller, ok, err := d.accounts.Authenticate(r.Context(), secret, clientOf(r.Context()))
	if err != nil || !ok {
		return nil, err
	}
	return &caller, nil
}
