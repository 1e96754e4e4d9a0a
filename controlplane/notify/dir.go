package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	gomail "github.com/wneessen/go-mail"
)

// Dir writes mails into a directory instead of sending them: for development and tests, where somebody reads the links out
// of them. Each is a file MESSAGE-ID.eml; their names sort by time.
type Dir struct{ path string }

// NewDir makes the directory, for this process's user only, where there is none.
func NewDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("mail directory: %w", err)
	}
	return &Dir{path}, nil
}

// String names the directory.
func (d *Dir) String() string { return "dir:" + d.path }

// Send writes the mail. A reader sees all of it or nothing.
func (d *Dir) Send(_ context.Context, m *gomail.Msg) error {
	id, _, _ := strings.Cut(strings.Trim(m.GetMessageID(), "<>"), "@")
	f, err := os.CreateTemp(d.path, ".*")
	if err != nil {
		return fmt.Errorf("write mail: %w", err)
	}
	_, err = m.WriteTo(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write mail: %w", err), os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), filepath.Join(d.path, id+".eml")); err != nil {
		return fmt.Errorf("write mail: %w", err)
	}
	return nil
}
