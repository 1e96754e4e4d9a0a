// Package host is how the agent finds, verifies, starts and stops site type
// plugins, and the only way it talks to them. Callers see plain Go structs of
// package sdk, never a protobuf or go-plugin type.
//
// A plugin is a root-owned program, checked against a root-owned list of
// checksums, but it runs as a tenant's user among that tenant's other
// processes. So the program is trusted before it starts and nothing it says is
// trusted afterwards: answers are bounded and cleaned (package sdk), the
// socket it names must be the one it was told to make, its log is cut, and
// every wait has an end that doesn't depend on it.
//
// The life of a session:
//
//	Open -> verified -> started -> handshake -> open -> Close -> ended
//	            \__________\___________\_________________________/
//	                     any failure ends the process
//
// Not here: running a process as another user in a sandbox (Starter, from the
// agent) and what the answers lead to.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"chom.dev/proto/contract"
)

// The places that the packages use.
const (
	DefaultDir        = "/usr/lib/chom/plugins"
	DefaultRuntimeDir = "/run/chom-plugin"
)

// Config is what a Host is made from.
type Config struct {
	Dir        string  // plugins, descriptions and SHA256SUMS; default DefaultDir
	RuntimeDir string  // sockets, 0711 root, made if missing; default DefaultRuntimeDir
	Starter    Starter // required
	Logger     *slog.Logger
	Limits     Limits
}

// Limits bound every wait. Zero fields get the defaults.
type Limits struct {
	Start   time.Duration // to the handshake; default 15 s: systemd on a busy host
	Install time.Duration // default 5 min: a slow disk, a large archive
	Update  time.Duration // default 2 min
	Check   time.Duration // default 30 s
	Login   time.Duration // default 15 s: someone waits in a browser
	Session time.Duration // whole life of the process; default 15 min
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Start:   cmp.Or(l.Start, 15*time.Second),
		Install: cmp.Or(l.Install, 5*time.Minute),
		Update:  cmp.Or(l.Update, 2*time.Minute),
		Check:   cmp.Or(l.Check, 30*time.Second),
		Login:   cmp.Or(l.Login, 15*time.Second),
		Session: cmp.Or(l.Session, 15*time.Minute),
	}
}

// Starter runs a program as a site's user. The agent does it through a
// transient systemd unit; tests with credentials of their own.
type Starter interface {
	// Start starts the command and returns at once. The context bounds the
	// starting, not the run. At most one plugin per site: a Start for a handle
	// whose earlier process lives on (the agent was killed) ends that one first.
	Start(ctx context.Context, c Command) (Process, error)
}

// Command is what a Starter has to run.
type Command struct {
	User User
	// Path is an absolute path, root-owned along the whole way, and verified.
	// There are no arguments.
	Path string
	// Env is the whole environment. Values may hold line breaks (a PEM
	// certificate, nothing secret).
	Env []string
	// Stdin must become the process's standard input itself, not a copy that
	// something else keeps open: its closing is how the process learns that
	// the agent is gone.
	Stdin *os.File
	// Writable are directories that the process must see and write besides
	// the site's public/ and private/, which have to be on one mount.
	Writable []string
	// Readable are files that the process must see even if the sandbox hides
	// their surroundings.
	Readable []string
	// Limit is how long the process may live.
	Limit time.Duration
}

// User is whose rights a plugin gets.
type User struct {
	Handle contract.Handle // names user, group, slice and unit
	UID    int
	GID    int
}

// Process is a started plugin. Stdout and Stderr end when the process and all
// it started have ended.
type Process interface {
	Stdout() io.ReadCloser
	Stderr() io.ReadCloser
	// Wait returns when the process has ended.
	Wait() error
	// Kill ends the process and everything it started, and returns when that
	// is done. On an ended process it does nothing.
	Kill(ctx context.Context) error
	// ID names the process for people: a unit, a pid.
	ID() string
}

// Host holds the ways to the plugins; it may be used by many goroutines.
type Host struct {
	dir        string
	runtimeDir string
	starter    Starter
	logger     *slog.Logger
	limits     Limits

	mu       sync.Mutex
	verified map[string]mark // programs, by file name
}

// New makes a Host: one per runtime folder, in which it removes what an agent
// that was killed has left. Nothing else is read or started before it is needed.
func New(c Config) (*Host, error) {
	if c.Starter == nil {
		return nil, errors.New("plugin host: a starter is required")
	}
	logger := c.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	h := &Host{
		dir:        cmp.Or(c.Dir, DefaultDir),
		runtimeDir: cmp.Or(c.RuntimeDir, DefaultRuntimeDir),
		starter:    c.Starter,
		logger:     logger,
		limits:     c.Limits.withDefaults(),
		verified:   make(map[string]mark),
	}
	removeStale(h.runtimeDir, logger)
	return h, nil
}

// Dir is where the plugins are.
func (h *Host) Dir() string { return h.dir }

// ErrUnknownType is returned for a site type without a plugin on this host.
var ErrUnknownType = errors.New("no plugin for this site type")

func unknownType(t contract.SiteType) error { return fmt.Errorf("%w: %s", ErrUnknownType, t) }
