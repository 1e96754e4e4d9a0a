//go:build failpoint

package fail

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPoint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "failpoint")
	killed := 0
	try := func(name string) { point(file, name, func() { killed++ }) }

	t.Run("passes when nothing is armed", func(t *testing.T) {
		if try("a"); killed != 0 {
			t.Fatal("killed")
		}
	})
	t.Run("passes at another name", func(t *testing.T) {
		if err := os.WriteFile(file, []byte("b\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if try("a"); killed != 0 {
			t.Fatal("killed")
		}
	})
	t.Run("kills once at its own name and disarms first", func(t *testing.T) {
		try("b")
		try("b")
		if killed != 1 {
			t.Fatalf("killed %d times", killed)
		}
		if _, err := os.Stat(file); err == nil {
			t.Fatal("still armed")
		}
	})
}
