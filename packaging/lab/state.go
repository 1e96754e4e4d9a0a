package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What is kept on disk:
//
//	StateDir/                 /var/lib/chom-lab, or CHOM_LAB_STATE
//	  lock                    held while a lab comes or goes
//	  sysctl.json             the kernel settings from before the first lab
//	  <lab>/lab.json          labRecord
//	  <lab>/id_ed25519        root's key to every host
//	  <lab>/hosts/<host>/     host.json (hostRecord), upper, work, root, console.log
//
// It must lie on a file system that can be the upper layer of an overlay.

const (
	labFile  = "lab.json"
	hostFile = "host.json"
)

// StateDir is where labs are recorded.
func StateDir() string { return cmp.Or(os.Getenv("CHOM_LAB_STATE"), "/var/lib/chom-lab") }

// CacheDir is where bases and archives are kept between labs.
func CacheDir() string { return cmp.Or(os.Getenv("CHOM_LAB_CACHE"), "/var/cache/chom-lab") }

type labRecord struct {
	Name    string   `json:"name"`
	Network int      `json:"network"` // the N of 10.213.N.0/24 and of chomlabN
	Owner   *process `json:"owner,omitempty"`
}

func (r labRecord) bridge() string       { return "chomlab" + strconv.Itoa(r.Network) }
func (r labRecord) subnet() netip.Prefix { return netip.PrefixFrom(r.address(0), 24) }
func (r labRecord) gateway() netip.Addr  { return r.address(1) }
func (r labRecord) address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 213, byte(r.Network), byte(i)})
}

type hostRecord struct {
	Name      string     `json:"name"`
	Index     int        `json:"index"` // the last byte of its address
	Addr      netip.Addr `json:"addr"`
	MachineID string     `json:"machine_id"`
	HostKey   string     `json:"host_key"` // sshd's public key, one line
	Layers    []string   `json:"layers"`   // read-only layers, topmost first
	Running   *running   `json:"running,omitempty"`
}

// running says which processes and devices a booted host consists of.
type running struct {
	Nspawn process `json:"nspawn"`
	Leader process `json:"leader"` // the guest's process 1, as the machine sees it
	Veth   string  `json:"veth"`   // the machine's end of its cable

	Cut             bool `json:"cut,omitempty"`
	LossIn, LossOut int  `json:",omitempty"` // percent
}

// process names a process for good: a pid alone is used again, also after a reboot.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // boot id and start time in clock ticks
}

func processOf(pid int) (process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The name in parentheses may hold anything; fields count from behind it.
	// state is the 3rd field of the file, starttime the 22nd.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return process{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return process{}, fmt.Errorf("process %d: %w", pid, fs.ErrNotExist) // dead, only not yet collected
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return process{}, err
	}
	return process{PID: pid, Start: strings.TrimSpace(string(boot)) + " " + fields[19]}, nil
}

func (p process) alive() bool {
	now, err := processOf(p.PID)
	return err == nil && now == p
}

// kill sends a signal to exactly this process; a dead one is no error.
func (p process) kill(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd of %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(fd) }() // a pidfd has nothing to lose
	if !p.alive() {                       // the pid now belongs to somebody else
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %d: %w", p.PID, err)
	}
	return nil
}

// wait returns when the process is dead.
func (p process) wait(ctx context.Context) error {
	return poll(ctx, 20*time.Millisecond, func() (bool, error) { return !p.alive(), nil })
}

// poll calls done every period until it says yes or fails, or ctx ends.
func poll(ctx context.Context, period time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// withStateLock runs f while no other process makes or removes a lab.
func withStateLock(ctx context.Context, f func() error) error {
	return withLock(ctx, filepath.Join(StateDir(), "lock"), f)
}

// withLock runs f while holding an exclusive lock on the file. f may remove the
// file: whoever waited for it then locks the next one.
func withLock(ctx context.Context, path string, f func() error) error {
	var held *os.File
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		lock, err := tryLock(path)
		held = lock
		return lock != nil, err
	})
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	defer held.Close()
	return f()
}

// tryLock returns the locked file, or nil when it is held elsewhere.
func tryLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // the directory went between the two calls
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		ours, err1 := lock.Stat()
		now, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(ours, now) {
			return lock, nil
		}
		err = unix.EWOULDBLOCK // locked a file that was removed meanwhile
	}
	if closeErr := lock.Close(); closeErr != nil {
		return nil, closeErr
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, err
}

// removeStateDir leaves no trace of labs on the machine. Called with the state
// lock held, after the last lab is gone.
func removeStateDir() error {
	if err := os.Remove(filepath.Join(StateDir(), "lock")); err != nil {
		return err
	}
	err := os.Remove(StateDir())
	if errors.Is(err, unix.ENOTEMPTY) { // the next lab is being made already
		return nil
	}
	return err
}

// createLabDir makes the lab's directory with its record in it, both or neither.
func createLabDir(rec labRecord) (string, error) {
	dir := filepath.Join(StateDir(), rec.Name)
	if _, err := os.Lstat(dir); err == nil {
		return "", fmt.Errorf("lab %s exists already", rec.Name)
	}
	tmp, err := os.MkdirTemp(StateDir(), ".new-")
	if err != nil {
		return "", err
	}
	err = errors.Join(
		os.Mkdir(filepath.Join(tmp, "hosts"), 0o700), // guests hold set-uid programs: nobody else comes near
		writeRecord(filepath.Join(tmp, labFile), rec),
	)
	if err == nil {
		err = os.Rename(tmp, dir)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	return dir, nil
}

// usedNetworks tells for each network number whether a lab or an interface holds it.
func usedNetworks() ([]bool, error) {
	used := make([]bool, 64) // more labs than one machine boots
	names, err := List()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		rec, err := readRecord[labRecord](filepath.Join(StateDir(), name, labFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue // half made, or half removed: it has no network
		}
		if err != nil {
			return nil, err
		}
		used[rec.Network] = true
	}
	for n := range used {
		if _, err := os.Lstat("/sys/class/net/" + labRecord{Network: n}.bridge()); err == nil {
			used[n] = true
		}
	}
	return used, nil
}

func (l *Lab) hostNames() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(l.dir, "hosts"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func readRecord[T any](path string) (T, error) {
	var rec T
	raw, err := os.ReadFile(path)
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return rec, fmt.Errorf("read %s: %w", path, err)
	}
	return rec, nil
}

func writeRecord(path string, rec any) error {
	raw, err := json.MarshalIndent(rec, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
