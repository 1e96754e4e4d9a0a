// Package rig puts a whole CHOM together on this machine: the real chomd as a
// child process, a lab with real hosts that enrol by the pasted line, a mirror
// of application archives, and API clients. The demo, the end-to-end tests and
// the benchmarks all stand on it. It decides nothing about CHOM itself, and
// nothing in here is a fake.
package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"chom.dev/packaging/lab"
	"chom.dev/proto/client"
	"chom.dev/servers/child"
	"chom.dev/servers/knot"
	"chom.dev/servers/pebble"
)

// Options describe a rig.
type Options struct {
	Lab *lab.Lab
	// Dir is where chomd keeps its data and its log.
	Dir string
	// Bin holds chomd and chom; Packages holds the agent's .deb files.
	Bin, Packages string
	// Database is chomd's --database; empty is its embedded default.
	Database string
	// Archive is the WordPress to serve to agents; nil for rigs that install none.
	Archive *lab.Archive
	// MirrorElsewhere says that another process serves the archive at MirrorPort.
	MirrorElsewhere bool
	// Names starts a name server and an ACME CA beside chomd, which goes by them.
	Names bool
	// Validity of the CA's certificates; 0 is 90 days.
	Validity time.Duration
	// NonceReject is how many percent of good nonces the CA refuses, to find out who forgets to ask again.
	NonceReject int
	// Args are further flags of chomd.
	Args []string
	// Env is added to chomd's environment.
	Env []string
	// AgentsPort moves the address that agents dial away from chomd's own
	// listener, for tests that put a bad network between the two. 0 is no move.
	AgentsPort int
	// Unclaimed leaves it to others to make the first operator, with SetupSecret: there is no client then.
	Unclaimed bool
	// Outlive has chomd go on when this process ends, however it ends. Else the
	// kernel kills it then.
	Outlive bool
	Log     *slog.Logger
}

// Ports of chomd on the lab's gateway address.
const (
	PeoplePort = 8080
	AgentsPort = 8443
	MirrorPort = 8081

	metricsPort = 9464
)

// Rig is a running CHOM.
type Rig struct {
	Options
	*client.Client
	// Token is the operator's.
	Token string
	// SetupSecret is what chomd printed at its first start.
	SetupSecret string
	// DNS and CA are there with Names.
	DNS *knot.Server
	CA  *pebble.CA

	mu     sync.Mutex
	chomd  *exec.Cmd
	exited <-chan struct{}
	mirror *http.Server
	spoil  func(http.Handler) http.Handler
}

// Start starts chomd, makes the first operator with the secret that it prints,
// and returns when it is ready. Stop it, always.
func Start(ctx context.Context, o Options) (*Rig, error) {
	r := &Rig{Options: o}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return nil, err
	}
	if o.Archive != nil && !o.MirrorElsewhere {
		if err := r.serveArchive(); err != nil {
			return nil, err
		}
	}
	if o.Names {
		flags, err := r.startNames(ctx)
		if err != nil {
			return nil, errors.Join(err, r.Stop(ctx))
		}
		r.Args = append(r.Args, flags...)
	}
	var err error
	if r.SetupSecret, err = r.startChomd(ctx); err != nil {
		return nil, errors.Join(err, r.Stop(ctx))
	}
	if r.Unclaimed {
		return r, nil
	}
	if err := r.signIn(ctx, r.SetupSecret); err != nil {
		return nil, errors.Join(err, r.Stop(ctx))
	}
	return r, nil
}

// URL is the people's listener.
func (r *Rig) URL() string { return fmt.Sprintf("http://%s:%d", r.Lab.Gateway(), PeoplePort) }

func (r *Rig) flags() []string {
	agents := AgentsPort
	if r.AgentsPort != 0 {
		agents = r.AgentsPort
	}
	gw := r.Lab.Gateway()
	args := []string{
		"serve",
		"--data-dir", filepath.Join(r.Dir, "chomd"),
		"--people-listen", fmt.Sprintf("%s:%d", gw, PeoplePort),
		"--insecure-http",
		"--agents-listen", fmt.Sprintf("%s:%d", gw, AgentsPort),
		"--agent-address", fmt.Sprintf("%s:%d", gw, agents),
		"--public-url", r.URL(),
		"--packages-dir", r.Packages,
		"--metrics-listen", fmt.Sprintf("%s:%d", gw, metricsPort), // loopback's may be another chomd's
		"--backup-every", "0", "--drill-every", "0", // what comes by itself, tests of it ask for
		// Benches and tests ask more often than people do.
		"--limit-operator", "1000000", "--limit-api", "1000000", "--limit-auth", "1000000", "--limit-sensitive", "1000000",
	}
	if r.Database != "" {
		args = append(args, "--database", r.Database)
	}
	if r.Archive != nil {
		args = append(args,
			"--wordpress-version", r.Archive.Version,
			"--wordpress-sha256", r.Archive.SHA256,
			"--wordpress-url", fmt.Sprintf("http://%s:%d/%s", gw, MirrorPort, filepath.Base(r.Archive.Path)))
	}
	return append(args, r.Args...)
}

var setupSecret = regexp.MustCompile(`chomsetup_[A-Za-z0-9_-]+`)

// startChomd starts the process and returns when it is ready, with the setup
// secret if it printed one.
func (r *Rig) startChomd(ctx context.Context) (secret string, err error) {
	log, err := os.OpenFile(filepath.Join(r.Dir, "chomd.log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer log.Close()
	start, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(r.Bin, "chomd"), r.flags()...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, r.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	after := syscall.SIGKILL
	if r.Outlive {
		after = 0
	}
	exited, err := child.Start(cmd, after)
	if err != nil {
		return "", fmt.Errorf("start chomd: %w", err)
	}
	r.mu.Lock()
	r.chomd, r.exited = cmd, exited
	r.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if ready(ctx, r.URL()) {
			break
		}
		select {
		case <-exited:
			return "", fmt.Errorf("chomd ended while starting:\n%s", r.Tail(30))
		case <-ctx.Done():
			return "", fmt.Errorf("chomd did not get ready:\n%s", r.Tail(30))
		case <-time.After(20 * time.Millisecond):
		}
	}
	// The secret comes after the doors are open; with a token known there is
	// nothing to wait for.
	for r.Token == "" {
		// By a file of its own: chomd shares log's position and moves it.
		written, err := os.ReadFile(log.Name())
		if err != nil {
			return "", err
		}
		if s := setupSecret.FindString(string(written[start:])); s != "" {
			return s, nil
		}
		select {
		case <-exited:
			return "", fmt.Errorf("chomd ended while starting:\n%s", r.Tail(30))
		case <-ctx.Done():
			return "", errors.New("chomd printed no setup secret: its data directory is not new, and no token is known")
		case <-time.After(5 * time.Millisecond):
		}
	}
	return "", nil
}

func ready(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// Pid is chomd's process id; 0 when it does not run.
func (r *Rig) Pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.chomd == nil {
		return 0
	}
	return r.chomd.Process.Pid
}

// Kill ends chomd as kill -9 does and waits for its end.
func (r *Rig) Kill() { r.end(syscall.SIGKILL) }

// Terminate asks chomd to end and returns how long that took.
func (r *Rig) Terminate() time.Duration {
	begin := time.Now()
	r.end(syscall.SIGTERM)
	return time.Since(begin)
}

func (r *Rig) end(sig syscall.Signal) {
	r.mu.Lock()
	cmd, exited := r.chomd, r.exited
	r.chomd = nil
	r.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(sig) // it may have ended by itself
	select {
	case <-exited:
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		<-exited
	}
}

// Exited is closed once the chomd that runs now has ended.
func (r *Rig) Exited() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exited
}

// Restart starts chomd again after Kill, Terminate or its own end.
func (r *Rig) Restart(ctx context.Context) error {
	_, err := r.startChomd(ctx)
	return err
}

// Stop ends chomd, and what was started beside it.
func (r *Rig) Stop(context.Context) error {
	r.end(syscall.SIGTERM)
	if r.CA != nil {
		r.CA.Stop()
	}
	if r.DNS != nil {
		r.DNS.Stop()
	}
	if r.mirror != nil {
		return r.mirror.Close()
	}
	return nil
}

// Tail is the end of chomd's log.
func (r *Rig) Tail(lines int) string {
	b, err := os.ReadFile(filepath.Join(r.Dir, "chomd.log"))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (r *Rig) serveArchive() error {
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", r.Lab.Gateway(), MirrorPort))
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	honest := Mirror(*r.Archive)
	r.mirror = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		spoil := r.spoil
		r.mu.Unlock()
		if spoil == nil {
			honest.ServeHTTP(w, req)
			return
		}
		spoil(honest).ServeHTTP(w, req)
	})}
	go func() { _ = r.mirror.Serve(l) }() // ends with Close
	return nil
}

// SpoilMirror puts a handler before the mirror, for tests of bad ones; nil makes it
// honest again.
func (r *Rig) SpoilMirror(spoil func(honest http.Handler) http.Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spoil = spoil
}

// Mirror serves one archive under its file name.
func Mirror(a lab.Archive) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /"+filepath.Base(a.Path), func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, a.Path)
	})
	return mux
}
