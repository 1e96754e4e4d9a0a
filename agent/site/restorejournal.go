package site

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/tree"
	"chom.dev/proto/contract"
)

// RestoreDir holds one file per site that has something of a restore.
const RestoreDir = "/var/lib/chom-agent/restore"

// restoreState is where a restore is.
//
//	           commit            switched
//	STAGING ------------> SWITCHING ------> KEPT ----> DISCARDING -> no file
//	   |  ^                 |  ^              |            ^
//	   |  +-----------------+  +--- an undo --+            |
//	   |   taken back                                      |
//	   +---------------------------------------------------+
//
// In STAGING the site is as it was. In SWITCHING it is neither, shown to nobody,
// and whoever finds it so brings it to its target. In KEPT it is whole, and what
// it had, or could have instead, lies beside it.
type restoreState string

const (
	restoreStaging    restoreState = "staging"
	restoreSwitching  restoreState = "switching"
	restoreKept       restoreState = "kept"
	restoreDiscarding restoreState = "discarding"
)

// restoreRecord is what a host knows of a site's newest restore. It is written
// before whatever it speaks of happens.
type restoreRecord struct {
	Restore  contract.RestoreID
	State    restoreState
	Files    bool // public and private are part of it
	Database bool // the schema is part of it
	// Tables are the only ones of the schema that are part of it; nil for all. The
	// site's views, triggers and routines are none of it then.
	Tables []string

	Through  bool   // no wish to stop is heeded, from the commit until the site is open again
	Quiet    bool   // the site is closed to visitors for it, or about to be
	Restored bool   // what the site has, or in SWITCHING is to have: what was restored, or what that replaced
	Problem  string // why a switch to what was restored is being taken back

	// Staged is what was seen of the files in STAGING once all were written; nil if
	// nobody looked.
	Staged *tree.Found

	Old, New tree.Inodes // the directories that were replaced, and those that were restored

	// OldObjects are the views, triggers and routines that were replaced.
	OldObjects []mariadb.Object
	// NewSQL makes those of the backup; void once NewObjects holds them.
	NewSQL []byte
	// NewObjects are those that were restored, as an undo found them.
	NewObjects []mariadb.Object
	// ObjectsMade says that those are made that the site is to have.
	ObjectsMade bool

	Made  time.Time // by the host's clock
	Until time.Time // when it may be discarded, by a confirmed clock; zero before one was asked
}

// restoreJournal keeps these records.
type restoreJournal struct{ dir string }

func (j restoreJournal) path(h contract.Handle) string { return j.dir + "/" + h.String() + ".json" }

// load gives a site's record; nil when there is none.
func (j restoreJournal) load(h contract.Handle) (*restoreRecord, error) {
	if h.IsZero() {
		return nil, errors.New("read restore: no handle")
	}
	text, err := os.ReadFile(j.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read restore: %w", err)
	}
	rec := new(restoreRecord)
	if err := json.Unmarshal(text, rec); err != nil {
		return nil, fmt.Errorf("read restore %s: %w", j.path(h), err)
	}
	return rec, nil
}

func (j restoreJournal) store(h contract.Handle, rec *restoreRecord) error {
	text, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("write restore: %w", err)
	}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return fmt.Errorf("write restore: %w", err)
	}
	if _, err := atomicfile.Write(j.path(h), text, 0o600, 0); err != nil {
		return fmt.Errorf("write restore: %w", err)
	}
	return nil
}

func (j restoreJournal) remove(h contract.Handle) error {
	if h.IsZero() {
		return errors.New("forget restore: no handle")
	}
	if _, err := os.Lstat(j.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := atomicfile.Remove(j.path(h)); err != nil {
		return fmt.Errorf("forget restore: %w", err)
	}
	return nil
}

// all lists the sites that have a record.
func (j restoreJournal) all() ([]contract.Handle, error) {
	entries, err := os.ReadDir(j.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list restores: %w", err)
	}
	var out []contract.Handle
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if h, err := contract.ParseHandle(name); ok && err == nil {
			out = append(out, h)
		}
	}
	return out, nil
}

// switching says that a site is neither what it was nor what it is to be. A
// record that can't be read counts as one, since nobody may be shown a half.
func (j restoreJournal) switching(h contract.Handle) bool {
	rec, err := j.load(h)
	return err != nil || rec != nil && rec.State == restoreSwitching
}
