package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

const tenant = 23456

// shells gives a base in a temporary directory. Owners matter, so this needs
// root, which a lab and CI have.
func shells(t *testing.T) Shells {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: the claims are about owners")
	}
	s := Shells{dir: filepath.Join(t.TempDir(), "chom", "sites")}
	if err := s.EnsureBase(); err != nil {
		t.Fatal(err)
	}
	return s
}

// asTenant runs f with the tenant's user id. Only this thread changes; it is
// thrown away afterwards.
func asTenant(t *testing.T, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESGID, tenant, tenant, tenant); e != 0 {
			done <- e
			return
		}
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, tenant, tenant, tenant); e != 0 {
			done <- e
			return
		}
		done <- f()
	}()
	return <-done
}

func look(t *testing.T, path string) string {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d %v", owner(st), group(st), st.Mode())
}

func TestEnsure(t *testing.T) {
	s, h := shells(t), contract.NewHandle()
	shell := filepath.Join(s.dir, h.String())
	t.Run("makes shell and inside with the right owners and modes, twice the same", func(t *testing.T) {
		for range 2 {
			if err := s.Ensure(h, tenant); err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]string{
				s.dir:              "0:0 drwx--x--x",
				shell:              "0:23456 drwx--x---",
				shell + "/public":  "23456:23456 drwxr-x---",
				shell + "/private": "23456:23456 drwx------",
			} {
				if got := look(t, path); got != want {
					t.Errorf("%s is %s, want %s", path, got, want)
				}
			}
			if st, err := s.Probe(h, tenant); err != nil || !st.Complete || st.Absent {
				t.Errorf("probe %+v, %v", st, err)
			}
		}
	})
	t.Run("the tenant can't change the entries of the shell", func(t *testing.T) {
		for what, act := range map[string]func() error{
			"rename": func() error { return os.Rename(shell+"/public", shell+"/x") },
			"remove": func() error { return os.Remove(shell + "/private") },
			"create": func() error { return os.Mkdir(shell+"/x", 0o755) },
			"link":   func() error { return os.Symlink("/etc", shell+"/x") },
			"chmod":  func() error { return os.Chmod(shell, 0o777) },
			"list":   func() error { _, err := os.ReadDir(s.dir); return err },
		} {
			if err := asTenant(t, act); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	t.Run("finishes what an interruption left", func(t *testing.T) {
		for _, left := range []string{"", "public", "private"} {
			h := contract.NewHandle()
			if err := os.MkdirAll(filepath.Join(s.dir, h.String(), left), 0o700); err != nil {
				t.Fatal(err)
			}
			if st, err := s.Probe(h, tenant); err != nil || st.Complete {
				t.Errorf("probe before: %+v, %v", st, err)
			}
			if err := s.Ensure(h, tenant); err != nil {
				t.Fatal(err)
			}
			if st, err := s.Probe(h, tenant); err != nil || !st.Complete {
				t.Errorf("probe after: %+v, %v", st, err)
			}
		}
	})
	t.Run("refuses links, files and other owners in its places", func(t *testing.T) {
		secret := t.TempDir()
		for what, prepare := range map[string]func(shell string) error{
			"shell is a link":         func(p string) error { return os.Symlink(secret, p) },
			"shell is a file":         func(p string) error { return os.WriteFile(p, nil, 0o600) },
			"shell is another user's": func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chown(p, 999, 999)) },
			"public is a link":        func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Symlink(secret, p+"/public")) },
			"public is another user's": func(p string) error {
				return errors.Join(os.MkdirAll(p+"/public", 0o700), os.Chown(p+"/public", 999, 999))
			},
		} {
			h := contract.NewHandle()
			if err := prepare(filepath.Join(s.dir, h.String())); err != nil {
				t.Fatal(err)
			}
			if err := s.Ensure(h, tenant); !errors.Is(err, ErrForeign) {
				t.Errorf("%s: ensure: %v", what, err)
			}
			if _, err := s.Probe(h, tenant); !errors.Is(err, ErrForeign) {
				t.Errorf("%s: probe: %v", what, err)
			}
		}
		if got := look(t, secret); !strings.HasPrefix(got, "0:0 drwxr-xr-x") {
			t.Errorf("a link's target became %s", got)
		}
	})
	t.Run("refuses a base that others can write to", func(t *testing.T) {
		s := shells(t)
		if err := os.Chmod(s.dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := s.Ensure(contract.NewHandle(), tenant); !errors.Is(err, ErrForeign) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("leaves a complete directory alone, whatever its tenant did to its mode", func(t *testing.T) {
		if err := os.Chmod(shell+"/public", 0o500); err != nil {
			t.Fatal(err)
		}
		if err := s.Ensure(h, tenant); err != nil {
			t.Fatal(err)
		}
		if got := look(t, shell+"/public"); got != "23456:23456 dr-x------" {
			t.Errorf("public is %s", got)
		}
	})
}

func TestEmpty(t *testing.T) {
	s := shells(t)
	setup := func(t *testing.T, build func(dir string) error) (string, error) {
		t.Helper()
		h := contract.NewHandle()
		if err := s.Ensure(h, tenant); err != nil {
			t.Fatal(err)
		}
		for dir := s.dir; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) { // the test's own directories are closed to others
			if err := os.Chmod(dir, 0o711); err != nil {
				t.Fatal(err)
			}
		}
		dir := filepath.Join(s.dir, h.String(), "public")
		if err := asTenant(t, func() error { return build(dir) }); err != nil {
			t.Fatalf("build: %v", err)
		}
		return dir, asTenant(t, func() error { return Empty(t.Context(), dir) })
	}
	check := func(t *testing.T, dir string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left %v, %v", left, err)
		}
	}
	t.Run("deletes ordinary trees", func(t *testing.T) {
		dir, err := setup(t, func(dir string) error {
			return errors.Join(os.MkdirAll(dir+"/a/b/c", 0o755), os.WriteFile(dir+"/a/b/c/f", []byte("x"), 0o600), os.WriteFile(dir+"/.h", nil, 0), os.Mkdir(dir+"/"+aside+"1", 0o755))
		})
		check(t, dir, err)
	})
	t.Run("deletes links and not what they point at", func(t *testing.T) {
		outside := t.TempDir()
		if err := errors.Join(os.Chmod(outside, 0o777), os.WriteFile(outside+"/keep", []byte("x"), 0o666)); err != nil {
			t.Fatal(err)
		}
		dir, err := setup(t, func(dir string) error {
			return errors.Join(os.Symlink(outside, dir+"/d"), os.Symlink(outside+"/keep", dir+"/f"), os.Symlink("..", dir+"/up"),
				os.Mkdir(dir+"/in", 0o755), os.Symlink("/", dir+"/in/root"), os.Symlink("loop", dir+"/loop"))
		})
		check(t, dir, err)
		if b, err := os.ReadFile(outside + "/keep"); err != nil || string(b) != "x" {
			t.Errorf("outside: %q, %v", b, err)
		}
		if got := look(t, outside); got != "0:0 drwxrwxrwx" {
			t.Errorf("outside is %s", got)
		}
	})
	t.Run("deletes what shuts out its owner", func(t *testing.T) {
		dir, err := setup(t, func(dir string) error {
			return errors.Join(os.MkdirAll(dir+"/a/b", 0o755), os.WriteFile(dir+"/a/b/f", nil, 0), os.Chmod(dir+"/a/b", 0), os.Chmod(dir+"/a", 0o100), os.Chmod(dir, 0))
		})
		check(t, dir, err)
	})
	t.Run("deletes odd names, pipes and sockets", func(t *testing.T) {
		dir, err := setup(t, func(dir string) error {
			var errs []error
			for _, name := range []string{"-rf", "a\nb", "\xff\xfe", "*", " ", "$(id)", strings.Repeat("n", 255)} {
				errs = append(errs, os.Mkdir(dir+"/"+name, 0o755), os.WriteFile(dir+"/"+name+"/f\n", nil, 0o600))
			}
			return errors.Join(append(errs, syscall.Mkfifo(dir+"/pipe", 0))...)
		})
		check(t, dir, err)
	})
	t.Run("deletes a tree deeper than any path can name", func(t *testing.T) {
		const depth = 3000 // 3000 * 9 bytes is far beyond PATH_MAX
		dir, err := setup(t, func(dir string) error {
			r, err := os.OpenRoot(dir)
			for i := 0; err == nil && i < depth; i++ {
				var next *os.Root
				if err = r.Mkdir("deep-dir", 0o755); err == nil {
					next, err = r.OpenRoot("deep-dir")
				}
				r.Close()
				r = next
			}
			return err
		})
		check(t, dir, err)
	})
	t.Run("deletes more entries than fit in one read", func(t *testing.T) {
		dir, err := setup(t, func(dir string) error {
			var errs []error
			for i := range 3 * batch {
				errs = append(errs, os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o600))
			}
			for i := range batch + 5 {
				errs = append(errs, os.MkdirAll(fmt.Sprintf("%s/d/%d", dir, i), 0o700))
			}
			return errors.Join(errs...)
		})
		check(t, dir, err)
	})
	t.Run("goes on after an interruption", func(t *testing.T) {
		dir, err := setup(t, func(dir string) error {
			if err := os.MkdirAll(dir+"/a/b/c/d", 0o755); err != nil {
				return err
			}
			ctx, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
			defer cancel()
			if err := Empty(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("interrupted: %w", err)
			}
			return nil
		})
		check(t, dir, err)
	})
	t.Run("refuses to work as root", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/keep", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Empty(t.Context(), dir); err == nil {
			t.Error("passed")
		}
		if _, err := os.Stat(dir + "/keep"); err != nil {
			t.Error(err)
		}
	})
}

type fakeSupervisor struct{ calls []string }

func (f *fakeSupervisor) Kill(_ context.Context, unit string) error {
	f.calls = append(f.calls, "kill "+unit)
	return nil
}

func (f *fakeSupervisor) Stop(_ context.Context, unit string) error {
	f.calls = append(f.calls, "stop "+unit)
	return nil
}

func (f *fakeSupervisor) Run(_ context.Context, u run.Unit) (run.Result, error) {
	f.calls = append(f.calls, "run "+u.Name)
	return run.Result{}, nil
}

func TestRemove(t *testing.T) {
	s, h := shells(t), contract.NewHandle()
	t.Run("ends the processes even when no tree is left", func(t *testing.T) {
		var f fakeSupervisor
		if err := s.Remove(t.Context(), &f, "/usr/bin/chom-agent", h); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Join(f.calls, ", "), "kill "+h.Slice()+", stop "+h.Slice(); got != want {
			t.Errorf("did %s", got)
		}
	})
	t.Run("root folds only what is empty", func(t *testing.T) {
		if err := s.Ensure(h, tenant); err != nil {
			t.Fatal(err)
		}
		keep := filepath.Join(s.dir, h.String(), "private", "keep")
		if err := os.WriteFile(keep, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.fold(h); err == nil {
			t.Error("folded over a file")
		}
		if _, err := os.Stat(keep); err != nil {
			t.Error(err)
		}
	})
	t.Run("a shell that was never handed over is folded without the tenant", func(t *testing.T) {
		h := contract.NewHandle()
		if err := os.MkdirAll(filepath.Join(s.dir, h.String(), "public"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(t.Context(), &fakeSupervisor{}, "/usr/bin/chom-agent", h); err != nil {
			t.Fatal(err)
		}
		if st, err := s.Probe(h, tenant); err != nil || !st.Absent {
			t.Errorf("left %+v, %v", st, err)
		}
	})
}
