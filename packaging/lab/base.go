package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Release is a Debian release that the lab can boot.
type Release string

// The two releases that CHOM supports, and what makes them differ for it.
const (
	Bookworm Release = "bookworm" // Debian 12: PHP 8.2, nginx 1.22, MariaDB 10.11
	Trixie   Release = "trixie"   // Debian 13: PHP 8.4, nginx 1.26, MariaDB 11.8
)

// Releases lists all of them.
var Releases = []Release{Bookworm, Trixie}

// Flavor says how much is on a base.
type Flavor string

// The flavors of a base.
const (
	Fresh Flavor = "fresh" // a minimal VPS as a provider hands it over
	Stack Flavor = "stack" // Fresh, and the web stack installed by apt: tests of sites need not pay apt
)

// freshPackages are what a provider's smallest image has beyond Debian's
// required packages, as far as anything here could notice.
var freshPackages = []string{
	"systemd", "systemd-sysv", "systemd-timesyncd", "libpam-systemd", "dbus", "curl", "ca-certificates", "openssh-server",
	"iproute2", "procps",
}

// stackPackages are what sites need; keep them equal to what the agent installs, and
// to what its own package depends on.
var stackPackages = []string{
	"nginx", "logrotate", "php-fpm", "php-cli", "php-mysql", "php-xml", "php-mbstring", "php-curl", "php-gd", "php-zip", "php-intl",
	"mariadb-server", "mariadb-client", "restic", "acl", "tar", "unzip",
}

// recipe is part of every base's key: raise it when the steps below change.
const recipe = "1"

// Base is a finished, read-only root of a Debian system in the cache.
type Base struct {
	Release Release
	Flavor  Flavor
	dir     string // holds root/, and for Stack also debs/
}

// Root is the directory that serves as a host's lowest layer. Do not write there.
func (b Base) Root() string { return filepath.Join(b.dir, "root") }

// debs is a layer that holds nothing but /var/cache/apt/archives, filled with
// every package that Stack has over Fresh.
func (b Base) debs() string { return filepath.Join(b.dir, "debs") }

func (b Base) packages() []string {
	if b.Flavor == Stack {
		return stackPackages
	}
	return freshPackages
}

// EnsureBase returns the base, building it where the cache has none: minutes
// the first time, nothing after. One process builds, others wait for it; a
// build that breaks off leaves nothing that could pass for a base.
func EnsureBase(ctx context.Context, r Release, f Flavor, log *slog.Logger) (Base, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if (r != Bookworm && r != Trixie) || (f != Fresh && f != Stack) {
		return Base{}, fmt.Errorf("no base %s/%s: releases are bookworm and trixie, flavors fresh and stack", r, f)
	}
	m, err := machineMirror("/etc/apt")
	if err != nil {
		return Base{}, fmt.Errorf("find the apt mirror: %w", err)
	}
	b := Base{Release: r, Flavor: f}
	key := sha256.Sum256(fmt.Append(nil, recipe, r, f, m, freshPackages, b.packages()))
	b.dir = filepath.Join(CacheDir(), "bases", fmt.Sprintf("%s-%s-%s", r, f, hex.EncodeToString(key[:6])))
	if err := machineFit(); err != nil {
		return Base{}, err
	}
	if exists(b.dir) {
		return b, nil
	}
	err = withLock(ctx, b.dir+".lock", func() error {
		if exists(b.dir) { // another process built it while we waited
			return nil
		}
		return b.build(ctx, m, log.With("release", r, "flavor", f))
	})
	if err != nil {
		return Base{}, fmt.Errorf("build base %s/%s: %w", r, f, err)
	}
	return b, nil
}

func (b Base) build(ctx context.Context, m mirror, log *slog.Logger) (err error) {
	log.Info("building a base; this takes minutes, once", "dir", b.dir)
	began := time.Now()
	tmp := b.dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil { // from a build that was killed
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }() // after the rename there is nothing to remove
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	root := filepath.Join(tmp, "root")
	buildLog := b.dir + ".log"

	var start string
	if b.Flavor == Fresh {
		raw, err := ensureRaw(ctx, b.Release, m, log)
		if err != nil {
			return err
		}
		start = raw
	} else {
		fresh, err := EnsureBase(ctx, b.Release, Fresh, log)
		if err != nil {
			return err
		}
		start = fresh.Root()
	}
	if err := logged(ctx, buildLog, "/usr/bin/cp", "--archive", "--reflink=auto", "--", start, root); err != nil {
		return err
	}
	if err := installPackages(ctx, buildLog, root, b.Release, m, b.packages()); err != nil {
		return err
	}
	if b.Flavor == Stack {
		if err := moveDebs(root, filepath.Join(tmp, "debs")); err != nil {
			return err
		}
	}
	if err := makeGeneric(root); err != nil {
		return err
	}
	if err := os.Rename(tmp, b.dir); err != nil {
		return err
	}
	log.Info("base is built", "dir", b.dir, "took", time.Since(began).Round(time.Second))
	return nil
}

// ensureRaw returns what debootstrap makes of a release: the slowest step, kept
// for itself because package lists change more often than it.
func ensureRaw(ctx context.Context, r Release, m mirror, log *slog.Logger) (string, error) {
	raw := filepath.Join(CacheDir(), "raw", string(r))
	if err := os.MkdirAll(filepath.Dir(raw), 0o700); err != nil { // old set-uid programs are not for everybody
		return "", err
	}
	err := withLock(ctx, raw+".lock", func() (err error) {
		if exists(raw) {
			return nil
		}
		log.Info("running debootstrap", "mirror", m.Archive)
		tmp := raw + ".tmp"
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }() // after the rename there is nothing to remove
		err = logged(ctx, raw+".log", "/usr/sbin/debootstrap", "--variant=minbase",
			"--include="+strings.Join(freshPackages, ","), string(r), tmp, m.Archive)
		if err != nil {
			return err
		}
		return os.Rename(tmp, raw)
	})
	return raw, err
}

// installPackages brings a root up to date and installs packages with apt, inside
// a container without network separation. No service is started meanwhile.
func installPackages(ctx context.Context, log, root string, r Release, m mirror, packages []string) error {
	resolv, err := resolvConf()
	if err != nil {
		return err
	}
	policy := filepath.Join(root, "usr/sbin/policy-rc.d")
	err = errors.Join(
		os.WriteFile(filepath.Join(root, "etc/apt/sources.list.d/debian.sources"), []byte(m.guestSources(r)), 0o644),
		removeIfThere(filepath.Join(root, "etc/apt/sources.list")),
		os.WriteFile(filepath.Join(root, "etc/resolv.conf"), resolv, 0o644),
		os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755), // 101: no service may start
	)
	if err != nil {
		return err
	}
	apt := []string{"/usr/bin/apt-get", "--quiet", "--yes", "--no-install-recommends",
		"-oDpkg::Options::=--force-unsafe-io", // the root is thrown away when the machine crashes
		"-oDpkg::Options::=--force-confnew",
	}
	for _, verb := range [][]string{{"update"}, {"dist-upgrade"}, append([]string{"install"}, packages...)} {
		if err := inRoot(ctx, log, root, append(apt, verb...)...); err != nil {
			return err
		}
	}
	return os.Remove(policy)
}

// inRoot runs one program as root in a root directory that is not booted.
func inRoot(ctx context.Context, log, root string, argv ...string) error {
	return logged(ctx, log, append([]string{"/usr/bin/systemd-nspawn",
		"--quiet", "--settings=no", "--register=no", "--keep-unit", "--as-pid2", "--resolv-conf=off", "--timezone=off",
		"--console=pipe", "--setenv=DEBIAN_FRONTEND=noninteractive", "--setenv=PATH=" + searchPath,
		"--directory=" + root, "--"}, argv...)...)
}

// moveDebs takes the downloaded packages out of the root into a layer of their own.
func moveDebs(root, layer string) error {
	const archives = "var/cache/apt/archives"
	to := filepath.Join(layer, archives)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(root, archives, "*.deb"))
	if err != nil {
		return err
	}
	if len(debs) == 0 {
		return errors.New("apt kept none of the packages it installed")
	}
	for _, deb := range debs {
		if err := os.Rename(deb, filepath.Join(to, filepath.Base(deb))); err != nil {
			return err
		}
	}
	return nil
}

// makeGeneric removes what belongs to one system only, and what would make two
// boots of the same base differ.
func makeGeneric(root string) error {
	// Networking by networkd, as the lab configures it.
	wants := filepath.Join(root, "etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	networkd := filepath.Join(wants, "systemd-networkd.service")
	if !exists(networkd) {
		if err := os.Symlink("/lib/systemd/system/systemd-networkd.service", networkd); err != nil {
			return err
		}
	}
	var gone []string
	for _, pattern := range []string{
		"etc/ssh/ssh_host_*",
		"etc/resolv.conf",
		"etc/hostname",
		"var/lib/dbus/machine-id",
		"var/lib/systemd/random-seed",
		"var/cache/apt/archives/*.deb",
		"var/cache/apt/*.bin",
		"var/lib/apt/lists/*_*",
		// Unattended apt runs would hold its lock at random times.
		"etc/systemd/system/timers.target.wants/apt-daily*.timer",
	} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		gone = append(gone, found...)
	}
	for _, path := range gone {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if exists(filepath.Join(root, "usr/sbin/policy-rc.d")) {
		return errors.New("policy-rc.d was left in the base: no service would ever start")
	}
	if err := os.MkdirAll(filepath.Join(root, "var/log/journal"), 0o755); err != nil { // journals survive a reboot
		return err
	}
	return os.WriteFile(filepath.Join(root, "etc/machine-id"), nil, 0o444)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
