package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.conf")
	write := func(content string, perm os.FileMode) bool {
		t.Helper()
		changed, err := Write(path, []byte(content), perm, os.Getegid())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Fatalf("holds %q, %v", got, err)
		}
		if st, _ := os.Lstat(path); st.Mode() != perm {
			t.Fatalf("mode %v", st.Mode())
		}
		return changed
	}
	t.Run("reports a change only when there is one", func(t *testing.T) {
		for i, c := range []struct {
			content string
			perm    os.FileMode
			changed bool
		}{{"one", 0o640, true}, {"one", 0o640, false}, {"two", 0o640, true}, {"two", 0o600, true}, {"", 0o600, true}} {
			if got := write(c.content, c.perm); got != c.changed {
				t.Errorf("step %d: changed %v", i, got)
			}
		}
	})
	t.Run("replaces a link instead of writing through it", func(t *testing.T) {
		other := filepath.Join(dir, "other")
		if err := os.WriteFile(other, []byte("keep"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(other, path); err != nil {
			t.Fatal(err)
		}
		write("three", 0o600)
		if got, _ := os.ReadFile(other); string(got) != "keep" {
			t.Errorf("the link's target holds %q", got)
		}
	})
	t.Run("overwrites what a crash left aside and leaves nothing itself", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, ".a.conf.new"), []byte("half a longer text"), 0o600); err != nil {
			t.Fatal(err)
		}
		write("four", 0o600)
		if names, _ := filepath.Glob(filepath.Join(dir, ".*")); len(names) != 0 {
			t.Errorf("left %q", names)
		}
	})
	t.Run("refuses a directory in its place", func(t *testing.T) {
		if _, err := Write(dir, nil, 0o600, os.Getegid()); err == nil {
			t.Error("passed")
		}
	})
}

func TestRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		if got, err := Remove(path); got != want || err != nil {
			t.Errorf("Remove = %v, %v, want %v", got, err, want)
		}
	}
}

func TestLink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	for _, c := range []struct {
		target  string
		changed bool
	}{{"/dev/null", true}, {"/dev/null", false}, {"/dev/zero", true}} {
		if changed, err := Link(path, c.target); changed != c.changed || err != nil {
			t.Errorf("Link(%s) = %v, %v", c.target, changed, err)
		}
		if got, _ := os.Readlink(path); got != c.target {
			t.Errorf("points at %q", got)
		}
	}
}
