// Package run is the only place of the agent that executes programs. It takes
// an absolute path and a list of arguments, never a shell line; it gives the
// program an empty environment with a fixed PATH, a deadline and an output
// cap, and ends the whole process group when the deadline or the caller's
// context does.
//
// There are three doors:
//
//	Cmd        a child of the agent, inside the agent's own sandbox;
//	Unit       a transient systemd unit, started by PID 1 outside of it;
//	SiteUnit   the same as a site's user, walled in to that one site.
//
// The last two are only described here: systemd.Host speaks to PID 1.
//
// Secrets go in by Stdin or Secret. Arguments and environment are readable by others
// on the host and must never hold one.
package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"
)

const (
	defaultTimeout = time.Minute // long work says so itself

	// waitDelay is how long pipes may stay open after the process died; a
	// grandchild that left the group could hold them for ever.
	waitDelay = 2 * time.Second
)

// env is the whole environment of everything that is executed.
var env = []string{
	"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
	"LC_ALL=C.UTF-8", // messages that can be parsed, file names that survive
}

// Cmd is one execution of one program.
type Cmd struct {
	Path      string            // absolute and clean
	Args      []string          // without the program's name; options of ours first, then "--", then values
	Env       map[string]string // besides the fixed one, or instead; no secrets
	Stdin     io.Reader         // nil is empty input; a file is handed over itself
	Secret    string            // what the program reads from SecretFile, once; at most 4 KiB
	Stdout    io.Writer         // gets all of stdout while it comes; nil for who wants it in the Result
	Stderr    io.Writer         // gets all of stderr besides, of which the Result has the end; nil for nobody
	Dir       string            // "" is "/"
	Timeout   time.Duration     // 0 is a minute
	MaxOutput int               // bytes of stdout that are kept; 0 is 1 MiB; the rest is read and dropped
}

// SecretFile is where a program with a Secret finds it: a pipe that holds nothing
// else and is in no other process.
const SecretFile = "/dev/fd/3"

const maxSecret = 4 << 10 // a pipe takes as much without a reader

// ExitError says that a program was run and failed.
type ExitError struct {
	Path   string
	Code   int            // exit status, -1 when a signal ended it
	Signal syscall.Signal // 0 unless a signal ended it
	Stderr string         // the last lines
	Cause  error          // context.DeadlineExceeded or context.Canceled when we ended it
}

func (e *ExitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s: ", e.Path)
	switch {
	case errors.Is(e.Cause, context.DeadlineExceeded):
		b.WriteString("took too long and was ended")
	case e.Cause != nil:
		b.WriteString("was canceled")
	case e.Signal != 0:
		fmt.Fprintf(&b, "ended by signal %v", e.Signal)
	default:
		fmt.Fprintf(&b, "exit status %d", e.Code)
	}
	if e.Stderr != "" {
		b.WriteString(": ")
		b.WriteString(e.Stderr)
	}
	return b.String()
}

func (e *ExitError) Unwrap() error { return e.Cause }

// Run executes the program and waits for it. A program that ran and failed
// gives an *ExitError together with its output.
func (c Cmd) Run(ctx context.Context) (Result, error) {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	cmd, err := c.command(ctx)
	if err != nil {
		return Result{}, err
	}
	out := newOutput(c.MaxOutput)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, &out.head, &out.tail
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(&out.tail, c.Stderr)
	}
	if c.Secret != "" {
		secret, err := handOver(c.Secret)
		if err != nil {
			return Result{}, fmt.Errorf("run %s: %w", c.Path, err)
		}
		defer secret.Close() // the program has its own
		cmd.ExtraFiles = []*os.File{secret}
	}
	err = cmd.Run()
	res := out.result()
	return res, c.explain(ctx, err, res)
}

// handOver gives the end of a pipe from which a secret can be read.
func handOver(secret string) (*os.File, error) {
	if len(secret) > maxSecret {
		return nil, fmt.Errorf("a secret of %d bytes is too long", len(secret))
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(w, secret)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// explain turns what os/exec says into one kind of error.
func (c Cmd) explain(ctx context.Context, err error, res Result) error {
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		if ctx.Err() != nil {
			return &ExitError{Path: c.Path, Code: -1, Cause: ctx.Err()}
		}
		return fmt.Errorf("run %s: %w", c.Path, err)
	}
	e := &ExitError{Path: c.Path, Code: exit.ExitCode(), Stderr: res.LastWords(), Cause: ctx.Err()}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	}
	return e
}

// command checks the program and prepares it, in its own process group that
// the context kills as a whole.
func (c Cmd) command(ctx context.Context) (*exec.Cmd, error) {
	if err := checkArgv(append([]string{c.Path}, c.Args...)); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = environment(c.Env)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = waitDelay
	return cmd, nil
}

// checkArgv refuses what the kernel or systemd could read otherwise than
// meant. Values of tenants are typed long before; this is the last wall.
func checkArgv(argv []string) error {
	if len(argv) == 0 || !path.IsAbs(argv[0]) || path.Clean(argv[0]) != argv[0] {
		return fmt.Errorf("run: program path must be absolute and clean")
	}
	for i, a := range argv {
		if strings.IndexByte(a, 0) >= 0 {
			return fmt.Errorf("run %s: argument %d holds a NUL byte", argv[0], i)
		}
	}
	return nil
}
