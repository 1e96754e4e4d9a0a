// Package keyfile reads and replaces files that hold keys: readable by their owner only, never through a symbolic link, and
// whole after any crash. It knows nothing of what is in them.
package keyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxSize is far above what the keys of one kind take.
const maxSize = 64 << 10

// Read gives the content of a file that belongs to this user and that nobody else may read or write. It says fs.ErrNotExist
// where there is none.
func Read(path string) ([]byte, error) {
	return read(path, 0o077, os.Geteuid())
}

// ReadCredential is Read for a file in the directory of systemd's credentials. It may belong to root, and its group's bit may
// say that systemd let this user read it; others must have no access.
func ReadCredential(path string) ([]byte, error) {
	return read(path, 0o027, os.Geteuid(), 0)
}

func read(path string, forbidden fs.FileMode, owners ...int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: name the file itself", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", path)
	}
	if info.Mode().Perm()&forbidden != 0 {
		return nil, fmt.Errorf("%s is open to others (mode %04o): run chmod 600 and, if it was copied or backed up so, replace its keys", path, info.Mode().Perm())
	}
	if err := checkOwner(path, info, owners); err != nil {
		return nil, err
	}
	if err := checkFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("%s is too large", path)
	}
	b := make([]byte, info.Size())
	if len(b) == 0 {
		return b, nil
	}
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

func checkOwner(path string, info fs.FileInfo, owners []int) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	for _, owner := range owners {
		if int(stat.Uid) == owner {
			return nil
		}
	}
	return fmt.Errorf("%s belongs to another user", path)
}

// checkFolder refuses a folder in which others could put another file in the place of ours.
func checkFolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("others can replace the files in %s (mode %04o): run chmod go-w", dir, info.Mode().Perm())
	}
	return nil
}

// Write replaces a file as a whole, with mode 0600; after it returns the content survives a power loss. A crash leaves at most
// one unfinished file behind, which the next Write removes. Of two at the same time, one fails.
func Write(path string, content []byte) error {
	unfinished := path + ".new"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(unfinished))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
