package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"chom.dev/controlplane/db"
)

// Head is the end of a chain at some time, as a line of the file of Heads has it.
type Head struct {
	// Time is when it was written down; zero for the head in the database.
	Time         time.Time `json:"time"`
	Organization string    `json:"organization"`
	Sequence     int64     `json:"sequence"`
	// Hash of the last event, in hexadecimal.
	Hash string `json:"hash"`
}

func (h *Head) source() string {
	if h.Time.IsZero() {
		return "the head in the database"
	}
	return "the head written down at " + h.Time.Format(time.RFC3339)
}

func readHeads(ctx context.Context, q db.Querier) ([]Head, error) {
	rows, err := q.Query(ctx, `
		SELECT organization_id, sequence, hash
		FROM audit_heads
		ORDER BY organization_id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var heads []Head
	for rows.Next() {
		var h Head
		var hash []byte
		if err := rows.Scan(&h.Organization, &h.Sequence, &hash); err != nil {
			return nil, err
		}
		h.Hash = hex.EncodeToString(hash)
		heads = append(heads, h)
	}
	return heads, rows.Err()
}

// Heads writes the ends of all chains down in a file outside the database, so that a chain that was cut off, or an older
// database that was put in place, is noticed. Each time the file grows by a line of JSON for each chain that grew, and the
// SHA-256 of these lines goes to the log, which may be kept on yet another machine. When the lines are very many, the last one
// of each chain is kept: it was only written because the chain still held the one before.
//
// A chain that no longer holds what was written down is not written down again, so that the file keeps saying what was lost.
// Whoever has put an older database in place on purpose moves the file away.
type Heads struct {
	db   *db.DB
	log  *slog.Logger
	path string

	last  map[string]Head // by organization
	lines int             // in the file
}

// OpenHeads reads the file if there is one; the first export makes it.
func OpenHeads(d *db.DB, path string, log *slog.Logger) (*Heads, error) {
	heads, err := ReadHeads(path)
	if err != nil {
		return nil, err
	}
	h := &Heads{db: d, log: log, path: path, last: map[string]Head{}, lines: len(heads)}
	for _, head := range heads {
		if head.Sequence > h.last[head.Organization].Sequence {
			h.last[head.Organization] = head
		}
	}
	return h, nil
}

const (
	// headsEvery bounds what can be cut off unseen.
	headsEvery = time.Minute
	// headsNeedless is how many lines may be there that later ones of the same chain make needless: they are read at each
	// start, which takes half a second then.
	headsNeedless = 50_000
)

// Run writes the heads down every minute, and once more when ctx ends.
func (h *Heads) Run(ctx context.Context) error {
	tick := time.NewTicker(headsEvery)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case <-tick.C:
		}
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportFor)
		if err := h.Export(end); err != nil {
			h.log.Error("the heads of the audit trail are not written down", "err", err)
		}
		cancel()
	}
	return ctx.Err()
}

// exportFor is what the last export may add to an orderly end.
const exportFor = 2 * time.Second

// Export writes down the head of each chain that grew.
func (h *Heads) Export(ctx context.Context) error {
	heads, err := readHeads(ctx, h.db.Reader())
	if err != nil {
		return fmt.Errorf("export audit heads: %w", err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	var lines bytes.Buffer
	var grown []Head
	seen := map[string]bool{}
	for _, head := range heads {
		head.Time = now
		seen[head.Organization] = true
		last, known := h.last[head.Organization]
		if known && head.Sequence == last.Sequence && head.Hash == last.Hash {
			continue
		}
		if known {
			holds, err := h.holds(ctx, last)
			if err != nil {
				return fmt.Errorf("export audit heads: %w", err)
			}
			if !holds {
				h.cut(last)
				continue
			}
		}
		line, err := json.Marshal(head)
		if err != nil {
			return fmt.Errorf("export audit heads: %w", err)
		}
		lines.Write(append(line, '\n'))
		grown = append(grown, head)
	}
	for organization, last := range h.last {
		if !seen[organization] {
			h.cut(last)
		}
	}
	if len(grown) == 0 {
		return nil
	}
	if err := h.write(lines.Bytes()); err != nil {
		return fmt.Errorf("export audit heads: %w", err)
	}
	for _, head := range grown {
		h.last[head.Organization] = head
	}
	h.lines += len(grown)
	h.log.Info("wrote down the heads of the audit trail", "chains", len(grown), "sha256", fmt.Sprintf("%x", sha256.Sum256(lines.Bytes())))
	if h.lines-len(h.last) > headsNeedless {
		return h.compact()
	}
	return nil
}

// holds says whether a chain still holds a head that was written down.
func (h *Heads) holds(ctx context.Context, head Head) (bool, error) {
	rows, err := h.db.Reader().Query(ctx, `
		SELECT hash
		FROM audit_events
		WHERE organization_id = $1
		AND sequence = $2`, head.Organization, head.Sequence)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	for rows.Next() {
		var hash []byte
		if err := rows.Scan(&hash); err != nil {
			return false, err
		}
		if hex.EncodeToString(hash) == head.Hash {
			return true, nil
		}
	}
	return false, rows.Err()
}

func (h *Heads) cut(last Head) {
	h.log.Error("an audit trail was cut off or replaced: run chomd audit verify",
		"organization", last.Organization, "sequence", last.Sequence, "written", last.Time)
}

// write appends, and makes sure that it is on the disk.
func (h *Heads) write(lines []byte) error {
	f, err := os.OpenFile(h.path, os.O_CREATE|os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	// A crash may have left half a line behind; what follows must not continue it.
	if size, err := f.Seek(0, 2); err == nil && size > 0 {
		end := make([]byte, 1)
		if _, err := f.ReadAt(end, size-1); err == nil && end[0] != '\n' {
			lines = append([]byte{'\n'}, lines...)
		}
	}
	_, err = f.Write(lines)
	return errors.Join(err, f.Sync(), f.Close())
}

// compact keeps the last line of each chain.
func (h *Heads) compact() error {
	var lines bytes.Buffer
	for _, head := range h.last {
		line, err := json.Marshal(head)
		if err != nil {
			return fmt.Errorf("compact audit heads: %w", err)
		}
		lines.Write(append(line, '\n'))
	}
	f, err := os.CreateTemp(filepath.Dir(h.path), ".audit-heads-*") // mode 0600
	if err != nil {
		return fmt.Errorf("compact audit heads: %w", err)
	}
	_, err = f.Write(lines.Bytes())
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), h.path)
	}
	if err != nil {
		return fmt.Errorf("compact audit heads: %w", errors.Join(err, os.Remove(f.Name())))
	}
	h.lines = len(h.last)
	return nil
}

// ReadHeads reads a file of Heads: none where there is no file. A line that a crash cut short is left out.
func ReadHeads(path string) ([]Head, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read audit heads: %w", err)
	}
	var heads []Head
	for line := range bytes.Lines(text) {
		var head Head
		if json.Unmarshal(line, &head) == nil {
			heads = append(heads, head)
		}
	}
	return heads, nil
}
