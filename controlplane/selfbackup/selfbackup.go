// Package selfbackup keeps the control plane itself: its database and its keys in one encrypted file, from which a new machine
// becomes the control plane that was lost. What agents hold they keep: the restored one compares with them, and neither repeats nor
// takes back what it does not remember (packages task, site and fleet).
//
// A file is a sequence of JSON values, compressed by zstd and encrypted by age (https://age-encryption.org/v1) to recipients
// whose keys lie elsewhere: the machine that writes it cannot read it, and a file that was changed or cut does not open.
//
//	{"format":1,"release":"0.1.0","schema":12,"time":"2026-11-26T03:00:00Z"}
//	{"file":"pki/roots.pem","content":"..."}
//	...
//	the database, as db.Export has it
//
// Not in it: the repositories of sites' backups, which lie where they are, and keys that the control plane has from systemd or
// from a command.
package selfbackup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"chom.dev/controlplane/db"
)

// format is the layout that this release writes, and reads.
const format = 1

// ErrFormat says that a file is of a release that this one does not know.
var ErrFormat = errors.New("the backup was made by a later release of CHOM: restore it with that one")

// File is a small file below the data directory, such as a key.
type File struct {
	// Name is its path there, with slashes.
	Name    string `json:"file"`
	Content []byte `json:"content"`
}

// Header says what a backup is of.
type Header struct {
	Format  int       `json:"format"`
	Release string    `json:"release"`
	Schema  int64     `json:"schema"`
	Time    time.Time `json:"time"` // of what it shows
}

// Write makes a backup, while the control plane works. It gives the number of rows in it.
func Write(ctx context.Context, to io.Writer, recipients []age.Recipient, d *db.DB, files []File, release string, now time.Time) (rows int64, err error) {
	schema, _, err := db.Version(ctx, d)
	if err != nil {
		return 0, err
	}
	sealed, err := age.Encrypt(to, recipients...)
	if err != nil {
		return 0, fmt.Errorf("encrypt backup: %w", err)
	}
	packed, err := zstd.NewWriter(sealed)
	if err != nil {
		return 0, fmt.Errorf("compress backup: %w", err)
	}
	encoder := json.NewEncoder(packed)
	if err := encoder.Encode(Header{Format: format, Release: release, Schema: schema, Time: now.UTC()}); err != nil {
		return 0, fmt.Errorf("write backup: %w", err)
	}
	for _, f := range files {
		if err := encoder.Encode(f); err != nil {
			return 0, fmt.Errorf("write backup: %w", err)
		}
	}
	if rows, err = db.Export(ctx, d, encoder); err != nil {
		return 0, err
	}
	if err := errors.Join(packed.Close(), sealed.Close()); err != nil {
		return 0, fmt.Errorf("write backup: %w", err)
	}
	return rows, nil
}

// Read puts a backup back: first its files by put, all of them, then its database into one that is empty. After an error it can
// be repeated; put is asked for the same files then. It gives what the backup is of, and the number of rows.
func Read(ctx context.Context, from io.Reader, identities []age.Identity, d *db.DB, put func(File) error, now time.Time) (h Header, rows int64, err error) {
	opened, err := age.Decrypt(from, identities...)
	var other *age.NoIdentityMatchError
	if errors.As(err, &other) {
		return h, 0, errors.New("open backup: it was encrypted to another key")
	}
	if err != nil {
		return h, 0, fmt.Errorf("open backup: %w", err)
	}
	unpacked, err := zstd.NewReader(opened)
	if err != nil {
		return h, 0, fmt.Errorf("open backup: %w", err)
	}
	defer unpacked.Close()
	values := json.NewDecoder(unpacked)
	if err := values.Decode(&h); err != nil {
		return h, 0, fmt.Errorf("read backup: %w", err)
	}
	if h.Format != format {
		return h, 0, fmt.Errorf("read backup: %w (format %d)", ErrFormat, h.Format)
	}
	files, first, err := readFiles(values)
	if err != nil {
		return h, 0, fmt.Errorf("read backup: %w", err)
	}
	for _, f := range files {
		if err := put(f); err != nil {
			return h, 0, err
		}
	}
	rows, err = db.Import(ctx, d, h.Schema, &resumed{first, values}, db.Gap{From: h.Time, To: now})
	return h, rows, err
}

// readFiles reads the files, and the first value that is none.
func readFiles(values *json.Decoder) (files []File, next json.RawMessage, err error) {
	for {
		if err := values.Decode(&next); errors.Is(err, io.EOF) {
			return nil, nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return nil, nil, err
		}
		var f File
		if err := json.Unmarshal(next, &f); err != nil {
			return nil, nil, err
		}
		if f.Name == "" {
			return files, next, nil
		}
		files = append(files, f)
	}
}

// resumed is a decoder after a value that was read from it.
type resumed struct {
	first json.RawMessage
	rest  *json.Decoder
}

func (r *resumed) Decode(v any) error {
	if r.first == nil {
		return r.rest.Decode(v)
	}
	first := r.first
	r.first = nil
	return json.Unmarshal(first, v)
}
