package contract

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Listing is what a backup has of files: each one's path, type, mode, size and
// time of change. The control plane makes it of the snapshot, and a restore of what
// it has written; Contents.listing_sha256 binds the two. The zero value is an empty
// one.
type Listing struct {
	lines []listed
	bytes uint64
}

type listed struct{ path, line string }

// Listed is one file, directory or link in a Listing.
type Listed struct {
	Path  string // relative to the site's shell: "public/index.php"
	Mode  fs.FileMode
	Size  uint64
	MTime time.Time
}

// Add puts a file into the listing. Of links neither mode nor time counts, and
// of what is no regular file no size. Whatever else there is (pipes, sockets,
// devices) is left out.
func (l *Listing) Add(f Listed) {
	path := utf8Path(f.Path)
	var line string
	switch f.Mode.Type() {
	case 0:
		l.bytes += f.Size
		line = fmt.Sprintf("f %o %d %d ", f.Mode.Perm(), f.Size, f.MTime.UnixNano())
	case fs.ModeDir:
		line = fmt.Sprintf("d %o 0 %d ", f.Mode.Perm(), f.MTime.UnixNano())
	case fs.ModeSymlink:
		line = "l 0 0 0 "
	default:
		return
	}
	l.lines = append(l.lines, listed{path, line})
}

// Count is how many files, directories and links there are.
func (l *Listing) Count() uint64 { return uint64(len(l.lines)) }

// Bytes is how many bytes are in the files.
func (l *Listing) Bytes() uint64 { return l.bytes }

// SHA256 is the hash over the lines "<type> <mode> <size> <mtime> <path>\0" in
// the order of their paths' bytes: type f, d or l, the mode's permissions in octal,
// the size in bytes, the time in nanoseconds since 1970.
func (l *Listing) SHA256() []byte {
	slices.SortFunc(l.lines, func(a, b listed) int {
		if c := strings.Compare(a.path, b.path); c != 0 {
			return c
		}
		return strings.Compare(a.line, b.line) // two names that differ in what is not UTF-8
	})
	sum := sha256.New()
	for _, e := range l.lines {
		_, _ = io.WriteString(sum, e.line+e.path+"\x00") // a hash never fails
	}
	return sum.Sum(nil)
}

// utf8Path is a path as restic prints it in JSON, where each byte that is not
// UTF-8 is replaced.
func utf8Path(path string) string {
	if strings.ToValidUTF8(path, "") == path {
		return path
	}
	var b strings.Builder
	for _, r := range path { // each such byte by itself
		b.WriteRune(r)
	}
	return b.String()
}

// maxListLine is far above a node with a path of 4096 bytes; its extended
// attributes may be large.
const maxListLine = 4 << 20

// ReadListed reads what `restic ls --json` prints of a snapshot of a site's files,
// in its order, until each fails. Hosts make snapshots with relative paths, so that
// a snapshot's root is the site's shell: it holds public and private.
func ReadListed(r io.Reader, each func(Listed) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxListLine)
	for lines.Scan() {
		var node struct {
			Struct  string    `json:"struct_type"`
			Message string    `json:"message_type"` // in newer releases
			Type    string    `json:"type"`
			Path    string    `json:"path"`
			Mode    uint32    `json:"mode"`
			Size    uint64    `json:"size"`
			MTime   time.Time `json:"mtime"`
		}
		if err := json.Unmarshal(lines.Bytes(), &node); err != nil {
			return fmt.Errorf("read listing: %s: %w", strconv.Quote(head(lines.Text(), 80)), err)
		}
		path := strings.TrimPrefix(node.Path, "/")
		if node.Struct != "node" && node.Message != "node" || path == "" {
			continue
		}
		mode := fs.FileMode(node.Mode).Perm()
		switch node.Type {
		case "file":
		case "dir":
			mode |= fs.ModeDir
		case "symlink":
			mode |= fs.ModeSymlink
		default:
			mode |= fs.ModeIrregular
		}
		if err := each(Listed{Path: path, Mode: mode, Size: node.Size, MTime: node.MTime}); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read listing: %w", err)
	}
	return nil
}

func head(s string, n int) string { return s[:min(len(s), n)] }
