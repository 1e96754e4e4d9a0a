package sdktest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"chom.dev/plugins/host"
)

// NewTree makes an empty site tree as the agent does: the shell is root's,
// public and private are the user's.
func NewTree(t *testing.T, user host.User) string {
	t.Helper()
	parent, err := os.MkdirTemp(memory(), "chom-site-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(parent); err != nil {
			t.Error(err)
		}
	})
	tree := filepath.Join(parent, user.Handle.String())
	for _, d := range []struct {
		path     string
		uid, gid int
		mode     fs.FileMode
	}{
		{parent, os.Getuid(), 0, 0o711},
		{tree, os.Getuid(), user.GID, 0o710},
		{filepath.Join(tree, "public"), user.UID, user.GID, 0o750},
		{filepath.Join(tree, "private"), user.UID, user.GID, 0o700},
	} {
		if err := os.Mkdir(d.path, d.mode); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
		if err := os.Chown(d.path, d.uid, d.gid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// memory is a folder in memory where there is one: suites make dozens of
// trees, and a kill means the same there.
func memory() string {
	const shm = "/dev/shm"
	var fs syscall.Statfs_t
	if err := syscall.Statfs(shm, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < 4<<30 {
		return "" // the usual place for temporary files
	}
	return shm
}

// snapshot maps every path of the tree to what it is: kind, mode, owner,
// content. Paths in except, and the lock file, only count as being there.
func snapshot(tree string, except []string) (map[string]string, error) {
	seen := map[string]string{}
	err := filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		if name == "private/.chom-lock" {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("%s has no owner", name)
		}
		about := fmt.Sprintf("%v %d:%d", info.Mode(), stat.Uid, stat.Gid)
		if info.Mode().IsRegular() && !slices.Contains(except, name) {
			sum, err := sumFile(path)
			if err != nil {
				return err
			}
			about += " " + sum
		}
		seen[name] = about
		return nil
	})
	return seen, err
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// differences names up to ten paths that are not the same in both.
func differences(before, after map[string]string) error {
	var all []string
	for name, was := range before {
		if is, ok := after[name]; !ok {
			all = append(all, "- "+name)
		} else if is != was {
			all = append(all, "~ "+name+" ("+was+" => "+is+")")
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			all = append(all, "+ "+name)
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	more := ""
	if len(all) > 10 {
		more = fmt.Sprintf("\nand %d more", len(all)-10)
		all = all[:10]
	}
	return fmt.Errorf("the tree differs:\n%s%s", strings.Join(all, "\n"), more)
}

// unsafeFile reports the first entry that someone else could write or run, or
// that is something odd.
func unsafeFile(tree string, user host.User) error {
	return filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode()
		stat, ok := info.Sys().(*syscall.Stat_t)
		switch {
		case !ok:
			return fmt.Errorf("%s has no owner", path)
		case !mode.IsDir() && !mode.IsRegular():
			return fmt.Errorf("%s is neither a file nor a folder: %v", path, mode)
		case mode&(fs.ModeSetuid|fs.ModeSetgid) != 0:
			return fmt.Errorf("%s is setuid or setgid", path)
		case mode.Perm()&0o027 != 0:
			return fmt.Errorf("%s is open to others or writable by the group: %v", path, mode)
		case int(stat.Uid) != user.UID:
			return fmt.Errorf("%s belongs to uid %d", path, stat.Uid)
		}
		return nil
	})
}
