// Package php runs one php-fpm master per site, as the site's own user, walled
// in, started on demand of its first request's worker but always there to
// listen. No master of root exists: the distribution's own service is masked.
//
//	/etc/chom-agent/php/<h>.conf        the pool, root's, readable by the site's group
//	chom-php-<h>.service                the master
//	/run/chom-php/<h>/php.sock          s-<h>:s-<h> 0660 in a directory 0750: the site and nginx
//
// Which configuration a master really runs with is asked of itself: its answer
// to a ping carries the fingerprint of unit and pool.
package php

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/fail"
	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/proto/contract"
)

// Installed is a release of PHP on this host.
type Installed struct {
	Version contract.PHPVersion
	FPM     string // /usr/sbin/php-fpm8.2
	CLI     string // /usr/bin/php8.2
}

// Find lists the releases that have both php-fpm and the command line, oldest
// first.
func Find() ([]Installed, error) { return find("/") }

func find(root string) ([]Installed, error) {
	found, err := filepath.Glob(filepath.Join(root, "usr/sbin/php-fpm[0-9]*"))
	if err != nil {
		return nil, err
	}
	var out []Installed
	for _, path := range found {
		v, err := contract.ParsePHPVersion(strings.TrimPrefix(filepath.Base(path), "php-fpm"))
		if err != nil {
			continue // not a release's program
		}
		cli := filepath.Join(root, "usr/bin/php"+v.String())
		if _, err := os.Stat(cli); err != nil {
			continue // half installed
		}
		out = append(out, Installed{v, path, cli})
	}
	slices.SortFunc(out, func(a, b Installed) int { // "8.10" is newer than "8.9"
		x, y := a.Version.String(), b.Version.String()
		return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y))
	})
	return out, nil
}

// host is what of the init system is needed here.
type host interface {
	Install(ctx context.Context, units ...systemd.Unit) ([]string, error)
	Uninstall(ctx context.Context, names ...string) error
	Enable(unit, target string) error
	Disable(unit, target string) error
	Restart(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	ResetFailed(ctx context.Context, unit string) error
	State(ctx context.Context, unit string) (systemd.State, error)
	Mask(ctx context.Context, service string) error
	Run(ctx context.Context, u run.Unit) (run.Result, error)
}

// Manager keeps the masters of all sites. Safe for concurrent use on different
// sites.
type Manager struct {
	host host
	log  *slog.Logger
	dir  string // where pools are described
}

// ConfigDir holds the pools. Sites' users read their own file there, so it and
// /etc/chom-agent must be passable (0711) for everyone.
const ConfigDir = "/etc/chom-agent/php"

// New gives the manager of this host's masters.
func New(h *systemd.Host, log *slog.Logger) *Manager {
	return &Manager{host: h, log: log, dir: ConfigDir}
}

// ErrNotInstalled says that the wanted release of PHP is not on this host.
var ErrNotInstalled = errors.New("this release of PHP is not installed")

// startWithin bounds the wait for a master that systemd says is ready.
const startWithin = 15 * time.Second

// EnsureBase makes the directory of pools and keeps every master of the
// distribution from running: they run as root.
func (m *Manager) EnsureBase(ctx context.Context) error {
	for _, dir := range []string{filepath.Dir(m.dir), m.dir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("prepare php: %w", err)
		}
		st, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("prepare php: %w", err)
		}
		if st.Mode().Perm()&0o011 != 0o011 {
			if err := os.Chmod(dir, st.Mode().Perm()|0o011); err != nil {
				return fmt.Errorf("prepare php: %w", err)
			}
		}
	}
	installed, err := Find()
	if err != nil {
		return fmt.Errorf("prepare php: %w", err)
	}
	for _, p := range installed {
		if err := m.host.Mask(ctx, "php"+p.Version.String()+"-fpm.service"); err != nil {
			return fmt.Errorf("prepare php: %w", err)
		}
	}
	return nil
}

// Ensure makes the site's master run with exactly this pool, and returns when
// it says so itself. The site's user and tree must be there. A running master
// is replaced only by a configuration that php-fpm has accepted in a test, as
// the site's user.
func (m *Manager) Ensure(ctx context.Context, p Pool) (changed bool, err error) {
	if changed, err = m.ensure(ctx, p); err != nil {
		return changed, fmt.Errorf("ensure php of %s: %w", p.Handle, err)
	}
	return changed, nil
}

func (m *Manager) ensure(ctx context.Context, p Pool) (changed bool, err error) {
	release, err := m.release(p.Version)
	if err != nil {
		return false, err
	}
	unit, text, mark, err := m.describe(p, release)
	if err != nil {
		return false, err
	}
	if live, err := Ping(ctx, p.Handle); err == nil && live == mark {
		// Exactly this one runs; what lasts is checked all the same.
		return false, m.host.Enable(unit.Name, "multi-user.target")
	}
	st, err := m.host.State(ctx, unit.Name)
	if err != nil {
		return false, err
	}
	gid, err := m.groupOf(p.Handle)
	if err != nil {
		return false, err
	}
	if st.Active == "active" {
		if err := m.try(ctx, p, release, text, gid); err != nil {
			return false, err
		}
	}
	if _, err := atomicfile.Write(m.file(p.Handle), text, 0o640, gid); err != nil {
		return false, err
	}
	fail.Point("php.pool-written")
	if _, err := m.host.Install(ctx, unit); err != nil {
		return false, err
	}
	fail.Point("php.unit-installed")
	if err := m.host.Enable(unit.Name, "multi-user.target"); err != nil {
		return false, err
	}
	if err := m.host.ResetFailed(ctx, unit.Name); err != nil {
		return false, err
	}
	if err := m.host.Restart(ctx, unit.Name); err != nil {
		return true, err
	}
	fail.Point("php.started")
	return true, await(ctx, p.Handle, mark)
}

func (m *Manager) release(v contract.PHPVersion) (Installed, error) {
	installed, err := Find()
	if err != nil {
		return Installed{}, err
	}
	i := slices.IndexFunc(installed, func(i Installed) bool { return i.Version == v })
	if i < 0 {
		return Installed{}, fmt.Errorf("%w: %s", ErrNotInstalled, v)
	}
	return installed[i], nil
}

// describe gives unit and pool, and the fingerprint of both that the master
// will answer with.
func (m *Manager) describe(p Pool, release Installed) (unit systemd.Unit, text []byte, mark string, err error) {
	unit = m.unit(p, release)
	text, err = p.render("unmarked")
	if err != nil {
		return systemd.Unit{}, nil, "", err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%+v\n", unit) // hashes never fail to be written to
	sum.Write(text)
	mark = "chom-" + hex.EncodeToString(sum.Sum(nil)[:12])
	text, err = p.render(mark)
	return unit, text, mark, err
}

// groupOf is the group of the site's tree, which is the site's own.
func (m *Manager) groupOf(h contract.Handle) (int, error) {
	return groupID(run.SitesDir + "/" + h.String())
}

// try lets php-fpm read a new pool beside the running one.
func (m *Manager) try(ctx context.Context, p Pool, release Installed, text []byte, gid int) error {
	candidate := m.dir + "/" + p.Handle.String() + ".candidate"
	if _, err := atomicfile.Write(candidate, text, 0o640, gid); err != nil {
		return err
	}
	defer func() { _ = os.Remove(candidate) }() // what stays behind is overwritten by the next try
	u, err := run.SiteUnit{Handle: p.Handle, Name: "php-test", Argv: []string{release.FPM, "--test", "--fpm-config", candidate}}.Unit()
	if err == nil {
		_, err = m.host.Run(ctx, u)
	}
	if err != nil {
		return fmt.Errorf("php-fpm rejects the pool, the running one is untouched: %w", err)
	}
	return nil
}

func (m *Manager) file(h contract.Handle) string { return m.dir + "/" + h.String() + ".conf" }

// Running reports whether the site's master runs with exactly this pool.
func (m *Manager) Running(ctx context.Context, p Pool) (bool, error) {
	release, err := m.release(p.Version)
	if err != nil {
		return false, err
	}
	_, _, mark, err := m.describe(p, release)
	if err != nil {
		return false, err
	}
	live, err := Ping(ctx, p.Handle)
	return err == nil && live == mark, nil
}

// Stop ends the site's master and keeps it from starting at boot. Its
// configuration stays; Ensure brings it back.
func (m *Manager) Stop(ctx context.Context, h contract.Handle) error {
	if err := m.host.Disable(h.PHPUnit(), "multi-user.target"); err != nil {
		return fmt.Errorf("stop php of %s: %w", h, err)
	}
	if err := m.host.Stop(ctx, h.PHPUnit()); err != nil {
		return fmt.Errorf("stop php of %s: %w", h, err)
	}
	return nil
}

// Remove ends the site's master and forgets it. One that isn't there is fine.
func (m *Manager) Remove(ctx context.Context, h contract.Handle) error {
	if h.IsZero() {
		return errors.New("remove php: no handle")
	}
	if err := m.host.Uninstall(ctx, h.PHPUnit()); err != nil {
		return fmt.Errorf("remove php of %s: %w", h, err)
	}
	fail.Point("php.unit-removed")
	for _, path := range []string{m.file(h), m.dir + "/" + h.String() + ".candidate"} {
		if _, err := atomicfile.Remove(path); err != nil {
			return fmt.Errorf("remove php of %s: %w", h, err)
		}
	}
	return nil
}

// await asks the master until it answers with the wanted fingerprint.
func await(ctx context.Context, h contract.Handle, mark string) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		live, err := Ping(ctx, h)
		if err == nil && live == mark {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("php-fpm started but does not answer as it should (%q): %w", live, errors.Join(ctx.Err(), err))
		case <-time.After(10 * time.Millisecond): // a fork takes about as long
		}
	}
}
