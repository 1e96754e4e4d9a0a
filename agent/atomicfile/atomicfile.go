// Package atomicfile replaces, moves and removes files so that after a crash or
// a power loss there is the old content or the new one, whole, never a part and
// never both lost: written aside, synced, renamed, directory synced.
//
// It is for root's own files in root-owned directories. It follows paths and
// must never be used below a directory that a tenant can write to.
package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Write makes path a regular file with this content, mode and owner, and
// reports whether that changed anything. Writing what is already there touches
// nothing. The owner's user is always root; gid 0 is root's group.
func Write(path string, content []byte, perm fs.FileMode, gid int) (changed bool, err error) {
	if same, err := holds(path, content, perm, gid); err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	} else if same {
		return false, nil
	}
	if err := replace(path, content, perm, gid); err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	return true, nil
}

func holds(path string, content []byte, perm fs.FileMode, gid int) (bool, error) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if st.IsDir() {
		return false, errors.New("is a directory")
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !st.Mode().IsRegular() || st.Mode().Perm() != perm || !ok || int(sys.Gid) != gid || st.Size() != int64(len(content)) {
		return false, nil
	}
	old, err := os.ReadFile(path)
	return bytes.Equal(old, content), err
}

func replace(path string, content []byte, perm fs.FileMode, gid int) error {
	// One fixed name per file: what a crash leaves is overwritten by the next
	// try instead of piling up. It starts with a dot and has no known suffix,
	// so neither nginx, php-fpm nor systemd reads it.
	aside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	f, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() // closed with its error below; again is harmless
	if _, err := f.Write(content); err != nil {
		return err
	}
	if gid != 0 || os.Geteuid() == 0 {
		if err := f.Chown(-1, gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return Rename(aside, path)
}

// Rename moves a file within one file system and syncs both directories.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if a, b := filepath.Dir(from), filepath.Dir(to); a != b {
		if err := syncDir(a); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(to))
}

// Remove deletes a file (or link) and syncs its directory. It reports whether
// there was one.
func Remove(path string) (bool, error) {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(path))
}

// Link makes path a symbolic link to target and reports whether that changed
// anything. A regular file in its place is an error.
func Link(path, target string) (bool, error) {
	if old, err := os.Readlink(path); err == nil && old == target {
		return false, nil
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&fs.ModeSymlink == 0 {
		return false, fmt.Errorf("link %s: something that is not a link is in its place", path)
	}
	aside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if _, err := Remove(aside); err != nil {
		return false, err
	}
	if err := os.Symlink(target, aside); err != nil {
		return false, err
	}
	return true, Rename(aside, path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // read-only
	return d.Sync()
}
