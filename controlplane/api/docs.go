package api

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"path"
	"strings"
)

// docs is the description of the REST API and the page that shows it. The page has no asset from elsewhere and runs no script
// but its own.
//
//go:embed openapi.json docs
var docs embed.FS

// docsPolicy allows the page its own script and style and the document, and nothing else.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// mountDocs serves /api/v1/openapi.json and, at /api/docs, the page, with the authorization table beside it. They are for
// anybody: they say nothing that the source does not.
func mountDocs(mux *http.ServeMux) error {
	for at, name := range map[string]string{
		"/api/v1/openapi.json": "openapi.json",
		"/api/docs":            "docs/index.html",
		"/api/docs/page.js":    "docs/page.js",
		"/api/docs/page.css":   "docs/page.css",
	} {
		content, err := docs.ReadFile(name)
		if err != nil {
			return fmt.Errorf("serve the documentation: %w", err)
		}
		mux.Handle("GET "+at, static(name, content, docsPolicy))
	}
	table, err := authorizationPage()
	if err != nil {
		return err
	}
	mux.Handle("GET /api/docs/authorization", static("authorization.html", table, docsPolicy))
	return nil
}

var contentTypes = map[string]string{
	".json": "application/json", ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
}

// static answers with a file that changes only with the program.
func static(name string, content []byte, policy string) http.Handler {
	sum := sha256.Sum256(content)
	etag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	kind := contentTypes[path.Ext(name)]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("Content-Type", kind)
		header.Set("Cache-Control", "no-cache") // ask each time whether it is still this one
		header.Set("ETag", etag)
		if strings.Contains(r.Header.Get("If-None-Match"), etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(content) // a reader who went away needs no answer
	})
}
