// Package archive unpacks an application archive, gzip-compressed tar, into an
// empty folder. It is not a general tar reader: regular files and folders with
// plain names come out, with fixed modes and the owner of this process, and
// everything else that tar can express makes it stop with an error.
//
// It runs as the site's user in a staging folder that nobody serves. Whatever
// it returns, the caller must treat the folder as rubbish unless the error is
// nil: the checksum is known only at the end.
package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip" // twice as fast as the standard one, and someone waits
)

// Limits bound what an archive may make of the disk, the inodes and the time.
// All must be positive.
type Limits struct {
	Bytes   int64 // of all files together, unpacked
	Entries int   // files and folders
	Ratio   int   // unpacked bytes for each packed one
}

// DefaultLimits fit an application such as WordPress (67 MB in 2,722 files,
// ratio 4) many times over, and a bomb not at all.
var DefaultLimits = Limits{Bytes: 1 << 30, Entries: 100_000, Ratio: 50}

// ratioGrace is unpacked without looking at the ratio: small, very regular
// files at the start of an honest archive pack far better than the whole.
const ratioGrace = 4 << 20

// Options say what is unpacked and when to stop.
type Options struct {
	// SHA256 of the packed file, lower-case hexadecimal. The bytes are summed
	// as they are read, up to the end of the file.
	SHA256 string
	// StripRoot drops this first path component from every name if the
	// archive's first entry has it, and then refuses entries without it.
	// Archives are packed both ways.
	StripRoot string
	Limits    Limits
	// Progress is told how many entries and bytes are unpacked so far, about
	// every hundred entries; it may be nil.
	Progress func(entries int, bytes int64)
}

// Summary is what was unpacked.
type Summary struct {
	Files, Dirs int
	Bytes       int64 // of files
}

// ErrRefused is wrapped by every error that blames the archive itself: the
// same archive will be refused again.
var ErrRefused = errors.New("archive refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// Extract unpacks packed into dir, which should be empty: an entry whose name
// is taken is refused. Errors that wrap ErrRefused blame the archive, others
// the disk, the reader or the context.
func Extract(ctx context.Context, dir *os.Root, packed io.Reader, o Options) (Summary, error) {
	if o.Limits.Bytes <= 0 || o.Limits.Entries <= 0 || o.Limits.Ratio <= 0 {
		return Summary{}, errors.New("extract archive: limits must be positive")
	}
	sum := &summed{r: packed, hash: sha256.New()}
	x := &extraction{options: o, packed: sum, names: map[string]bool{}, files: startWriters(dir)}
	err := x.run(ctx)
	if writeErr := x.files.wait(); err == nil {
		err = writeErr
	}
	if err != nil {
		return Summary{}, fmt.Errorf("extract archive: %w", err)
	}
	if got := hex.EncodeToString(sum.hash.Sum(nil)); got != o.SHA256 {
		return Summary{}, fmt.Errorf("extract archive: %w", refuse("its SHA-256 is %s, not %s", got, o.SHA256))
	}
	return x.summary, nil
}

type extraction struct {
	options  Options
	packed   *summed
	names    map[string]bool // seen: true for folders, false for files
	stripped *bool           // set by the first entry
	summary  Summary
	unpacked int64 // headers and padding included
	files    *writers
}

func (x *extraction) run(ctx context.Context) error {
	zipped, err := gzip.NewReader(bufio.NewReaderSize(x.packed, 256<<10))
	if err != nil {
		return damaged(err)
	}
	plain := &counted{r: zipped, check: x.checkSize}
	entries := tar.NewReader(plain)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged(err)
		}
		if err := x.entry(header, entries); err != nil {
			return err
		}
	}
	// What follows the end mark is padding: read on, so that the gzip
	// checksum, the limits and the SHA-256 cover the file to its last byte.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return damaged(err)
	}
	if _, err := io.Copy(io.Discard, x.packed); err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	if x.summary.Files == 0 {
		return refuse("it holds no file")
	}
	return nil
}

// checkSize runs whenever more has been unpacked, padding and headers too.
func (x *extraction) checkSize(unpacked int64) error {
	x.unpacked = unpacked
	if unpacked > x.options.Limits.Bytes {
		return refuse("it unpacks to more than %d bytes", x.options.Limits.Bytes)
	}
	if unpacked > ratioGrace && unpacked/int64(x.options.Limits.Ratio) > x.packed.n {
		return refuse("it unpacks to more than %d times its size", x.options.Limits.Ratio)
	}
	return nil
}

func (x *extraction) entry(header *tar.Header, body io.Reader) error {
	if len(x.names) >= x.options.Limits.Entries {
		return refuse("it holds more than %d entries", x.options.Limits.Entries)
	}
	if err := plainEntry(header); err != nil {
		return err
	}
	name, err := x.strip(header.Name)
	if err != nil || name == "" {
		return err
	}
	isDir := header.Typeflag == tar.TypeDir
	if err := x.claim(name, isDir); err != nil {
		return err
	}
	if n := x.summary.Files + x.summary.Dirs; n%100 == 0 && x.options.Progress != nil {
		x.options.Progress(n, x.summary.Bytes)
	}
	if isDir {
		x.summary.Dirs++
		return x.files.dir(name)
	}
	x.summary.Files++
	x.summary.Bytes += header.Size
	return x.files.file(name, header.Size, body)
}

// strip drops the root folder if the archive has one; "" means the root folder
// itself.
func (x *extraction) strip(name string) (string, error) {
	name = strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if name == "" || name == "." {
		return "", nil
	}
	first, rest, nested := strings.Cut(name, "/")
	inRoot := x.options.StripRoot != "" && first == x.options.StripRoot
	if x.stripped == nil {
		x.stripped = &inRoot
	}
	if !*x.stripped {
		return name, plainName(name)
	}
	if !inRoot {
		return "", refuse("%q is outside its root folder %s", name, x.options.StripRoot)
	}
	if !nested {
		return "", nil
	}
	return rest, plainName(rest)
}

// claim refuses a name that came before, or that needs a file to be a folder.
// Folders that were never listed are added on the way, and count.
func (x *extraction) claim(name string, isDir bool) error {
	for i, c := range name {
		if c != '/' {
			continue
		}
		parent := name[:i]
		parentIsDir, seen := x.names[parent]
		if seen && !parentIsDir {
			return refuse("%q lies below a file", name)
		}
		if !seen {
			x.names[parent] = true
			if err := x.files.dir(parent); err != nil {
				return err
			}
		}
	}
	if wasDir, seen := x.names[name]; seen && (!isDir || !wasDir) {
		return refuse("%q comes twice", name)
	}
	x.names[name] = isDir
	return nil
}

// damaged tells a bad archive from a bad disk as far as that can be told: what
// the reader below said is not hidden, and limits keep their own words.
func damaged(err error) error {
	if errors.Is(err, ErrRefused) {
		return err
	}
	var readErr *readError
	if errors.As(err, &readErr) {
		return fmt.Errorf("read archive: %w", readErr.err)
	}
	return refuse("it is damaged: %v", err)
}

// summed sums and counts what is read through it.
type summed struct {
	r    io.Reader
	hash hash.Hash
	n    int64
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.hash.Write(p[:n])
	s.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &readError{err}
	}
	return n, err
}

// readError marks an error as the reader's, not the archive's.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// counted asks check after every read.
type counted struct {
	r     io.Reader
	n     int64
	check func(n int64) error
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if checkErr := c.check(c.n); checkErr != nil {
		return n, checkErr
	}
	return n, err
}
