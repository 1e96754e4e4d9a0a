package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"chom.dev/proto/contract"
)

// List makes the listing of a site's files: public and private below dir, which
// is a shell or its place for restores. It runs as the owner of what it reads,
// never as root, follows no link and opens no file.
func List(ctx context.Context, dir string) (*contract.Listing, error) {
	if os.Geteuid() == 0 {
		return nil, errors.New("list: refused: this is never done as root")
	}
	out := new(contract.Listing)
	for _, d := range inside { // the shell itself is not the owner's to read
		if err := add(ctx, out, dir, d.name); err != nil {
			return nil, fmt.Errorf("list: %w", err)
		}
	}
	return out, nil
}

func add(ctx context.Context, out *contract.Listing, dir, name string) error {
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
		if !st.IsDir() {
			continue
		}
		if err := each(top, path, func(child string) { pending = append(pending, filepath.Join(path, child)) }); err != nil {
			return err
		}
	}
	return nil
}

// each names what is in a directory.
func each(top *os.Root, path string, do func(name string)) error {
	d, err := top.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
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
