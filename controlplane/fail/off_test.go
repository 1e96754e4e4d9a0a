//go:build !failpoint

package fail

import "testing"

func TestPoint(t *testing.T) {
	t.Run("a normal build can't be killed by a file", func(t *testing.T) {
		if Enabled {
			t.Fatal("failpoints are compiled in")
		}
		Point("anything")
	})
}
