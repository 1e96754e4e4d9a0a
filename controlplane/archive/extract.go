package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// tree writes entries below one directory, which was empty. Nothing is ever written through a link or over something that is there:
// a directory is one that was made here, and files and links are made anew.
type tree struct {
	root *os.Root
	dirs map[string]*made
}

// made is a directory. Its mode and time come last: it may be read-only, and what comes into it changes its time.
type made struct {
	mode  fs.FileMode
	mtime time.Time
	given bool // the archive has an entry for it
}

// implied is the mode of a directory that an archive has no entry for.
const implied = 0o755

func newTree(root *os.Root) *tree { return &tree{root, map[string]*made{".": {}}} }

// put writes an entry. The name that is refused is the archive's.
func (t *tree) put(name, entryName string, e entry, content io.Reader) error {
	if err := t.directories(path.Dir(name), entryName); err != nil {
		return err
	}
	var err error
	switch e.mode.Type() {
	case fs.ModeDir:
		if d := t.dirs[name]; d != nil && !d.given {
			d.mode, d.mtime, d.given = e.mode.Perm(), e.mtime, true
			return nil
		}
		if err = t.root.Mkdir(name, 0o700); err == nil {
			t.dirs[name] = &made{e.mode.Perm(), e.mtime, true}
		}
	case fs.ModeSymlink:
		err = t.root.Symlink(e.link, name)
	default:
		err = t.file(name, e, content)
	}
	if errors.Is(err, fs.ErrExist) {
		return refuse(entryName, "comes twice")
	}
	return err
}

// directories makes those that lead to an entry.
func (t *tree) directories(dir, entryName string) error {
	if t.dirs[dir] != nil {
		return nil
	}
	if err := t.directories(path.Dir(dir), entryName); err != nil {
		return err
	}
	err := t.root.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return refuse(entryName, "lies in what is a link or a file")
	}
	if err == nil {
		t.dirs[dir] = &made{mode: implied}
	}
	return err
}

func (t *tree) file(name string, e entry, content io.Reader) (err error) {
	f, err := t.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err == nil {
			err = t.root.Chtimes(name, e.mtime, e.mtime)
		}
	}()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	return f.Chmod(e.mode.Perm())
}

// finish gives the directories their modes and times, the deepest first.
func (t *tree) finish() error {
	delete(t.dirs, ".")
	names := slices.Collect(maps.Keys(t.dirs))
	slices.SortFunc(names, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	for _, name := range names {
		d := t.dirs[name]
		if d.given {
			if err := t.root.Chtimes(name, d.mtime, d.mtime); err != nil {
				return err
			}
		}
		if err := t.root.Chmod(name, d.mode); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes a directory with all that Extract wrote below it, also where it was broken off, and read-only directories. What is
// not there is no error.
func Remove(dir string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err == nil && d.IsDir(), err != nil && d != nil && d.IsDir() && errors.Is(err, fs.ErrPermission):
			if err := root.Chmod(name, 0o700); err != nil {
				return err
			}
		case err != nil:
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}
