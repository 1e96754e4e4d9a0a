package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// rooted opens files of a guest from the machine. Links are followed as the
// guest would follow them: an absolute one starts at the guest's root and never
// leads to the machine's own files.
type rooted struct{ dir *os.File }

func openRooted(dir string) (rooted, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return rooted{f}, err
}

func (r rooted) close() { r.dir.Close() }

func (r rooted) open(name string, flags int, mode os.FileMode) (*os.File, error) {
	fd, err := unix.Openat2(int(r.dir.Fd()), name, &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Mode:    uint64(mode.Perm()),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (r rooted) read(name string) ([]byte, error) {
	f, err := r.open(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// write makes or replaces a file with exactly this content and mode, owned by
// root, and any missing directory above it (0755).
func (r rooted) write(name string, content io.Reader, mode os.FileMode) error {
	if err := r.mkdirAll(path.Dir(path.Clean("/" + name))); err != nil {
		return err
	}
	// The old file goes first: writing into it would change what its other
	// names and its readers see.
	if err := r.remove(name); err != nil {
		return err
	}
	f, err := r.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// remove unlinks a file, not following a link in its last element; an absent
// one is no error.
func (r rooted) remove(name string) error {
	parent, err := r.open(path.Dir(path.Clean("/"+name)), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer parent.Close()
	err = unix.Unlinkat(int(parent.Fd()), path.Base(name), 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

func (r rooted) mkdirAll(name string) error {
	done := "/"
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if part == "" {
			continue
		}
		parent, err := r.open(done, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(int(parent.Fd()), part, 0o755)
		parent.Close()
		done = path.Join(done, part)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make directory %s: %w", done, err)
		}
	}
	return nil
}
