package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// mustUse is our plugin inside WordPress: it turns a login link into a
// session. Must-use plugins run always and can't be switched off by accident.
//
//go:embed scripts/mu-plugin.php
var mustUse []byte

const (
	mustUseDir  = "wp-content/mu-plugins"
	mustUseFile = "chom.php"
	mustUseMode = 0o640
)

// placeMustUse makes sure of our version of the must-use plugin below the
// given document root.
func placeMustUse(private, root *os.Root) error {
	if err := root.MkdirAll(mustUseDir, 0o750); err != nil {
		return fmt.Errorf("make %s: %w", mustUseDir, err)
	}
	dir, err := root.OpenRoot(mustUseDir)
	if err != nil {
		return fmt.Errorf("open %s: %w", mustUseDir, err)
	}
	defer dir.Close()
	same, err := holds(dir, mustUseFile, mustUse)
	if err != nil || same {
		return err
	}
	return writeFile(private, dir, mustUseFile, mustUse, mustUseMode)
}

// holds reports whether the file is a regular one with exactly this content.
func holds(dir *os.Root, name string, content []byte) (bool, error) {
	// A root refuses a link that leads out of it, in words of its own: it is
	// told apart before.
	info, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", name, err)
	}
	f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ELOOP) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	present, err := io.ReadAll(io.LimitReader(f, int64(len(content))+1))
	if err != nil {
		return false, fmt.Errorf("read %s: %w", name, err)
	}
	return bytes.Equal(present, content), nil
}

// tempFile is where a file is written before it gets its name: in private/,
// since a kill may leave it there, and nobody must be able to fetch a
// configuration under another name.
const tempFile = ".chom-file"

// writeFile replaces a file as a whole or not at all, power loss included.
func writeFile(private, dir *os.Root, name string, content []byte, mode os.FileMode) error {
	if err := private.RemoveAll(tempFile); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f, err := private.OpenFile(tempFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	from, err := private.Open(".")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer from.Close()
	to, err := dir.Open(".")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer to.Close()
	if err := unix.Renameat(int(from.Fd()), tempFile, int(to.Fd()), name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
