package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/fault"
)

func TestPut(t *testing.T) {
	each(t, func(t *testing.T, s shelf) {
		r := newRepository()
		body, text := content(1, 3<<20)
		n := name(t, store.Data, text)
		size := int64(len(body))
		t.Run("keeps what the name says, and gives it back in parts", func(t *testing.T) {
			if _, err := s.Stat(t.Context(), r, n); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("before: %v", err)
			}
			if err := s.Put(t.Context(), r, n, size, bytes.NewReader(body)); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Stat(t.Context(), r, n); err != nil || got != size {
				t.Errorf("it has %d bytes, %v", got, err)
			}
			for _, part := range []struct{ offset, length, want int64 }{{0, 0, size}, {7, 100, 100}, {size - 5, 100, 5}, {size - 1, 0, 1}} {
				p, err := s.Get(t.Context(), r, n, part.offset, part.length)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(p)
				if p.Close(); err != nil || !bytes.Equal(got, body[part.offset:part.offset+part.want]) || p.Length != part.want || p.Total != size {
					t.Errorf("%v: %d bytes, %v", part, len(got), err)
				}
			}
			if _, err := s.Get(t.Context(), r, n, size, 1); !errors.Is(err, store.ErrRange) {
				t.Errorf("beyond the end: %v", err)
			}
		})
		t.Run("takes the same again, and nothing else under its name", func(t *testing.T) {
			if err := s.Put(t.Context(), r, n, size, bytes.NewReader(body)); err != nil {
				t.Error(err)
			}
			other := slices.Clone(body)
			other[5]++
			if err := s.Put(t.Context(), r, n, size, bytes.NewReader(other)); !errors.Is(err, store.ErrContent) {
				t.Errorf("got %v", err)
			}
			for _, n := range []store.Name{store.ConfigName(), must(store.ManifestName(7))} {
				if err := s.Put(t.Context(), r, n, 3, strings.NewReader("one")); err != nil {
					t.Fatal(err)
				}
				if err := s.Put(t.Context(), r, n, 3, strings.NewReader("one")); err != nil {
					t.Error(err)
				}
				for _, another := range []string{"two", "three"} {
					if err := s.Put(t.Context(), r, n, int64(len(another)), strings.NewReader(another)); !errors.Is(err, store.ErrDiffers) {
						t.Errorf("%s: got %v", n, err)
					}
				}
				if got := must(io.ReadAll(must(s.Get(t.Context(), r, n, 0, 0)))); string(got) != "one" {
					t.Errorf("%s is %q now", n, got)
				}
			}
		})
		t.Run("leaves nothing of a body that is wrong", func(t *testing.T) {
			before := s.files(t)
			fresh, text := content(2, 2<<20)
			n := name(t, store.Data, text)
			broken := errors.New("the connection broke")
			for what, bad := range map[string]struct {
				size int64
				body io.Reader
				want error
			}{
				"another hash":          {3, strings.NewReader("abc"), store.ErrContent},
				"another hash, as long": {2 << 20, bytes.NewReader(body[:2<<20]), store.ErrContent},
				"ends early":            {2 << 20, bytes.NewReader(fresh[:1<<20]), store.ErrSize},
				"ends at the last byte": {2 << 20, bytes.NewReader(fresh[:2<<20-1]), store.ErrSize},
				"goes on":               {2 << 20, io.MultiReader(bytes.NewReader(fresh), strings.NewReader("x")), store.ErrSize},
				"breaks":                {2 << 20, io.MultiReader(bytes.NewReader(fresh[:1<<20]), iotest.ErrReader(broken)), store.ErrCut},
				"breaks at the end":     {2 << 20, io.MultiReader(bytes.NewReader(fresh), iotest.ErrReader(broken)), store.ErrCut},
			} {
				if err := s.Put(t.Context(), r, n, bad.size, bad.body); !errors.Is(err, bad.want) {
					t.Errorf("%s: got %v", what, err)
				}
				if _, err := s.Stat(t.Context(), r, n); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("%s: %v", what, err)
				}
			}
			canceled, cancel := context.WithCancel(t.Context())
			cut := io.MultiReader(bytes.NewReader(fresh[:1<<20]), readerFunc(func([]byte) (int, error) { cancel(); return 0, io.EOF }), bytes.NewReader(fresh[1<<20:]))
			if err := s.Put(canceled, r, n, 2<<20, cut); err == nil {
				t.Error("a canceled call put something")
			}
			for _, size := range []int64{0, -1, store.MaxObject + 1} {
				if err := s.Put(t.Context(), r, n, size, bytes.NewReader(fresh)); fault.KindOf(err) != fault.KindInvalid {
					t.Errorf("size %d: %v", size, err)
				}
			}
			if after := s.files(t); !slices.Equal(before, after) {
				t.Errorf("there is %v, and was %v", after, before)
			}
		})
		t.Run("many at the same time keep one", func(t *testing.T) {
			fresh, text := content(3, 200_000)
			n, config, r := name(t, store.Data, text), store.ConfigName(), newRepository()
			var wg sync.WaitGroup
			var first atomic.Int64
			for i := range 8 {
				wg.Go(func() {
					if err := s.Put(t.Context(), r, n, int64(len(fresh)), bytes.NewReader(fresh)); err != nil {
						t.Error(err)
					}
					switch err := s.Put(t.Context(), r, config, 1, strings.NewReader(string(rune('a'+i)))); {
					case err == nil:
						first.Add(1)
					case !errors.Is(err, store.ErrDiffers):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if first.Load() != 1 {
				t.Errorf("%d configs were kept", first.Load())
			}
		})
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestList(t *testing.T) {
	each(t, func(t *testing.T, s shelf) {
		r, other := newRepository(), newRepository()
		other.Organization = r.Organization
		var want []string
		var sum int64
		for i := range 20 {
			body, text := content(uint64(i), 100+i)
			want = append(want, text)
			sum += int64(len(body))
			for _, r := range []store.Repository{r, other} {
				if err := s.Put(t.Context(), r, name(t, store.Data, text), int64(len(body)), bytes.NewReader(body)); err != nil {
					t.Fatal(err)
				}
			}
		}
		slices.Sort(want)
		manifest := must(store.ManifestName(12))
		if err := s.Put(t.Context(), r, manifest, 5, strings.NewReader("words")); err != nil {
			t.Fatal(err)
		}
		list := func(r store.Repository, kind store.Kind) (names []string) {
			for _, o := range must(s.List(t.Context(), r, kind)) {
				names = append(names, o.Name.Text())
			}
			return names
		}
		if got := list(r, store.Data); !slices.Equal(got, want) {
			t.Errorf("listed %v", got)
		}
		if got := must(s.List(t.Context(), r, store.Manifests)); len(got) != 1 || got[0].Name.Sequence() != 12 || got[0].Size != 5 {
			t.Errorf("manifests are %v", got)
		}
		if got := list(newRepository(), store.Data); len(got) > 0 {
			t.Errorf("nowhere is %v", got)
		}
		if got := must(s.Usage(t.Context(), r)); got != sum+5 {
			t.Errorf("it has %d bytes, want %d", got, sum+5)
		}
		if err := s.Delete(t.Context(), r, name(t, store.Data, want[0])); err != nil {
			t.Error(err)
		}
		if err := s.Delete(t.Context(), r, name(t, store.Data, want[0])); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("again: %v", err)
		}
		if got := list(r, store.Data); !slices.Equal(got, want[1:]) {
			t.Errorf("listed %v", got)
		}
		for range 2 {
			if err := s.Remove(t.Context(), r); err != nil {
				t.Error(err)
			}
		}
		if got := must(s.Usage(t.Context(), r)); got != 0 {
			t.Errorf("%d bytes are left", got)
		}
		if got := list(other, store.Data); !slices.Equal(got, want) {
			t.Errorf("the neighbour has %v", got)
		}
	})
}

func TestNames(t *testing.T) {
	_, good := content(1, 1)
	for _, text := range []string{"", good[1:], good + "0", strings.ToUpper(good), "../" + good[3:], "g" + good[1:], good[:63] + "/", good[:63] + "\n", strings.Repeat("../", 22)[:64]} {
		if _, err := store.ParseName(store.Data, text); err == nil {
			t.Errorf("%q is a name", text)
		}
	}
	for _, kind := range []store.Kind{0, store.Config, store.Manifests, 99} {
		if _, err := store.ParseName(kind, good); err == nil {
			t.Errorf("%s has such a name", kind)
		}
	}
	for _, sequence := range []uint64{0, 10_000_000_000} {
		if _, err := store.ManifestName(sequence); err == nil {
			t.Errorf("%d is a sequence", sequence)
		}
	}
	t.Run("what nobody named is nowhere", func(t *testing.T) {
		each(t, func(t *testing.T, s shelf) {
			n := name(t, store.Data, good)
			for _, nowhere := range []struct {
				r store.Repository
				n store.Name
			}{{store.Repository{}, n}, {store.Repository{Site: newRepository().Site}, n}, {newRepository(), store.Name{}}} {
				_, statErr := s.Stat(t.Context(), nowhere.r, nowhere.n)
				_, getErr := s.Get(t.Context(), nowhere.r, nowhere.n, 0, 0)
				for _, err := range []error{statErr, getErr, s.Put(t.Context(), nowhere.r, nowhere.n, 1, strings.NewReader("x")), s.Delete(t.Context(), nowhere.r, nowhere.n)} {
					if err == nil || errors.Is(err, store.ErrNotFound) {
						t.Errorf("%v: %v", nowhere, err)
					}
				}
			}
			if err := s.Remove(t.Context(), store.Repository{}); err == nil {
				t.Error("everybody's repositories were removed")
			}
		})
	})
}

func TestDisk(t *testing.T) {
	t.Run("what writers left that were killed is swept, and what others are writing is not", func(t *testing.T) {
		s := disk(t)
		r := newRepository()
		body, text := content(1, 1000)
		// A removal that was cut, and a writer's file.
		dead := filepath.Join(s.dir, "unfinished", "dead")
		half := filepath.Join(s.dir, "unfinished", "half", "data")
		if err := errors.Join(os.WriteFile(dead, body, 0o600), os.MkdirAll(half, 0o700), os.WriteFile(filepath.Join(half, "x"), body, 0o600)); err != nil {
			t.Fatal(err)
		}
		reader, writer := io.Pipe()
		done := make(chan error)
		go func() {
			done <- s.Put(t.Context(), r, name(t, store.Data, text), 1000, reader)
		}()
		if _, err := writer.Write(body[:500]); err != nil {
			t.Fatal(err)
		}
		again, err := store.OpenDisk(s.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if left := s.files(t); len(left) != 1 || !strings.HasPrefix(left[0], "unfinished/") {
			t.Errorf("left are %v", left)
		}
		if _, err := writer.Write(body[500:]); err != nil {
			t.Fatal(err)
		}
		writer.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if left := s.files(t); len(left) != 1 || !strings.HasSuffix(left[0], text) {
			t.Errorf("left are %v", left)
		}
	})
	t.Run("nobody else can read what is there", func(t *testing.T) {
		s := disk(t)
		old := syscall.Umask(0)
		defer syscall.Umask(old)
		body, text := content(1, 10)
		if err := s.Put(t.Context(), newRepository(), name(t, store.Data, text), 10, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
		if err := filepath.Walk(s.dir, func(path string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %s", path, info.Mode())
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		if err := os.Chmod(s.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := store.OpenDisk(s.dir); err == nil || !strings.Contains(err.Error(), "chmod 700") {
			t.Errorf("opened: %v", err)
		}
	})
	t.Run("links lead nowhere else", func(t *testing.T) {
		s, outside := disk(t), t.TempDir()
		r := newRepository()
		if err := errors.Join(os.MkdirAll(filepath.Join(s.dir, r.Organization.String()), 0o700), os.Symlink(outside, filepath.Join(s.dir, r.String()))); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), r, store.ConfigName(), 1, strings.NewReader("x")); err == nil {
			t.Error("it was kept outside")
		}
		if left := must(os.ReadDir(outside)); len(left) > 0 {
			t.Errorf("outside are %v", left)
		}
	})
	t.Run("a full disk is told as that, and leaves nothing", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Fatal("mounting needs root")
		}
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
			t.Fatal(err)
		}
		defer syscall.Unmount(dir, syscall.MNT_DETACH)
		s := must(store.OpenDisk(dir))
		defer s.Close()
		body, text := content(1, 2<<20)
		err := s.Put(t.Context(), newRepository(), name(t, store.Data, text), 2<<20, bytes.NewReader(body))
		if !errors.Is(err, store.ErrFull) {
			t.Errorf("got %v", err)
		}
		if left := (shelf{dir: dir}).files(t); len(left) > 0 {
			t.Errorf("left are %v", left)
		}
	})
}
