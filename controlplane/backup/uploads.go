package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"chom.dev/controlplane/archive"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// UploadConfig says where what people upload lies until it is a backup:
//
//	<Dir>/<import>/archive    0600
//	<Dir>/<import>/database   0600, where there is one
//	<Dir>/<import>/work       0700, what was extracted, while a backup is made of it
//
// It is not encrypted, as the control plane's own data is not: for a day at most it holds what the site will. The disk has to be one
// that is encrypted where that is wanted.
type UploadConfig struct {
	// Dir is this process's own; empty takes no uploads.
	Dir string
	// Quota is how many bytes the uploads of an organization may come to.
	Quota int64
	// Floor is how many bytes of the disk stay free.
	Floor int64
}

// Part is one file of an upload.
type Part string

// Parts.
const (
	ArchivePart  Part = "archive"
	DatabasePart Part = "database"
)

// Errors of uploads.
var (
	ErrImportNotFound = fault.NotFound("import")
	ErrNoUploads      = fault.Conflict("this control plane takes no uploads: its operator has to give it a folder for them")
	ErrUploadFull     = fault.Unavailable("the disk for uploads is full", time.Minute, nil)
	errUploading      = fault.Conflict("a piece of this file is being uploaded already")
	errPieceTooFar    = fault.Invalid("offset", "must not be behind what has come")
	errTooMuch        = fault.Invalid("data", "must not come to more than the bytes that were announced")
)

// uploads are files that come in pieces.
type uploads struct {
	UploadConfig

	mu   sync.Mutex
	busy map[string]bool // files that are being written
}

func newUploads(c UploadConfig) *uploads { return &uploads{UploadConfig: c, busy: map[string]bool{}} }

func (u *uploads) dir(id contract.ImportID) string { return filepath.Join(u.Dir, id.String()) }

func (u *uploads) file(id contract.ImportID, part Part) string {
	return filepath.Join(u.dir(id), string(part))
}

// received is how many bytes have come.
func (u *uploads) received(id contract.ImportID, part Part) (uint64, error) {
	info, err := os.Stat(u.file(id, part))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at an upload: %w", err)
	}
	return uint64(info.Size()), nil
}

// freeEvery is how many bytes are written between two looks at the disk.
const freeEvery = 16 << 20

// write adds a piece that begins at an offset and ends with from, and at most at size. What came is kept, whatever ends it.
func (u *uploads) write(ctx context.Context, id contract.ImportID, part Part, offset, size uint64, from io.Reader) (err error) {
	name := u.file(id, part)
	if !u.enter(name) {
		return errUploading
	}
	defer u.leave(name)
	if err := os.MkdirAll(u.dir(id), 0o700); err != nil {
		return fmt.Errorf("take an upload: %w", err)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("take an upload: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("take an upload: %w", err)
	}
	if offset > uint64(info.Size()) {
		return errPieceTooFar
	}
	if err := f.Truncate(int64(offset)); err != nil {
		return fmt.Errorf("take an upload: %w", err)
	}
	if _, err := f.Seek(int64(offset), io.SeekStart); err != nil {
		return fmt.Errorf("take an upload: %w", err)
	}
	for left := size - min(offset, size); ; {
		if err := u.room(0); err != nil {
			return err
		}
		n, err := io.CopyN(f, from, int64(min(left, freeEvery)))
		left -= uint64(n)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF):
			return f.Sync()
		case errors.Is(err, syscall.ENOSPC):
			return ErrUploadFull
		case err != nil:
			return fmt.Errorf("take an upload: %w", err)
		case left > 0:
			continue
		}
		if n, err := io.CopyN(io.Discard, from, 1); n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return errors.Join(errTooMuch, f.Truncate(int64(offset)))
		}
		return f.Sync()
	}
}

// room refuses so many more bytes than the disk may take.
func (u *uploads) room(more int64) error {
	free, err := u.free()
	if err != nil {
		return err
	}
	if more > free {
		return ErrUploadFull
	}
	return nil
}

// free is how many bytes may still be written; less than 0 where it is too many already.
func (u *uploads) free() (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(u.Dir, &st); err != nil {
		return 0, fmt.Errorf("look at the disk for uploads: %w", err)
	}
	return int64(st.Bavail)*st.Bsize - u.Floor, nil
}

func (u *uploads) enter(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy[name] {
		return false
	}
	u.busy[name] = true
	return true
}

func (u *uploads) leave(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.busy, name)
}

// here says whether this process has the files of an import.
func (u *uploads) here(id contract.ImportID) bool {
	_, err := os.Stat(u.file(id, ArchivePart))
	return u.Dir != "" && err == nil
}

// work gives an empty directory to extract an import into. It is removed by end, and by whoever goes on where the process dies.
func (u *uploads) work(id contract.ImportID) (root *os.Root, end func() error, err error) {
	dir := filepath.Join(u.dir(id), "work")
	if err := archive.Remove(dir); err != nil {
		return nil, nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	if root, err = os.OpenRoot(dir); err != nil {
		return nil, nil, err
	}
	return root, func() error { return errors.Join(root.Close(), archive.Remove(dir)) }, nil
}

// sweep removes the files of imports that are not to be kept.
func (u *uploads) sweep(keep func(contract.ImportID) bool) error {
	all, err := os.ReadDir(u.Dir)
	if err != nil {
		return fmt.Errorf("look for uploads: %w", err)
	}
	var broken error
	for _, d := range all {
		id, err := contract.ParseImportID(d.Name())
		if err != nil || keep(id) {
			continue // what is not ours is left alone
		}
		broken = errors.Join(broken, archive.Remove(u.dir(id)))
	}
	return broken
}
