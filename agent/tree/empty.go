package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"syscall"
)

// Empty deletes everything inside the given directories and leaves them
// standing. It runs as the owner of what it deletes, never as root, and never
// leaves the directory it was given: links are deleted, not followed.
//
// Trees may be hostile: any depth, any number, any name, modes that shut out
// their owner. Depth costs neither stack nor open files, since a directory
// found inside another is first moved up to the top. Interrupted, it can be
// started again.
func Empty(ctx context.Context, dirs ...string) error {
	var failed []error
	for _, dir := range dirs {
		if err := empty(ctx, dir); err != nil {
			failed = append(failed, fmt.Errorf("empty %s: %w", dir, err))
		}
	}
	return errors.Join(failed...)
}

// aside starts the names of directories that were moved up.
const aside = ".chom-empty-"

const batch = 1024 // names read at once: bounds memory, not speed

func empty(ctx context.Context, dir string) error {
	top, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrPermission) { // its owner may have shut himself out
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
		top, err = os.OpenRoot(dir)
	}
	if err != nil {
		return err
	}
	defer top.Close() // nothing is written through it that Close could report
	st, err := top.Stat(".")
	if err != nil {
		return err
	}
	if owner(st) == 0 || os.Geteuid() == 0 {
		return errors.New("refused: this is never done as root")
	}
	if st.Mode().Perm()&0o700 != 0o700 {
		if err := top.Chmod(".", 0o700); err != nil {
			return err
		}
	}
	e := emptier{ctx: ctx, top: top, device: device(st)}
	for {
		names, err := list(top, ".")
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			if err := e.clear(name); err != nil {
				return err
			}
		}
	}
}

type emptier struct {
	ctx    context.Context
	top    *os.Root
	device uint64
	moved  int
}

// clear deletes one entry of the top directory. Directories in it are moved
// up to the top, where a later round clears them.
func (e *emptier) clear(name string) error {
	if err := e.ctx.Err(); err != nil {
		return err
	}
	isDir, err := e.open(name)
	if err != nil || !isDir {
		return err
	}
	for {
		names, err := list(e.top, name)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			break
		}
		for _, child := range names {
			path := name + "/" + child
			if err := e.ctx.Err(); err != nil {
				return err
			}
			isDir, err := e.open(path)
			if err != nil {
				return err
			}
			if isDir {
				if err := e.moveUp(path); err != nil {
					return err
				}
			}
		}
	}
	return gone(e.top.Remove(name))
}

// open deletes whatever is not a directory, and makes a directory one that its
// owner can empty.
func (e *emptier) open(path string) (isDir bool, err error) {
	st, err := e.top.Lstat(path)
	if err != nil {
		return false, gone(err)
	}
	if !st.IsDir() {
		return false, gone(e.top.Remove(path))
	}
	if device(st) != e.device {
		return false, fmt.Errorf("%s: another file system is mounted there", strconv.Quote(path))
	}
	if st.Mode().Perm()&0o700 != 0o700 {
		if err := e.top.Chmod(path, 0o700); err != nil {
			return false, err
		}
	}
	return true, nil
}

// moveUp gives a directory a free name at the top. Names that an earlier,
// interrupted try has used are skipped.
func (e *emptier) moveUp(path string) error {
	for {
		e.moved++
		to := aside + strconv.Itoa(e.moved)
		if _, err := e.top.Lstat(to); err == nil {
			continue
		}
		return gone(e.top.Rename(path, to))
	}
}

// list reads some names of a directory; none means that it is empty.
func list(r *os.Root, path string) ([]string, error) {
	d, err := r.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, gone(err)
	}
	defer d.Close() // read-only
	names, err := d.Readdirnames(batch)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return names, err
}

// gone takes "it isn't there" for success.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func device(st fs.FileInfo) uint64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Dev
	}
	return 0
}
