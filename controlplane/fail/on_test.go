//go:build failpoint

package fail

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPoint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "armed")
	kills := 0
	hit := func(name string) { point(file, name, func() { kills++ }) }
	t.Run("an armed point kills once, the others never", func(t *testing.T) {
		hit("task.offered")
		if err := os.WriteFile(file, []byte("task.offered\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		hit("task.accepted")
		if kills != 0 {
			t.Fatal("killed at another point")
		}
		hit("task.offered")
		hit("task.offered")
		if kills != 1 {
			t.Errorf("killed %d times", kills)
		}
	})
}
