package restic

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
)

// What hosts make their snapshots with.
const (
	host         = "chom"
	databaseFile = "database.sql"
)

// saveFor is for the largest sites.
const saveFor = 6 * time.Hour

// Saved is a snapshot that was made.
type Saved struct {
	ID    string
	Added uint64 // bytes that came into the repository
}

// SaveFiles makes a snapshot of the directories public and private in a directory, as a host would. The tag is the backup's.
func (p *Program) SaveFiles(ctx context.Context, r store.Repository, key secret.Secret, tag contract.BackupID, dir string) (Saved, error) {
	return p.save(ctx, tag, run{
		what: "save files in", repository: r, key: key, dir: dir,
		args: []string{"backup", "--json", "--host=" + host, "--tag=" + tag.String(), "--one-file-system", "--", "public", "private"},
	})
}

// SaveDump makes a snapshot of a dump, as a host would. Where it fails, what was read may be in a snapshot that is not the whole.
func (p *Program) SaveDump(ctx context.Context, r store.Repository, key secret.Secret, tag contract.BackupID, dump io.Reader) (Saved, error) {
	return p.save(ctx, tag, run{
		what: "save a dump in", repository: r, key: key, stdin: dump,
		args: []string{"backup", "--json", "--host=" + host, "--tag=" + tag.String(), "--stdin", "--stdin-filename=" + databaseFile},
	})
}

// save runs the program, and looks for what it made: some releases tell only the beginning of its name.
func (p *Program) save(ctx context.Context, tag contract.BackupID, r run) (Saved, error) {
	var summary struct {
		Type     string  `json:"message_type"`
		Snapshot string  `json:"snapshot_id"`
		Added    uint64  `json:"data_added"`
		Packed   *uint64 `json:"data_added_packed"` // of newer releases
	}
	r.rights, r.within = store.AppendOnly, saveFor
	r.read = func(out io.Reader) error {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, maxWords)
		for lines.Scan() {
			if strings.Contains(lines.Text(), `"summary"`) {
				if err := json.Unmarshal(lines.Bytes(), &summary); err != nil {
					return err
				}
			}
		}
		return lines.Err()
	}
	if err := p.run(ctx, r); err != nil {
		return Saved{}, err
	}
	if summary.Packed != nil {
		summary.Added = *summary.Packed
	}
	there, err := p.Snapshots(ctx, r.repository, r.key)
	if err != nil {
		return Saved{}, err
	}
	for _, s := range there {
		if summary.Snapshot != "" && strings.HasPrefix(s.ID, summary.Snapshot) && slices.Contains(s.Tags, tag.String()) {
			return Saved{s.ID, summary.Added}, nil
		}
	}
	return Saved{}, fmt.Errorf("%s the repository %s: the program speaks of snapshot %q, which is not there", r.what, r.repository, summary.Snapshot)
}
