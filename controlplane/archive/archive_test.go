package archive_test

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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"chom.dev/controlplane/archive"
	"chom.dev/proto/contract"
)

// stamp has parts of a second.
var stamp = time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// packed is a tar archive of headers; content is what each file has, by name.
func packed(headers ...*tar.Header) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		text := strings.Repeat("x", int(h.Size))
		if err := w.WriteHeader(h); err != nil {
			panic(fmt.Sprintf("%+v: %v", h, err))
		}
		must(io.WriteString(w, text))
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func file(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640, Size: 3, ModTime: stamp, Format: tar.FormatPAX}
}

func link(name, to string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
}

func dir(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o750, ModTime: stamp, Format: tar.FormatPAX}
}

// small are limits that tests reach.
var small = archive.Limits{Entries: 50, File: 1 << 20, Bytes: 4 << 20, Depth: 10, Ratio: 200}

// place is an empty directory in another one, in which nothing may come to be besides.
type place struct{ around, dir string }

func newPlace(t testing.TB) place {
	around := t.TempDir()
	p := place{around, filepath.Join(around, "inside")}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := archive.Remove(p.dir); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(p.dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it was not removed: %v", err)
		}
	})
	return p
}

func (p place) extract(ctx context.Context, from []byte, limits archive.Limits, strip int) (*archive.Found, error) {
	root := must(os.OpenRoot(p.dir))
	defer root.Close()
	return archive.Extract(ctx, bytes.NewReader(from), root, limits, strip)
}

// unharmed fails when anything is outside of the place, or in it what no archive may bring.
func (p place) unharmed(t testing.TB) {
	t.Helper()
	if all := must(os.ReadDir(p.around)); len(all) != 1 {
		t.Errorf("outside is %v", all)
	}
	if _, err := os.Lstat("/tmp/chom-archive-canary"); err == nil {
		t.Error("something was written to /tmp")
	}
	err := filepath.WalkDir(p.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info := must(d.Info())
		if kind := info.Mode().Type(); kind != 0 && kind != fs.ModeDir && kind != fs.ModeSymlink || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
			t.Errorf("%s is a %s", name, info.Mode())
		}
		if stat := info.Sys().(*syscall.Stat_t); info.Mode().IsRegular() && stat.Nlink != 1 || int(stat.Uid) != os.Geteuid() {
			t.Errorf("%s has %d names and the owner %d", name, stat.Nlink, stat.Uid)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// raw is a header that the library does not write by itself: two blocks of a ustar archive with changed bytes.
func raw(h *tar.Header, change func(block []byte)) []byte {
	all := packed(h)
	change(all[:512])
	sum := 0
	copy(all[148:156], "        ")
	for _, c := range all[:512] {
		sum += int(c)
	}
	copy(all[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return all
}

// TestG01 and TestG02 are the cases of the same names: archives of strangers.
func TestG01(t *testing.T) {
	long := strings.Repeat("a", 256)
	for name, c := range map[string]struct {
		archive     []byte
		entry, rule string
	}{
		"an absolute name":               {packed(file("/tmp/chom-archive-canary")), "/tmp/chom-archive-canary", "absolute"},
		"an absolute name behind a dot":  {packed(file(".//tmp/chom-archive-canary")), ".//tmp/chom-archive-canary", "absolute"},
		"a name that leaves":             {packed(file("../out")), "../out", `".."`},
		"a name that leaves in between":  {packed(file("a/../../out")), "a/../../out", `".."`},
		"a directory that leaves":        {packed(dir("..")), "../", `".."`},
		"a dot in a name":                {packed(file("a/./b")), "a/./b", "not plain"},
		"two slashes":                    {packed(file("a//b")), "a//b", "not plain"},
		"no name":                        {packed(link(".", "a")), ".", "no name"},
		"a name that is not UTF-8":       {packed(file("a\xff")), "a\xff", "UTF-8"},
		"a part that is too long":        {packed(file(long)), long, "255"},
		"a path that is too long":        {packed(file(strings.Repeat(strings.Repeat("b", 200)+"/", 21) + "c")), "bbb", "4095"},
		"too deep":                       {packed(file(strings.Repeat("d/", 10) + "e")), "d/d", "directories"},
		"a file twice":                   {packed(file("a"), file("a")), "a", "twice"},
		"a file twice by another name":   {packed(file("a"), file("./a")), "./a", "twice"},
		"a directory twice":              {packed(dir("a"), dir("a")), "a/", "twice"},
		"a file over a link":             {packed(link("a", "b"), file("a")), "a", "twice"},
		"a link over a directory":        {packed(dir("a"), link("a", "b")), "a", "twice"},
		"a file through a link":          {packed(dir("b"), link("a", "b"), file("a/x")), "a/x", "link or a file"},
		"a file through a link in a way": {packed(dir("b"), link("c/a", "../b"), file("c/a/x/y")), "c/a/x/y", "link or a file"},
		"a file in a file":               {packed(file("a"), file("a/x")), "a/x", "link or a file"},
		"a directory through a link":     {packed(dir("b"), link("a", "b"), dir("a/x")), "a/x/", "link or a file"},
		"a link to an absolute path":     {packed(link("a", "/etc")), "a", "absolute path"},
		"a link that leaves":             {packed(link("a", "../b")), "a", "leaves"},
		"a link that leaves from below":  {packed(link("a/b/c", "../../../d")), "a/b/c", "leaves"},
		"a link that leaves by a link":   {packed(link("d/e/s", "../.."), link("m", "d/e/s/../x")), "m", "behind a name"},
		"a link to nothing":              {raw(link("a", "b"), func(b []byte) { b[157] = 0 }), "a", "to nothing"},
		"a hard link to the machine's":   {packed(&tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "/etc/shadow"}), "a", "hard link"},
		"a hard link within":             {packed(file("b"), &tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "b"}), "a", "hard link"},
		"a device":                       {packed(&tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1, Devminor: 3}), "a", "device"},
		"a disk":                         {packed(&tar.Header{Typeflag: tar.TypeBlock, Name: "a", Devmajor: 8}), "a", "device"},
		"a named pipe":                   {packed(&tar.Header{Typeflag: tar.TypeFifo, Name: "a"}), "a", "pipe"},
		"a kind that nobody knows":       {raw(file("a"), func(b []byte) { b[156] = 'Z' }), "", ""},
		"capabilities": {packed(&tar.Header{Typeflag: tar.TypeReg, Name: "a", Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}}), "a", "capabilities"},
		"no archive":                            {[]byte("GIF89a, or whatever else somebody sends, so long as it is more than a block" + strings.Repeat("!", 1024)), "", "no tar archive"},
		"nothing":                               {nil, "", "cut off"},
		"an empty archive":                      {packed(), "", "empty"},
		"something behind its end":              {append(packed(file("a")), packed(file("b"))...), "", "behind its end"},
		"gzip of something else":                {append([]byte{0x1f, 0x8b}, "xxxxxxxxxxxxxxxxxxxx"...), "", "damaged"},
		"zstd of something else":                {append([]byte{0x28, 0xb5, 0x2f, 0xfd}, "xxxxxxxxxxxxxxxxxxxx"...), "", ""},
		"a PAX record for a path":               {packed(&tar.Header{Typeflag: tar.TypeReg, Name: "../" + strings.Repeat("é", 90), Format: tar.FormatPAX}), "../é", `".."`},
		"a long name of GNU's":                  {packed(&tar.Header{Typeflag: tar.TypeReg, Name: "../" + strings.Repeat("y", 200), Format: tar.FormatGNU}), "../y", `".."`},
		"a long link of GNU's":                  {packed(&tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "../" + strings.Repeat("y", 200), Format: tar.FormatGNU}), "a", "leaves"},
		"a checksum that is wrong":              {flipped(packed(file("a")), 3), "", "damaged"},
		"a sparse file of GNU's":                {raw(file("a"), func(b []byte) { b[156] = 'S'; copy(b[257:265], "ustar  \x00"); copy(b[483:495], "00000000003\x00") }), "", ""},
		"a sparse file in PAX":                  {sparse(), "huge", "sparse"},
		"a backslash that is no way out, twice": {packed(file(`..\..\x`), file(`..\..\x`)), `..\..\x`, "twice"},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			p := newPlace(t)
			_, err := p.extract(t.Context(), c.archive, small, 0)
			var refused *archive.Refused
			if !errors.As(err, &refused) || !strings.HasPrefix(refused.Entry, c.entry) || !strings.Contains(refused.Rule, c.rule) {
				t.Errorf("got %v", err)
			}
			p.unharmed(t)
		})
	}

	t.Run("takes what is honest, and drops the bits that no site has", func(t *testing.T) {
		p := newPlace(t)
		suid := file("bin/tool")
		suid.Mode, suid.Uid, suid.Uname = 0o7755, 0, "root"
		suid.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "x"}
		shut := dir("shut")
		shut.Mode = 0o555
		unreadable := file("shut/unreadable")
		unreadable.Mode = 0
		found, err := p.extract(t.Context(), packed(
			&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "git's"}},
			&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o777},
			shut, unreadable, file("./a b/é \n.php"), suid, link("to", "a b/x"), link("shut/up", "../bin/./tool"), dir("bin"), file("A"), file("a"), file(`..\..\x`),
		), small, 0)
		if err != nil || found.Site != nil || found.Entries != 10 || found.Bytes != 18 {
			t.Fatalf("%+v, %v", found, err)
		}
		p.unharmed(t)
		public := filepath.Join(p.dir, "files", "public")
		for name, want := range map[string]fs.FileMode{
			"": fs.ModeDir | 0o750, "../private": fs.ModeDir | 0o700, "shut": fs.ModeDir | 0o555, "shut/unreadable": 0o400, "a b": fs.ModeDir | 0o755,
			"a b/é \n.php": 0o640, "bin": fs.ModeDir | 0o750, "bin/tool": 0o755, "to": fs.ModeSymlink | 0o777, `..\..\x`: 0o640, "A": 0o640,
		} {
			info, err := os.Lstat(filepath.Join(public, name))
			if err != nil || info.Mode() != want {
				t.Errorf("%s: %v, %v", name, info, err)
			}
			if err == nil && (want == 0o640 || name == "bin") && !info.ModTime().Equal(stamp) {
				t.Errorf("%s is of %s", name, info.ModTime())
			}
		}
		if to := must(os.Readlink(filepath.Join(public, "shut/up"))); to != "../bin/./tool" {
			t.Errorf("the link leads to %q", to)
		}
	})

	t.Run("each cut is noticed", func(t *testing.T) {
		whole := packed(file("a"), dir("b"), file("b/c"))
		for n := range len(whole) - 512 { // both blocks of the end must be there
			if n%512 > 1 && n%512 < 511 && n%101 != 0 {
				continue
			}
			p := newPlace(t)
			if _, err := p.extract(t.Context(), whole[:n], small, 0); !archive.IsRefused(err) {
				t.Fatalf("after %d bytes: %v", n, err)
			}
			if err := archive.Remove(p.dir); err != nil {
				t.Fatal(err)
			}
		}
	})

	t.Run("strip takes leading directories, and nothing beside them", func(t *testing.T) {
		for name, c := range map[string]struct {
			archive []byte
			strip   int
			want    string // a file, or the rule
		}{
			"one":                   {packed(dir("top"), file("top/index.php")), 1, "index.php"},
			"one without an entry":  {packed(file("top/wp/index.php")), 1, "wp/index.php"},
			"two":                   {packed(dir("a"), dir("a/b"), file("a/b/index.php")), 2, "index.php"},
			"a file beside it":      {packed(file("top/a"), file("b")), 1, "does not lie in"},
			"another directory":     {packed(file("top/a"), file("other/b")), 1, "does not lie in"},
			"another one below":     {packed(dir("a"), file("a/b/x"), file("a/c/y")), 2, "does not lie in"},
			"nothing is left":       {packed(dir("top")), 1, "holds nothing"},
			"a link out of the top": {packed(dir("top"), link("top/a", "../b")), 1, "leaves"},
			"a link first":          {packed(link("top/a", "../b")), 1, "leaves"},
		} {
			p := newPlace(t)
			_, err := p.extract(t.Context(), c.archive, small, c.strip)
			if err != nil {
				if !archive.IsRefused(err) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if _, err := os.Lstat(filepath.Join(p.dir, "files/public", c.want)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// sparse is a file of a terabyte that takes a block.
func sparse() []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	records := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n24 GNU.sparse.name=huge\n37 GNU.sparse.realsize=1099511627776\n"
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "PaxHeaders.0/huge", Size: int64(len(records)), Format: tar.FormatUSTAR})
	_, _ = io.WriteString(w, records)
	content := "1\n1099511627775\n1\n"
	content += strings.Repeat("\x00", 512-len(content)) + "x"
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/huge", Size: int64(len(content)), Format: tar.FormatUSTAR})
	_, _ = io.WriteString(w, content)
	_ = w.Close()
	all := out.Bytes()
	all[156] = tar.TypeXHeader
	sum := 0
	copy(all[148:156], "        ")
	for _, c := range all[:512] {
		sum += int(c)
	}
	copy(all[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return all
}

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

func gzipped(from io.Reader) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	must(io.Copy(w, from))
	_ = w.Close()
	return out.Bytes()
}

func zstded(from io.Reader) []byte {
	var out bytes.Buffer
	w := must(zstd.NewWriter(&out))
	must(io.Copy(w, from))
	_ = w.Close()
	return out.Bytes()
}

// zeros is an archive of one file of zeros.
func zeros(size int64) io.Reader {
	r, w := io.Pipe()
	go func() {
		t := tar.NewWriter(w)
		err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Size: size, Mode: 0o600})
		chunk := make([]byte, 1<<20)
		for left := size; err == nil && left > 0; left -= int64(len(chunk)) {
			_, err = t.Write(chunk[:min(left, int64(len(chunk)))])
		}
		_ = w.CloseWithError(errors.Join(err, t.Close()))
	}()
	return r
}

func TestG02(t *testing.T) {
	many := make([]*tar.Header, 51)
	for i := range many {
		many[i] = file(fmt.Sprint(i))
	}
	large := file("large")
	large.Size = 1<<20 + 1
	halves := make([]*tar.Header, 5)
	for i := range halves {
		halves[i] = file(fmt.Sprint(i))
		halves[i].Size = 1 << 20
	}
	wide := archive.DefaultLimits()
	for name, c := range map[string]struct {
		archive []byte
		limits  archive.Limits
		rule    string
		wrote   int64 // at most
	}{
		"entries":               {packed(many...), small, "more than 50 entries", 51 * 3},
		"a large file":          {packed(large), small, "1048576 bytes that a file", 0},
		"files that are many":   {packed(halves...), small, "that all may have", 4 << 20},
		"a bomb of gzip":        {gzipped(zeros(300 << 20)), wide, "200 times", 80 << 20},
		"a bomb of zstd":        {zstded(zeros(300 << 20)), wide, "200 times", 80 << 20},
		"a bomb of two layers":  {gzipped(bytes.NewReader(gzipped(zeros(64 << 20)))), wide, "no tar archive", 0},
		"names without content": {gzipped(bytes.NewReader(bytes.Repeat(packed(dir("a"))[:1024], 60))), small, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			_, err := p.extract(t.Context(), c.archive, c.limits, 0)
			if !archive.IsRefused(err) || !strings.Contains(err.Error(), c.rule) {
				t.Errorf("got %v", err)
			}
			p.unharmed(t)
			var wrote int64
			_ = filepath.WalkDir(p.dir, func(_ string, d fs.DirEntry, err error) error {
				if info := must(d.Info()); err == nil && info.Mode().IsRegular() {
					wrote += info.Size()
				}
				return err
			})
			if wrote > c.wrote {
				t.Errorf("%d bytes were written first", wrote)
			}
		})
	}
	t.Run("a dump is no bomb either", func(t *testing.T) {
		for name, from := range map[string][]byte{"of gzip": gzipped(io.LimitReader(zeros(300<<20), 200<<20)), "of zstd": zstded(io.LimitReader(zeros(300<<20), 200<<20))} {
			if err := archive.Unpack(bytes.NewReader(from), io.Discard, wide); !archive.IsRefused(err) || !strings.Contains(err.Error(), "200 times") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("it ends in time, and when it is told to", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := newPlace(t).extract(ctx, packed(file("a")), small, 0); !errors.Is(err, context.Canceled) || archive.IsRefused(err) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a source that fails says nothing of the archive", func(t *testing.T) {
		root := must(os.OpenRoot(newPlace(t).dir))
		defer root.Close()
		whole := packed(file("a"))
		_, err := archive.Extract(t.Context(), io.MultiReader(bytes.NewReader(whole[:700]), failing{}), root, small, 0)
		if err == nil || archive.IsRefused(err) || !errors.Is(err, errDisk) {
			t.Errorf("got %v", err)
		}
	})
}

var errDisk = errors.New("the disk is gone")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errDisk }

// dumped is a dump as a host makes it.
const dumped = "-- MariaDB dump\nCREATE TABLE `t` (`id` int);\nINSERT INTO `t` VALUES (1),(2);\n-- Dump completed\n-- chom: objects\n-- x\n-- Dump completed\n"

// portable is an archive of a small site, written by Writer.
func portable(t testing.TB, dump string) []byte {
	t.Helper()
	files := []contract.Listed{
		{Path: "private", Mode: fs.ModeDir | 0o700, MTime: stamp},
		{Path: "public", Mode: fs.ModeDir | 0o750, MTime: stamp},
		{Path: "public/index.php", Mode: 0o644, Size: 5, MTime: stamp},
		{Path: "public/link", Mode: fs.ModeSymlink | 0o777},
		{Path: "public/ro", Mode: fs.ModeDir | 0o550, MTime: stamp},
		{Path: "public/ro/" + strings.Repeat("é", 100), Mode: 0o440, Size: 5, MTime: stamp},
	}
	site := archive.Site{Schema: archive.Schema, Moment: stamp, Type: "static", Domains: []string{"a.example"}, FileCount: uint64(len(files)), FileBytes: 10}
	if dump != "" {
		sum := sha256.Sum256([]byte(dump))
		site.DumpBytes, site.DumpSHA256 = uint64(len(dump)), hex.EncodeToString(sum[:])
	}
	var out bytes.Buffer
	w, err := archive.NewWriter(&out, site)
	for _, f := range files {
		if err == nil {
			err = w.Put(f, "../private", strings.NewReader("<?php"))
		}
	}
	if err == nil && dump != "" {
		err = w.Database(uint64(len(dump)), stamp, strings.NewReader(dump))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestPortable(t *testing.T) {
	whole := portable(t, dumped)
	t.Run("comes back as it was", func(t *testing.T) {
		p := newPlace(t)
		found, err := p.extract(t.Context(), whole, archive.DefaultLimits(), 0)
		if err != nil || found.Entries != 6 || found.Bytes != 10 || !slices.Equal(found.Site.Domains, []string{"a.example"}) {
			t.Fatalf("%+v, %v", found, err)
		}
		for name, want := range map[string]fs.FileMode{
			"private": fs.ModeDir | 0o700, "public": fs.ModeDir | 0o750, "public/index.php": 0o644, "public/ro": fs.ModeDir | 0o550,
			"public/ro/" + strings.Repeat("é", 100): 0o440,
		} {
			if info, err := os.Lstat(filepath.Join(p.dir, "files", name)); err != nil || info.Mode() != want || !info.ModTime().Equal(stamp) {
				t.Errorf("%s: %v, %v", name, info, err)
			}
		}
		if to := must(os.Readlink(filepath.Join(p.dir, "files/public/link"))); to != "../private" {
			t.Errorf("the link leads to %q", to)
		}
		if got := must(os.ReadFile(filepath.Join(p.dir, "database.sql"))); string(got) != dumped {
			t.Errorf("the dump is %q", got)
		}
		if found, err := archive.Verify(t.Context(), bytes.NewReader(whole), archive.DefaultLimits()); err != nil || found.Entries != 6 {
			t.Errorf("Verify: %+v, %v", found, err)
		}
		if _, err := archive.Verify(t.Context(), bytes.NewReader(packed(file("a"))), small); !archive.IsRefused(err) {
			t.Errorf("Verify of another archive: %v", err)
		}
	})
	t.Run("each cut and each changed byte is noticed", func(t *testing.T) {
		for n := range len(whole) {
			if _, err := archive.Verify(t.Context(), bytes.NewReader(whole[:n]), small); !archive.IsRefused(err) {
				t.Fatalf("cut after %d bytes: %v", n, err)
			}
		}
		plain := unzstd(whole)
		for n := 0; n < len(plain); n += 512 { // at the ends of blocks tar itself notices nothing
			if _, err := archive.Verify(t.Context(), bytes.NewReader(append(bytes.Clone(plain[:n]), make([]byte, 1024)...)), small); n < len(plain)-1024 && !archive.IsRefused(err) {
				t.Fatalf("cut after %d bytes, with an end: %v", n, err)
			}
		}
		at := bytes.Index(plain, []byte("<?php"))
		if _, err := archive.Verify(t.Context(), bytes.NewReader(flipped(plain, at)), small); !archive.IsRefused(err) || !strings.Contains(err.Error(), "chom-end.json") {
			t.Errorf("a changed byte: %v", err)
		}
	})
	t.Run("refuses what is not what it says", func(t *testing.T) {
		plain := unzstd(whole)
		for name, c := range map[string]struct {
			change func(*tar.Header, []byte) ([]entry, bool)
			rule   string
		}{
			"a file is missing": {func(h *tar.Header, _ []byte) ([]entry, bool) { return nil, h.Name != "files/public/index.php" }, "says 9 entries"},
			"a mode is another": {func(h *tar.Header, _ []byte) ([]entry, bool) { h.Mode &= 0o500; return nil, true }, "chom-end.json"},
			"a time is another": {func(h *tar.Header, _ []byte) ([]entry, bool) {
				h.ModTime = h.ModTime.Add(time.Second)
				return nil, true
			}, "chom-end.json"},
			"a link is another": {func(h *tar.Header, _ []byte) ([]entry, bool) {
				h.Linkname = strings.Replace(h.Linkname, "private", "public", 1)
				return nil, true
			}, "chom-end.json"},
			"no end":               {func(h *tar.Header, _ []byte) ([]entry, bool) { return nil, h.Name != "chom-end.json" }, "is missing"},
			"something at its top": {func(h *tar.Header, _ []byte) ([]entry, bool) { return more(h, "database.sql", file("Files/x")), true }, "nothing that a portable archive holds"},
			"beside public":        {func(h *tar.Header, _ []byte) ([]entry, bool) { return more(h, "database.sql", file("files/x")), true }, "none of the directories"},
			"behind the database": {func(h *tar.Header, _ []byte) ([]entry, bool) {
				return more(h, "chom-end.json", file("files/public/x")), true
			}, "behind the database"},
			"a link out of files": {func(h *tar.Header, _ []byte) ([]entry, bool) {
				return more(h, "database.sql", link("files/public/x", "../../database.sql")), true
			}, "leaves"},
			"no database": {func(h *tar.Header, _ []byte) ([]entry, bool) { return nil, h.Name != "database.sql" }, "chom-end.json"},
		} {
			var out bytes.Buffer
			w := tar.NewWriter(&out)
			r := tar.NewReader(bytes.NewReader(plain))
			for {
				h, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				content := must(io.ReadAll(r))
				first, keep := c.change(h, content)
				for _, e := range first {
					_ = w.WriteHeader(e.h)
					must(w.Write(e.content))
				}
				if keep {
					if err := w.WriteHeader(h); err != nil {
						t.Fatal(err)
					}
					must(w.Write(content))
				}
			}
			_ = w.Close()
			if _, err := archive.Verify(t.Context(), &out, small); !archive.IsRefused(err) || !strings.Contains(err.Error(), c.rule) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("the writer notices what is not as it was said", func(t *testing.T) {
		w := must(archive.NewWriter(io.Discard, archive.Site{Schema: 1, Moment: stamp}))
		if err := w.Put(contract.Listed{Path: "public/a", Size: 4}, "", strings.NewReader("abc")); err == nil {
			t.Error("a file that is shorter is taken")
		}
		w = must(archive.NewWriter(io.Discard, archive.Site{Schema: 1, Moment: stamp}))
		if err := w.Put(contract.Listed{Path: "public/a", Size: 2}, "", strings.NewReader("abc")); err == nil {
			t.Error("a file that is longer is taken")
		}
	})
}

type entry struct {
	h       *tar.Header
	content []byte
}

// more puts a file before the entry of a name.
func more(h *tar.Header, before string, added *tar.Header) []entry {
	if h.Name != before {
		return nil
	}
	return []entry{{added, bytes.Repeat([]byte("x"), int(added.Size))}}
}

func unzstd(b []byte) []byte {
	r := must(zstd.NewReader(bytes.NewReader(b)))
	defer r.Close()
	return must(io.ReadAll(r))
}

func TestDump(t *testing.T) {
	tables := "-- MariaDB dump\nCREATE TABLE `t` (`id` int);\nINSERT INTO `t` VALUES (1),(2);\n"
	for name, c := range map[string]struct{ text, missing, problem string }{
		"the control plane's own":     {dumped, "", ""},
		"without objects":             {tables + "-- Dump completed\n-- chom: objects\n", "", ""},
		"a foreign one":               {tables + "-- Dump completed on 2026-01-02  3:04:05\n", "-- chom: objects\n", ""},
		"without its end":             {tables, "", "cut off"},
		"without its last byte":       {tables + "-- Dump completed", "", "cut off"},
		"cut in its objects":          {dumped[:len(dumped)-2], "", "cut off"},
		"cut at the mark":             {dumped[:strings.Index(dumped, "-- chom")+5], "", "cut off"},
		"cut before the mark's parts": {tables + "-- chom: objects\n", "", "cut off"},
		"too many objects":            {tables + "-- Dump completed\n-- chom: objects\n" + strings.Repeat("x", contract.MaxObjects+1), "", "more than"},
		"rights":                      {tables + "GRANT ALL ON *.* TO x;\n-- Dump completed\n", "", "GRANT"},
		"nothing":                     {"", "", "cut off"},
	} {
		for _, piece := range []int{1, 5, 1 << 20} {
			d := archive.NewDump()
			var err error
			for b := range slices.Chunk([]byte(c.text), piece) {
				if _, err = d.Write(b); err != nil {
					break
				}
				if len(c.text) > contract.MaxObjects && piece < 1<<20 {
					d = nil
					break
				}
			}
			if d == nil {
				continue
			}
			missing := ""
			if err == nil {
				missing, err = d.End()
			}
			switch {
			case c.problem != "" && (!archive.IsRefused(err) || !strings.Contains(err.Error(), c.problem)), c.problem == "" && err != nil, missing != c.missing:
				t.Errorf("%s in pieces of %d: %q, %v", name, piece, missing, err)
			case c.problem == "" && (d.Bytes() != uint64(len(c.text)) || !slices.Equal(d.Tables(), []contract.DumpTable{{Name: "t", Rows: 2}})):
				t.Errorf("%s: %d bytes, %v", name, d.Bytes(), d.Tables())
			}
		}
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(packed(file("a"), dir("b"), link("b/c", "../a")))
	f.Add(portable(f, dumped))
	f.Add(unzstd(portable(f, "")))
	f.Add(gzipped(bytes.NewReader(packed(link("a", "b"), file("a/x")))))
	f.Add(sparse())
	f.Fuzz(func(t *testing.T, text []byte) {
		p := newPlace(t)
		_, err := p.extract(t.Context(), text, small, 0)
		if err != nil && !archive.IsRefused(err) {
			t.Errorf("neither taken nor refused: %v", err)
		}
		p.unharmed(t)
	})
}
