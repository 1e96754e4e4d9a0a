package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"chom.dev/proto/contract"
)

// measured is a site's shell, and what measures it as its user does.
type measured struct {
	t     *testing.T
	shell string
}

func newMeasured(t *testing.T) measured {
	t.Helper()
	s, h := open(t), contract.NewHandle()
	if err := s.Ensure(h, tenant); err != nil {
		t.Fatal(err)
	}
	return measured{t, filepath.Join(s.dir, h.String())}
}

// do lets the tenant do something.
func (m measured) do(f func() error) {
	m.t.Helper()
	if err := asTenant(m.t, f); err != nil {
		m.t.Fatal(err)
	}
}

func (m measured) size() Size {
	m.t.Helper()
	var got Size
	m.do(func() (err error) { got, err = Measure(m.t.Context(), m.shell); return err })
	return got
}

// du is what du(1) says as root.
func (m measured) du() uint64 {
	m.t.Helper()
	out, err := exec.Command("/usr/bin/du", "-s", "-c", "-B1", m.shell+"/public", m.shell+"/private").Output()
	if err != nil {
		m.t.Fatal(err)
	}
	lines := strings.Fields(string(out))
	n, err := strconv.ParseUint(lines[len(lines)-2], 10, 64)
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

func TestMeasure(t *testing.T) {
	content := make([]byte, 1<<20)
	for i := range content {
		content[i] = byte(i * i >> 8) // no file system makes a hole of it
	}
	for _, c := range []struct {
		claim string
		fill  func(shell string) error
		files uint64 // besides public and private
	}{
		{"an empty site takes its directories", func(string) error { return nil }, 0},
		{"a file takes its blocks", func(shell string) error {
			return errors.Join(os.MkdirAll(shell+"/public/a/b", 0o750), os.WriteFile(shell+"/public/a/b/c", content, 0o640), os.WriteFile(shell+"/private/small", []byte("x"), 0o600))
		}, 4},
		{"a file with several names counts once, also over both directories", func(shell string) error {
			return errors.Join(os.Mkdir(shell+"/public/a", 0o750), os.WriteFile(shell+"/public/f", content, 0o640), os.Link(shell+"/public/f", shell+"/public/a/g"), os.Link(shell+"/public/f", shell+"/private/h"))
		}, 2},
		{"a hole takes nothing", func(shell string) error {
			return errors.Join(os.WriteFile(shell+"/public/hole", nil, 0o640), os.Truncate(shell+"/public/hole", 1<<40))
		}, 1},
		{"no link is followed, in the tree or out of it", func(shell string) error {
			return errors.Join(os.Mkdir(shell+"/public/a", 0o750), os.WriteFile(shell+"/public/a/f", content, 0o640),
				os.Symlink("/usr", shell+"/public/usr"), os.Symlink("..", shell+"/public/a/up"), os.Symlink("a", shell+"/public/b"), os.Symlink("loop", shell+"/public/loop"))
		}, 6},
		{"what is no file is looked at all the same", func(shell string) error {
			return errors.Join(unix.Mkfifo(shell+"/public/pipe", 0o600), os.WriteFile(shell+"/private/bad-\xff\n", nil, 0))
		}, 2},
	} {
		t.Run(c.claim, func(t *testing.T) {
			m := newMeasured(t)
			m.do(func() error { return c.fill(m.shell) })
			if got, want := m.size(), (Size{Files: c.files + 2, Bytes: m.du()}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	t.Run("what a restore or a drill keeps beside is not the site's", func(t *testing.T) {
		m := newMeasured(t)
		if err := errors.Join(os.Mkdir(m.shell+"/drill", 0o755), os.WriteFile(m.shell+"/drill/f", content, 0o644)); err != nil {
			t.Fatal(err)
		}
		if got := m.size(); got.Files != 2 || got.Bytes != m.du() {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("a directory that its owner shut himself out of is left out, and said to be", func(t *testing.T) {
		m := newMeasured(t)
		m.do(func() error {
			return errors.Join(os.MkdirAll(m.shell+"/public/shut/in", 0o750), os.WriteFile(m.shell+"/public/shut/f", content, 0o640), os.WriteFile(m.shell+"/public/g", content, 0o640),
				os.MkdirAll(m.shell+"/public/list", 0o750), os.WriteFile(m.shell+"/public/list/f", content, 0o640),
				os.Chmod(m.shell+"/public/shut", 0), os.Chmod(m.shell+"/public/list", 0o400))
		})
		got := m.size()
		if want := m.du(); got.Unread != 2 || got.Files != 5 || got.Bytes < 1<<20 || got.Bytes > want-2<<20 {
			t.Errorf("got %+v of %d bytes", got, want)
		}
		m.do(func() error { return os.Chmod(m.shell+"/public", 0) })
		if got := m.size(); got.Unread != 1 || got.Files != 2 {
			t.Errorf("without its public directory: %+v", got)
		}
	})
	t.Run("a tree with more than is worth waiting for is not measured", func(t *testing.T) {
		m := newMeasured(t)
		m.do(func() error {
			for i := range 8 {
				if err := os.WriteFile(fmt.Sprintf("%s/public/%d", m.shell, i), nil, 0o640); err != nil {
					return err
				}
			}
			return nil
		})
		for most, want := range map[uint64]error{9: errTooMany, 10: nil} {
			var got Size
			err := asTenant(t, func() (err error) { got, err = measure(t.Context(), m.shell, most); return err })
			if !errors.Is(err, want) || want != nil && got != (Size{}) {
				t.Errorf("at most %d: %+v, %v", most, got, err)
			}
		}
	})
	t.Run("a tree without end comes to one", func(t *testing.T) {
		m := newMeasured(t)
		m.do(func() error {
			at, err := unix.Open(m.shell+"/public", unix.O_PATH|unix.O_CLOEXEC, 0)
			name := strings.Repeat("d", 100) // no path is that long
			for i := 0; err == nil && i < 3*maxDepth; i++ {
				if err = unix.Mkdirat(at, name, 0o750); err == nil {
					var next int
					next, err = unix.Openat(at, name, unix.O_PATH|unix.O_CLOEXEC, 0)
					_ = unix.Close(at)
					at = next
				}
			}
			return errors.Join(err, unix.Close(at))
		})
		if got := m.size(); got.Unread != 1 || got.Files != maxDepth+2 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("stops when told", func(t *testing.T) {
		m := newMeasured(t)
		m.do(func() error { return os.WriteFile(m.shell+"/public/f", nil, 0o640) })
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := asTenant(t, func() error { _, err := Measure(ctx, m.shell); return err }); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a site that is not there is not measured", func(t *testing.T) {
		m := newMeasured(t)
		if err := os.Remove(m.shell + "/private"); err != nil {
			t.Fatal(err)
		}
		if err := asTenant(t, func() error { _, err := Measure(t.Context(), m.shell); return err }); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("is never done as root", func(t *testing.T) {
		if _, err := Measure(t.Context(), newMeasured(t).shell); err == nil {
			t.Error("it was")
		}
	})
}

// TestMeasureWhileTheTreeChanges claims that a tenant who makes links of directories while they are walked leads nobody out of
// the site, and keeps nobody from an end.
func TestMeasureWhileTheTreeChanges(t *testing.T) {
	m := newMeasured(t)
	outside := t.TempDir() // whose parents only root can enter
	far := filepath.Join(filepath.Dir(m.shell), "far")
	for i := range 200 {
		if err := errors.Join(os.MkdirAll(far, 0o755), os.WriteFile(fmt.Sprintf("%s/%d", far, i), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	m.do(func() error {
		return errors.Join(os.MkdirAll(m.shell+"/public/dir/in", 0o750), os.WriteFile(m.shell+"/public/dir/in/f", nil, 0o640), os.Symlink(far, m.shell+"/public/link"), os.Symlink(outside, m.shell+"/public/away"))
	})
	var swaps atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	swapped := make(chan error, 1)
	go func() {
		swapped <- asTenant(t, func() error {
			for ctx.Err() == nil {
				if err := unix.Renameat2(unix.AT_FDCWD, m.shell+"/public/dir", unix.AT_FDCWD, m.shell+"/public/link", unix.RENAME_EXCHANGE); err != nil {
					return err
				}
				_ = os.Remove(m.shell + "/public/gone")
				_ = os.WriteFile(m.shell+"/public/gone", nil, 0o640)
				swaps.Add(1)
			}
			return nil
		})
	}()
	for n := 0; n < 300 || swaps.Load() < 1000; n++ {
		if got := m.size(); got.Files > 10 { // public, private, dir, in, f, link, away, gone; and what was met under both names
			t.Fatalf("got %+v: what is elsewhere was counted", got)
		}
	}
	stop()
	if err := <-swapped; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d swaps", swaps.Load())
}
