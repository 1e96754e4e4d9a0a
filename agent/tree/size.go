package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Size is what a site's files take of the disk.
type Size struct {
	Files  uint64 `json:"files"`            // files, directories and links, each once, however many names it has
	Bytes  uint64 `json:"bytes"`            // of their blocks, as du(1) has it: a hole takes none, and what is small takes a whole one
	Unread uint64 `json:"unread,omitempty"` // directories whose content is in neither: their owner has shut himself out of them
}

// maxFiles is a tree that takes minutes to walk, and half a gigabyte to remember, at worst.
const maxFiles = 5_000_000

// errTooMany says that a tree is not measured, since it has no end that is worth waiting for.
var errTooMany = errors.New("there are too many files to measure")

// Measure finds out what public and private below dir, a shell, take of the disk,
// while the site goes on: what comes or goes meanwhile is in it or is not. What a
// restore or a drill keeps beside them is not the site's. It runs as the owner of what it
// looks at, never as root, follows no link and opens no file.
func Measure(ctx context.Context, dir string) (Size, error) {
	return measure(ctx, dir, maxFiles)
}

func measure(ctx context.Context, dir string, most uint64) (Size, error) {
	if os.Geteuid() == 0 {
		return Size{}, errors.New("measure: refused: this is never done as root")
	}
	shell, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) // it is not the owner's to read
	if err != nil {
		return Size{}, fmt.Errorf("measure %s: %w", dir, err)
	}
	defer func() { _ = unix.Close(shell) }() // read-only
	m := measurer{ctx: ctx, most: most, seen: map[named]bool{}}
	for _, d := range inside {
		var st unix.Stat_t
		if err = unix.Fstatat(shell, d.name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			err = m.count(&st)
		}
		if err == nil {
			err = m.directory(shell, d.name, 1)
		}
		if err != nil {
			return Size{}, fmt.Errorf("measure %s: %s: %w", dir, d.name, err)
		}
	}
	return m.size, nil
}

type measurer struct {
	ctx  context.Context
	most uint64
	size Size
	seen map[named]bool
}

// named is what may have several names.
type named struct{ device, number uint64 }

// maxDepth is how many directories are held open, one in the other; no application has a tenth of it.
const maxDepth = 500

// directory counts what is in a directory. It is opened by its name in the one that it was seen in,
// so whatever it has become by now, no link is followed. A sandbox has no openat2(2) for it.
func (m *measurer) directory(parent int, name string, depth int) error {
	if depth > maxDepth {
		m.size.Unread++
		return nil
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // it has gone, or is something else by now
	case errors.Is(err, fs.ErrPermission):
		m.size.Unread++
		return nil
	case err != nil:
		return err
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close() // read-only
	var directories []string
	for err == nil {
		var names []string
		names, err = d.Readdirnames(batch)
		for _, name := range names {
			isDir, err := m.entry(fd, name)
			if err != nil {
				return err
			}
			if isDir {
				directories = append(directories, name)
			}
		}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) { // it was removed meanwhile
		return err
	}
	for _, name := range directories {
		if err := m.directory(fd, name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (m *measurer) entry(dir int, name string) (isDir bool, err error) {
	if err := m.ctx.Err(); err != nil {
		return false, err
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, fs.ErrNotExist): // it has gone
		return false, nil
	case errors.Is(err, fs.ErrPermission): // a directory may be listed and not be entered
		m.size.Unread++
		return false, nil
	case err != nil:
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, m.count(&st)
}

func (m *measurer) count(st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		key := named{st.Dev, st.Ino}
		if m.seen[key] {
			return nil
		}
		m.seen[key] = true
	}
	if m.size.Files++; m.size.Files > m.most {
		return errTooMany
	}
	m.size.Bytes += uint64(st.Blocks) * blockOfStat
	return nil
}

// blockOfStat is the unit of st_blocks, whatever the file system's is; see stat(2).
const blockOfStat = 512
