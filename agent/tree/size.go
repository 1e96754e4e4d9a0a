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
	m := measurer{ctx: ctx, shell: shell, most: most, seen: map[named]bool{}}
	for _, d := range inside {
		if err := m.top(d.name); err != nil {
			return Size{}, fmt.Errorf("measure %s: %w", dir, err)
		}
	}
	return m.size, nil
}

type measurer struct {
	ctx     context.Context
	shell   int // its descriptor
	most    uint64
	size    Size
	pending []string // directories below the shell
	seen    map[named]bool
}

// named is what may have several names.
type named struct{ device, number uint64 }

// top measures one of the tenant's directories and all that is in it.
func (m *measurer) top(name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(m.shell, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if err := m.count(&st, name); err != nil {
		return err
	}
	for len(m.pending) > 0 {
		path := m.pending[len(m.pending)-1]
		m.pending = m.pending[:len(m.pending)-1]
		if err := m.directory(path); err != nil {
			return &fs.PathError{Op: "read", Path: path, Err: err}
		}
	}
	return nil
}

// directory counts what is in one. Wherever its path leads by now, that is below the
// shell, and no link was followed.
func (m *measurer) directory(path string) error {
	fd, err := unix.Openat2(m.shell, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // it has gone, or is something else by now
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EAGAIN):
		m.size.Unread++
		return nil
	case err != nil:
		return err
	}
	d := os.NewFile(uintptr(fd), path)
	defer d.Close() // read-only
	for {
		names, err := d.Readdirnames(batch)
		for _, name := range names {
			if err := m.entry(fd, path, name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *measurer) entry(dir int, path, name string) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, fs.ErrNotExist): // it has gone
		return nil
	case errors.Is(err, fs.ErrPermission): // a directory may be listed and not be entered
		m.size.Unread++
		return nil
	case err != nil:
		return err
	}
	return m.count(&st, path+"/"+name)
}

func (m *measurer) count(st *unix.Stat_t, path string) error {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		m.pending = append(m.pending, path)
	} else if st.Nlink > 1 {
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
