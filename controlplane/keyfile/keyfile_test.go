package keyfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRead is a part of case B17: what others could read or have put there is no key.
func TestRead(t *testing.T) {
	for name, test := range map[string]struct {
		make func(path string) error
		want string // of Read; empty for nothing wrong
		cred string // of ReadCredential
	}{
		"ours alone":             {func(path string) error { return os.Chmod(path, 0o600) }, "", ""},
		"ours alone, to read":    {func(path string) error { return os.Chmod(path, 0o400) }, "", ""},
		"readable by the group":  {func(path string) error { return os.Chmod(path, 0o640) }, "open to others (mode 0640)", ""},
		"writable by the group":  {func(path string) error { return os.Chmod(path, 0o620) }, "open to others", "open to others"},
		"readable by all":        {func(path string) error { return os.Chmod(path, 0o604) }, "open to others", "open to others"},
		"readable only by all":   {func(path string) error { return os.Chmod(path, 0o004) }, "open to others", "open to others"},
		"in a folder of others":  {func(path string) error { return os.Chmod(filepath.Dir(path), 0o777) }, "others can replace", "others can replace"},
		"in a folder of a group": {func(path string) error { return os.Chmod(filepath.Dir(path), 0o770) }, "others can replace", "others can replace"},
		"in a sticky folder":     {func(path string) error { return os.Chmod(filepath.Dir(path), 0o777|fs.ModeSticky) }, "", ""},
		"too large":              {func(path string) error { return os.Truncate(path, 1<<20) }, "too large", "too large"},
		"a symbolic link": {func(path string) error {
			return errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
		}, "is a symbolic link", "is a symbolic link"},
		"a folder": {func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, "is no file", "is no file"},
		"a pipe":   {func(path string) error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)) }, "is no file", "is no file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			must(t, os.WriteFile(path, []byte("key"), 0o600))
			must(t, test.make(path))
			check := func(read func(string) ([]byte, error), want string) {
				t.Helper()
				text, err := read(path)
				if want == "" && (err != nil || string(text) != "key") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("got %q, %v", text, err)
				}
			}
			check(Read, test.want)
			check(ReadCredential, test.cred)
		})
	}
	t.Run("another user's", func(t *testing.T) {
		info, err := os.Stat("/etc/passwd") // root's
		must(t, err)
		if err := checkOwner("key", info, []int{12345}); err == nil {
			t.Error("got nil")
		}
	})
	t.Run("nowhere", func(t *testing.T) {
		if _, err := Read(filepath.Join(t.TempDir(), "key")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	must(t, os.WriteFile(path+".new", []byte("what a crash left, longer than what follows"), 0o644))
	for _, content := range []string{"one", "another"} {
		must(t, Write(path, []byte(content)))
		if text, err := Read(path); err != nil || string(text) != content {
			t.Errorf("got %q, %v", text, err)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("files: %v, %v", files, err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	if err := Write(filepath.Join(dir, "folder"), []byte("x")); err == nil {
		t.Error("a folder was replaced")
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("files: %v, %v", files, err)
	}
}
