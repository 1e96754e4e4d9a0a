package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"chom.dev/agent/fail"
	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

// staging is the name of the place in a shell where a restore puts files
// together, and where it keeps what it has replaced:
//
//	<handle>/restore       root:s-<h>   0710  made for a restore, gone a day after it
//	    public             s-<h>:s-<h>        as in the shell, and exchanged with those by Exchange
//	    private            s-<h>:s-<h>
//
// The site goes on while it is filled, and all that runs as its user can write
// there: to take it from the sight of a php-fpm that runs already takes a mount in
// that one's own namespace, for which it would have to be started again. So what is
// in it counts only once nothing of the site runs any more and it was compared once
// more (package site, compare-again). Before, a tenant can spoil his own restore,
// which then is refused, and nothing else.
const staging = "restore"

// Staging is the site's place for a restore. Public and private in it are the
// tenant's, as those in the shell.
func (s Shells) Staging(h contract.Handle) string { return s.dir + "/" + h.String() + "/" + staging }

// ErrExchanged says that the directories at hand are not those that were to be
// exchanged.
var ErrExchanged = errors.New("directories are not those that were recorded")

// EnsureStaging makes the place and the tenant's directories in it, as Ensure
// makes those of the shell.
func (s Shells) EnsureStaging(h contract.Handle, uid int) error {
	if h.IsZero() || uid <= 0 {
		return fmt.Errorf("ensure staging: no handle or user")
	}
	if err := s.ensurePlace(h, uid, staging, inside); err != nil {
		return fmt.Errorf("ensure staging %s: %w", h, err)
	}
	return nil
}

// ensurePlace makes a directory of root's in the shell, and the tenant's
// directories in it.
func (s Shells) ensurePlace(h contract.Handle, uid int, name string, dirs []directory) error {
	shell, err := s.shell(h)
	if err != nil {
		return err
	}
	defer shell.Close() // read-only
	if err := ensure(shell, name, 0o710, s.root, uid, s.root); err != nil {
		return err
	}
	fail.Point("tree.staging-made")
	place, err := shell.OpenRoot(name)
	if err != nil {
		return err
	}
	defer place.Close() // read-only
	for _, d := range dirs {
		if err := ensure(place, d.name, d.perm, uid, uid, s.root); err != nil {
			return err
		}
		fail.Point("tree.staging-" + d.name + "-made")
	}
	return nil
}

// Staged tells whether there is a place for a restore, however much is in it.
func (s Shells) Staged(h contract.Handle) (bool, error) { return s.has(h, staging) }

func (s Shells) has(h contract.Handle, name string) (bool, error) {
	sites, err := s.open()
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer sites.Close() // read-only
	_, err = sites.Lstat(h.String() + "/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// runner runs a program as a site's user.
type runner interface {
	Run(ctx context.Context, u run.Unit) (run.Result, error)
}

// RemoveStaging deletes the place and what is in it, the tenant's files by the
// tenant's own user as Remove does. The site may go on meanwhile.
func (s Shells) RemoveStaging(ctx context.Context, r runner, agent string, h contract.Handle) error {
	if h.IsZero() {
		return fmt.Errorf("remove staging: no handle")
	}
	if err := s.removePlace(ctx, r, agent, h, staging, inside); err != nil {
		return fmt.Errorf("remove staging %s: %w", h, err)
	}
	return nil
}

func (s Shells) removePlace(ctx context.Context, r runner, agent string, h contract.Handle, name string, dirs []directory) error {
	full, err := s.full(h, name, dirs)
	if err != nil {
		return err
	}
	if err := s.empty(ctx, r, agent, h, full); err != nil {
		return err
	}
	return s.foldPlace(h, name, dirs)
}

func (s Shells) foldPlace(h contract.Handle, name string, dirs []directory) error {
	shell, err := s.shell(h)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer shell.Close() // read-only
	for _, d := range dirs {
		if err := gone(shell.Remove(name + "/" + d.name)); err != nil {
			return err
		}
		fail.Point("tree.staging-" + d.name + "-removed")
	}
	if err := gone(shell.Remove(name)); err != nil {
		return err
	}
	return syncRoot(shell)
}

// Identity is which directories are where. A directory keeps its inode number
// wherever it is moved to, over a reboot, too; the device's may be another then.
type Identity struct {
	Live   Inodes // in the shell
	Staged Inodes // in the place for restores
}

// Inodes tells two pairs of directories apart.
type Inodes struct{ Public, Private uint64 }

// Identify looks which directories are where.
func (s Shells) Identify(h contract.Handle, uid int) (Identity, error) {
	shell, err := s.shell(h)
	if err != nil {
		return Identity{}, fmt.Errorf("identify %s: %w", h, err)
	}
	defer shell.Close() // read-only
	var id Identity
	for path, inode := range map[string]*uint64{
		"public": &id.Live.Public, "private": &id.Live.Private,
		staging + "/public": &id.Staged.Public, staging + "/private": &id.Staged.Private,
	} {
		st, err := shell.Lstat(path)
		if err != nil {
			return Identity{}, fmt.Errorf("identify %s: %w", h, err)
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok || !st.IsDir() || owner(st) != uid {
			return Identity{}, fmt.Errorf("identify %s: %s: %w", h, path, ErrForeign)
		}
		*inode = sys.Ino
	}
	return id, nil
}

// Exchange makes the wanted pair of directories those of the site, and leaves
// the other in the place for restores. Each is exchanged in one step of the file
// system; of a pair that was exchanged in part, the rest is. It touches none but
// the recorded ones.
func (s Shells) Exchange(h contract.Handle, wanted, other Inodes) error {
	sites, err := s.open()
	if err != nil {
		return fmt.Errorf("exchange trees of %s: %w", h, err)
	}
	defer sites.Close() // read-only
	shell, err := s.hold(sites, h.String())
	if err != nil {
		return fmt.Errorf("exchange trees of %s: %w", h, err)
	}
	defer shell.Close() // synced below
	place, err := s.hold(sites, h.String()+"/"+staging)
	if err != nil {
		return fmt.Errorf("exchange trees of %s: %w", h, err)
	}
	defer place.Close() // synced below
	for _, d := range []struct {
		name          string
		wanted, other uint64
	}{{"public", wanted.Public, other.Public}, {"private", wanted.Private, other.Private}} {
		if err := exchange(shell, place, d.name, d.wanted, d.other); err != nil {
			return fmt.Errorf("exchange trees of %s: %s: %w", h, d.name, err)
		}
		fail.Point("tree." + d.name + "-exchanged")
	}
	if err := errors.Join(shell.Sync(), place.Sync()); err != nil {
		return fmt.Errorf("exchange trees of %s: %w", h, err)
	}
	return nil
}

// exchange is done once however often it is asked for. Both directories are
// held open, and only root can change what is in them.
func exchange(shell, place *os.File, name string, wanted, other uint64) error {
	live, err := inode(shell, name)
	if err != nil {
		return err
	}
	staged, err := inode(place, name)
	if err != nil {
		return err
	}
	switch {
	case wanted == 0 || other == 0 || wanted == other:
		return ErrExchanged
	case live == wanted && staged == other:
		return nil
	case live != other || staged != wanted:
		return ErrExchanged
	}
	return unix.Renameat2(int(shell.Fd()), name, int(place.Fd()), name, unix.RENAME_EXCHANGE)
}

func inode(dir *os.File, name string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, ErrForeign
	}
	return st.Ino, nil
}

// hold opens a directory in which only root can change anything.
func (s Shells) hold(sites *os.Root, path string) (*os.File, error) {
	d, err := sites.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	st, err := d.Stat()
	if err == nil && (owner(st) != s.root || st.Mode().Perm()&0o022 != 0) {
		err = ErrForeign
	}
	if err != nil {
		d.Close() // read-only
		return nil, err
	}
	return d, nil
}

// shell opens a site's shell.
func (s Shells) shell(h contract.Handle) (*os.Root, error) {
	sites, err := s.open()
	if err != nil {
		return nil, err
	}
	defer sites.Close() // read-only
	shell, err := sites.OpenRoot(h.String())
	if err != nil {
		return nil, err
	}
	st, err := shell.Stat(".")
	if err == nil && (owner(st) != s.root || st.Mode().Perm()&0o022 != 0) {
		err = ErrForeign
	}
	if err != nil {
		shell.Close() // read-only
		return nil, err
	}
	return shell, nil
}

// Free is how many bytes fit on the file system of the shells.
func (s Shells) Free() (bytes uint64, device uint64, err error) { return free(s.dir) }

func free(dir string) (bytes uint64, device uint64, err error) {
	var fsys unix.Statfs_t
	if err := unix.Statfs(dir, &fsys); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return fsys.Bavail * uint64(fsys.Bsize), st.Dev, nil
}
