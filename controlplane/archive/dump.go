package archive

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"chom.dev/proto/contract"
)

// Dump holds what is written to it against the rules of dumps: the tables' part is one by mariadb-dump or mysqldump, or the control
// plane's own, that came to its end, and behind the mark, if there is one, come views, triggers and routines, to their end too. What
// the SQL does is not judged: it is carried out with the rights of the site alone, by an account that reaches an empty schema.
type Dump struct {
	scan    contract.DumpScanner
	sum     hash.Hash
	bytes   uint64
	held    []byte // may be the beginning of the mark
	marked  bool
	objects uint64
	last    []byte // of the objects
}

// NewDump begins one.
func NewDump() *Dump {
	return &Dump{scan: contract.DumpScanner{Foreign: true}, sum: sha256.New()}
}

// mark is how hosts find the end of the tables.
var mark = []byte("\n" + contract.ObjectsMark)

// Write reads on. It keeps failing after an error, which is Refused.
func (d *Dump) Write(p []byte) (int, error) {
	_, _ = d.sum.Write(p) // never fails
	d.bytes += uint64(len(p))
	if d.marked {
		return len(p), d.behind(p)
	}
	d.held = append(d.held, p...)
	if i := bytes.Index(d.held, mark); i >= 0 {
		d.marked = true
		if err := d.tables(d.held[:i+1]); err != nil {
			return 0, err
		}
		return len(p), d.behind(d.held[i+len(mark):])
	}
	over := max(len(d.held)-len(mark)+1, 0)
	if err := d.tables(d.held[:over]); err != nil {
		return 0, err
	}
	d.held = append(d.held[:0], d.held[over:]...)
	return len(p), nil
}

func (d *Dump) tables(p []byte) error {
	if _, err := d.scan.Write(p); err != nil {
		return refuse(Database, "is no dump that can be restored: %v", err)
	}
	return nil
}

func (d *Dump) behind(p []byte) error {
	if d.objects += uint64(len(p)); d.objects > contract.MaxObjects {
		return refuse(Database, "has more than %d bytes of views, triggers and routines", contract.MaxObjects)
	}
	d.last = append(d.last, p...)
	if over := len(d.last) - len(contract.DumpCompleted); over > 0 {
		d.last = append(d.last[:0], d.last[over:]...)
	}
	return nil
}

// End says whether all of the dump was there. Its missing is what has to be written behind it so that hosts take it: the mark.
func (d *Dump) End() (missing string, err error) {
	if !d.marked {
		if err := d.tables(d.held); err != nil {
			return "", err
		}
		if n := len(d.held); n == 0 || d.held[n-1] != '\n' {
			return "", refuse(Database, "is cut off")
		}
		d.held = nil
		missing = contract.ObjectsMark
	}
	err = d.scan.End()
	switch {
	case errors.Is(err, contract.ErrDumpCut):
		return "", refuse(Database, `is cut off: the line "-- Dump completed" is not at its end, which mariadb-dump, mysqldump and wp db export write`)
	case err != nil:
		return "", refuse(Database, "is no dump that can be restored: %v", err)
	case d.marked && d.objects > 0 && string(d.last) != contract.DumpCompleted:
		return "", refuse(Database, "is cut off in its views, triggers and routines")
	}
	return missing, nil
}

// Tables are those of the dump, with their rows.
func (d *Dump) Tables() []contract.DumpTable { return d.scan.Tables() }

// Bytes and SHA256 are of what was written.
func (d *Dump) Bytes() uint64 { return d.bytes }

// SHA256 is the checksum of what was written.
func (d *Dump) SHA256() []byte { return d.sum.Sum(nil) }

// Unpack writes what may be compressed by gzip or zstd, at most so many bytes.
func Unpack(in io.Reader, to io.Writer, limits Limits) error {
	raw, out := &counter{from: in}, &keeper{to: to}
	unpacked, end, err := decompress(raw)
	if err == nil {
		defer end()
		plain := &counter{from: unpacked}
		plain.each = func() error {
			if plain.n > limits.File {
				return refuse("", "it comes to more than %d bytes", limits.File)
			}
			if plain.n > ratioFrom && plain.n/limits.Ratio > raw.n {
				return refuse("", "it comes to more than %d times what it is compressed", limits.Ratio)
			}
			return nil
		}
		_, err = io.Copy(out, plain)
	}
	switch {
	case err == nil, IsRefused(err), out.err != nil:
		return err
	case raw.err != nil && !errors.Is(raw.err, io.EOF):
		return fmt.Errorf("read the dump: %w", raw.err)
	}
	return refuse("", "it is cut off or damaged (%v)", err)
}

// keeper remembers why writing failed.
type keeper struct {
	to  io.Writer
	err error
}

func (k *keeper) Write(p []byte) (int, error) {
	n, err := k.to.Write(p)
	if err != nil {
		k.err = err
	}
	return n, err
}
