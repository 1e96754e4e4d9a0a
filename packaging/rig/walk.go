package rig

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Walk runs controlplane/web/src/NAME.walk.ts, which has a browser, from the tree's root; settings are added to its environment, and
// args to vitest's.
func Walk(ctx context.Context, tree, name string, settings []string, output io.Writer, args ...string) error {
	vitest := exec.CommandContext(ctx, "npx", append([]string{"vitest", "run"}, args...)...)
	vitest.Dir = filepath.Join(tree, "controlplane/web")
	vitest.Env = append(append(os.Environ(), "WALK="+name), settings...)
	vitest.Stdout, vitest.Stderr = output, output
	// All that it starts ends with it.
	vitest.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	vitest.Cancel = func() error { return syscall.Kill(-vitest.Process.Pid, syscall.SIGTERM) }
	vitest.WaitDelay = 10 * time.Second
	if err := vitest.Run(); err != nil {
		return fmt.Errorf("walk %s: %w", name, err)
	}
	return nil
}
