// Package lab boots real Debian hosts on this machine, so that everything which
// touches a host is proved on one: systemd as process 1, an address of its own,
// apt, sshd, and all the ways a host can fail.
//
// A host is a systemd-nspawn container over an overlay; its lower layer is a
// cached base (see EnsureBase). Hosts of one lab share a bridge and reach the
// outside through NAT. A lab is not a security boundary and not a container
// engine: its guests run as the machine's root, for tests only.
//
//	machine                                   guests
//	┌───────────────────────────────┐
//	│ chomlab0  10.213.0.1/24 ──────┼── host0  10.213.0.11   web1
//	│     │  (NAT to the world)     ├── host0  10.213.0.12   web2
//	└─────┴─────────────────────────┘
//
// The life of a host:
//
//	Boot ──> running ──Shutdown, PowerLoss, its own poweroff──> off
//	            ^                                                │
//	            └───────────────────── Start ────────────────────┘
//	Destroy: from either, leaves nothing.
//
// All that a lab changes on the machine is written to its directory before it
// is done, so that any later process can Open the lab and take it Down, also
// after the first one was killed. Processes are named by pid and start time,
// never by name.
package lab

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Options describe a new lab.
type Options struct {
	// Name of the lab on this machine: a-z, 0-9 and '-', at most 20 bytes.
	// Empty: one is drawn.
	Name string
	// Ephemeral ties the lab to this process: should the process die without
	// Down, the next New on the machine removes what it left.
	Ephemeral bool
	// Log receives progress. Nil: silence.
	Log *slog.Logger
}

// Lab is a bridge with hosts on it.
type Lab struct {
	dir string
	rec labRecord
	log *slog.Logger

	mu    sync.Mutex
	hosts map[string]*Host
}

// ErrNoLab is returned by Open for a name that has no lab.
var ErrNoLab = errors.New("no such lab")

var labName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`)

// New makes a lab: a free bridge name and /24, NAT, and the kernel settings
// that a VPS has (see sysctl.go). It needs root and the tools that
// packaging/setup/deps.sh installs; what is missing is named in the error.
func New(ctx context.Context, o Options) (*Lab, error) {
	if err := machineFit(); err != nil {
		return nil, err
	}
	if o.Name == "" {
		o.Name = "lab-" + strings.ToLower(rand.Text()[:8])
	}
	if !labName.MatchString(o.Name) {
		return nil, fmt.Errorf("lab name %q: want a-z, 0-9, '-', at most 20 bytes", o.Name)
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := reapOrphans(ctx, log); err != nil {
		return nil, fmt.Errorf("remove labs of dead processes: %w", err)
	}

	l := &Lab{log: log.With("lab", o.Name), hosts: map[string]*Host{}}
	err := withStateLock(ctx, func() error {
		used, err := usedNetworks()
		if err != nil {
			return err
		}
		n := slices.Index(used, false)
		if n < 0 {
			return errors.New("all lab networks are taken: run chom-lab ls and take some down")
		}
		l.rec = labRecord{Name: o.Name, Network: n}
		if o.Ephemeral {
			self, err := processOf(os.Getpid())
			if err != nil {
				return err
			}
			l.rec.Owner = &self
		}
		l.dir, err = createLabDir(l.rec)
		if err != nil {
			return err
		}
		return raiseSysctls()
	})
	if err != nil {
		if l.dir != "" {
			return nil, errors.Join(err, l.Down(context.WithoutCancel(ctx)))
		}
		return nil, fmt.Errorf("make lab %s: %w", o.Name, err)
	}
	if err := errors.Join(l.createNetwork(ctx), l.createSSHKey()); err != nil {
		err = fmt.Errorf("make lab %s: %w", o.Name, err)
		return nil, errors.Join(err, l.Down(context.WithoutCancel(ctx)))
	}
	l.log.Info("lab is up", "bridge", l.rec.bridge(), "gateway", l.Gateway())
	return l, nil
}

// Open gives access to a lab that another process made.
func Open(name string, log *slog.Logger) (*Lab, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if !labName.MatchString(name) {
		return nil, fmt.Errorf("lab %q: %w", name, ErrNoLab)
	}
	dir := filepath.Join(StateDir(), name)
	rec, err := readRecord[labRecord](filepath.Join(dir, labFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %q: %w", name, ErrNoLab)
	}
	if err != nil {
		return nil, fmt.Errorf("open lab %s: %w", name, err)
	}
	l := &Lab{dir: dir, rec: rec, log: log.With("lab", name), hosts: map[string]*Host{}}
	names, err := l.hostNames()
	if err != nil {
		return nil, fmt.Errorf("open lab %s: %w", name, err)
	}
	for _, n := range names {
		h, err := l.openHost(n)
		if err != nil {
			return nil, fmt.Errorf("open lab %s: %w", name, err)
		}
		l.hosts[n] = h
	}
	return l, nil
}

// List names the labs on this machine, sorted.
func List() ([]string, error) {
	entries, err := os.ReadDir(StateDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && labName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Name of the lab.
func (l *Lab) Name() string { return l.rec.Name }

// Gateway is the machine's own address on the lab's bridge: a server that
// listens there is reached by every host of the lab, and by nobody outside.
func (l *Lab) Gateway() netip.Addr { return l.rec.gateway() }

// Bridge is the name of the lab's bridge interface on the machine.
func (l *Lab) Bridge() string { return l.rec.bridge() }

// SSHKey is the path of the private key that every host of the lab accepts for root.
func (l *Lab) SSHKey() string { return filepath.Join(l.dir, "id_ed25519") }

// Host finds a host by its name.
func (l *Lab) Host(name string) (*Host, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.hosts[name]
	return h, ok
}

// Hosts lists the lab's hosts by name.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*Host
	for _, h := range l.hosts {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b *Host) int { return strings.Compare(a.rec.Name, b.rec.Name) })
	return all
}

// Down removes the lab: hosts, bridge, NAT, its directory, and, with the last
// lab of the machine, the kernel settings. What is already gone is no error, so
// Down may be repeated.
func (l *Lab) Down(ctx context.Context) error {
	var errs []error
	for _, h := range l.Hosts() {
		errs = append(errs, h.Destroy(ctx))
	}
	errs = append(errs, l.removeNetwork(ctx))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take lab %s down: %w", l.rec.Name, err)
	}
	err := withStateLock(ctx, func() error {
		if err := os.RemoveAll(l.dir); err != nil {
			return err
		}
		left, err := List()
		if err != nil || len(left) > 0 {
			return err
		}
		if err := restoreSysctls(); err != nil {
			return err
		}
		return removeStateDir()
	})
	if err != nil {
		return fmt.Errorf("take lab %s down: %w", l.rec.Name, err)
	}
	l.log.Info("lab is down")
	return nil
}

func (l *Lab) createSSHKey() error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "chom lab "+l.rec.Name)
	if err != nil {
		return err
	}
	return os.WriteFile(l.SSHKey(), pem.EncodeToMemory(block), 0o600)
}

// authorizedKey is the public half of SSHKey as a line for authorized_keys.
func (l *Lab) authorizedKey() ([]byte, error) {
	raw, err := os.ReadFile(l.SSHKey())
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", l.SSHKey(), err)
	}
	return ssh.MarshalAuthorizedKey(signer.PublicKey()), nil
}

// reapOrphans takes down the ephemeral labs whose process is gone.
func reapOrphans(ctx context.Context, log *slog.Logger) error {
	names, err := List()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		l, err := Open(name, log)
		if errors.Is(err, ErrNoLab) {
			continue // its owner took it down between List and Open
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if l.rec.Owner != nil && !l.rec.Owner.alive() {
			log.Warn("removing the lab of a dead process", "lab", name, "pid", l.rec.Owner.PID)
			errs = append(errs, l.Down(ctx))
		}
	}
	return errors.Join(errs...)
}
