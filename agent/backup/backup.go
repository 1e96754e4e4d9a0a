// Package backup makes copies of this host's sites in their repositories, of which
// each site has one. A repository is restic's, lies with the control plane, and is
// opened with a key that the host keeps while it has the site:
//
//	<Dir>/<handle>/key            0600, destroyed with the site
//	<Dir>/<handle>/locks          what restic has locked and not unlocked
//	<Dir>/<handle>/<backup>.json  what has come of a backup, so that it goes on after a crash
//	<Dir>/<handle>/schedule.json  the backups that the host makes by itself, and has not told of
//	<Dir>/<handle>/drill.json     the same of the newest drill
//
// Whatever reads or writes a site's files or its database does so as the site's
// own user, in a unit that has no network. The agent, which has one, gives it a
// way to the one repository and to nothing else:
//
//	agent                                   the site's user, offline
//	+--------------------------------+      +------------------------------------------+
//	| Do ---- key, token ----- stdin ------>| Enter                                    |
//	|    <--- progress, result  stdout -----|   restic backup ----+                    |
//	|                                |      |   mariadb-dump      | 127.0.0.1 of its   |
//	| gateway  <-- unix socket, token ------|     | checked,      | own                |
//	|    |  only this repository,    |      |     | hashed        v                    |
//	|    |  nothing is removed but   |      |     +--> restic -> proxy                 |
//	|    |  locks                    |      +------------------------------------------+
//	+----|---------------------------+
//	     v
//	control plane (the link's identity, a connection of its own)
//
// A backup is two snapshots, of the files and of the database, that are read at the
// same time. There is no snapshot of a dump that was not read to its end and found
// to hold what the server has; whether a backup is complete in the repository, and
// which files are in it, the control plane finds out by itself.
//
// Not here: which order comes when (package task), the steps of an order (package
// site), and putting backups back.
package backup

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// Where things are on a host.
const (
	Dir    = "/var/lib/chom-agent/backup"
	RunDir = "/run/chom-backup" // sockets, one directory per site that is at work
)

// Broker is the control plane.
type Broker interface {
	FetchRepositoryKey(context.Context, *linkv1.FetchRepositoryKeyRequest) (*linkv1.FetchRepositoryKeyResponse, error)
	// Repository sends a request whose URL is a path below /backup/v1/<site id>/.
	Repository(*http.Request) (*http.Response, error)
}

// Process is a program that runs as a site's user. Wait for it, always.
type Process interface {
	Stdout() io.ReadCloser
	Stderr() io.ReadCloser
	Wait() error
	Kill(context.Context) error
}

// Config is what a Manager needs.
type Config struct {
	Dir    string // of keys and states, root's alone
	RunDir string // of sockets
	Broker Broker
	// Launch starts a site's unit, and ends one of the same name before.
	Launch  func(context.Context, run.Unit) (Process, error)
	Sites   string // where the sites' shells are; empty is run.SitesDir
	MariaDB string // socket; empty is mariadb.Socket
	Agent   string // a program that with the arguments "sandbox site-backup" calls Enter
	// Away is for how long a job asks the control plane in vain before it ends; 0 is 5
	// minutes.
	Away time.Duration
	Log  *slog.Logger
}

// By is Launch on a host.
func By(h *systemd.Host) func(context.Context, run.Unit) (Process, error) {
	return func(ctx context.Context, u run.Unit) (Process, error) {
		p, err := h.Launch(ctx, u)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
}

// maxRequests is how many requests of all sites are under way at once: the control
// plane takes 8 of a server, and has others come again.
const maxRequests = 6

// awayFor is as long as a control plane or its store is restarted; restic alone
// would ask for a quarter of an hour, and be started again for four more.
const awayFor = 5 * time.Minute

// Manager holds the keys of this host's repositories, and works with them. Safe
// for concurrent use.
type Manager struct {
	cfg Config

	requests chan struct{} // holds a token for each that is under way
	buffers  buffers

	schedules sync.Mutex // while one is read and written, or removed

	mu   sync.Mutex
	busy map[contract.Handle]bool
}

// New opens the directories, and makes them where they are missing.
func New(cfg Config) (*Manager, error) {
	cfg.Sites, cfg.MariaDB, cfg.Away = cmp.Or(cfg.Sites, run.SitesDir), cmp.Or(cfg.MariaDB, mariadb.Socket), cmp.Or(cfg.Away, awayFor)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open backups: %w", err)
	}
	if err := os.MkdirAll(cfg.RunDir, 0o711); err != nil {
		return nil, fmt.Errorf("open backups: %w", err)
	}
	if err := os.Chmod(cfg.RunDir, 0o711); err != nil { // whatever the umask; sites pass through, and list nothing
		return nil, fmt.Errorf("open backups: %w", err)
	}
	return &Manager{cfg: cfg, requests: make(chan struct{}, maxRequests), busy: map[contract.Handle]bool{}}, nil
}

// Work is something to be done as a site's user with the site's repository.
type Work struct {
	Job     string        // its name among those that Enter knows
	Unit    string        // the name of what does it; "" is "backup"
	Order   any           // what the job is told, in JSON; no secrets
	Timeout time.Duration // the unit ends by then, also when the agent is gone
	Idle    bool          // nobody waits for it: it goes on while the host has nothing else to do
	Beside  *run.Beside   // where it is done instead of in the site; nil is in it
}

// Progress is how far a job is.
type Progress struct {
	What  string `json:"what"` // "files", "database"
	Done  uint64 `json:"done"` // bytes
	Total uint64 `json:"total,omitempty"`
}

// size is a number of bytes as people read it.
func size(n uint64) string {
	switch {
	case n < 1_000_000:
		return fmt.Sprintf("%.0f kB", float64(n)/1e3)
	case n < 1_000_000_000:
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

// Do has a job done as the site's user, and decodes what it made into the result.
// One job of a site runs at a time; one that a former process of the agent has
// left is ended. Canceling the context ends every process of it.
//
// When the control plane has refused something, the error is what it said.
func (m *Manager) Do(ctx context.Context, site task.Site, w Work, tell func(Progress), result any) error {
	err := m.do(ctx, site, w, tell, result)
	if err != nil {
		return fmt.Errorf("%s: %w", w.Job, err)
	}
	return nil
}

func (m *Manager) do(ctx context.Context, site task.Site, w Work, tell func(Progress), result any) (err error) {
	if !m.enter(site.Handle) {
		return errors.New("the site is at work with its repository already")
	}
	defer m.leave(site.Handle)
	key, err := m.key(ctx, site)
	if err != nil {
		return err
	}
	// Canceled by the gateway when what was refused can't be had by trying again,
	// as restic would for a quarter of an hour.
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	gate, err := m.open(ctx, site, stop)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gate.close()) }()
	err = m.inside(ctx, site, w, order{
		Job: w.Job, Handle: site.Handle.String(), Socket: gate.socket, Token: gate.token, Key: key, Timeout: w.Timeout,
		Shell: m.cfg.Sites + "/" + site.Handle.String(), MariaDB: m.cfg.MariaDB,
	}, tell, result)
	var refused *Refused
	switch {
	case errors.As(context.Cause(ctx), &refused):
		return context.Cause(ctx)
	case err != nil && ctx.Err() == nil && gate.said() != "":
		return fmt.Errorf("the control plane says: %s (%w)", gate.said(), err)
	}
	return err
}

// inside runs the unit and listens to it.
func (m *Manager) inside(ctx context.Context, site task.Site, w Work, o order, tell func(Progress), result any) error {
	var err error
	if o.Work, err = json.Marshal(w.Order); err != nil {
		return err
	}
	input, err := o.pipe()
	if err != nil {
		return err
	}
	defer input.Close() // the unit has its own
	unit, err := run.SiteUnit{
		Handle: site.Handle, Name: cmp.Or(w.Unit, "backup"), Beside: w.Beside, Argv: []string{m.cfg.Agent, "sandbox", "site-backup"}, Env: environment(),
		Dir: "/", Stdin: input, Timeout: w.Timeout, Offline: true, Aside: true, Idle: w.Idle,
	}.Unit()
	if err != nil {
		return err
	}
	p, err := m.cfg.Launch(ctx, unit)
	if err != nil {
		return err
	}
	killed := make(chan error, 1)
	spare := context.AfterFunc(ctx, func() { killed <- p.Kill(context.WithoutCancel(ctx)) })
	answer, last := listen(p, tell)
	err = p.Wait()
	switch {
	case !spare():
		return errors.Join(context.Cause(ctx), <-killed)
	case answer.Problem != "" && answer.Permanent:
		return task.Permanent(errors.New(answer.Problem))
	case answer.Problem != "":
		return errors.New(answer.Problem)
	case err != nil:
		var exit *run.ExitError
		if errors.As(err, &exit) {
			exit.Stderr = last
		}
		return err
	case answer.Result == nil:
		return errors.New("the helper ended without a word")
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer.Result, result)
}

func (m *Manager) enter(h contract.Handle) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy[h] {
		return false
	}
	m.busy[h] = true
	return true
}

func (m *Manager) leave(h contract.Handle) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.busy, h)
}

// Remove destroys what the host has of a site's backups: its key above all. The
// repository is the control plane's.
func (m *Manager) Remove(h contract.Handle) error {
	if h.IsZero() {
		return errors.New("remove backups: no handle")
	}
	m.schedules.Lock()
	defer m.schedules.Unlock()
	for _, dir := range []string{m.cfg.RunDir, m.cfg.Dir} {
		if err := os.RemoveAll(filepath.Join(dir, h.String())); err != nil {
			return fmt.Errorf("remove backups of %s: %w", h, err)
		}
		if err := syncDir(dir); err != nil {
			return fmt.Errorf("remove backups of %s: %w", h, err)
		}
	}
	return nil
}

// Gone reports whether the host has nothing of a site's backups.
func (m *Manager) Gone(h contract.Handle) (bool, error) {
	for _, dir := range []string{m.cfg.RunDir, m.cfg.Dir} {
		_, err := os.Lstat(filepath.Join(dir, h.String()))
		if err == nil {
			return false, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	return true, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // read-only
	return d.Sync()
}

// environment is that of the helper and of what it runs. A site's memory is small,
// and so must be what is added to it: garbage is collected earlier than usual. Files that are no site's go to the private /var/tmp, since
// /tmp may be memory.
func environment() map[string]string {
	return map[string]string{"GOGC": "50", "TMPDIR": "/var/tmp", "RESTIC_PROGRESS_FPS": "1"}
}

func newToken() string { return rand.Text() + rand.Text() }
