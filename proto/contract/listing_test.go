package contract

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestListing(t *testing.T) {
	at := time.Unix(1700000000, 123456789)
	files := []Listed{
		{"public", fs.ModeDir | 0o750, 4096, at},
		{"public/index.php", 0o640, 12, at},
		{"public/index.php.bak", 0o640, 30, at},
		{"public/a-b", fs.ModeDir | 0o755, 4096, at}, // sorts before public/a/...: '-' is less than '/'
		{"public/a/f", 0o4755, 1, at},
		{"public/link", fs.ModeSymlink | 0o777, 99, at},
		{"private/pipe", fs.ModeNamedPipe | 0o600, 0, at},
		{"private/\xff\xfe", 0o600, 5, at},
	}
	want := sha256.Sum256([]byte("f 600 5 1700000000123456789 private/\uFFFD\uFFFD\x00" +
		"d 750 0 1700000000123456789 public\x00" +
		"d 755 0 1700000000123456789 public/a-b\x00" +
		"f 755 1 1700000000123456789 public/a/f\x00" +
		"f 640 12 1700000000123456789 public/index.php\x00" +
		"f 640 30 1700000000123456789 public/index.php.bak\x00" +
		"l 0 0 0 public/link\x00"))
	for range 2 {
		l := new(Listing)
		for _, f := range files {
			l.Add(f)
		}
		if got := l.SHA256(); string(got) != string(want[:]) {
			t.Errorf("hash is %x, not %x", got, want)
		}
		if l.Count() != 7 || l.Bytes() != 48 {
			t.Errorf("%d files, %d bytes", l.Count(), l.Bytes())
		}
		slices.Reverse(files) // the order in which they come is of no account
	}
	t.Run("each of what it binds changes it", func(t *testing.T) {
		seen := map[string]bool{}
		for _, f := range []Listed{
			{"public/x", 0o640, 1, at}, {"public/y", 0o640, 1, at}, {"public/x", 0o644, 1, at}, {"public/x", 0o640, 2, at},
			{"public/x", 0o640, 1, at.Add(1)}, {"public/x", fs.ModeDir | 0o640, 1, at}, {"public/x", fs.ModeSymlink, 1, at},
		} {
			l := new(Listing)
			l.Add(f)
			seen[string(l.SHA256())] = true
		}
		if len(seen) != 7 {
			t.Errorf("%d hashes of 7 listings", len(seen))
		}
	})
}

func TestReadListed(t *testing.T) {
	node := func(kind, path string, mode uint32, size int) string {
		return fmt.Sprintf(`{"name":"x","type":%q,"path":%q,"uid":1,"gid":1,"size":%d,"mode":%d,"mtime":"2026-11-26T10:00:00.5+01:00","struct_type":"node"}`+"\n", kind, path, size, mode)
	}
	in := `{"time":"2026-11-26T10:00:00Z","tree":"ff","paths":["/srv"],"short_id":"ab","struct_type":"snapshot"}` + "\n" +
		node("dir", "/public", 0o750|uint32(fs.ModeDir), 0) + node("file", "/public/f", 0o644|uint32(fs.ModeSetuid), 3) +
		node("symlink", "/public/l", 0o777|uint32(fs.ModeSymlink), 0) + node("fifo", "/public/p", 0o600|uint32(fs.ModeNamedPipe), 0)
	got := new(Listing)
	if err := ReadListed(strings.NewReader(in), func(f Listed) error { got.Add(f); return nil }); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 26, 9, 0, 0, 5e8, time.UTC)
	want := new(Listing)
	want.Add(Listed{"public", fs.ModeDir | 0o750, 0, at})
	want.Add(Listed{"public/f", 0o644, 3, at})
	want.Add(Listed{"public/l", fs.ModeSymlink, 0, at})
	if string(got.SHA256()) != string(want.SHA256()) || got.Count() != 3 || got.Bytes() != 3 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	enough := errors.New("enough")
	if err := ReadListed(strings.NewReader(in), func(Listed) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("ended by its reader: %v", err)
	}
	if err := ReadListed(strings.NewReader("Fatal: nothing\n"), func(Listed) error { return nil }); err == nil {
		t.Error("what is no JSON is taken")
	}
}
