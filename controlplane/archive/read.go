package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// entry is one that keeps the rules.
type entry struct {
	name  string      // relative, clean, without . and ..
	mode  fs.FileMode // permissions, and fs.ModeDir or fs.ModeSymlink
	size  int64       // of a file
	mtime time.Time
	link  string // where a link leads
}

// reader reads what a stranger wrote.
type reader struct {
	ctx    context.Context
	limits Limits
	raw    *counter // what came
	plain  *counter // what that is, decompressed
	tar    *tar.Reader
	close  func()
	base   int         // directories of a name that the tree lies in, which no link leaves
	header *tar.Header // of the newest entry

	entries int
	bytes   int64
}

// Magic numbers of what is taken.
var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

const (
	// maxWindow is what `zstd --ultra --long=27` asks for, the most that zstd takes by itself.
	maxWindow = 128 << 20
	// ratioFrom is how much may come before the ratio counts: little files of zeros are no bombs.
	ratioFrom = 64 << 20
	// maxBehind is how much may come behind the end of a tar archive: tapes have blocks of up to a megabyte.
	maxBehind = 1 << 20
)

// decompress reads gzip, zstd, or what is neither, by its first bytes. Close ends it.
func decompress(in io.Reader) (unpacked io.Reader, end func(), err error) {
	buffered := bufio.NewReaderSize(in, 256<<10)
	magic, err := buffered.Peek(len(zstdMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		unpacked, err := gzip.NewReader(buffered)
		return unpacked, func() {}, err
	case bytes.HasPrefix(magic, zstdMagic):
		unpacked, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, err
		}
		return unpacked, unpacked.Close, nil
	}
	return buffered, func() {}, nil
}

// open begins to read an archive.
func open(ctx context.Context, in io.Reader, limits Limits) (*reader, error) {
	r := &reader{ctx: ctx, limits: limits, raw: &counter{from: in}}
	unpacked, end, err := decompress(r.raw)
	if err != nil {
		return nil, r.broken(err)
	}
	r.close = end
	r.plain = &counter{from: bufio.NewReaderSize(unpacked, 64<<10), each: r.bound}
	r.tar = tar.NewReader(r.plain)
	return r, nil
}

// counter counts what is read, and knows how reading ended.
type counter struct {
	from io.Reader
	n    int64
	err  error
	each func() error // may refuse more
}

func (c *counter) Read(p []byte) (int, error) {
	if c.each != nil {
		if err := c.each(); err != nil {
			return 0, err
		}
	}
	n, err := c.from.Read(p)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

// bound is asked before more is decompressed.
func (r *reader) bound() error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if r.plain.n > ratioFrom && r.plain.n/r.limits.Ratio > r.raw.n {
		return refuse("", "it comes to more than %d times what it is compressed", r.limits.Ratio)
	}
	// Headers and padding come besides what is counted by entries; without a bound names alone could go on for ever.
	if r.plain.n > r.limits.Bytes+int64(r.limits.Entries)*blockBytes {
		return refuse("", "it comes to more than %d bytes", r.limits.Bytes)
	}
	return nil
}

// next gives the next entry, whose content is then read from the reader, or io.EOF behind the last.
func (r *reader) next() (entry, error) {
	for {
		h, err := r.tar.Next()
		if errors.Is(err, io.EOF) {
			return entry{}, r.finish()
		}
		if err != nil {
			return entry{}, r.broken(err)
		}
		if r.entries++; r.entries > r.limits.Entries {
			return entry{}, refuse("", "it has more than %d entries", r.limits.Entries)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // a comment, such as git's
		}
		e, err := r.check(h)
		if err != nil {
			return entry{}, err
		}
		if e.name == "." {
			continue // the top itself
		}
		r.header = h
		if r.bytes += e.size + blockBytes; r.bytes > r.limits.Bytes {
			return entry{}, refuse(h.Name, "comes to more than the %d bytes that all may have", r.limits.Bytes)
		}
		return e, nil
	}
}

// Read reads the content of an entry.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.tar.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, r.broken(err)
	}
	return n, err
}

// finish says io.EOF if the archive came to its end, and nothing behind it.
func (r *reader) finish() error {
	if r.plain.err != nil { // two blocks of zeros come before that
		return refuse("", "it is cut off: the end of the tar archive is missing")
	}
	rest := make([]byte, 32<<10)
	for behind := 0; ; {
		n, err := r.plain.Read(rest)
		if behind += n; behind > maxBehind || len(bytes.TrimLeft(rest[:n], "\x00")) > 0 {
			return refuse("", "something comes behind its end")
		}
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return r.broken(err)
		}
	}
}

// broken tells an archive that can't be read from one that could not be read now.
func (r *reader) broken(err error) error {
	switch {
	case IsRefused(err), r.ctx.Err() != nil:
		return err
	case r.raw.err != nil && !errors.Is(r.raw.err, io.EOF):
		return fmt.Errorf("read the archive: %w", r.raw.err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return refuse("", "it is cut off")
	}
	return refuse("", "it is no tar archive, or damaged (%v)", err)
}

// Limits of names that no file system goes above.
const (
	maxPath = 4095
	maxPart = 255
)

// check holds a header against the rules of names, kinds and sizes.
func (r *reader) check(h *tar.Header) (entry, error) {
	name, err := checkName(h, r.limits.Depth)
	if err != nil {
		return entry{}, err
	}
	for record := range h.PAXRecords {
		switch {
		case strings.HasPrefix(record, "GNU.sparse."):
			return entry{}, refuse(h.Name, "is a sparse file, which is not taken: pack it without --sparse")
		case strings.HasPrefix(record, "SCHILY.xattr.security.capability"):
			return entry{}, refuse(h.Name, "has capabilities, which no site's file has")
		}
	}
	e := entry{name: name, mtime: h.ModTime, mode: fs.FileMode(h.Mode & 0o777)}
	switch h.Typeflag {
	case tar.TypeReg:
		if e.size = h.Size; e.size > r.limits.File {
			return entry{}, refuse(h.Name, "has more than the %d bytes that a file may have", r.limits.File)
		}
		e.mode |= 0o400 // its owner must be able to read it
	case tar.TypeDir:
		e.mode |= fs.ModeDir | 0o500
	case tar.TypeSymlink:
		if e.link, err = r.checkLink(h, name); err != nil {
			return entry{}, err
		}
		e.mode |= fs.ModeSymlink
	case tar.TypeLink:
		return entry{}, refuse(h.Name, "is a hard link, which is not taken: pack it with --hard-dereference")
	case tar.TypeChar, tar.TypeBlock:
		return entry{}, refuse(h.Name, "is a device")
	case tar.TypeFifo:
		return entry{}, refuse(h.Name, "is a named pipe")
	case tar.TypeGNUSparse:
		return entry{}, refuse(h.Name, "is a sparse file, which is not taken: pack it without --sparse")
	default:
		return entry{}, refuse(h.Name, "is of the unknown type %q", h.Typeflag)
	}
	if e.name == "." && !e.mode.IsDir() {
		return entry{}, refuse(h.Name, "has no name")
	}
	// Times that no file system of ours keeps would come out as others.
	if y := e.mtime.UTC().Year(); y < 1902 || y > 2400 {
		e.mtime = time.Unix(0, 0)
	}
	return e, nil
}

// checkName gives an entry's name as a path below the top.
func checkName(h *tar.Header, depth int) (string, error) {
	name := strings.TrimPrefix(h.Name, "./")
	if h.Typeflag == tar.TypeDir {
		name = strings.TrimSuffix(name, "/")
	}
	switch {
	case h.Name == "." || h.Name == "./":
		return ".", nil
	case name == "":
		return "", refuse(h.Name, "has no name")
	case strings.HasPrefix(name, "/"):
		return "", refuse(h.Name, "has an absolute name")
	case len(name) > maxPath:
		return "", refuse(h.Name, "has a name of more than %d bytes", maxPath)
	case !utf8.ValidString(name):
		return "", refuse(h.Name, "has a name that is not UTF-8")
	case strings.ContainsRune(name, 0):
		return "", refuse(h.Name, "has a name with a NUL in it")
	}
	parts := strings.Split(name, "/")
	if len(parts) > depth {
		return "", refuse(h.Name, "lies in more than %d directories", depth-1)
	}
	for _, part := range parts {
		switch {
		case part == "..":
			return "", refuse(h.Name, `has ".." in its name`)
		case part == "" || part == ".":
			return "", refuse(h.Name, "has a name that is not plain: an empty part, or a dot")
		case len(part) > maxPart:
			return "", refuse(h.Name, "has a part of more than %d bytes in its name", maxPart)
		}
	}
	return name, nil
}

// checkLink gives where a symbolic link leads: nowhere outside. Its ".." come first, where they go up real directories, since
// nothing is ever written through a link; so each link that a way crosses keeps it inside.
func (r *reader) checkLink(h *tar.Header, name string) (string, error) {
	to := h.Linkname
	switch {
	case to == "":
		return "", refuse(h.Name, "is a link to nothing")
	case strings.HasPrefix(to, "/"):
		return "", refuse(h.Name, "is a link to the absolute path %.300q", to)
	case len(to) > maxPath || !utf8.ValidString(to) || strings.ContainsRune(to, 0):
		return "", refuse(h.Name, "is a link to what is no path")
	}
	up, down := 0, false
	for part := range strings.SplitSeq(to, "/") {
		switch {
		case part == ".." && down:
			return "", refuse(h.Name, `is a link to %.300q, with ".." behind a name`, to)
		case part == "..":
			up++
		case part != "" && part != ".":
			down = true
		}
	}
	if up > strings.Count(name, "/")-r.base {
		return "", refuse(h.Name, "is a link to %.300q, which leaves the archive", to)
	}
	return to, nil
}
