// Package web is the dashboard: one page, built from src by `make build` and carried inside of chomd. It is a client of the public API
// and can do nothing that others cannot. Go builds without Node: then dist holds nothing, and a page says so.
package web

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed all:dist
var embedded embed.FS

// Built is what was built into this program.
func Built() fs.FS {
	files, err := fs.Sub(embedded, "dist")
	if err != nil {
		panic(err) // the name above is a path
	}
	return files
}

const (
	index = "index.html"
	// assets have a hash of their content in their name: what a browser has of them is good for ever.
	assets = "assets/"
)

// policy allows the page its own scripts and styles, and nothing from elsewhere. The nonce is for the few styles that its components
// make while it runs; scripts have none.
const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-%s'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
	"manifest-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"

// noncePlace stands in the page where the nonce of each answer comes.
var noncePlace = []byte("%NONCE%")

// file is an asset in the encodings that the build made of it.
type file struct {
	kind, etag string
	encoded    map[string][]byte // by content coding; "" is the plain one
}

type dashboard struct {
	page  []byte // the one document; nil where the dashboard was not built
	files map[string]file
}

// New serves a dashboard. Each path that names no file shows the page, whose script looks where it is.
func New(files fs.FS) (http.Handler, error) {
	d := &dashboard{files: map[string]file{}}
	page, err := fs.ReadFile(files, index)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d, nil
	case err != nil:
		return nil, fmt.Errorf("open the dashboard: %w", err)
	case !bytes.Contains(page, noncePlace):
		return nil, fmt.Errorf("open the dashboard: %s has no place for a nonce", index)
	}
	d.page = page
	err = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || name == index || strings.HasPrefix(name, ".") {
			return err
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		d.add(name, content)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open the dashboard: %w", err)
	}
	return d, nil
}

// codings are those that the build makes beside a file, the best one first.
var codings = []struct{ name, suffix string }{{"br", ".br"}, {"gzip", ".gz"}}

func (d *dashboard) add(name string, content []byte) {
	coding := ""
	for _, c := range codings {
		if plain, ok := strings.CutSuffix(name, c.suffix); ok {
			name, coding = plain, c.name
		}
	}
	f, ok := d.files[name]
	if !ok {
		f = file{kind: mime.TypeByExtension(path.Ext(name)), encoded: map[string][]byte{}}
	}
	f.encoded[coding] = content
	if coding == "" {
		sum := sha256.Sum256(content)
		f.etag = `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	}
	d.files[name] = f
}

func (d *dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
	f, isFile := d.files[name]
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		http.NotFound(w, r)
	case isFile:
		f.serve(w, r, name)
	case strings.Contains(name, "."): // a file or a procedure that there is not
		http.NotFound(w, r)
	case d.page == nil:
		notBuilt(w)
	default:
		d.show(w)
	}
}

// show answers with the page.
func (d *dashboard) show(w http.ResponseWriter) {
	nonce := rand.Text()
	header := w.Header()
	header.Set("Content-Security-Policy", fmt.Sprintf(policy, nonce))
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-cache")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	_, _ = w.Write(bytes.ReplaceAll(d.page, noncePlace, []byte(nonce))) // a reader who went away needs no answer
}

func (f file) serve(w http.ResponseWriter, r *http.Request, name string) {
	header := w.Header()
	header.Set("Content-Type", f.kind)
	header.Set("ETag", f.etag)
	header.Set("Vary", "Accept-Encoding")
	header.Set("Cache-Control", "no-cache")
	if strings.HasPrefix(name, assets) {
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if strings.Contains(r.Header.Get("If-None-Match"), f.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	content := f.encoded[""]
	for _, c := range codings {
		if packed, ok := f.encoded[c.name]; ok && accepts(r.Header.Get("Accept-Encoding"), c.name) {
			header.Set("Content-Encoding", c.name)
			content = packed
			break
		}
	}
	header.Set("Content-Length", strconv.Itoa(len(content)))
	_, _ = w.Write(content) // a reader who went away needs no answer
}

// accepts reports whether an Accept-Encoding header takes a coding.
func accepts(header, coding string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, parameters, _ := strings.Cut(strings.TrimSpace(part), ";")
		quality, found := strings.CutPrefix(strings.TrimSpace(parameters), "q=")
		if strings.EqualFold(strings.TrimSpace(name), coding) {
			weight, err := strconv.ParseFloat(quality, 64)
			return !found || err == nil && weight > 0
		}
	}
	return false
}

const notBuiltPage = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>CHOM</title>
</head>
<body>
<main>
<h1>CHOM runs, without its dashboard</h1>
<p>This chomd was built without Node, so its pages are not in it. <code>make build</code> in its sources builds both.</p>
<p>All else works: the command line <code>chom</code>, and <a href="/api/docs">the API</a>.</p>
</main>
</body>
</html>
`

func notBuilt(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-cache")
	_, _ = w.Write([]byte(notBuiltPage)) // a reader who went away needs no answer
}
