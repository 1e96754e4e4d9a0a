package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}, body}
}

func dir(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}

func (e entry) with(change func(*tar.Header)) entry {
	change(&e.Header)
	return e
}

// pack makes an archive as a hostile packer would: without asking.
func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	packed := tar.NewWriter(zipped)
	for _, e := range entries {
		if err := packed.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(packed, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func sum(content []byte) string {
	s := sha256.Sum256(content)
	return hex.EncodeToString(s[:])
}

// extract unpacks into a fresh folder below a parent that is watched too.
func extract(t testing.TB, packed []byte, limits Limits) (parent string, summary Summary, err error) {
	t.Helper()
	parent = t.TempDir()
	staging := filepath.Join(parent, "staging")
	if err := os.Mkdir(staging, 0o750); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(staging)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	summary, err = Extract(context.Background(), root, bytes.NewReader(packed), Options{
		SHA256:    sum(packed),
		StripRoot: "app",
		Limits:    limits,
	})
	return parent, summary, err
}

func TestExtract(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", buffered/8) // twice what is buffered
	packed := pack(t,
		dir("app/"), file("app/index.php", "<?php"), dir("app/empty/"),
		file("app/unlisted/deep/file.txt", "deep"), file("app/big.bin", large), file("app/none.txt", ""),
		file("app/run.sh", "#!").with(func(h *tar.Header) { h.Mode = 0o755 }),
		dir("app/unlisted/"), file("app/Été 1.txt", "names in any script"),
	)
	parent, summary, err := extract(t, packed, DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Summary{Files: 6, Dirs: 2, Bytes: int64(len(large) + 5 + 4 + 2 + 19)}); summary != want {
		t.Errorf("summary %+v, want %+v", summary, want)
	}
	for name, want := range map[string]string{
		"index.php": "<?php", "unlisted/deep/file.txt": "deep", "big.bin": large, "none.txt": "", "run.sh": "#!", "Été 1.txt": "names in any script",
	} {
		path := filepath.Join(parent, "staging", name)
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode()&^0o640 != 0 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(filepath.Join(parent, "staging/empty")); err != nil || !info.IsDir() {
		t.Errorf("empty folder: %v", err)
	}
}

func TestExtractKeepsNamesWithoutRootFolder(t *testing.T) {
	parent, _, err := extract(t, pack(t, file("./index.php", "a"), dir("./app/"), file("./app/x", "b")), DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"index.php", "app/x"} {
		if _, err := os.Stat(filepath.Join(parent, "staging", name)); err != nil {
			t.Error(err)
		}
	}
}

func TestExtractRefuses(t *testing.T) {
	special := func(flag byte) entry {
		return entry{tar.Header{Typeflag: flag, Name: "x", Linkname: "/etc/shadow", Mode: 0o644}, ""}
	}
	deep := strings.Repeat("d/", maxDepth+1) + "f"
	for name, hostile := range map[string][]entry{
		"an absolute name":                        {file("/etc/cron.d/x", "x")},
		"a name that climbs":                      {file("../x", "x")},
		"a name that climbs from inside":          {file("a/../../x", "x")},
		"a name that climbs past the root folder": {dir("app/"), file("app/../../x", "x")},
		"a name outside the root folder":          {dir("app/"), file("x", "x")},
		"a backslash":                             {file(`..\x`, "x")},
		"a control character":                     {file("a\nb", "x")},
		"a name that is not UTF-8":                {file("a\xff", "x")},
		"an empty component":                      {file("a//b", "x")},
		"a dot component":                         {file("a/./b", "x")},
		"a component that is too long":            {file(strings.Repeat("a", maxComponent+1), "x")},
		"a name that is too long":                 {file(strings.Repeat(strings.Repeat("a", 200)+"/", 6)+"x", "x")},
		"folders nested too deep":                 {file(deep, "x")},
		"a symbolic link":                         {special(tar.TypeSymlink)},
		"a link, then a file through it":          {special(tar.TypeSymlink), file("x/passwd", "x")},
		"a hard link":                             {special(tar.TypeLink)},
		"a character device":                      {special(tar.TypeChar)},
		"a block device":                          {special(tar.TypeBlock)},
		"a fifo":                                  {special(tar.TypeFifo)},
		"a setuid file":                           {file("x", "x").with(func(h *tar.Header) { h.Mode = 0o4755 })},
		"a setgid folder":                         {dir("x/").with(func(h *tar.Header) { h.Mode = 0o2755 })},
		"file capabilities": {file("x", "x").with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"}
		})},
		"a global header":           {{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, ""}, file("x", "x")},
		"the same file twice":       {file("x", "1"), file("x", "2")},
		"a file where a folder is":  {dir("x/"), file("x", "2")},
		"a folder where a file is":  {file("x", "1"), dir("x/")},
		"a file below a file":       {file("x", "1"), file("x/y", "2")},
		"a file where a parent was": {file("x/y", "1"), file("x", "2")},
		"nothing but folders":       {dir("a/")},
	} {
		t.Run(name, func(t *testing.T) {
			parent, _, err := extract(t, pack(t, append([]entry(nil), hostile...)...), DefaultLimits)
			if !errors.Is(err, ErrRefused) {
				t.Errorf("err = %v, want a refusal", err)
			}
			onlyPlainFilesIn(t, parent)
		})
	}
}

// onlyPlainFilesIn checks that nothing odd and nothing outside was made.
func onlyPlainFilesIn(t *testing.T, parent string) {
	t.Helper()
	err := filepath.WalkDir(parent, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(parent, path)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if name != "." && name != "staging" && !strings.HasPrefix(name, "staging/") {
			t.Errorf("made %s outside", name)
		}
		if !info.IsDir() && !info.Mode().IsRegular() || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
			t.Errorf("made %s: %v", name, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestExtractRefusesBombs(t *testing.T) {
	zeros := strings.Repeat("\x00", 1<<20)
	var many []entry
	for i := range 200 {
		many = append(many, file(fmt.Sprintf("f%d", i), ""))
	}
	var bomb []entry
	for i := range 16 {
		bomb = append(bomb, file(fmt.Sprintf("z%d", i), zeros))
	}
	// Padding after the end mark is unpacked too, though it makes no file.
	padded := func() []byte {
		var out bytes.Buffer
		zipped := gzip.NewWriter(&out)
		packed := tar.NewWriter(zipped)
		if err := packed.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x", Size: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := packed.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := packed.Close(); err != nil {
			t.Fatal(err)
		}
		for range 16 {
			if _, err := io.WriteString(zipped, zeros); err != nil {
				t.Fatal(err)
			}
		}
		if err := zipped.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}()
	for name, c := range map[string]struct {
		packed []byte
		limits Limits
	}{
		"too many bytes":        {pack(t, file("a", zeros), file("b", zeros)), Limits{Bytes: 1 << 20, Entries: 10, Ratio: 1e6}},
		"too many entries":      {pack(t, many...), Limits{Bytes: 1 << 30, Entries: 100, Ratio: 1e6}},
		"too high a ratio":      {pack(t, bomb...), Limits{Bytes: 1 << 30, Entries: 100, Ratio: 50}},
		"a bomb behind the end": {padded, Limits{Bytes: 1 << 30, Entries: 100, Ratio: 50}},
		// Parents that were never listed count.
		"too many silent parents": {pack(t, file(strings.Repeat("d/", 20)+"f", "x"), file("g", "x")), Limits{Bytes: 1 << 30, Entries: 10, Ratio: 1e6}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := extract(t, c.packed, c.limits)
			if !errors.Is(err, ErrRefused) {
				t.Errorf("err = %v, want a refusal", err)
			}
		})
	}
}

func TestExtractRefusesDamage(t *testing.T) {
	good := pack(t, dir("app/"), file("app/index.php", strings.Repeat("some code ", 1000)), file("app/b", "b"))
	root := func(t *testing.T) *os.Root {
		r, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	options := Options{SHA256: sum(good), StripRoot: "app", Limits: DefaultLimits}

	t.Run("every single flipped bit", func(t *testing.T) {
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << (i % 8)
			if _, err := Extract(t.Context(), root(t), bytes.NewReader(bad), options); !errors.Is(err, ErrRefused) {
				t.Fatalf("byte %d of %d: err = %v, want a refusal", i, len(good), err)
			}
		}
	})
	t.Run("every cut", func(t *testing.T) {
		for n := range good {
			if _, err := Extract(t.Context(), root(t), bytes.NewReader(good[:n]), options); !errors.Is(err, ErrRefused) {
				t.Fatalf("%d of %d bytes: err = %v, want a refusal", n, len(good), err)
			}
		}
	})
	t.Run("bytes behind the end", func(t *testing.T) {
		longer := append(bytes.Clone(good), "x"...)
		if _, err := Extract(t.Context(), root(t), bytes.NewReader(longer), options); !errors.Is(err, ErrRefused) {
			t.Errorf("err = %v, want a refusal", err)
		}
	})
	t.Run("but blames a bad disk on the disk", func(t *testing.T) {
		broken := io.MultiReader(bytes.NewReader(good[:len(good)/2]), iotest.ErrReader(errors.New("disk on fire")))
		_, err := Extract(t.Context(), root(t), broken, options)
		if err == nil || errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "disk on fire") {
			t.Errorf("err = %v, want the disk's words and no refusal", err)
		}
	})
	t.Run("and stops when told", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Extract(ctx, root(t), bytes.NewReader(good), options); !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v", err)
		}
	})
}

// FuzzExtract: whatever the bytes, nothing outside the folder and nothing but
// plain files inside.
func FuzzExtract(f *testing.F) {
	f.Add(pack(f, dir("app/"), file("app/x", "x")))
	f.Add(pack(f, entry{tar.Header{Typeflag: tar.TypeSymlink, Name: "x", Linkname: "/etc"}, ""}))
	f.Add(pack(f, file("../x", "x")))
	f.Fuzz(func(t *testing.T, packed []byte) {
		parent, _, _ := extract(t, packed, Limits{Bytes: 1 << 20, Entries: 50, Ratio: 100})
		onlyPlainFilesIn(t, parent)
	})
}
