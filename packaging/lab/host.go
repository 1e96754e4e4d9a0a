package lab

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// Config describes a host to boot.
type Config struct {
	// Name of the host in its lab, and its hostname: a-z, 0-9, '-', at most 20 bytes.
	Name string
	Base Base
	// WarmApt fills /var/cache/apt/archives with the packages of the web
	// stack, so that installing it costs no download. It may build the Stack
	// base of the release first.
	WarmApt bool
	// Hosts are further names for the guest's /etc/hosts.
	Hosts map[string]netip.Addr
}

// Host is one Debian system of a lab. Its methods may be called from several
// goroutines, those that start or stop it one at a time.
type Host struct {
	lab *Lab
	dir string
	log *slog.Logger

	power sync.Mutex // held by Start, Shutdown, PowerLoss, Destroy

	mu     sync.Mutex
	rec    hostRecord
	exited chan struct{} // closed when the running nspawn is gone; nil while off
}

// ErrOff is returned by calls that need a running host.
var ErrOff = errors.New("host is off")

var hostName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`)

// Boot makes a host and returns when it is up: systemd has finished starting,
// and its sshd answers over the network.
func (l *Lab) Boot(ctx context.Context, c Config) (*Host, error) {
	h, err := l.create(ctx, c)
	if err == nil {
		err = h.Start(ctx)
	}
	if err != nil {
		err = fmt.Errorf("boot host %s: %w", c.Name, err)
		if h != nil {
			err = errors.Join(err, h.Destroy(context.WithoutCancel(ctx)))
		}
		return nil, err
	}
	return h, nil
}

// create lays the host's directory out, all but started.
func (l *Lab) create(ctx context.Context, c Config) (*Host, error) {
	if !hostName.MatchString(c.Name) {
		return nil, errors.New("a host's name has a-z, 0-9, '-', at most 20 bytes")
	}
	if c.Base.dir == "" {
		return nil, errors.New("no base given: take one from EnsureBase")
	}
	layers := []string{c.Base.Root()}
	if c.WarmApt {
		stack, err := EnsureBase(ctx, c.Base.Release, Stack, l.log)
		if err != nil {
			return nil, err
		}
		layers = append([]string{stack.debs()}, layers...)
	}
	id := make([]byte, 16)
	rand.Read(id) // never fails
	rec := hostRecord{Name: c.Name, Layers: layers, MachineID: hex.EncodeToString(id)}

	l.mu.Lock()
	h, err := l.claim(rec)
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(h.dir, d), 0o755); err != nil {
			return h, err
		}
	}
	if err := h.mount(); err != nil {
		return h, err
	}
	return h, h.personalize(c)
}

// claim gives the host an address and a directory. Called with l.mu held.
func (l *Lab) claim(rec hostRecord) (*Host, error) {
	if _, taken := l.hosts[rec.Name]; taken {
		return nil, errors.New("the name is taken")
	}
	used := map[int]bool{}
	for _, h := range l.hosts {
		used[h.rec.Index] = true
	}
	for rec.Index = 11; used[rec.Index]; rec.Index++ { // below 11: the gateway, and room
	}
	if rec.Index > 254 {
		return nil, errors.New("all addresses of the lab are taken")
	}
	rec.Addr = l.rec.address(rec.Index)
	h := l.hostOf(rec)
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		return nil, err
	}
	l.hosts[rec.Name] = h
	return h, writeRecord(filepath.Join(h.dir, hostFile), rec)
}

func (l *Lab) hostOf(rec hostRecord) *Host {
	return &Host{
		lab: l,
		dir: filepath.Join(l.dir, "hosts", rec.Name),
		log: l.log.With("host", rec.Name),
		rec: rec,
	}
}

// openHost takes over a host that another process made.
func (l *Lab) openHost(name string) (*Host, error) {
	path := filepath.Join(l.dir, "hosts", name, hostFile)
	if !exists(path) { // its maker died before the record was written: only a directory to remove
		return l.hostOf(hostRecord{Name: name}), nil
	}
	rec, err := readRecord[hostRecord](path)
	if err != nil {
		return nil, err
	}
	h := l.hostOf(rec)
	if rec.Running != nil && rec.Running.Nspawn.alive() {
		h.exited = make(chan struct{})
		go func(p process, exited chan struct{}) {
			defer close(exited)
			// Without a deadline it can only end with the process.
			_ = p.wait(context.Background())
		}(rec.Running.Nspawn, h.exited)
	}
	return h, nil
}

// personalize writes what makes the guest itself and not another: names,
// address, keys.
func (h *Host) personalize(c Config) error {
	keyPEM, keyLine, err := newHostKey(c.Name)
	if err != nil {
		return err
	}
	authorized, err := h.lab.authorizedKey()
	if err != nil {
		return err
	}
	resolv, err := resolvConf()
	if err != nil {
		return err
	}
	hosts := fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n", c.Name)
	for _, name := range slices.Sorted(maps.Keys(c.Hosts)) {
		hosts += fmt.Sprintf("%s %s\n", c.Hosts[name], name)
	}
	root, err := openRooted(filepath.Join(h.dir, "root"))
	if err != nil {
		return err
	}
	defer root.close()
	for _, f := range []struct {
		path, content string
		mode          os.FileMode
	}{
		{"/etc/hostname", c.Name + "\n", 0o644},
		{"/etc/hosts", hosts, 0o644},
		{"/etc/machine-id", h.rec.MachineID + "\n", 0o444},
		{"/etc/resolv.conf", string(resolv), 0o644},
		{guestNetworkFile, h.lab.guestNetwork(h.rec), 0o644},
		{"/etc/ssh/ssh_host_ed25519_key", keyPEM, 0o600},
		{"/etc/ssh/ssh_host_ed25519_key.pub", keyLine, 0o644},
		{"/root/.ssh/authorized_keys", string(authorized), 0o600},
	} {
		if err := root.write(f.path, strings.NewReader(f.content), f.mode); err != nil {
			return err
		}
	}
	return h.record(func(r *hostRecord) { r.HostKey = strings.TrimSpace(keyLine) })
}

func newHostKey(comment string) (private, public string, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return "", "", err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", "", err
	}
	return string(pem.EncodeToMemory(block)), string(ssh.MarshalAuthorizedKey(sshPub)), nil
}

// mount puts the host's own layer over its base; a mounted root is left alone.
func (h *Host) mount() error {
	root := filepath.Join(h.dir, "root")
	mounted, err := mountsBelow(root)
	if err != nil || len(mounted) > 0 {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s",
		strings.Join(h.rec.Layers, ":"), filepath.Join(h.dir, "upper"), filepath.Join(h.dir, "work"))
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay on %s (CHOM_LAB_STATE can name a better place): %w", root, err)
	}
	return nil
}

// mountsBelow lists mount points at or under dir, the innermost first.
func mountsBelow(dir string) ([]string, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range bytes.Lines(raw) {
		f := strings.Fields(string(line))
		if len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			found = append(found, f[4])
		}
	}
	slices.Reverse(found)
	return found, nil
}

func unmountBelow(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		err := unix.Unmount(m, 0)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(m, unix.MNT_DETACH) // somebody looks into it; gone when he leaves
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	return nil
}

// Destroy removes the host and all that it stored. Repeating it is no error.
func (h *Host) Destroy(ctx context.Context) error {
	h.power.Lock()
	defer h.power.Unlock()
	if err := h.kill(ctx); err != nil {
		return fmt.Errorf("destroy host %s: %w", h.rec.Name, err)
	}
	if err := unmountBelow(h.dir); err != nil {
		return fmt.Errorf("destroy host %s: %w", h.rec.Name, err)
	}
	if err := os.RemoveAll(h.dir); err != nil {
		return fmt.Errorf("destroy host %s: %w", h.rec.Name, err)
	}
	h.lab.mu.Lock()
	delete(h.lab.hosts, h.rec.Name)
	h.lab.mu.Unlock()
	return nil
}

// record changes the host's record in memory and on disk.
func (h *Host) record(change func(*hostRecord)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.rec)
	return writeRecord(filepath.Join(h.dir, hostFile), h.rec)
}

// Name of the host, also its hostname.
func (h *Host) Name() string { return h.rec.Name }

// Addr is the host's address on the lab's bridge; it keeps it for life.
func (h *Host) Addr() netip.Addr { return h.rec.Addr }

// SSHHostKey is the public key that the host's sshd shows, as in a known_hosts line.
func (h *Host) SSHHostKey() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rec.HostKey
}
