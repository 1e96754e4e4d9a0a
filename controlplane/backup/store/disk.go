package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"chom.dev/controlplane/fault"
)

// unfinishedDir holds what is not an object yet, and repositories that are being removed.
const unfinishedDir = "unfinished"

// Disk keeps repositories in a directory, which only this user can read. Several processes may share it.
type Disk struct{ root *os.Root }

// OpenDisk opens a directory, which it makes where there is none, and sweeps what writers that died have left in it.
func OpenDisk(dir string) (*Disk, error) {
	d, err := openDisk(dir)
	if err != nil {
		return nil, fmt.Errorf("open the backups in %s: %w", dir, err)
	}
	return d, nil
}

func openDisk(dir string) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("it is open to others (mode %04o): run chmod 700", info.Mode().Perm())
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	d := &Disk{root}
	if err := errors.Join(d.makeDir(unfinishedDir), d.sweep()); err != nil {
		_ = root.Close() // there is one error already
		return nil, err
	}
	return d, nil
}

// Close closes the directory.
func (d *Disk) Close() error { return d.root.Close() }

// sweep removes what nobody holds: a writer holds a lock on its file for as long as it lives.
func (d *Disk) sweep() error {
	left, err := fs.ReadDir(d.root.FS(), unfinishedDir)
	if err != nil {
		return err
	}
	for _, entry := range left {
		name := path.Join(unfinishedDir, entry.Name())
		if entry.Type().IsRegular() {
			if held, err := d.held(name); err != nil || held {
				continue // its writer lives, or has just ended
			}
		}
		if err := d.root.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

func (d *Disk) held(name string) (bool, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// Put keeps an object.
func (d *Disk) Put(ctx context.Context, r Repository, n Name, size int64, body io.Reader) error {
	if err := checkPut(r, n, size); err != nil {
		return err
	}
	if err := d.put(ctx, r, n, size, body); err != nil {
		return explain(fmt.Sprintf("keep %s of %s", n, r), err)
	}
	return nil
}

func (d *Disk) put(ctx context.Context, r Repository, n Name, size int64, body io.Reader) (err error) {
	unfinished := path.Join(unfinishedDir, uuid.NewString())
	f, err := d.root.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		// Its name goes before its lock: nobody sweeps it in between. An object has a name of its own by now.
		err = errors.Join(err, d.root.Remove(unfinished), f.Close())
	}()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	checked := newVerified(n, size, body)
	if _, err := io.Copy(f, &patient{ctx, checked}); err != nil {
		return err
	}
	if err := errors.Join(checked.result(), f.Sync()); err != nil {
		return err
	}
	at := path.Join(r.String(), n.path())
	if err := d.makeDir(path.Dir(at)); err != nil {
		return err
	}
	err = d.root.Link(unfinished, at)
	if errors.Is(err, fs.ErrExist) {
		err = d.same(at, checked)
	}
	if err != nil {
		return err
	}
	// Also where it was there already: its first writer may have died before.
	return d.syncDir(path.Dir(at))
}

// same says ErrDiffers where the object at a path is not what was read.
func (d *Disk) same(at string, checked *verified) error {
	kept, err := d.root.Open(at)
	if err != nil {
		return err
	}
	defer kept.Close()
	same, err := checked.sameAs(kept)
	if err == nil && !same {
		return ErrDiffers
	}
	return err
}

// makeDir makes a directory and those above it, each of which is there after a loss of power, whoever made it: who did may
// have died before it was. It costs little where nothing is new.
func (d *Disk) makeDir(dir string) error {
	if dir == "." {
		return nil
	}
	if err := d.makeDir(path.Dir(dir)); err != nil {
		return err
	}
	if err := d.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.syncDir(path.Dir(dir))
}

func (d *Disk) syncDir(dir string) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Get reads an object.
func (d *Disk) Get(_ context.Context, r Repository, n Name, offset, length int64) (*Part, error) {
	if err := check(r, n); err != nil {
		return nil, err
	}
	f, err := d.root.Open(path.Join(r.String(), n.path()))
	if err != nil {
		return nil, explain(fmt.Sprintf("read %s of %s", n, r), err)
	}
	info, err := f.Stat()
	if err == nil {
		length, err = part(offset, length, info.Size())
	}
	if err != nil {
		_ = f.Close() // it was only read
		return nil, explain(fmt.Sprintf("read %s of %s", n, r), err)
	}
	return &Part{section{io.NewSectionReader(f, offset, length), f}, length, info.Size()}, nil
}

type section struct {
	*io.SectionReader
	io.Closer
}

// Stat is how large an object is.
func (d *Disk) Stat(_ context.Context, r Repository, n Name) (int64, error) {
	if err := check(r, n); err != nil {
		return 0, err
	}
	info, err := d.root.Stat(path.Join(r.String(), n.path()))
	if err != nil {
		return 0, explain(fmt.Sprintf("look for %s of %s", n, r), err)
	}
	return info.Size(), nil
}

// List gives the objects of a kind.
func (d *Disk) List(ctx context.Context, r Repository, kind Kind) ([]Object, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	found := []Object{}
	err := d.walk(ctx, r, kind.String(), func(at string, size int64) {
		if n, ok := nameAt(kind, at); ok {
			found = append(found, Object{n, size})
		}
	})
	if err != nil {
		return nil, explain(fmt.Sprintf("list %s of %s", kind, r), err)
	}
	slices.SortFunc(found, byName)
	return found, nil
}

func byName(a, b Object) int { return cmp.Compare(a.Name.text, b.Name.text) }

// walk gives all files of a repository below a path. What vanishes meanwhile was not there.
func (d *Disk) walk(ctx context.Context, r Repository, below string, each func(at string, size int64)) error {
	top := path.Join(r.String(), below)
	return fs.WalkDir(d.root.FS(), top, func(at string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err := errors.Join(err, ctx.Err()); err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			each(strings.TrimPrefix(at, r.String()+"/"), info.Size())
		}
		return err
	})
}

// Delete removes an object.
func (d *Disk) Delete(_ context.Context, r Repository, n Name) error {
	if err := check(r, n); err != nil {
		return err
	}
	at := path.Join(r.String(), n.path())
	err := d.root.Remove(at)
	if err == nil {
		err = d.syncDir(path.Dir(at))
	}
	if err != nil {
		return explain(fmt.Sprintf("delete %s of %s", n, r), err)
	}
	return nil
}

// Remove removes a repository: first all of it at once from its place.
func (d *Disk) Remove(_ context.Context, r Repository) error {
	if err := r.check(); err != nil {
		return err
	}
	gone := path.Join(unfinishedDir, uuid.NewString())
	err := d.root.Rename(r.String(), gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errors.Join(d.syncDir(path.Dir(r.String())), d.root.RemoveAll(gone))
	}
	if err != nil {
		return explain(fmt.Sprintf("remove the repository %s", r), err)
	}
	return nil
}

// Usage is how many bytes a repository's objects have.
func (d *Disk) Usage(ctx context.Context, r Repository) (int64, error) {
	if err := r.check(); err != nil {
		return 0, err
	}
	var sum int64
	if err := d.walk(ctx, r, ".", func(_ string, size int64) { sum += size }); err != nil {
		return 0, explain(fmt.Sprintf("measure %s", r), err)
	}
	return sum, nil
}

// explain gives an error of the disk the words of a store.
func explain(what string, err error) error {
	switch _, isFault := fault.Of(err); {
	case isFault:
	case errors.Is(err, fs.ErrNotExist):
		err = ErrNotFound
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		err = errors.Join(ErrFull, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// patient reads until its context ends.
type patient struct {
	ctx  context.Context
	from io.Reader
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.from.Read(b)
}
