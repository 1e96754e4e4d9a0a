// Package tree is the shell of a site: the directories that root owns around
// what the tenant owns.
//
//	/srv/chom              root:root    0755  mounted nosuid,nodev
//	/srv/chom/sites        root:root    0711  nobody can list his neighbours
//	  <handle>             root:s-<h>   0710  the shell: the tenant can't change its entries
//	    public             s-<h>:s-<h>  0750  the document root; nginx reads as a member of the group
//	    private            s-<h>:s-<h>  0700  the application's own data, sessions, uploads
//
// Root makes, looks at and removes these directories and nothing below them.
// What is inside public and private is touched by the site's own user only:
// here by Empty, which Remove runs walled in as that user.
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"chom.dev/agent/fail"
	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

// Shell is the root-owned directory of a site.
func Shell(h contract.Handle) string { return run.SitesDir + "/" + h.String() }

// Public is the site's document root.
func Public(h contract.Handle) string { return Shell(h) + "/public" }

// Private is where the application keeps what must not be served.
func Private(h contract.Handle) string { return Shell(h) + "/private" }

// inside are the tenant's own directories in the shell.
var inside = []directory{{"public", 0o750}, {"private", 0o700}}

type directory struct {
	name string
	perm fs.FileMode
}

// ErrForeign says that a directory belongs to someone it should not.
var ErrForeign = errors.New("directory has an unexpected owner or type")

// Shells is the place where sites live. The zero value is not usable; Host
// gives the one of this machine.
type Shells struct {
	dir  string
	root int // the owner of shells; 0 except in tests
}

// Host gives the shells of this machine, below /srv/chom/sites.
func Host() Shells { return Shells{dir: run.SitesDir} }

// At gives shells below another directory, for tests of whoever uses them.
func At(dir string) Shells { return Shells{dir: dir, root: os.Geteuid()} }

// EnsureBase makes the directories above all shells. The mount of /srv/chom is
// systemd's, see systemd.MountUnit; make the base first, then mount.
func (s Shells) EnsureBase() error {
	for _, d := range []struct {
		path string
		perm fs.FileMode
	}{{filepath.Dir(s.dir), 0o755}, {s.dir, 0o711}} {
		if err := os.Mkdir(d.path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make %s: %w", d.path, err)
		}
		st, err := os.Lstat(d.path)
		if err != nil {
			return fmt.Errorf("make %s: %w", d.path, err)
		}
		if !st.IsDir() || owner(st) != s.root {
			return fmt.Errorf("make %s: %w", d.path, ErrForeign)
		}
		if err := os.Chmod(d.path, d.perm); err != nil {
			return fmt.Errorf("make %s: %w", d.path, err)
		}
	}
	return nil
}

// Ensure makes the shell and the tenant's directories in it, owned by uid and
// the group of the same number. It can be repeated after any interruption: a
// directory belongs to the tenant only once it is complete, and from then on
// root leaves it alone.
func (s Shells) Ensure(h contract.Handle, uid int) error {
	if h.IsZero() || uid <= 0 {
		return fmt.Errorf("ensure tree: no handle or user")
	}
	sites, err := s.open()
	if err != nil {
		return err
	}
	defer sites.Close() // read-only
	if err := ensure(sites, h.String(), 0o710, s.root, uid, s.root); err != nil {
		return fmt.Errorf("ensure tree %s: %w", h, err)
	}
	fail.Point("tree.shell-made")
	shell, err := sites.OpenRoot(h.String())
	if err != nil {
		return fmt.Errorf("ensure tree %s: %w", h, err)
	}
	defer shell.Close() // read-only
	for _, d := range inside {
		if err := ensure(shell, d.name, d.perm, uid, uid, s.root); err != nil {
			return fmt.Errorf("ensure tree %s: %w", h, err)
		}
		fail.Point("tree." + d.name + "-made")
	}
	return nil
}

// ensure makes one directory below a parent that only root can write to, so
// its name can't change meaning between two calls. The owner is set last: root's
// means unfinished.
func ensure(parent *os.Root, name string, perm fs.FileMode, uid, gid, root int) error {
	if err := parent.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	st, err := parent.Lstat(name)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s: %w: not a directory", name, ErrForeign)
	}
	if owner(st) == uid && uid != root {
		return nil // complete, and the tenant's from now on
	}
	if owner(st) != root {
		return fmt.Errorf("%s: %w: user id %d", name, ErrForeign, owner(st))
	}
	d, err := parent.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close() // synced below
	if err := d.Chmod(perm); err != nil {
		return err
	}
	if err := d.Chown(uid, gid); err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return err
	}
	return syncRoot(parent)
}

// State is what of a site's tree is there.
type State struct {
	Shell    bool // with owner, group and mode as they must be
	Complete bool // shell and the tenant's directories, each with its owner
	Absent   bool // nothing at all
}

// Probe looks at the shell. Something foreign in its place gives ErrForeign.
func (s Shells) Probe(h contract.Handle, uid int) (State, error) {
	sites, err := s.open()
	if errors.Is(err, fs.ErrNotExist) {
		return State{Absent: true}, nil
	}
	if err != nil {
		return State{}, err
	}
	defer sites.Close() // read-only
	st, err := sites.Lstat(h.String())
	if errors.Is(err, fs.ErrNotExist) {
		return State{Absent: true}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("probe tree %s: %w", h, err)
	}
	if !st.IsDir() || owner(st) != s.root {
		return State{}, fmt.Errorf("probe tree %s: %w", h, ErrForeign)
	}
	state := State{Shell: group(st) == uid && st.Mode().Perm() == 0o710}
	state.Complete = state.Shell
	for _, d := range inside {
		st, err := sites.Lstat(h.String() + "/" + d.name)
		if errors.Is(err, fs.ErrNotExist) {
			state.Complete = false
			continue
		}
		if err != nil {
			return State{}, fmt.Errorf("probe tree %s: %w", h, err)
		}
		if !st.IsDir() || owner(st) != uid && owner(st) != s.root {
			return State{}, fmt.Errorf("probe tree %s: %s: %w", h, d.name, ErrForeign)
		}
		state.Complete = state.Complete && owner(st) == uid
	}
	return state, nil
}

// open gives a handle on the directory of all shells, and refuses one that
// others than root could write to.
func (s Shells) open() (*os.Root, error) {
	sites, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", s.dir, err)
	}
	st, err := sites.Stat(".")
	if err == nil && (owner(st) != s.root || st.Mode().Perm()&0o022 != 0) {
		err = fmt.Errorf("open %s: %w", s.dir, ErrForeign)
	}
	if err != nil {
		sites.Close() // read-only
		return nil, err
	}
	return sites, nil
}

func owner(st fs.FileInfo) int {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return int(sys.Uid)
	}
	return -1
}

func group(st fs.FileInfo) int {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return int(sys.Gid)
	}
	return -1
}

func syncRoot(r *os.Root) error {
	d, err := r.Open(".")
	if err != nil {
		return err
	}
	defer d.Close() // read-only
	return d.Sync()
}
