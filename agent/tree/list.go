package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"chom.dev/proto/contract"
)

// Found is what is told of a site's files.
type Found struct {
	Count  uint64 `json:"count"`
	Bytes  uint64 `json:"bytes"`
	SHA256 []byte `json:"sha256"` // of the listing
	Links  []byte `json:"links"`  // hash over where they lead
}

// Find lists a site's files, and tells what there is.
func Find(ctx context.Context, dir string) (*Found, error) {
	l, links, err := List(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &Found{Count: l.Count(), Bytes: l.Bytes(), SHA256: l.SHA256(), Links: links.SHA256()}, nil
}

// List makes the listing of a site's files, and of where its links lead: public and
// private below dir, which is a shell or its place for restores. It runs as the
// owner of what it reads, never as root, follows no link and opens no file.
func List(ctx context.Context, dir string) (*contract.Listing, *contract.Links, error) {
	if os.Geteuid() == 0 {
		return nil, nil, errors.New("list: refused: this is never done as root")
	}
	out, links := new(contract.Listing), new(contract.Links)
	for _, d := range inside { // the shell itself is not the owner's to read
		if err := add(ctx, out, links, dir, d.name); err != nil {
			return nil, nil, fmt.Errorf("list: %w", err)
		}
	}
	return out, links, nil
}

func add(ctx context.Context, out *contract.Listing, links *contract.Links, dir, name string) error {
	top, err := os.OpenRoot(dir + "/" + name)
	if err != nil {
		return err
	}
	defer top.Close() // read-only
	st, err := top.Lstat(".")
	if err != nil {
		return err
	}
	out.Add(contract.Listed{Path: name, Mode: st.Mode(), MTime: st.ModTime()})
	pending := []string{"."}
	for len(pending) > 0 {
		path := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if err := ctx.Err(); err != nil {
			return err
		}
		err := each(top, path, func(child string, st *unix.Stat_t) error {
			path := filepath.Join(path, child)
			mode := fs.FileMode(st.Mode).Perm()
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFREG:
			case unix.S_IFDIR:
				mode |= fs.ModeDir
				pending = append(pending, path)
			case unix.S_IFLNK:
				mode |= fs.ModeSymlink
				target, err := top.Readlink(path)
				if err != nil {
					return err
				}
				links.Add(filepath.Join(name, path), target)
			default:
				mode |= fs.ModeIrregular
			}
			out.Add(contract.Listed{Path: filepath.Join(name, path), Mode: mode, Size: uint64(st.Size), MTime: time.Unix(st.Mtim.Unix())})
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Links finds out where the links in a site's files lead, as List does, while the
// site goes on: what has just gone is left out, and so is what its owner can't read.
func Links(ctx context.Context, dir string) (*contract.Links, error) {
	links := new(contract.Links)
	for _, d := range inside {
		err := filepath.WalkDir(filepath.Join(dir, d.name), func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type() == fs.ModeSymlink {
				var target string
				if target, err = os.Readlink(path); err == nil {
					links.Add(strings.TrimPrefix(path, dir+"/"), target)
				}
			}
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EINVAL) { // it is no link any more
				err = nil
			}
			return errors.Join(err, ctx.Err())
		})
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
	}
	return links, nil
}

// each looks at what is in a directory. The directory is held open: to walk to each
// file from the top takes many times as long.
func each(top *os.Root, path string, do func(name string, st *unix.Stat_t) error) error {
	d, err := top.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close() // read-only
	for {
		names, err := d.Readdirnames(batch)
		for _, name := range names {
			var st unix.Stat_t
			if err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return &fs.PathError{Op: "lstat", Path: filepath.Join(path, name), Err: err}
			}
			if err := do(name, &st); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
