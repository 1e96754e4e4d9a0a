package sdktest

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"chom.dev/plugins/host"
)

// Starter is a host.Starter for tests: it drops to the user's ids and has no
// sandbox. It remembers what it started so that a test can kill it.
type Starter struct {
	// Change, if set, may alter a command before it runs.
	Change func(*host.Command)

	mu   sync.Mutex
	last *started
}

// Start starts the command in a process group of its own.
func (s *Starter) Start(ctx context.Context, c host.Command) (host.Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.Change != nil {
		s.Change(&c)
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer outWrite.Close()
	defer errWrite.Close()
	p := &started{
		cmd:    exec.Command(c.Path),
		stdout: outRead,
		stderr: errRead,
		ended:  make(chan struct{}),
	}
	p.cmd.Env = c.Env
	p.cmd.Dir = "/"
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = c.Stdin, outWrite, errWrite
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Credential: &syscall.Credential{Uid: uint32(c.User.UID), Gid: uint32(c.User.GID)},
	}
	if err := p.cmd.Start(); err != nil {
		outRead.Close()
		errRead.Close()
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	timer := time.AfterFunc(c.Limit, func() { p.signal() })
	go func() {
		<-p.ended
		timer.Stop()
	}()
	s.mu.Lock()
	s.last = p
	s.mu.Unlock()
	return p, nil
}

// KillLast kills what was started last, as kill -9 would: nobody is told.
func (s *Starter) KillLast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil {
		s.last.signal()
	}
}

// LastPID is the process id of what was started last, 0 before.
func (s *Starter) LastPID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		return 0
	}
	return s.last.cmd.Process.Pid
}

type started struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File
	ended          chan struct{}
	err            error
}

func (p *started) Stdout() io.ReadCloser { return p.stdout }
func (p *started) Stderr() io.ReadCloser { return p.stderr }
func (p *started) ID() string            { return strconv.Itoa(p.cmd.Process.Pid) }

func (p *started) Wait() error {
	<-p.ended
	return p.err
}

// signal kills the whole group; php runs in a group of its own but dies with
// its parent.
func (p *started) signal() {
	select {
	case <-p.ended:
		return // the number may belong to someone else by now
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // ESRCH: it has just ended
}

func (p *started) Kill(ctx context.Context) error {
	p.signal()
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("the process does not end"), ctx.Err())
	}
}
