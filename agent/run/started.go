package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	// stopWithin bounds how long a killed unit may take to die; systemd itself
	// sends SIGKILL at once, this is for a process stuck in the kernel.
	stopWithin = 10 * time.Second

	// askEvery is how often PID 1 is asked about a unit of which it says
	// nothing: what it had to say is lost when an update executes it anew.
	askEvery = time.Second
)

// Started is a unit under way. Wait for it, always.
type Started struct {
	// Stdout and Stderr end with the last process of the unit.
	Stdout, Stderr io.ReadCloser

	program  string
	deadline time.Time // PID 1 has ended the unit by then
	pid1     *pid1
	job      dbus.ObjectPath // of the start; it ends with the unit

	streams []setting
	theirs  []*os.File // ends of pipes that are for the unit alone
	ours    []*os.File
	fed     sync.WaitGroup
}

// Start starts the unit for a caller that talks to it while it runs, and
// returns once PID 1 has taken it on. The context bounds the start alone.
func (u Unit) Start(ctx context.Context) (_ *Started, err error) {
	settings, err := u.settings()
	if err != nil {
		return nil, err
	}
	s := &Started{program: u.Argv[0], deadline: time.Now().Add(cmp.Or(u.Timeout, defaultTimeout) + stopWithin)}
	defer func() {
		closeAll(s.theirs) // PID 1 has its own
		if err != nil {
			s.letGo()
			err = fmt.Errorf("start %s: %w", u.Service(), err)
		}
	}()
	if err := errors.Join(s.feed(u.Stdin), s.listen("Output", &s.Stdout), s.listen("Error", &s.Stderr)); err != nil {
		return nil, err
	}
	if s.pid1, err = connect(u.Service()); err != nil {
		return nil, err
	}
	settings = append(settings, s.streams...)
	s.job, err = s.pid1.start(ctx, settings)
	if is(err, errUnitExists) {
		if err := s.Kill(ctx); err != nil {
			return nil, fmt.Errorf("end the older one: %w", err)
		}
		s.job, err = s.pid1.start(ctx, settings)
	}
	return s, err
}

// feed gives the unit its input: a file itself, anything else through a pipe.
func (s *Started) feed(in io.Reader) error {
	if in == nil {
		return nil
	}
	if f, ok := in.(*os.File); ok {
		s.hand("Input", f)
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.theirs, s.ours = append(s.theirs, r), append(s.ours, w)
	s.hand("Input", r)
	s.fed.Go(func() {
		_, _ = io.Copy(w, in) // a unit may end without having read it all
		_ = w.Close()
	})
	return nil
}

// listen takes what the unit writes.
func (s *Started) listen(stream string, to *io.ReadCloser) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.theirs, s.ours = append(s.theirs, w), append(s.ours, r)
	s.hand(stream, w)
	*to = r
	return r.SetReadDeadline(s.deadline) // whoever else may hold the other end
}

func (s *Started) hand(stream string, f *os.File) {
	fd := dbus.UnixFD(f.Fd()) // a blocking one from now on, as programs expect
	s.streams = append(s.streams, setting{"Standard" + stream + "FileDescriptor", dbus.MakeVariant(fd)})
}

// Wait returns when the unit has ended, with every process of it. Read both
// outputs to their end before. A program that failed gives an *ExitError.
func (s *Started) Wait() error {
	defer s.letGo()
	for gone := false; time.Now().Before(s.deadline); {
		ctx, cancel := context.WithTimeout(context.Background(), askEvery)
		result, err := s.pid1.wait(ctx, s.job)
		cancel()
		switch {
		case result == "done":
			return nil
		case err == nil:
			return cmp.Or(s.pid1.failure(s.program), fmt.Errorf("run %s: systemd says %q", s.program, result))
		case gone:
			return fmt.Errorf("run %s: it has ended, and systemd was executed anew before it said how", s.program)
		}
		on, err := Running(context.Background(), s.pid1.service) // asked on another connection: ours may be broken
		gone = err == nil && !on
	}
	return fmt.Errorf("run %s: systemd has not ended it in time", s.program)
}

// Kill ends every process of the unit, and returns when they are gone. One
// that has ended is fine.
func (s *Started) Kill(ctx context.Context) error { return Stop(ctx, s.pid1.service) }

// letGo closes what is ours.
func (s *Started) letGo() {
	closeAll(s.ours)
	s.fed.Wait()
	if s.pid1 != nil {
		s.pid1.close()
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // ends of pipes hold nothing back
	}
}

// Stop kills every process of a transient unit and waits until the unit is
// gone. A unit that is not there is fine.
func Stop(ctx context.Context, service string) error {
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	p, err := connect(service)
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.kill(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", service, err)
	}
	return nil
}

// Running tells whether a unit has processes, for a restarted agent that finds
// its own older work.
func Running(ctx context.Context, service string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	p, err := connect(service)
	if err != nil {
		return false, err
	}
	defer p.close()
	return p.running(ctx)
}
