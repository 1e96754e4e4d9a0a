package secret

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"chom.dev/controlplane/keyfile"
)

// File is a file with keys, readable by its owner only.
type File struct {
	path       string
	credential bool

	mu   sync.Mutex
	seen fs.FileInfo // when it was last read
}

// NewFile names a file of ours, which Open makes where there is none, and Rotate changes.
func NewFile(path string) *File { return &File{path: path} }

// NewCredential names a file in the directory of systemd's credentials: it is never changed here.
func NewCredential(path string) *File { return &File{path: path, credential: true} }

// Read gives the text. It refuses a file that others can read or replace, and a symbolic link.
func (f *File) Read(context.Context) ([]byte, error) {
	// First the look, then the text: what changes in between is read again.
	info, err := os.Lstat(f.path)
	if err != nil {
		return nil, err
	}
	read := keyfile.Read
	if f.credential {
		read = keyfile.ReadCredential
	}
	text, err := read(f.path)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = info
	return text, nil
}

// Changed reports whether it is another file than the one that was read.
func (f *File) Changed() bool {
	info, err := os.Lstat(f.path)
	if err != nil {
		return true // reading it says what is wrong
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen == nil || !os.SameFile(info, f.seen) || !info.ModTime().Equal(f.seen.ModTime()) || info.Size() != f.seen.Size()
}

var errCredential = errors.New("the keys come from systemd's credentials: add a version to the credential, restart chomd, then rotate again")

// change replaces the keys by what fn makes of them; no other process changes them meanwhile. There are none where there is
// no file yet.
func (f *File) change(ctx context.Context, fn func([]Key) ([]Key, error)) error {
	if f.credential {
		return errCredential
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(f.path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() // it ends the lock
	if err := lockFile(ctx, lock); err != nil {
		return err
	}
	var keys []Key
	text, err := f.Read(ctx)
	if err == nil {
		defer clear(text)
		keys, err = parseKeys(text)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	changed, err := fn(keys)
	if err != nil {
		return err
	}
	written := formatKeys(changed)
	defer clear(written)
	return keyfile.Write(f.path, written)
}

// lockFile waits for a lock that ends with the process that holds it.
func lockFile(ctx context.Context, file *os.File) error {
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("another process changes the keys: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// create makes the first key, unless another process was faster.
func (f *File) create(ctx context.Context) error {
	return f.change(ctx, func(keys []Key) ([]Key, error) {
		if keys != nil {
			return keys, nil
		}
		return []Key{newKey(1, time.Now())}, nil
	})
}

// prepare adds a pending key, unless there is one.
func (f *File) prepare(ctx context.Context) error {
	return f.change(ctx, func(keys []Key) ([]Key, error) {
		if len(keys) == 0 || keys[len(keys)-1].Pending {
			return keys, nil
		}
		pending := newKey(keys[len(keys)-1].Version+1, time.Now())
		pending.Pending = true
		return append(keys, pending), nil
	})
}

// activate makes a pending key the newest.
func (f *File) activate(ctx context.Context, version uint32) error {
	return f.change(ctx, func(keys []Key) ([]Key, error) {
		for i := range keys {
			if keys[i].Version == version && keys[i].Pending {
				keys[i].Pending, keys[i].Made = false, time.Now().UTC().Truncate(time.Second)
			}
		}
		return keys, nil
	})
}

// drop removes all keys before a version.
func (f *File) drop(ctx context.Context, before uint32) error {
	return f.change(ctx, func(keys []Key) ([]Key, error) {
		for len(keys) > 0 && keys[0].Version < before {
			keys = keys[1:]
		}
		return keys, nil
	})
}
