// Package nginx owns CHOM's part of the web server's configuration: one file
// per site, a default server that refuses unknown names, and the way from a
// wanted site to one that is served.
//
// A change goes through the same steps every time:
//
//	render -> read back and compare -> candidate next to everything live -> nginx -t
//	   fails because of us:          nothing live was touched, an error
//	   fails because of a neighbour: he alone is set aside, and reported
//	-> new generation number -> atomic swap -> reload -> wait until that number is served
//	-> the caller's probe -> kept as good; or back to the last good one
//
// A kill between any two steps leaves files that pass nginx -t; the next Apply
// or EnsureBase sees that the served generation is older than the one on disk
// and finishes. Files of the package on a host:
//
//	/etc/nginx/conf.d/chom.conf          what all sites share; includes the next two
//	/etc/nginx/chom/generation.conf      a counter that only this host can read
//	/etc/nginx/chom/sites/<h>.conf       a site that is served
//	/etc/nginx/chom/good/<h>.conf        its last version that passed the probe
//	/etc/nginx/chom/broken/<h>.conf      a version that was set aside
//	/etc/nginx/chom/snippets/<h>/*.conf  an administrator's additions; read, never written
//
// The rest of /etc/nginx is the distribution's and the administrator's.
package nginx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/fail"
	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/proto/contract"
)

const service = "nginx.service"

// host is what of the init system is needed here.
type host interface {
	Start(ctx context.Context, unit string) error
	Restart(ctx context.Context, unit string) error
	State(ctx context.Context, unit string) (systemd.State, error)
	Signal(ctx context.Context, unit string, sig syscall.Signal) error
	DropIn(ctx context.Context, unit string, settings systemd.Unit) (changed bool, err error)
}

// Manager brings sites into nginx and takes them out. Safe for concurrent use
// on different sites; one site's changes are the caller's to keep in order.
type Manager struct {
	paths
	host host
	log  *slog.Logger
	test func(ctx context.Context, config string) (output []byte, err error) // nginx -t
	get  func(ctx context.Context, host, path string) (status int, body []byte, err error)

	files   sync.Mutex // held while files are tested and swapped
	loading sync.Mutex // held while nginx reloads
}

// New gives the manager of this host's nginx.
func New(h *systemd.Host, log *slog.Logger) *Manager {
	addresses, secure := []string{"80"}, []string{"443"}
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil { // without IPv6 in the kernel nginx would not start
		addresses, secure = append(addresses, "[::]:80"), append(secure, "[::]:443")
	}
	return &Manager{
		paths: paths{etc: "/etc/nginx", logs: logsDir, trees: run.SitesDir, pid: "/run/nginx.pid", rotate: "/etc/logrotate.d/chom-sites", addresses: addresses, secure: secure, challenges: ChallengeDir},
		host:  h, log: log, test: tester(h), get: client("127.0.0.1:80", "127.0.0.1:443"),
	}
}

// ChallengeDir is where a site's answers to a CA lie, in a directory of its
// handle's name. nginx shows them, and nobody but root writes there.
const ChallengeDir = "/run/chom-acme"

// tester asks nginx itself, outside of the agent's sandbox: it opens logs.
func tester(h *systemd.Host) func(ctx context.Context, config string) ([]byte, error) {
	return func(ctx context.Context, config string) ([]byte, error) {
		res, err := h.Run(ctx, run.Unit{
			Name: "nginx-test", Argv: []string{"/usr/sbin/nginx", "-t", "-c", config},
			Properties: []run.Property{{Key: "LimitNOFILE", Value: openFiles}},
		})
		return res.Stderr, err
	}
}

// openFiles bounds descriptors of nginx: two logs per site in every process,
// for thousands of sites, and the connections.
const openFiles = "131072"

// Report says what Apply did beside the wanted change.
type Report struct {
	Changed  bool    // something was written and loaded
	SetAside []Aside // neighbours that broke the configuration
}

// Aside is a site whose configuration would have kept everyone from changing.
type Aside struct {
	Handle   contract.Handle
	Reason   string // nginx's words
	Restored bool   // its last good version is served instead
}

// RejectedError says that nginx does not accept this site's configuration.
// Nothing live was touched.
type RejectedError struct {
	Handle contract.Handle
	Reason string // nginx's words
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("nginx rejects site %s: %s", e.Handle, e.Reason)
}

// ErrBase says that nginx's configuration is broken outside of all sites.
var ErrBase = errors.New("nginx configuration is broken outside of the sites")

// Apply brings a site to the wanted state and returns when that state is
// served and the probe (nil for none) accepts it. When the probe fails the
// last good version is served again, or none if there never was one.
func (m *Manager) Apply(ctx context.Context, s Site, probe func(ctx context.Context) error) (Report, error) {
	tree, err := m.serverBlock(s)
	if err != nil {
		return Report{}, err
	}
	text, err := render(tree)
	if err != nil {
		return Report{}, fmt.Errorf("render site %s: %w", s.Handle, err)
	}
	if err := m.ensureLogs(s.Handle); err != nil {
		return Report{}, err
	}
	report, err := m.swap(ctx, s, text)
	if err != nil {
		return report, err
	}
	if err := m.load(ctx); err != nil {
		return report, errors.Join(fmt.Errorf("load site %s: %w", s.Handle, err), m.goBack(ctx, s.Handle))
	}
	fail.Point("nginx.loaded")
	if probe != nil {
		if err := probe(ctx); err != nil {
			return report, errors.Join(fmt.Errorf("probe site %s: %w", s.Handle, err), m.goBack(ctx, s.Handle))
		}
	}
	fail.Point("nginx.probed")
	if _, err := atomicfile.Write(m.keep(s.Handle), text, 0o644, 0); err != nil {
		return report, err
	}
	return report, nil
}

// swap tests the site next to all others and puts it in its place.
func (m *Manager) swap(ctx context.Context, s Site, text []byte) (Report, error) {
	m.files.Lock()
	defer m.files.Unlock()
	if old, err := os.ReadFile(m.site(s.Handle)); err == nil && string(old) == string(text) {
		return Report{}, nil // load still checks that it is served
	}
	aside, err := m.try(ctx, s, text)
	report := Report{SetAside: aside}
	if err != nil {
		return report, err
	}
	fail.Point("nginx.tested")
	err = m.change(func() error {
		if _, err := atomicfile.Write(m.site(s.Handle), text, 0o644, 0); err != nil {
			return err
		}
		_, err := atomicfile.Remove(m.broken() + "/" + s.Handle.String() + ".conf")
		return err
	})
	report.Changed = err == nil
	return report, err
}

// goBack serves a site's last good version again. It works on after the
// caller's context ended, since a bad version must not stay.
func (m *Manager) goBack(ctx context.Context, h contract.Handle) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadWithin)
	defer cancel()
	if err := m.restore(h); err != nil {
		return fmt.Errorf("go back to the last good version of site %s: %w", h, err)
	}
	if err := m.load(ctx); err != nil {
		return fmt.Errorf("go back to the last good version of site %s: %w", h, err)
	}
	m.log.Warn("site returned to its last good nginx configuration", "site", h.String())
	return nil
}

func (m *Manager) restore(h contract.Handle) error {
	m.files.Lock()
	defer m.files.Unlock()
	return m.change(func() error {
		good, err := os.ReadFile(m.keep(h))
		if errors.Is(err, fs.ErrNotExist) {
			_, err := atomicfile.Remove(m.site(h))
			return err
		}
		if err != nil {
			return err
		}
		_, err = atomicfile.Write(m.site(h), good, 0o644, 0)
		return err
	})
}

// Remove takes a site out of nginx and returns when it is no longer served.
// Its names are refused from then on. Logs stay; see RemoveLogs. A site that
// isn't there is fine.
func (m *Manager) Remove(ctx context.Context, h contract.Handle) error {
	if err := m.drop(h); err != nil {
		return fmt.Errorf("remove site %s from nginx: %w", h, err)
	}
	if err := m.load(ctx); err != nil {
		return fmt.Errorf("remove site %s from nginx: %w", h, err)
	}
	for _, path := range []string{m.keep(h), m.broken() + "/" + h.String() + ".conf", m.trial(h)} {
		if _, err := atomicfile.Remove(path); err != nil {
			return fmt.Errorf("remove site %s from nginx: %w", h, err)
		}
	}
	return nil
}

func (m *Manager) drop(h contract.Handle) error {
	m.files.Lock()
	defer m.files.Unlock()
	if _, err := os.Lstat(m.site(h)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return m.change(func() error {
		_, err := atomicfile.Remove(m.site(h))
		return err
	})
}

// Sites lists the sites that have a file, served or about to be.
func (m *Manager) Sites() ([]contract.Handle, error) {
	entries, err := os.ReadDir(m.sites())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list sites: %w", err)
	}
	var out []contract.Handle
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".conf")
		if h, err := contract.ParseHandle(name); ok && err == nil {
			out = append(out, h)
		}
	}
	return out, nil
}

// Serves reports whether exactly this site is on disk, loaded, and was found
// good by a probe: an Apply that was killed before its probe has to probe yet.
func (m *Manager) Serves(ctx context.Context, s Site) (bool, error) {
	tree, err := m.serverBlock(s)
	if err != nil {
		return false, err
	}
	text, err := render(tree)
	if err != nil {
		return false, err
	}
	old, err := os.ReadFile(m.site(s.Handle))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || string(old) != string(text) {
		return false, err
	}
	good, err := os.ReadFile(m.keep(s.Handle))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || string(good) != string(text) {
		return false, err
	}
	want, err := m.onDisk()
	if err != nil {
		return false, err
	}
	served, err := m.served(ctx)
	return err == nil && served >= want, nil
}

func (m *Manager) ensureLogs(h contract.Handle) error {
	dir := m.logDir(h)
	if err := os.MkdirAll(m.logs, 0o755); err != nil {
		return fmt.Errorf("ensure logs of %s: %w", h, err)
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("ensure logs of %s: %w", h, err)
	}
	return nil
}

// RemoveLogs deletes a site's logs. Everything in their directory is root's.
func (m *Manager) RemoveLogs(h contract.Handle) error {
	if h.IsZero() {
		return errors.New("remove logs: no handle")
	}
	root, err := os.OpenRoot(m.logs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove logs of %s: %w", h, err)
	}
	defer root.Close() // read-only
	if err := root.RemoveAll(h.String()); err != nil {
		return fmt.Errorf("remove logs of %s: %w", h, err)
	}
	return nil
}

// Get asks this host's nginx for a page of a site, past any name resolution.
func (m *Manager) Get(ctx context.Context, d contract.Domain, path string) (status int, body []byte, err error) {
	return m.get(ctx, d.String(), path)
}

// loadWithin bounds a reload: parsing thousands of sites takes a second or two.
const loadWithin = 20 * time.Second
