package tree

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

// asUser carries out "empty-tree" as the tenant's user id, as a host does in its
// sandbox.
type asUser struct {
	fakeSupervisor
	t *testing.T
}

func (a *asUser) Run(ctx context.Context, u run.Unit) (run.Result, error) {
	return run.Result{}, asTenant(a.t, func() error { return Empty(ctx, u.Argv[3:]...) })
}

// open gives shells that the tenant can reach, as on a host.
func open(t *testing.T) Shells {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "chom-tree-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := Shells{dir: filepath.Join(dir, "chom", "sites")}
	if err := errors.Join(os.Chmod(dir, 0o711), os.Mkdir(filepath.Join(dir, "chom"), 0o755), s.EnsureBase()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStaging(t *testing.T) {
	base := open(t)
	site := func(t *testing.T) (Shells, contract.Handle, string) {
		h := contract.NewHandle()
		if err := errors.Join(base.Ensure(h, tenant), base.EnsureStaging(h, tenant)); err != nil {
			t.Fatal(err)
		}
		return base, h, filepath.Join(base.dir, h.String())
	}
	put := func(t *testing.T, path, text string) {
		t.Helper()
		if err := asTenant(t, func() error { return os.WriteFile(path, []byte(text), 0o640) }); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(t *testing.T, path, want string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v, want %q", path, b, err, want)
		}
	}
	t.Run("is made like the shell, twice the same", func(t *testing.T) {
		s, h, shell := site(t)
		if err := s.EnsureStaging(h, tenant); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{
			"/restore": "0:23456 drwx--x---", "/restore/public": "23456:23456 drwxr-x---", "/restore/private": "23456:23456 drwx------",
		} {
			if got := look(t, shell+path); got != want {
				t.Errorf("%s is %s, want %s", path, got, want)
			}
		}
	})
	t.Run("the tenant can change nothing of it but what is inside", func(t *testing.T) {
		_, _, shell := site(t)
		for what, act := range map[string]func() error{
			"rename": func() error { return os.Rename(shell+"/restore/public", shell+"/restore/x") },
			"swap":   func() error { return os.Rename(shell+"/restore/public", shell+"/swapped") },
			"link":   func() error { return os.Symlink("/etc", shell+"/restore/x") },
			"remove": func() error { return os.Remove(shell + "/restore/private") },
			"chmod":  func() error { return os.Chmod(shell+"/restore", 0o777) },
		} {
			if err := asTenant(t, act); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	t.Run("refuses links in its place", func(t *testing.T) {
		h := contract.NewHandle()
		if err := base.Ensure(h, tenant); err != nil {
			t.Fatal(err)
		}
		elsewhere := t.TempDir()
		if err := os.Symlink(elsewhere, filepath.Join(base.dir, h.String(), "restore")); err != nil {
			t.Fatal(err)
		}
		if err := base.EnsureStaging(h, tenant); !errors.Is(err, ErrForeign) {
			t.Error(err)
		}
		if names, _ := os.ReadDir(elsewhere); len(names) > 0 {
			t.Error(names)
		}
	})
	t.Run("directories are exchanged once, however often it is asked for", func(t *testing.T) {
		s, h, shell := site(t)
		put(t, shell+"/public/f", "old")
		put(t, shell+"/private/f", "old")
		put(t, shell+"/restore/public/f", "new")
		put(t, shell+"/restore/private/f", "new")
		id, err := s.Identify(h, tenant)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := s.Exchange(h, id.Staged, id.Live); err != nil {
				t.Fatal(err)
			}
			holds(t, shell+"/public/f", "new")
			holds(t, shell+"/private/f", "new")
			holds(t, shell+"/restore/public/f", "old")
		}
		for range 3 {
			if err := s.Exchange(h, id.Live, id.Staged); err != nil {
				t.Fatal(err)
			}
			holds(t, shell+"/public/f", "old")
			holds(t, shell+"/restore/private/f", "new")
		}
	})
	t.Run("what was exchanged in part is finished", func(t *testing.T) {
		s, h, shell := site(t)
		put(t, shell+"/restore/public/f", "new")
		put(t, shell+"/restore/private/f", "new")
		id, err := s.Identify(h, tenant)
		if err != nil {
			t.Fatal(err)
		}
		half := Inodes{Public: id.Staged.Public, Private: id.Live.Private}
		if err := s.Exchange(h, half, Inodes{Public: id.Live.Public, Private: id.Staged.Private}); err != nil {
			t.Fatal(err)
		}
		holds(t, shell+"/public/f", "new")
		holds(t, shell+"/restore/private/f", "new")
		if err := s.Exchange(h, id.Staged, id.Live); err != nil {
			t.Fatal(err)
		}
		holds(t, shell+"/public/f", "new")
		holds(t, shell+"/private/f", "new")
	})
	t.Run("others than the recorded ones are left alone", func(t *testing.T) {
		s, h, shell := site(t)
		id, err := s.Identify(h, tenant)
		if err != nil {
			t.Fatal(err)
		}
		put(t, shell+"/public/f", "old")
		for _, wrong := range []Inodes{{}, {Public: 1, Private: 2}, id.Live} {
			if err := s.Exchange(h, wrong, id.Live); !errors.Is(err, ErrExchanged) {
				t.Error(err)
			}
		}
		holds(t, shell+"/public/f", "old")
	})
	t.Run("what a tenant planted is deleted by the tenant, and nothing else is touched", func(t *testing.T) {
		s, h, shell := site(t)
		outside := filepath.Join(t.TempDir(), "canary")
		if err := os.WriteFile(outside, []byte("keep"), 0o666); err != nil {
			t.Fatal(err)
		}
		put(t, shell+"/public/f", "live")
		if err := asTenant(t, func() error {
			p := shell + "/restore/public"
			return errors.Join(os.Symlink(filepath.Dir(outside), p+"/dir"), os.Symlink(outside, p+"/file"), os.Symlink(shell+"/public", p+"/live"),
				os.MkdirAll(p+"/a/b/c", 0o700), os.WriteFile(p+"/a/b/f", nil, 0), os.Chmod(p+"/a/b/f", 0), os.Chmod(p+"/a/b", 0))
		}); err != nil {
			t.Fatal(err)
		}
		sup := &asUser{t: t}
		for range 2 {
			if err := s.RemoveStaging(t.Context(), sup, "agent", h); err != nil {
				t.Fatal(err)
			}
		}
		if there, err := s.Staged(h); err != nil || there {
			t.Errorf("left: %v, %v", there, err)
		}
		if len(sup.calls) > 0 {
			t.Errorf("the site was ended: %v", sup.calls)
		}
		holds(t, outside, "keep")
		holds(t, shell+"/public/f", "live")
	})
	t.Run("goes with the site", func(t *testing.T) {
		s, h, shell := site(t)
		put(t, shell+"/restore/private/f", "kept")
		put(t, shell+"/public/f", "live")
		if err := s.Remove(t.Context(), &asUser{t: t}, "agent", h); err != nil {
			t.Fatal(err)
		}
		if st, err := s.Probe(h, tenant); err != nil || !st.Absent {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

func TestList(t *testing.T) {
	s, h := open(t), contract.NewHandle()
	if err := s.Ensure(h, tenant); err != nil {
		t.Fatal(err)
	}
	shell := filepath.Join(s.dir, h.String())
	at := time.Unix(1700000000, 123456789)
	odd := "bad-\xff\xfe"
	if err := asTenant(t, func() error {
		return errors.Join(
			os.MkdirAll(shell+"/public/d/e", 0o750), os.WriteFile(shell+"/public/d/f", []byte("12345"), 0o640), os.WriteFile(shell+"/private/"+odd, nil, 0o600),
			os.Symlink("/etc/passwd", shell+"/public/link"), os.Symlink("/etc", shell+"/public/dir"), syscall.Mkfifo(shell+"/public/d/pipe", 0o600),
			os.Chtimes(shell+"/public/d/f", at, at), os.Chmod(shell+"/public/d/e", 0o700),
			os.Chtimes(shell+"/public/d/e", at, at), os.Chtimes(shell+"/public/d", at, at), os.Chtimes(shell+"/public", at, at),
			os.Chtimes(shell+"/private/"+odd, at, at), os.Chtimes(shell+"/private", at, at),
		)
	}); err != nil {
		t.Fatal(err)
	}
	list := func() (l *contract.Listing, err error) {
		err = asTenant(t, func() (err error) { l, _, err = List(t.Context(), shell); return err })
		return l, err
	}
	t.Run("is what restic lists of the same files", func(t *testing.T) {
		got, err := list()
		if err != nil {
			t.Fatal(err)
		}
		var lines bytes.Buffer
		for _, n := range []struct {
			path, kind string
			mode       uint32
			size       int
		}{
			{"/public", "dir", 0o750, 0}, {"/public/d", "dir", 0o750, 0}, {"/public/d/e", "dir", 0o700, 0}, {"/public/d/f", "file", 0o640, 5},
			{"/public/link", "symlink", 0o777, 0}, {"/public/dir", "symlink", 0o777, 0}, {"/private", "dir", 0o700, 0}, {"/private/bad-\uFFFD\uFFFD", "file", 0o600, 0},
		} {
			line, _ := json.Marshal(map[string]any{"struct_type": "node", "type": n.kind, "path": n.path, "mode": n.mode, "size": n.size, "mtime": at})
			lines.Write(append(line, '\n'))
		}
		want := new(contract.Listing)
		if err := contract.ReadListed(&lines, func(f contract.Listed) error { want.Add(f); return nil }); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.SHA256(), want.SHA256()) || got.Count() != 8 || got.Bytes() != 5 {
			t.Errorf("%d entries, %d bytes, %x, want %d, %d, %x", got.Count(), got.Bytes(), got.SHA256(), want.Count(), want.Bytes(), want.SHA256())
		}
	})
	t.Run("is never made as root", func(t *testing.T) {
		if _, _, err := List(t.Context(), shell); err == nil {
			t.Error("it was")
		}
	})
}
