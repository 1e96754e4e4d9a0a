// Package keycommand reads the keys of secrets from a command, for those who keep them in a KMS, an HSM or a vault: it prints
// the text that would otherwise be in the file.
//
// Besides backup/restic it is the only place of the control plane that executes anything. The command comes from the
// configuration alone, is an absolute path that only root or this user can change, and is started without a shell, with an
// empty environment and nothing on its standard input. What it prints to its standard error is dropped, since it may be a
// secret.
package keycommand

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Command is a source of keys.
type Command struct{ argv []string }

// New takes a command line: words between spaces, the first an absolute path. There is no quoting; who needs it, or an
// environment, writes a script.
func New(line string) (*Command, error) {
	argv := strings.Fields(line)
	if len(argv) == 0 || !filepath.IsAbs(argv[0]) {
		return nil, errors.New("must begin with the absolute path of a program")
	}
	return &Command{argv}, nil
}

const (
	runFor  = 10 * time.Second
	maxText = 64 << 10
)

// Read runs the command and gives what it printed.
func (c *Command) Read(ctx context.Context) ([]byte, error) {
	if err := check(c.argv[0]); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, runFor)
	defer cancel()
	var text limited
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.Stdout = &text
	// What it started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		clear(text.text)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s did not end in time", c.argv[0])
		}
		if text.full {
			return nil, fmt.Errorf("%s prints too much", c.argv[0])
		}
		return nil, fmt.Errorf("%s failed (run it by hand to see why): %w", c.argv[0], err)
	}
	return text.text, nil
}

// Changed is false: running it tells, which costs too much for asking each time. A version that is missed has it run again.
func (c *Command) Changed() bool { return false }

// check refuses a program that others can change.
func check(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 || ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s can be changed by others (mode %s)", path, info.Mode())
	}
	return nil
}

// limited keeps a command from filling the memory.
type limited struct {
	text []byte
	full bool
}

func (l *limited) Write(p []byte) (int, error) {
	if len(l.text)+len(p) > maxText {
		l.full = true
		return 0, io.ErrShortWrite
	}
	l.text = append(l.text, p...)
	return len(p), nil
}
