// Package child starts servers that end with the process that started them, even
// where that is killed. It does not wait until they answer, and stops none.
package child

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Start starts a program, which gets the signal when this process ends (0 is none:
// it goes on), and closes ended when the program has ended.
func Start(cmd *exec.Cmd, signal syscall.Signal) (ended <-chan struct{}, err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = signal
	over := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// The kernel means the thread that started it, not the process: it stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended shows in its log, and in who asked for it
			close(over)
		}
	}()
	return over, <-started
}
