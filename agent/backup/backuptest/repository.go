// Package backuptest is a small place for restic repositories, for tests: it
// speaks restic's REST protocol, version 2, keeps objects in memory, and holds
// hosts to what the control plane promises them: they add and read, and remove
// nothing but locks.
package backuptest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// version is the media type of lists.
const version = "application/vnd.x.restic.rest.v2"

// Repository is one site's. The zero value is an empty one.
type Repository struct {
	// Fault is asked before each request; what it answers with is the end of it.
	Fault func(w http.ResponseWriter, r *http.Request) (answered bool)

	mu      sync.Mutex
	objects map[string][]byte
	seen    []string
}

// Objects are the names of a type, sorted; "config" has one without a name.
func (p *Repository) Objects(kind string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(p.objects)) {
		if path.Dir(name) == "/"+kind {
			out = append(out, path.Base(name))
		}
	}
	return out
}

// Get is a copy of an object; nil if there is none.
func (p *Repository) Get(name string) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.objects[name])
}

// Put has an object there, as if a host had sent it.
func (p *Repository) Put(name string, content []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects == nil {
		p.objects = map[string][]byte{}
	}
	p.objects[name] = content
}

// Remove takes an object away, as if the store had lost it.
func (p *Repository) Remove(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.objects, name)
}

// Requests are those that came, "GET /config", in their order.
func (p *Repository) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// ServeHTTP answers below the repository's own path.
func (p *Repository) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.Fault != nil && p.Fault(w, r) {
		return
	}
	name := r.URL.Path
	p.mu.Lock()
	p.seen = append(p.seen, r.Method+" "+name)
	content, there := p.objects[name]
	p.mu.Unlock()
	switch {
	case name == "/" && r.Method == http.MethodPost && r.URL.Query().Get("create") == "true":
	case strings.HasSuffix(name, "/") && r.Method == http.MethodGet:
		p.list(w, r, name)
	case r.Method == http.MethodPost:
		body, err := io.ReadAll(r.Body)
		sum := sha256.Sum256(body)
		switch {
		case err != nil:
			http.Error(w, "it breaks off", http.StatusBadRequest)
		case there && !bytes.Equal(body, content):
			http.Error(w, "another one is there", http.StatusConflict)
		case name != "/config" && hex.EncodeToString(sum[:]) != path.Base(name):
			http.Error(w, "it is not what its name says", http.StatusBadRequest)
		default:
			p.Put(name, body)
		}
	case !there:
		http.NotFound(w, r)
	case r.Method == http.MethodDelete && path.Dir(name) == "/locks":
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.objects, name)
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	default:
		http.Error(w, "a host may not do that", http.StatusForbidden)
	}
}

func (p *Repository) list(w http.ResponseWriter, r *http.Request, dir string) {
	type object struct {
		Name string `json:"name"`
		Size int    `json:"size"`
	}
	out := []object{}
	p.mu.Lock()
	for name, content := range p.objects {
		if path.Dir(name)+"/" == dir {
			out = append(out, object{path.Base(name), len(content)})
		}
	}
	p.mu.Unlock()
	if r.Header.Get("Accept") != version {
		http.Error(w, "only version 2 is spoken here", http.StatusNotAcceptable)
		return
	}
	w.Header().Set("Content-Type", version)
	_ = json.NewEncoder(w).Encode(out) // a client that left doesn't want it
}
