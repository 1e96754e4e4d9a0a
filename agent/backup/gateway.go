package backup

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"chom.dev/agent/task"
	"chom.dev/proto/contract"
)

const (
	// tokenHeader proves that a request comes from the helper that was told, and
	// not from whatever else runs as the site's user.
	tokenHeader = "Chom-Token"
	// closeFor bounds the removal of locks that restic left.
	closeFor = 20 * time.Second
	// maxWords is as much as is shown of what the control plane says.
	maxWords = 512
)

// gateway is the way of one job to its site's repository: a unix socket that only
// the site's user can open, and of which only the helper knows the token.
type gateway struct {
	m      *Manager
	site   task.Site
	socket string
	token  string
	stop   context.CancelCauseFunc // with a *Refused
	http   *http.Server
	served chan struct{} // closed when http has ended
	locks  locks

	mu   sync.Mutex
	last string    // what the control plane said when it last refused something
	away time.Time // since when nothing was answered; zero while something is
}

// Refused is what the control plane said that it will not do, however often it
// is asked.
type Refused struct{ Words string }

func (r *Refused) Error() string { return r.Words }

// open listens. Locks of a former process are removed before.
func (m *Manager) open(ctx context.Context, site task.Site, stop context.CancelCauseFunc) (*gateway, error) {
	dir := filepath.Join(m.cfg.RunDir, site.Handle.String())
	g := &gateway{
		m: m, site: site, socket: filepath.Join(dir, "repository.sock"), token: newToken(), stop: stop,
		served: make(chan struct{}), locks: locks{m: m, path: filepath.Join(m.dir(site.Handle), "locks")},
	}
	if err := g.unlock(ctx); err != nil {
		return nil, err
	}
	listener, err := listenFor(dir, g.socket, int(site.UID))
	if err != nil {
		return nil, fmt.Errorf("open the way to the repository: %w", err)
	}
	g.http = &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	go func() {
		defer close(g.served)
		_ = g.http.Serve(listener) // ends with close, and only says so
	}()
	return g, nil
}

// listenFor makes a socket for one user. Its directory is root's, and its name can
// be used once the directory lets the user in.
func listenFor(dir, socket string, uid int) (net.Listener, error) {
	if err := os.RemoveAll(dir); err != nil { // of a former process
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.Chown(socket, -1, uid), os.Chmod(socket, 0o660), os.Chown(dir, -1, uid), os.Chmod(dir, 0o710))
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return peers{l, uint32(uid)}, nil
}

// peers accepts one user's connections.
type peers struct {
	*net.UnixListener
	uid uint32
}

// Accept closes what another user has opened.
func (p peers) Accept() (net.Conn, error) {
	for {
		c, err := p.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peer(c); err == nil && uid == p.uid {
			return c, nil
		}
		_ = c.Close() // nothing was said yet
	}
}

// peer is who opened a connection, as the kernel knows it.
func peer(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var asked error
	err = raw.Control(func(fd uintptr) {
		cred, asked = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, asked); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// close cuts what is under way, and removes the locks that are left.
func (g *gateway) close() error {
	err := g.http.Close()
	<-g.served
	ctx, stop := context.WithTimeout(context.Background(), closeFor)
	defer stop()
	if err := g.unlock(ctx); err != nil {
		g.m.cfg.Log.Warn("a repository's locks are left to the next job", "site", g.site.ID, "err", err)
	}
	return errors.Join(err, os.RemoveAll(filepath.Dir(g.socket)))
}

var (
	// What restic asks for; see its REST protocol.
	listPath   = regexp.MustCompile(`^/(data|keys|locks|snapshots|index)/$`)
	objectPath = regexp.MustCompile(`^/(data|keys|locks|snapshots|index)/[0-9a-f]{64}$`)
	lockPath   = regexp.MustCompile(`^/locks/[0-9a-f]{64}$`)
)

// allowed are the requests that may pass: a host adds and reads, and removes
// nothing but locks.
func allowed(method, path string) bool {
	switch {
	case path == "/":
		return method == http.MethodPost // ?create=true
	case listPath.MatchString(path):
		return method == http.MethodGet
	case path == "/config", objectPath.MatchString(path):
		return method == http.MethodGet || method == http.MethodHead || method == http.MethodPost ||
			method == http.MethodDelete && lockPath.MatchString(path)
	}
	return false
}

// ServeHTTP passes a request on.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get(tokenHeader)), []byte(g.token)) != 1 {
		http.Error(w, "not for you", http.StatusForbidden)
		return
	}
	if !allowed(r.Method, r.URL.Path) {
		http.Error(w, r.Method+" is not for a host", http.StatusForbidden)
		return
	}
	locks := lockPath.MatchString(r.URL.Path)
	if locks && r.Method == http.MethodPost {
		if err := g.locks.add(r.URL.Path); err != nil {
			g.refuse(w, err)
			return
		}
	}
	select {
	case g.m.requests <- struct{}{}:
		defer func() { <-g.m.requests }()
	case <-r.Context().Done():
		return
	}
	res, err := g.ask(r.Context(), r.Method, r.URL.Path, r)
	if err != nil {
		g.refuse(w, err)
		return
	}
	defer res.Body.Close() // read to its end, or cut with the connection
	if res.StatusCode < http.StatusInternalServerError {
		g.back()
	}
	if locks && r.Method == http.MethodDelete && (res.StatusCode < 300 || res.StatusCode == http.StatusNotFound) {
		if err := g.locks.remove(r.URL.Path); err != nil {
			g.m.cfg.Log.Warn("a lock that is gone is kept in mind", "site", g.site.ID, "err", err)
		}
	}
	if what := damage(r, res); what != "" {
		g.stop(task.Permanent(&Refused{"the repository is damaged: " + what}))
		http.Error(w, what, http.StatusNotFound)
		return
	}
	if res.StatusCode >= 400 && res.StatusCode != http.StatusNotFound {
		http.Error(w, g.heard(res), res.StatusCode)
		return
	}
	for _, name := range []string{"Content-Type", "Content-Length", "Content-Range", "Accept-Ranges"} {
		if v := res.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(res.StatusCode)
	buffer := g.m.buffers.Get()
	defer g.m.buffers.Put(buffer)
	// The response would copy by itself, in pieces that are too small for so much.
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, res.Body, buffer); err != nil {
		panic(http.ErrAbortHandler) // who asked must not take it for whole
	}
}

// pieces are what other objects name, so that it is there.
var pieces = regexp.MustCompile(`^/(data|index)/[0-9a-f]{64}$`)

// damage says what an answer tells of the repository. restic asks again for a
// quarter of an hour, as if the rest could come.
func damage(asked *http.Request, answer *http.Response) string {
	if asked.Method != http.MethodGet || !pieces.MatchString(asked.URL.Path) {
		return ""
	}
	var from, to int64
	short := false
	if _, err := fmt.Sscanf(asked.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil && answer.StatusCode == http.StatusPartialContent {
		short = answer.ContentLength >= 0 && answer.ContentLength < to-from+1
	}
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return asked.URL.Path + " is gone"
	case answer.StatusCode == http.StatusRequestedRangeNotSatisfiable, short:
		return asked.URL.Path + " is cut off"
	}
	return ""
}

// refuse answers for a control plane that can't be reached: restic asks again for
// a quarter of an hour.
func (g *gateway) refuse(w http.ResponseWriter, err error) {
	g.mu.Lock()
	g.last = err.Error()
	g.mu.Unlock()
	g.missed(err.Error())
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}

// missed ends the job once there was no answer for too long. Whoever wants it tries
// again later.
func (g *gateway) missed(words string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.away.IsZero() {
		g.away = time.Now()
	}
	if time.Since(g.away) >= g.m.cfg.Away {
		g.stop(&Refused{fmt.Sprintf("where backups are stored has not answered for %s: %s", g.m.cfg.Away, words)})
	}
}

func (g *gateway) back() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.away = time.Time{}
}

// heard keeps what the control plane said, and ends the job when asking again is
// of no use.
func (g *gateway) heard(res *http.Response) string {
	words := spoken(res)
	g.mu.Lock()
	g.last = words
	g.mu.Unlock()
	switch {
	case full(res.StatusCode):
		g.stop(task.Permanent(&Refused{words}))
	case res.StatusCode == http.StatusForbidden:
		g.stop(&Refused{words})
	}
	if res.StatusCode >= http.StatusInternalServerError {
		g.missed(words)
	}
	return words
}

// spoken is what the control plane says in an answer.
func spoken(res *http.Response) string {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10)) // what can't be read was not said
	return cmp.Or(task.Line(string(text), maxWords), strings.ToLower(http.StatusText(res.StatusCode)))
}

// full says that there is no room, by the quota.
func full(status int) bool {
	return status == http.StatusRequestEntityTooLarge || status == http.StatusInsufficientStorage
}

// said is what was last refused.
func (g *gateway) said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// ask sends a request to the site's repository. Of the one that came in, body and
// range are passed on; nil is for one of our own.
func (g *gateway) ask(ctx context.Context, method, path string, in *http.Request) (*http.Response, error) {
	return g.m.ask(ctx, g.site, method, path, in)
}

func (m *Manager) ask(ctx context.Context, site task.Site, method, path string, in *http.Request) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "", http.NoBody)
	if err != nil {
		return nil, err
	}
	r.URL = &url.URL{Path: contract.RepositoryPath + site.ID.String() + path}
	if in != nil {
		r.Body, r.ContentLength = in.Body, in.ContentLength
		if r.ContentLength == 0 {
			r.Body = http.NoBody
		}
		for _, name := range []string{"Accept", "Content-Type", "Range"} {
			if v := in.Header.Get(name); v != "" {
				r.Header.Set(name, v)
			}
		}
		if path == "/" {
			r.URL.RawQuery = "create=true"
		}
	}
	return m.cfg.Broker.Repository(r)
}

// Exists asks whether a site's repository was made.
func (m *Manager) Exists(ctx context.Context, site task.Site) (bool, error) {
	res, err := m.ask(ctx, site, http.MethodHead, "/config", nil)
	if err != nil {
		return false, fmt.Errorf("look for the repository: %w", err)
	}
	defer res.Body.Close() // has none
	switch res.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, fmt.Errorf("look for the repository: the control plane answers %s", res.Status)
}

// unlock removes the locks that restic made by way of a gateway and left when it
// was killed. restic's own way is to send a signal to the process that a lock
// names, which may be another one by now.
func (g *gateway) unlock(ctx context.Context) error {
	left, err := g.locks.read()
	if err != nil {
		return err
	}
	for _, path := range left {
		res, err := g.ask(ctx, http.MethodDelete, path, nil)
		if err != nil {
			return fmt.Errorf("unlock the repository: %w", err)
		}
		_ = res.Body.Close() // of no interest
		if res.StatusCode >= 300 && res.StatusCode != http.StatusNotFound {
			return fmt.Errorf("unlock the repository: the control plane answers %s", res.Status)
		}
		if err := g.locks.remove(path); err != nil {
			return err
		}
	}
	return nil
}

// locks are those that a site's gateway has let through, on disk before they are
// in the repository.
type locks struct {
	m    *Manager
	path string
	mu   sync.Mutex
}

func (l *locks) read() ([]string, error) {
	text, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); lockPath.MatchString(line) {
			out = append(out, line)
		}
	}
	return out, nil
}

func (l *locks) add(path string) error {
	return l.change(func(have []string) []string { return append(have, path) })
}

func (l *locks) remove(path string) error {
	return l.change(func(have []string) []string {
		return slices.DeleteFunc(have, func(p string) bool { return p == path })
	})
}

func (l *locks) change(f func([]string) []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, err := l.read()
	if err != nil {
		return err
	}
	have = f(have)
	if len(have) == 0 {
		if err := os.Remove(l.path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return l.m.write(l.path, []byte(strings.Join(have, "\n")+"\n"))
}
