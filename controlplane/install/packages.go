package install

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Packages serves the agent's packages from a folder: chom-agent_amd64.deb and chom-agent_arm64.deb, as far as they are
// there, and SHA256SUMS, the list of their checksums, which is made here and lies in no file.
//
// A package is hashed again when its size or time of change differs from what was hashed. It is safe for many callers.
type Packages struct {
	dir string

	mu     sync.Mutex
	hashed map[string]hashedFile
}

type hashedFile struct {
	size    int64
	changed time.Time
	sum     string
}

// ErrNoPackages says that the folder holds no package.
var ErrNoPackages = errors.New("no agent packages: the packages directory holds no chom-agent_<arch>.deb")

// NewPackages serves the packages in a folder. An empty name, or a folder without packages, is allowed: then there is
// nothing to install, and Manifest says so.
func NewPackages(dir string) *Packages {
	return &Packages{dir: dir, hashed: map[string]hashedFile{}}
}

// Only these names are served; the folder may hold other things.
var packagePattern = regexp.MustCompile(`^chom-agent_(amd64|arm64)\.deb$`)

// Manifest returns the list of checksums in sha256sum's own form, and the list's own checksum. It fails with
// ErrNoPackages where there are none.
func (p *Packages) Manifest() (list []byte, sum string, err error) {
	if p.dir == "" {
		return nil, "", ErrNoPackages
	}
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return nil, "", fmt.Errorf("open packages directory: %w", err)
	}
	defer root.Close()
	var text strings.Builder
	for _, arch := range []string{"amd64", "arm64"} {
		name := "chom-agent_" + arch + ".deb"
		sum, err := p.hash(root, name)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return nil, "", fmt.Errorf("hash package %s: %w", name, err)
		}
		fmt.Fprintf(&text, "%s  %s\n", sum, name)
	}
	if text.Len() == 0 {
		return nil, "", ErrNoPackages
	}
	list = []byte(text.String())
	return list, checksum(list), nil
}

func (p *Packages) hash(root *os.Root, name string) (string, error) {
	file, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("not a regular file")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.hashed[name]; ok && known.size == info.Size() && known.changed.Equal(info.ModTime()) {
		return known.sum, nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	p.hashed[name] = hashedFile{info.Size(), info.ModTime(), sum}
	return sum, nil
}

// Mount serves /install.sh and /packages/. They are public: a server that is to be installed has no identity yet, and
// nothing in them is a secret.
func (p *Packages) Mount(mux *http.ServeMux) {
	mux.HandleFunc("GET /install.sh", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/x-shellscript; charset=utf-8")
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(script) // a reader who went away needs no answer
	})
	mux.HandleFunc("GET /packages/{name}", p.serve)
}

func (p *Packages) serve(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	w.Header().Set("Cache-Control", "no-cache")
	if name == "SHA256SUMS" {
		list, _, err := p.Manifest()
		if err != nil {
			http.Error(w, cmp.Or(publicReason(err), "the packages cannot be read"), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(list)
		return
	}
	if p.dir == "" || !packagePattern.MatchString(name) {
		http.NotFound(w, r)
		return
	}
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer root.Close()
	file, err := root.Open(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	// A recorder of a test cannot set deadlines.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(downloadTimeout))
	w.Header().Set("Content-Type", "application/vnd.debian.binary-package")
	http.ServeContent(w, r, "", info.ModTime(), file)
}

// downloadTimeout lets 30 MB through a line of 1 Mbit/s; whoever reads slower does not want the package.
const downloadTimeout = 5 * time.Minute

// publicReason is the text of errors that a stranger may read.
func publicReason(err error) string {
	if slices.ContainsFunc([]error{ErrNoPackages}, func(public error) bool { return errors.Is(err, public) }) {
		return err.Error()
	}
	return ""
}
