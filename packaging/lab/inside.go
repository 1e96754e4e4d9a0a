package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Command is a program to run inside a host.
type Command struct {
	// Argv is the program and its arguments; no shell reads them.
	Argv []string
	// User runs it as this user of the guest, with all his groups. Empty: root.
	User string
	// Env is added to PATH, HOME and LANG.
	Env []string
	// Stdin is what it reads. Nil: nothing.
	Stdin io.Reader
	// Stdout and Stderr take its output instead of Result.
	Stdout, Stderr io.Writer
	// Terminal leaves it in the foreground of the caller's terminal.
	Terminal bool
}

// Result is how a program ended.
type Result struct {
	Stdout, Stderr string
	Code           int // the exit status; 128+n after signal n
}

// Exec runs a program as root inside the host, outside any of its services. A
// program that ran and failed is no error here: look at Code, or use Output.
func (h *Host) Exec(ctx context.Context, argv ...string) (Result, error) {
	return h.Run(ctx, Command{Argv: argv})
}

// Output is Exec for the usual case: a program that must succeed. Its standard
// output is returned without the last newline.
func (h *Host) Output(ctx context.Context, argv ...string) (string, error) {
	r, err := h.Exec(ctx, argv...)
	if err != nil {
		return "", err
	}
	if r.Code != 0 {
		return "", fmt.Errorf("on %s: %s: exit status %d: %s", h.rec.Name, strings.Join(argv, " "), r.Code,
			lastLines(r.Stderr+r.Stdout, 15))
	}
	return strings.TrimSuffix(r.Stdout, "\n"), nil
}

// Run runs a program inside the host as described. It dies with ctx. The error
// says that it could not be run, ErrOff among others.
func (h *Host) Run(ctx context.Context, c Command) (Result, error) {
	leader, err := h.leader()
	if err != nil {
		return Result{}, fmt.Errorf("run in host %s: %w", h.rec.Name, err)
	}
	argv := []string{"/usr/bin/nsenter", fmt.Sprintf("--target=%d", leader.PID), "--all", "--"}
	env := environment(c.Env...)
	if c.User != "" {
		u, err := h.user(c.User)
		if err != nil {
			return Result{}, fmt.Errorf("run in host %s: %w", h.rec.Name, err)
		}
		argv = append(argv, "/usr/bin/setpriv", "--reuid="+u.uid, "--regid="+u.gid, "--init-groups", "--inh-caps=-all", "--")
		env = environment(append([]string{"HOME=" + u.home}, c.Env...)...)
	}
	cmd := command(ctx, append(argv, c.Argv...)...)
	cmd.Env = env
	cmd.Stdin = c.Stdin
	if c.Terminal {
		cmd.SysProcAttr.Setpgid = false
		cmd.Cancel = func() error { return cmd.Process.Kill() }
	}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	if c.Stderr != nil {
		cmd.Stderr = c.Stderr
	}
	err = cmd.Run()
	r := Result{Stdout: out.String(), Stderr: errOut.String()}
	var exit *exec.ExitError
	errors.As(err, &exit)
	switch {
	case ctx.Err() != nil:
		return r, fmt.Errorf("run in host %s: %s: %w", h.rec.Name, c.Argv[0], ctx.Err())
	case err != nil && wentDown(leader, exit): // it went down with the host, if it ever started
		return r, fmt.Errorf("run in host %s: %s: %w", h.rec.Name, c.Argv[0], ErrOff)
	case exit != nil && exit.ExitCode() >= 0:
		r.Code = exit.ExitCode()
	case exit != nil: // nsenter dies of the signal that ended the program
		r.Code = 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
	case err != nil:
		return r, fmt.Errorf("run in host %s: %w", h.rec.Name, err)
	}
	return r, nil
}

// wentDown tells whether a program failed because its host did. Process 1 of a
// dying host is the last to be gone: a program that got SIGKILL waits for it.
func wentDown(leader process, exit *exec.ExitError) bool {
	if exit != nil && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		return leader.wait(ctx) == nil
	}
	return !leader.alive()
}

// WriteFile makes or replaces a file in the host, owned by root, and the
// missing directories above it. It works on a host that is off, too.
func (h *Host) WriteFile(path string, content []byte, mode os.FileMode) error {
	return h.withRoot("write", path, func(r rooted) error { return r.write(path, bytes.NewReader(content), mode) })
}

// ReadFile reads a file of the host, on or off. Links are followed as the guest would.
func (h *Host) ReadFile(path string) ([]byte, error) {
	var content []byte
	err := h.withRoot("read", path, func(r rooted) (err error) {
		content, err = r.read(path)
		return err
	})
	return content, err
}

// Push copies a file of the machine into the host.
func (h *Host) Push(from, to string, mode os.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("push to host %s: %w", h.rec.Name, err)
	}
	defer src.Close()
	return h.withRoot("write", to, func(r rooted) error { return r.write(to, src, mode) })
}

// Journal returns what a unit of the host has logged, all boots, oldest first.
func (h *Host) Journal(ctx context.Context, unit string) (string, error) {
	return h.Output(ctx, "journalctl", "--no-pager", "--output=short-iso-precise", "--unit="+unit)
}

// guestUser is a line of the guest's /etc/passwd.
type guestUser struct{ uid, gid, home string }

func (h *Host) user(name string) (guestUser, error) {
	passwd, err := h.ReadFile("/etc/passwd")
	if err != nil {
		return guestUser{}, err
	}
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) == 7 && f[0] == name {
			return guestUser{uid: f[2], gid: f[3], home: f[5]}, nil
		}
	}
	return guestUser{}, fmt.Errorf("no user %q in the guest", name)
}

func (h *Host) leader() (process, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rec.Running == nil || !h.rec.Running.Leader.alive() {
		return process{}, ErrOff
	}
	return h.rec.Running.Leader, nil
}

// withRoot opens the host's root: as its processes see it while it runs, with
// all its mounts; its disk alone while it is off.
func (h *Host) withRoot(verb, path string, f func(rooted) error) error {
	dir := h.dir + "/root"
	if leader, err := h.leader(); err == nil {
		dir = fmt.Sprintf("/proc/%d/root", leader.PID)
	}
	root, err := openRooted(dir)
	if err != nil {
		return fmt.Errorf("%s %s on host %s: %w", verb, path, h.rec.Name, err)
	}
	defer root.close()
	if err := f(root); err != nil {
		return fmt.Errorf("%s on host %s: %w", verb, h.rec.Name, err)
	}
	return nil
}
