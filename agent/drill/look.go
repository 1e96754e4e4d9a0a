package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"chom.dev/agent/mariadb"
	"chom.dev/agent/page"
	"chom.dev/agent/php"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
)

// LookOrder is what Look reads.
type LookOrder struct {
	Shell   string        `json:"shell"`
	MariaDB string        `json:"mariadb,omitempty"` // where the server that Fetch has filled is to listen; empty without one
	PHP     *Master       `json:"php,omitempty"`     // nil for a site of files
	Host    string        `json:"host"`              // that is asked for
	HTTPS   bool          `json:"https,omitempty"`   // as visitors ask for it
	Paths   []string      `json:"paths"`
	Within  time.Duration `json:"within"` // a page is to answer
}

// Master is a php-fpm that runs for as long as Look does.
type Master struct {
	Program string `json:"program"`
	Config  []byte `json:"config"` // php.Pool.Config
	Socket  string `json:"socket"` // where that listens
}

// Page is what one path answers.
type Page struct {
	Path    string `json:"path"`
	Status  int    `json:"status,omitempty"` // 0 without an answer
	Title   string `json:"title,omitempty"`
	Bytes   uint64 `json:"bytes,omitempty"`
	Problem string `json:"problem,omitempty"`
}

const (
	masterWithin = 30 * time.Second // a php-fpm is to answer, on a host that is busy
	lookWithin   = time.Hour        // at most: the unit ends before
	redirects    = 3                // to the site's own name; more are a loop
)

// Look asks for pages of a site that Fetch has restored. It reads a LookOrder, and
// writes Pages.
func Look(ctx context.Context, in io.Reader, out io.Writer) error {
	var o LookOrder
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	pages, err := look(ctx, o)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(pages)
}

func look(ctx context.Context, o LookOrder) (_ []Page, err error) {
	if o.MariaDB != "" {
		server, err := mariadb.StartPrivate(ctx, o.Shell+"/"+tree.DrillDatabase, o.MariaDB)
		if err != nil {
			return nil, err
		}
		defer func() { _ = server.End(ctx) }() // nobody reads its data any more
	}
	if o.PHP != nil {
		end, err := o.PHP.start(ctx, o.Shell)
		if err != nil {
			return nil, err
		}
		defer end()
	}
	root, err := os.OpenRoot(o.Shell + "/public")
	if err != nil {
		return nil, err
	}
	defer root.Close() // read-only
	var pages []Page
	for _, p := range o.Paths {
		pages = append(pages, visit(ctx, o, root, p))
	}
	return pages, nil
}

// start runs the master until end is called.
func (m *Master) start(ctx context.Context, shell string) (end func(), err error) {
	dir, err := os.MkdirTemp("", "drill-")
	if err != nil {
		return nil, err
	}
	config := dir + "/php.conf"
	if err := errors.Join(os.WriteFile(config, m.Config, 0o600), os.MkdirAll(shell+"/private/sessions", 0o700), os.MkdirAll(shell+"/private/upload", 0o700)); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	var died error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, died = run.Cmd{Path: m.Program, Args: []string{"--nodaemonize", "--fpm-config", config}, Timeout: lookWithin}.Run(ctx)
	}()
	end = func() { stop(); <-ended }
	for deadline := time.Now().Add(masterWithin); ; {
		p, err := php.Get(ctx, m.Socket, php.PingParams())
		if err == nil && p.Status == http.StatusOK {
			return end, nil
		}
		if time.Now().After(deadline) {
			end()
			return nil, fmt.Errorf("php-fpm does not answer: %w", err)
		}
		select {
		case <-ended:
			stop()
			return nil, errors.Join(errors.New("php-fpm ended"), died)
		case <-time.After(20 * time.Millisecond): // a fork takes about as long
		}
	}
}

// visit asks for a path as a visitor does, who follows where the site leads him on
// itself.
func visit(ctx context.Context, o LookOrder, root *os.Root, asked string) Page {
	ctx, cancel := context.WithTimeout(ctx, o.Within)
	defer cancel()
	p := Page{Path: asked}
	at, err := url.Parse(asked)
	if err != nil {
		p.Problem = err.Error()
		return p
	}
	at.Scheme, at.Host = "http", o.Host
	if o.HTTPS {
		at.Scheme = "https"
	}
	for range redirects + 1 {
		var got php.Page
		if got, err = o.get(ctx, root, at); err != nil {
			p.Problem = task.Line(err.Error(), 1024)
			return p
		}
		p.Status, p.Title, p.Bytes = got.Status, task.Line(page.Title(got.Body), 512), got.Bytes
		to, err := at.Parse(got.Location)
		if got.Status < 300 || got.Status > 399 || got.Location == "" || err != nil {
			return p
		}
		if to.Scheme != "http" && to.Scheme != "https" || to.Hostname() != o.Host {
			return p
		}
		at = to
	}
	return p
}

// get answers as nginx is configured to (package nginx), as far as that matters for
// a page: a file, a script, or what answers for all that is neither.
func (o LookOrder) get(ctx context.Context, root *os.Root, at *url.URL) (php.Page, error) {
	name := strings.TrimPrefix(path.Clean("/"+at.Path), "/")
	candidates := []string{name}
	switch {
	case name != "" && !isDir(root, name):
	case o.PHP != nil:
		candidates = []string{path.Join(name, "index.php"), path.Join(name, "index.html")}
	default:
		candidates = []string{path.Join(name, "index.html"), path.Join(name, "index.htm")}
	}
	if o.PHP != nil {
		candidates = append(candidates, "index.php")
	}
	for _, c := range candidates {
		st, err := root.Stat(c)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
			continue
		}
		switch {
		case err != nil:
			return php.Page{}, err
		case path.Ext(c) != ".php":
			return file(root, c)
		case o.PHP != nil:
			return php.Get(ctx, o.PHP.Socket, php.PageParams(o.Shell+"/public", c, o.Host, "chom-drill", at))
		}
	}
	return php.Page{Status: http.StatusNotFound}, nil
}

func isDir(root *os.Root, name string) bool {
	st, err := root.Stat(name)
	return err == nil && st.IsDir()
}

// maxTitle is how much of a file is read.
const maxTitle = 1 << 20

func file(root *os.Root, name string) (php.Page, error) {
	f, err := root.Open(name)
	if err != nil {
		return php.Page{}, err
	}
	defer f.Close() // read-only
	st, err := f.Stat()
	if err != nil {
		return php.Page{}, err
	}
	body, err := io.ReadAll(io.LimitReader(f, maxTitle))
	return php.Page{Status: http.StatusOK, Body: body, Bytes: uint64(st.Size())}, err
}
