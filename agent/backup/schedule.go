package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"chom.dev/agent/atomicfile"
	"chom.dev/proto/contract"
)

// Schedule is what a host knows of the backups that it makes of a site by itself.
// It is on disk before what it speaks of begins. All times are the control plane's.
type Schedule struct {
	// Last is the newest moment for which a backup was made; zero before the first.
	Last time.Time `json:"last,omitzero"`
	// Begun is the one that is being made, or is to be tried again; nil for none.
	Begun *Begun `json:"begun,omitempty"`
	// Unreported are those that the control plane has not been told of, oldest first.
	Unreported []Unreported `json:"unreported,omitempty"`
}

// Begun is a backup for one moment that has not come to its end.
type Begun struct {
	Backup  contract.BackupID `json:"backup,omitzero"` // zero before the next try
	Due     time.Time         `json:"due"`
	Tries   int               `json:"tries,omitempty"`   // that failed
	Yielded int               `json:"yielded,omitempty"` // how often it gave way to an order since the last one was made
	Problem string            `json:"problem,omitempty"` // of the newest try
	Told    bool              `json:"told,omitempty"`    // the control plane is told that it failed
	Next    time.Time         `json:"next,omitzero"`     // not before
}

// Unreported is what came of one.
type Unreported struct {
	Backup     contract.BackupID `json:"backup"`
	Due        time.Time         `json:"due"`
	Generation uint64            `json:"generation"`        // what the site was converged to
	State      *State            `json:"state,omitempty"`   // nil where there is none
	Problem    string            `json:"problem,omitempty"` // why there is none
}

// maxUnreported bounds what is kept of a site while the control plane is away. The
// newest ones count.
const maxUnreported = 20

// Note adds what is to be reported, and forgets the oldest when there is too much.
func (s *Schedule) Note(u Unreported) {
	s.Unreported = append(s.Unreported, u)
	s.Unreported = slices.Delete(s.Unreported, 0, max(len(s.Unreported)-maxUnreported, 0))
}

// Reported forgets what the control plane was told of.
func (s *Schedule) Reported(id contract.BackupID) {
	s.Unreported = slices.DeleteFunc(s.Unreported, func(u Unreported) bool { return u.Backup == id })
}

func (s *Schedule) empty() bool { return s.Last.IsZero() && s.Begun == nil && len(s.Unreported) == 0 }

// Schedule reads a site's. Of a site that never had a scheduled backup, and of a
// record that is damaged, there is an empty one: one backup too many does no harm.
func (m *Manager) Schedule(h contract.Handle) (Schedule, error) {
	m.schedules.Lock()
	defer m.schedules.Unlock()
	return m.schedule(h)
}

func (m *Manager) schedule(h contract.Handle) (Schedule, error) {
	text, err := os.ReadFile(m.scheduleFile(h))
	if errors.Is(err, fs.ErrNotExist) {
		return Schedule{}, nil
	}
	if err != nil {
		return Schedule{}, fmt.Errorf("read the schedule of %s: %w", h, err)
	}
	var s Schedule
	if err := json.Unmarshal(text, &s); err != nil {
		m.cfg.Log.Warn("what was kept of a site's scheduled backups is damaged, and begins anew", "handle", h.String(), "err", err)
		return Schedule{}, nil
	}
	return s, nil
}

// ChangeSchedule changes it on disk. What is empty afterwards leaves no file, so
// that nothing comes back of a site that was removed meanwhile.
func (m *Manager) ChangeSchedule(h contract.Handle, change func(*Schedule)) error {
	m.schedules.Lock()
	defer m.schedules.Unlock()
	s, err := m.schedule(h)
	if err != nil {
		return err
	}
	before := s.empty()
	change(&s)
	switch {
	case s.empty() && before:
		return nil
	case s.empty():
		_, err = atomicfile.Remove(m.scheduleFile(h))
	default:
		var text []byte
		if text, err = json.Marshal(s); err == nil {
			err = m.write(m.scheduleFile(h), text)
		}
	}
	if err != nil {
		return fmt.Errorf("keep the schedule of %s: %w", h, err)
	}
	return nil
}

func (m *Manager) scheduleFile(h contract.Handle) string {
	return filepath.Join(m.dir(h), "schedule.json")
}
