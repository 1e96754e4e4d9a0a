package contract

import (
	"crypto/sha256"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Links are where the links in a tree of files lead. Hosts alone know: what a
// repository lists has no targets. The zero value has none.
//
// restic before 0.16 keeps a target that is not UTF-8 with U+FFFD in the place of
// each byte that is none, and says nothing (its issue 3311). Links with such a
// target, before or after, are not part of the hash.
type Links struct {
	lines  []string
	unkept []string
}

// Add puts in a link, whose path is relative to the site's shell.
func (l *Links) Add(path, target string) {
	switch {
	case !utf8.ValidString(target):
		l.unkept = append(l.unkept, path)
	case !strings.ContainsRune(target, utf8.RuneError):
		l.lines = append(l.lines, path+"\x00"+target+"\x00")
	}
}

// SHA256 is the hash over "<path>\0<target>\0" of each link, in the order of these
// bytes.
func (l *Links) SHA256() []byte {
	slices.Sort(l.lines)
	sum := sha256.New()
	for _, line := range l.lines {
		_, _ = io.WriteString(sum, line) // a hash never fails
	}
	return sum.Sum(nil)
}

// Unkept are the paths of the links that a restore may make other ones of, in the
// order of their bytes.
func (l *Links) Unkept() []string {
	slices.Sort(l.unkept)
	return l.unkept
}
