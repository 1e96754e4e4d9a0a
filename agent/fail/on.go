//go:build failpoint

package fail

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"syscall"
)

// Enabled tells whether this build can be killed at its points.
const Enabled = true

// Point kills the process when File names this point, or the file that the
// environment variable CHOM_FAILPOINT_FILE names instead. It doesn't return then.
func Point(name string) { point(cmp.Or(os.Getenv("CHOM_FAILPOINT_FILE"), File), name, kill) }

func kill() {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {} // the signal may arrive on another thread a moment later
}

// point disarms before it kills: removal first, else the restarted process
// would die at the same place for ever. Two goroutines at the same point are
// settled by the removal, which only one of them wins.
func point(file, name string, kill func()) {
	armed, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		slog.Error("failpoint file is unreadable", "file", file, "err", err)
		return
	}
	if strings.TrimSpace(string(armed)) != name {
		return
	}
	if err := os.Remove(file); err != nil {
		return
	}
	kill()
}
