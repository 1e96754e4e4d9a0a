package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"chom.dev/agent/run"
)

const (
	// stopWithin bounds how long a killed unit may take to die; systemd itself
	// sends SIGKILL at once, this is for a process stuck in the kernel.
	stopWithin = 10 * time.Second

	// askEvery is how often systemd is asked about a unit of which it says
	// nothing: what it had to say is lost when an update executes it anew.
	askEvery = time.Second
)

// Run runs a program in a transient unit to its end. Canceling the context
// kills every process of the unit. A program that ran and failed gives a
// *run.ExitError together with its output.
func (h *Host) Run(ctx context.Context, u run.Unit) (run.Result, error) {
	p, err := h.Launch(ctx, u)
	if err != nil {
		return run.Result{}, err
	}
	killed := make(chan error, 1)
	spare := context.AfterFunc(ctx, func() { killed <- p.Kill(context.WithoutCancel(ctx)) })
	res := run.Gather(p.Stdout(), p.Stderr(), u.MaxOutput)
	err = p.Wait()
	if !spare() {
		err = errors.Join(&run.ExitError{Path: u.Argv[0], Code: -1, Cause: ctx.Err()}, <-killed)
	}
	var exit *run.ExitError
	if errors.As(err, &exit) {
		exit.Stderr = res.LastWords()
	}
	return res, err
}

// Process is a transient unit under way. Wait for it, always.
type Process struct {
	host           *Host
	unit, program  string
	deadline       time.Time     // systemd has ended it by then
	ended          <-chan string // the result of its start, which takes as long as the program
	stdout, stderr *os.File
	fed            sync.WaitGroup
}

// Launch starts a transient unit for a caller that talks to it while it runs,
// and returns once systemd has taken it on. One of the same name, left by an
// agent that died, is ended before. The context bounds the start alone.
func (h *Host) Launch(ctx context.Context, u run.Unit) (_ *Process, err error) {
	settings, err := u.Settings()
	if err != nil {
		return nil, err
	}
	p := &Process{host: h, unit: u.Service(), program: u.Argv[0], deadline: time.Now().Add(u.Limit() + stopWithin)}
	s := streams{settings: settings}
	defer func() {
		s.close() // systemd has its own
		if err != nil {
			p.letGo()
			err = fmt.Errorf("launch %s: %w", p.unit, err)
		}
	}()
	if err := errors.Join(s.feed(u.Stdin, p),
		s.listen("StandardOutputFileDescriptor", &p.stdout, p.deadline), s.listen("StandardErrorFileDescriptor", &p.stderr, p.deadline)); err != nil {
		return nil, err
	}
	err = p.start(ctx, s.settings)
	if is(err, "UnitExists") {
		if err = p.Kill(ctx); err == nil {
			err = p.start(ctx, s.settings)
		}
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Process) start(ctx context.Context, settings []dbus.Property) error {
	conn, err := p.host.connect()
	if err != nil {
		return err
	}
	ended := make(chan string, 1)
	if _, err := conn.StartTransientUnitContext(ctx, p.unit, "fail", settings, ended); err != nil {
		return err
	}
	p.ended = ended
	return nil
}

// Stdout gives what the program writes; it ends with the last process of the unit.
func (p *Process) Stdout() io.ReadCloser { return p.stdout }

// Stderr is like Stdout.
func (p *Process) Stderr() io.ReadCloser { return p.stderr }

// ID is the unit's name.
func (p *Process) ID() string { return p.unit }

// Wait returns when the unit has ended, with every process of it. Read both
// outputs to their end before. A program that failed gives a *run.ExitError.
func (p *Process) Wait() error {
	defer p.letGo()
	for result := ""; time.Now().Before(p.deadline); {
		select {
		case result = <-p.ended:
		case <-time.After(askEvery):
		}
		if result == "done" {
			return nil
		}
		if over, err := p.look(result); over {
			return err
		}
	}
	return fmt.Errorf("run %s: systemd has not ended it in time", p.program)
}

// look asks how the unit is. One that ended well is gone, one that failed is
// kept until it is forgotten here. Nothing is heard of the result when systemd
// was executed anew.
func (p *Process) look(result string) (over bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	st, err := p.host.State(ctx, p.unit)
	switch {
	case err != nil:
		return false, nil //nolint:nilerr // it is being executed anew, and asked again
	case st.Active == "failed":
		return true, errors.Join(st.exit(p.program), p.host.ResetFailed(ctx, p.unit))
	case st.Active == "inactive" && result == "":
		return true, nil
	case st.Active == "inactive":
		return true, fmt.Errorf("run %s: systemd says %q", p.program, result)
	}
	return false, nil
}

// exit is how the main process of a failed service ended.
func (s State) exit(program string) error {
	e := &run.ExitError{Path: program, Code: int(s.status)}
	if s.code != 1 { // CLD_EXITED; a signal ended it
		e.Code, e.Signal = -1, syscall.Signal(s.status)
	}
	if s.Result == "timeout" {
		e.Cause = context.DeadlineExceeded
	}
	return e
}

// Kill ends every process of the unit, and returns when they are gone. One
// that has ended is fine.
func (p *Process) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	return errors.Join(p.host.Kill(ctx, p.unit), p.host.Stop(ctx, p.unit), p.host.ResetFailed(ctx, p.unit))
}

// letGo closes what is ours.
func (p *Process) letGo() {
	for _, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close() // a pipe's end for reading
		}
	}
	p.fed.Wait()
}

// streams are what a unit is given to read and write.
type streams struct {
	settings []dbus.Property
	theirs   []*os.File // ends of pipes that are for the unit alone
}

// feed gives the unit its input: a file itself, anything else through a pipe.
func (s *streams) feed(in io.Reader, p *Process) error {
	if in == nil {
		return nil
	}
	const name = "StandardInputFileDescriptor"
	if f, ok := in.(*os.File); ok {
		s.hand(name, f)
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.theirs = append(s.theirs, r)
	s.hand(name, r)
	p.fed.Go(func() {
		_, _ = io.Copy(w, in) // a unit may end without having read it all
		_ = w.Close()
	})
	return nil
}

// listen takes what the unit writes.
func (s *streams) listen(name string, to **os.File, until time.Time) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.theirs = append(s.theirs, w)
	s.hand(name, w)
	*to = r
	return r.SetReadDeadline(until) // whoever else may hold the other end
}

func (s *streams) hand(name string, f *os.File) {
	fd := godbus.UnixFD(f.Fd()) // a blocking one from now on, as programs expect
	s.settings = append(s.settings, dbus.Property{Name: name, Value: godbus.MakeVariant(fd)})
}

func (s *streams) close() {
	for _, f := range s.theirs {
		_ = f.Close() // nothing was written to it here
	}
}
