package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/agent/atomicfile"
	"chom.dev/proto/contract"
	backupv1 "chom.dev/proto/gen/chom/backup/v1"
)

// State is what has come of a backup so far. It is on disk before the step that
// made it ends.
type State struct {
	Title    string    `json:"title,omitempty"` // of the home page, right before
	Contents *Contents `json:"contents,omitempty"`
}

// State reads it. Of a backup that was not begun there is an empty one.
func (m *Manager) State(h contract.Handle, id contract.BackupID) (State, error) {
	var st State
	if err := m.recall(m.stateFile(h, id), &st); err != nil {
		return State{}, fmt.Errorf("read the state of backup %s: %w", id, err)
	}
	return st, nil
}

// Keep writes it.
func (m *Manager) Keep(h contract.Handle, id contract.BackupID, st State) error {
	if err := m.note(m.stateFile(h, id), st); err != nil {
		return fmt.Errorf("keep the state of backup %s: %w", id, err)
	}
	return nil
}

// recall reads what note has written; what is not there changes nothing.
func (m *Manager) recall(path string, into any) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func (m *Manager) note(path string, what any) error {
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return m.write(path, text)
}

// Drill reads what KeepDrill has written of the site's newest drill. Of none it
// changes nothing.
func (m *Manager) Drill(h contract.Handle, into any) error {
	if err := m.recall(m.drillFile(h), into); err != nil {
		return fmt.Errorf("read what was found in the drill of %s: %w", h, err)
	}
	return nil
}

// KeepDrill writes what has been found in a drill so far, in the place of what it
// wrote of an older one.
func (m *Manager) KeepDrill(h contract.Handle, found any) error {
	if err := m.note(m.drillFile(h), found); err != nil {
		return fmt.Errorf("keep what was found in the drill of %s: %w", h, err)
	}
	return nil
}

func (m *Manager) drillFile(h contract.Handle) string { return filepath.Join(m.dir(h), "drill.json") }

// Forget removes the states of a site's other backups: each has ended when the
// next one begins.
func (m *Manager) Forget(h contract.Handle, but contract.BackupID) error {
	entries, err := os.ReadDir(m.dir(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, err := contract.ParseBackupID(strings.TrimSuffix(e.Name(), ".json"))
		if err != nil || id == but {
			continue
		}
		if _, err := atomicfile.Remove(filepath.Join(m.dir(h), e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) stateFile(h contract.Handle, id contract.BackupID) string {
	return filepath.Join(m.dir(h), id.String()+".json")
}

// Report is a backup as the control plane is told of it.
func (st State) Report(id contract.BackupID) (*backupv1.Report, error) {
	if st.Contents == nil {
		return nil, fmt.Errorf("backup %s is not complete", id)
	}
	c := &backupv1.Contents{
		FilesSnapshot: st.Contents.Files.ID, PageTitle: st.Title,
		LinksSha256: st.Contents.Links.SHA256, UnkeptLinks: st.Contents.Links.Unkept, UnkeptLinkCount: st.Contents.Links.Count,
	}
	r := &backupv1.Report{
		BackupId: id.String(), StartTime: timestamppb.New(st.Contents.Start), EndTime: timestamppb.New(st.Contents.End), Contents: c,
		AddedBytes: st.Contents.Files.Added,
	}
	if d := st.Contents.Database; d != nil {
		r.AddedBytes += d.Added
		c.DatabaseSnapshot, c.DumpSha256, c.DumpBytes = d.ID, d.SHA256, d.Bytes
		for _, t := range d.Tables {
			c.Tables = append(c.Tables, &backupv1.Table{Name: t.Name, Rows: t.Rows})
		}
	}
	return r, nil
}
