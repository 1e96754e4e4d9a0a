package logfile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func rotate(t *testing.T, path string) {
	t.Helper()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	tail := func(most int, want ...string) Bookmark {
		t.Helper()
		lines, mark, err := Tail(path, most)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(join(lines)); got != strings.Join(want, " ") {
			t.Fatalf("the last %d: %q, want %q", most, got, want)
		}
		return mark
	}
	if mark := tail(5); mark != (Bookmark{}) {
		t.Errorf("without a log there is a bookmark: %v", mark)
	}
	write(t, path, "a\nb\nc\nbegun")
	tail(0)
	tail(2, "b", "c")
	mark := tail(5, "a", "b", "c")
	var got []string
	take := func(line []byte) { got = append(got, string(line)) }
	read := func(want ...string) {
		t.Helper()
		got = nil
		if err := mark.Read(path, take); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("read %q, want %q", got, want)
		}
	}
	read()
	write(t, path, " and ended\nd\n")
	read("begun and ended", "d")

	// A former worker of nginx's writes on in the log that was rotated.
	rotate(t, path)
	write(t, path+".1", "e\n")
	write(t, path, "f\n")
	read("e", "f")
	mark = tail(4, "begun and ended", "d", "e", "f")
	write(t, path+".1", "g\n")
	write(t, path, "h\n")
	read("g", "h")

	// Only the end of a long log is looked at, from a line's beginning on.
	var long strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&long, "line %d\n", i)
	}
	write(t, path, long.String())
	lines, _, err := Tail(path, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(lines); n < 5000 || n > 20_000 || !strings.HasPrefix(string(lines[n-1]), "line 19999") || !strings.HasPrefix(string(lines[0]), "line ") {
		t.Errorf("%d lines of a long log, the first %q, the last %q", n, lines[0], lines[n-1])
	}
}

func join(lines [][]byte) []byte {
	var out []byte
	for i, line := range lines {
		if i > 0 {
			out = append(out, ' ')
		}
		out = append(out, line...)
	}
	return out
}
