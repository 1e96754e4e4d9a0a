package api

import "net/http"

// secure sets the headers that keep browsers from doing more with an answer than reading it, and turns away requests that
// another site's page makes a browser send.
func secure(next http.Handler, tls bool) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	guarded := crossOrigin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		if tls {
			header.Set("Strict-Transport-Security", "max-age=31536000")
		}
		guarded.ServeHTTP(w, r)
	})
}
