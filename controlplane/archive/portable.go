package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"chom.dev/proto/contract"
)

// digest hashes entries: of each "<type> <mode> <size> <mtime> <name>\0<link>\0" and its content. The type is tar's, the mode's
// permissions are octal, the time is in nanoseconds since 1970.
type digest struct {
	sum     hash.Hash
	entries int
	bytes   int64
}

func newDigest() *digest { return &digest{sum: sha256.New()} }

func (d *digest) add(h *tar.Header) {
	d.entries++
	d.bytes += h.Size
	if h.ModTime.IsZero() { // as tar writes it
		h.ModTime = time.Unix(0, 0)
	}
	_, _ = fmt.Fprintf(d.sum, "%c %o %d %d %s\x00%s\x00", h.Typeflag, h.Mode&0o777, h.Size, h.ModTime.UnixNano(), h.Name, h.Linkname) // a hash never fails
}

func (d *digest) end() End {
	return End{Schema: Schema, Entries: d.entries, Bytes: d.bytes, SHA256: hex.EncodeToString(d.sum.Sum(nil))}
}

// Writer writes a portable archive while it is made: first the files, then the database, then Close. After an error nothing more can
// be written, and what was is no archive.
type Writer struct {
	zstd   *zstd.Encoder
	tar    *tar.Writer
	digest *digest
}

// NewWriter begins one.
func NewWriter(to io.Writer, site Site) (*Writer, error) {
	packed, err := zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	w := &Writer{packed, tar.NewWriter(packed), newDigest()}
	text, err := json.MarshalIndent(site, "", "  ")
	if err != nil {
		return nil, err
	}
	moment := site.Moment
	err = w.write(&tar.Header{Typeflag: tar.TypeReg, Name: siteFile, Mode: 0o600, Size: int64(len(text)), ModTime: moment}, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return w, w.write(&tar.Header{Typeflag: tar.TypeDir, Name: Files + "/", Mode: 0o755, ModTime: moment}, nil)
}

// Put adds one of the site's files, directories or links, whose path begins with public or private.
func (w *Writer) Put(f contract.Listed, link string, content io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: Files + "/" + f.Path, Mode: int64(f.Mode.Perm()), ModTime: f.MTime}
	switch f.Mode.Type() {
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, link, 0o777
	default:
		h.Size = int64(f.Size)
	}
	return w.write(h, content)
}

// Database adds the dump, which has so many bytes.
func (w *Writer) Database(size uint64, moment time.Time, dump io.Reader) error {
	return w.write(&tar.Header{Typeflag: tar.TypeReg, Name: Database, Mode: 0o600, Size: int64(size), ModTime: moment}, dump)
}

// Close ends the archive.
func (w *Writer) Close() error {
	text, err := json.Marshal(w.digest.end())
	if err != nil {
		return err
	}
	if err := w.write(&tar.Header{Typeflag: tar.TypeReg, Name: endFile, Mode: 0o600, Size: int64(len(text))}, bytes.NewReader(text)); err != nil {
		return err
	}
	return errors.Join(w.tar.Close(), w.zstd.Close())
}

func (w *Writer) write(h *tar.Header, content io.Reader) error {
	h.Format = tar.FormatPAX // for parts of seconds
	w.digest.add(h)
	if err := w.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write %q: %w", h.Name, err)
	}
	if h.Size == 0 {
		return nil
	}
	n, err := io.Copy(io.MultiWriter(w.tar, w.digest.sum), content)
	if err == nil && n != h.Size {
		err = fmt.Errorf("it has %d bytes, not %d", n, h.Size)
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", h.Name, err)
	}
	return nil
}

// Found is what an archive holds.
type Found struct {
	// Site is what a portable archive says of itself; nil for any other one.
	Site *Site
	// Entries is how many files, directories and links there are, and Bytes how many bytes in the files.
	Entries int
	Bytes   int64
}

// Extract reads an archive and writes what is in it below a directory that is empty and that nobody else can reach:
//
//	files/public, files/private   the site's files
//	database.sql                  the dump, where a portable archive has one
//
// All of a portable archive is held against what it says of itself. Of any other one the content becomes files/public, without so
// many leading directories of each name; nothing may be beside them. Errors that say something of the archive are Refused.
// What was written before an error stays: see Remove.
func Extract(ctx context.Context, in io.Reader, root *os.Root, limits Limits, strip int) (*Found, error) {
	t := newTree(root)
	found, err := read(ctx, in, limits, strip, t.put)
	if err != nil {
		return nil, err
	}
	if found.Site == nil {
		for name, mode := range map[string]fs.FileMode{Files: implied, Files + "/public": 0o750, Files + "/private": 0o700} {
			if d := t.dirs[name]; d != nil {
				d.mode = mode
				continue
			}
			if err := t.put(name, name, entry{mode: fs.ModeDir | mode, mtime: time.Now()}, nil); err != nil {
				return nil, err
			}
		}
	}
	return found, t.finish()
}

// Verify reads a portable archive to its end, and holds it against what it says of itself.
func Verify(ctx context.Context, in io.Reader, limits Limits) (*Found, error) {
	found, err := read(ctx, in, limits, 0, func(_, _ string, _ entry, content io.Reader) error {
		_, err := io.Copy(io.Discard, content)
		return err
	})
	if err == nil && found.Site == nil {
		return nil, refuse("", "it is no portable archive of a site")
	}
	return found, err
}

// put takes an entry, by the name it gets and the one that the archive has.
type put func(name, entryName string, e entry, content io.Reader) error

func read(ctx context.Context, in io.Reader, limits Limits, strip int, put put) (*Found, error) {
	r, err := open(ctx, in, limits)
	if err != nil {
		return nil, err
	}
	defer r.close()
	first, err := r.next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, refuse("", "it is empty")
	case err != nil:
		return nil, err
	case first.name == siteFile:
		return r.portable(put)
	}
	return r.foreign(first, strip, put)
}

// Bounds of what an archive says of itself.
const (
	maxSite = 4 << 20 // ten thousand tables
	maxEnd  = 4 << 10
)

// portable reads on behind the first header.
func (r *reader) portable(put put) (*Found, error) {
	d := newDigest()
	site, err := readText[Site](r, d, maxSite)
	if err != nil {
		return nil, err
	}
	if site.Schema != Schema {
		return nil, refuse(siteFile, "is of schema %d, and this control plane knows %d", site.Schema, Schema)
	}
	r.base = 1
	p := &portable{found: &Found{Site: site}, dump: sha256.New(), tops: map[string]bool{}}
	for {
		e, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil, refuse("", "it is cut off: %s is missing", endFile)
		}
		if err != nil {
			return nil, err
		}
		if e.name == endFile {
			want := d.end()
			end, err := readText[End](r, newDigest(), maxEnd)
			if err != nil {
				return nil, err
			}
			if *end != want {
				return nil, refuse(endFile, "says %d entries of %d bytes, and there are %d of %d, or others", end.Entries, end.Bytes, want.Entries, want.Bytes)
			}
			if err := p.complete(); err != nil {
				return nil, err
			}
			if _, err := r.next(); !errors.Is(err, io.EOF) {
				return nil, orElse(err, refuse(endFile, "is not the last one"))
			}
			return p.found, nil
		}
		if err := p.admit(e); err != nil {
			return nil, err
		}
		d.add(r.header)
		content := io.TeeReader(r, d.sum)
		if e.name == Database {
			content = io.TeeReader(content, p.dump)
		}
		if err := put(e.name, r.header.Name, e, content); err != nil {
			return nil, err
		}
	}
}

func orElse(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// readText reads an entry that the archive says something of itself by.
func readText[T any](r *reader, d *digest, limit int64) (*T, error) {
	name := r.header.Name
	if r.header.Typeflag != tar.TypeReg || r.header.Size > limit {
		return nil, refuse(name, "is no file of at most %d bytes", limit)
	}
	d.add(r.header)
	text, err := io.ReadAll(io.TeeReader(r, d.sum))
	if err != nil {
		return nil, err
	}
	v := new(T)
	if err := json.Unmarshal(text, v); err != nil {
		return nil, refuse(name, "is not what a control plane writes (%v)", err)
	}
	return v, nil
}

// portable is what has come of one.
type portable struct {
	found    *Found
	tops     map[string]bool // of the site's files
	database *entry
	dump     hash.Hash
}

// admit says whether an entry may come next.
func (p *portable) admit(e entry) error {
	below, inFiles := strings.CutPrefix(e.name, Files+"/")
	switch {
	case p.database != nil:
		return refuse(e.name, "comes behind the database")
	case e.name == Database && e.mode.IsRegular():
		p.database = &e
	case e.name == Files && e.mode.IsDir():
	case inFiles:
		top, _, deeper := strings.Cut(below, "/")
		if top != "public" && top != "private" || !deeper && !e.mode.IsDir() {
			return refuse(e.name, "is none of the directories public and private, and in none of them")
		}
		p.tops[top] = true
		p.found.Entries++
		p.found.Bytes += e.size
	default:
		return refuse(e.name, "is nothing that a portable archive holds")
	}
	return nil
}

// complete holds what came against what was announced.
func (p *portable) complete() error {
	site := p.found.Site
	switch {
	case !p.tops["public"] || !p.tops["private"]:
		return refuse("", "the site's directories public and private are not both in it")
	case uint64(p.found.Entries) != site.FileCount || uint64(p.found.Bytes) != site.FileBytes:
		return refuse("", "it holds %d files, directories and links of %d bytes, and says %d of %d", p.found.Entries, p.found.Bytes, site.FileCount, site.FileBytes)
	case (p.database != nil) != (site.DumpSHA256 != ""):
		return refuse("", "it holds a database and says none, or the other way round")
	case p.database != nil && (uint64(p.database.size) != site.DumpBytes || hex.EncodeToString(p.dump.Sum(nil)) != site.DumpSHA256):
		return refuse(Database, "is not the dump that the archive says")
	}
	return nil
}

// foreign reads an archive that says nothing of itself, whose first entry was read.
func (r *reader) foreign(e entry, strip int, put put) (*Found, error) {
	r.base = strip
	found := &Found{}
	top := ""
	for {
		name, err := stripped(e, strip, &top)
		if err != nil {
			return nil, err
		}
		if name != "" {
			if e.mode.Type() == fs.ModeSymlink {
				if _, err := r.checkLink(r.header, e.name); err != nil { // the first came before base was known
					return nil, err
				}
			}
			found.Entries++
			found.Bytes += e.size
			if err := put(Files+"/public/"+name, r.header.Name, e, r); err != nil {
				return nil, err
			}
		}
		if e, err = r.next(); errors.Is(err, io.EOF) {
			if found.Entries == 0 {
				return nil, refuse("", "it holds nothing below %d leading directories", strip)
			}
			return found, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// stripped takes the leading directories from a name; empty is one of them. All entries have the same.
func stripped(e entry, strip int, top *string) (string, error) {
	if strip == 0 {
		return e.name, nil
	}
	parts := strings.Split(e.name, "/")
	lead := strings.Join(parts[:min(strip, len(parts))], "/")
	if len(parts) <= strip && !e.mode.IsDir() {
		return "", refuse(e.name, "does not lie in %d leading directories, which are to be stripped", strip)
	}
	if *top == "" || strings.HasPrefix(lead, *top+"/") {
		*top = lead
	}
	if lead != *top && !strings.HasPrefix(*top, lead+"/") {
		return "", refuse(e.name, "does not lie in %q, which is to be stripped", *top)
	}
	return strings.Join(parts[min(strip, len(parts)):], "/"), nil
}
