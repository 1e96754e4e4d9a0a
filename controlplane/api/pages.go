package api

import (
	"embed"
	"fmt"
	"net/http"
)

// pages are where mails and terminals lead people: to sign in, to prove an address, to let a program in. They are a client of the
// public API like any other.
//
//go:embed pages
var pages embed.FS

// pagesPolicy allows besides the picture of a QR code that an answer of the API holds.
const pagesPolicy = docsPolicy + "; img-src data:"

// pagePaths are shown the one document, whose script looks where it is.
var pagePaths = []string{"/login", "/sign-up", "/verify-email", "/reset-password", "/confirm-email", "/device", "/invitation", "/account", "/account/sessions", "/account/second-factors"}

func mountPages(mux *http.ServeMux) error {
	for at, name := range map[string]string{"/pages/page.js": "pages/page.js", "/pages/page.css": "pages/page.css"} {
		content, err := pages.ReadFile(name)
		if err != nil {
			return fmt.Errorf("serve pages: %w", err)
		}
		mux.Handle("GET "+at, static(name, content, pagesPolicy))
	}
	content, err := pages.ReadFile("pages/index.html")
	if err != nil {
		return fmt.Errorf("serve pages: %w", err)
	}
	for _, at := range pagePaths {
		mux.Handle("GET "+at, static("index.html", content, pagesPolicy))
	}
	return nil
}
