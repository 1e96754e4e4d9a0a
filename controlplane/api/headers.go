package api

import (
	"mime"
	"net/http"
	"slices"
	"strings"

	"chom.dev/controlplane/fault"
)

// quiet sets the headers that keep browsers from doing more with an answer than reading it.
func (d *door) quiet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		if d.tls {
			header.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// What a page of another origin may send and read, if it may at all.
const (
	sharedMethods = "GET, HEAD, POST, PATCH, PUT, DELETE"
	sharedRequest = "Authorization, Content-Type, Idempotency-Key, If-Match, Connect-Protocol-Version, Connect-Timeout-Ms, " +
		"Grpc-Timeout, X-Grpc-Web, X-User-Agent"
	sharedAnswer = "ETag, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, X-Request-Id, " +
		"Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin"
	sharedFor = "7200" // seconds, the most that browsers take
)

// share lets pages of the origins that the operator lists read answers (CORS). They must send a token: a browser never sends
// its cookies along, for any origin, since no answer allows it.
func (d *door) share(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if len(d.origins) == 0 || origin == "" {
			next.ServeHTTP(w, r)
			return
		}
		header := w.Header()
		header.Add("Vary", "Origin")
		if !slices.Contains(d.origins, origin) && !slices.Contains(d.origins, anyOrigin) {
			next.ServeHTTP(w, r)
			return
		}
		if slices.Contains(d.origins, anyOrigin) {
			origin = anyOrigin
		}
		header.Set("Access-Control-Allow-Origin", origin)
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			header.Set("Access-Control-Allow-Methods", sharedMethods)
			header.Set("Access-Control-Allow-Headers", sharedRequest)
			header.Set("Access-Control-Max-Age", sharedFor)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		header.Set("Access-Control-Expose-Headers", sharedAnswer)
		next.ServeHTTP(w, r)
	})
}

// anyOrigin stands for all of them in the list of origins.
const anyOrigin = "*"

// protect turns away what another site's page makes a browser send (CSRF). A request that carries a cookie must besides say
// where it comes from, and must not look like a form's: those are the ones that a browser sends by itself.
func (d *door) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := d.crossOrigin(r); err != nil {
			d.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

var (
	errForeignPage = fault.Denied("a page of another origin may not do this")
	errNoOrigin    = fault.Denied("a request with a cookie must say which page it comes from")
	errForm        = fault.Denied("a request with a cookie must be JSON or a protocol of this API, not a form")
)

func (d *door) crossOrigin(r *http.Request) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions {
		return nil // without an effect: each method that has one has another HTTP method
	}
	withCookie := len(r.Header["Cookie"]) > 0
	listed := !withCookie && slices.Contains(d.origins, anyOrigin)
	if err := d.pages.Check(r); err != nil && !listed {
		return errForeignPage
	}
	if !withCookie {
		return nil
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.Header.Get("Origin") == "" && r.Header.Get("Sec-Fetch-Site") == "":
		return errNoOrigin
	case (err != nil || !strings.HasPrefix(kind, "application/") || kind == "application/x-www-form-urlencoded") && r.ContentLength != 0:
		return errForm
	}
	return nil
}
