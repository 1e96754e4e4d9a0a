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

	"chom.dev/proto/contract"
)

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
	pending := []string{"."}
	for len(pending) > 0 {
		path := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if err := ctx.Err(); err != nil {
			return err
		}
		st, err := top.Lstat(path)
		if err != nil {
			return err
		}
		out.Add(contract.Listed{Path: filepath.Join(name, path), Mode: st.Mode(), Size: uint64(st.Size()), MTime: st.ModTime()})
		if st.Mode().Type() == fs.ModeSymlink {
			target, err := top.Readlink(path)
			if err != nil {
				return err
			}
			links.Add(filepath.Join(name, path), target)
		}
		if !st.IsDir() {
			continue
		}
		if err := each(top, path, func(child string) { pending = append(pending, filepath.Join(path, child)) }); err != nil {
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

// each names what is in a directory.
func each(top *os.Root, path string, do func(name string)) error {
	d, err := top.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close() // read-only
	for {
		names, err := d.Readdirnames(batch)
		for _, name := range names {
			do(name)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
