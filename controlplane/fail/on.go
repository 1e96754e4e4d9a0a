//go:build failpoint

package fail

import (
	"os"
	"strings"
	"syscall"
)

// Enabled tells whether this build can be killed at its points.
const Enabled = true

// Point kills the process when it is the armed one. It doesn't return then.
func Point(name string) {
	if file := os.Getenv(Variable); file != "" {
		point(file, name, kill)
	}
}

func kill() {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {} // the signal may arrive on another thread a moment later
}

// point disarms before it kills, else the restarted process would die at the
// same place for ever. Of two goroutines at one point only one wins the removal.
func point(file, name string, kill func()) {
	armed, err := os.ReadFile(file)
	if err != nil || strings.TrimSpace(string(armed)) != name {
		return // not armed, or for another point
	}
	if err := os.Remove(file); err != nil {
		return
	}
	kill()
}
