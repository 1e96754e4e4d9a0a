package run

import (
	"context"
	"errors"
	"sync"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// pid1 is a connection to PID 1's own socket, which works while the message
// bus is down. It is made for one unit, and hears how that one ends: PID 1
// tells everybody on its socket everything.
type pid1 struct {
	conn    *dbus.Conn
	service string
	path    dbus.ObjectPath // of the service

	mu    sync.Mutex
	ended map[dbus.ObjectPath]string // jobs, with their results
	exit  exit                       // of the service, as far as it was told
	news  chan struct{}              // another job has ended
}

// exit is how a service's program ended.
type exit struct {
	Result string // "success", "exit-code", "signal", "timeout", ...
	Code   int32  // 1 is an exit of its own; else a signal ended it
	Status int32  // exit status or signal
}

const (
	managerPath = "/org/freedesktop/systemd1"
	systemd1    = "org.freedesktop.systemd1"

	errUnitExists = systemd1 + ".UnitExists"
	errNoSuchUnit = systemd1 + ".NoSuchUnit"
)

func connect(service string) (*pid1, error) {
	p := &pid1{
		service: service,
		path:    dbus.ObjectPath(managerPath + "/unit/" + sd.PathBusEscape(service)),
		ended:   make(map[dbus.ObjectPath]string),
		news:    make(chan struct{}, 1),
	}
	var err error
	p.conn, err = DialPID1(dbus.WithSignalHandler(p))
	return p, err
}

func (p *pid1) close() { _ = p.conn.Close() } // nothing that was sent waits in it

// DeliverSignal hears what PID 1 says; it is for the connection's own
// goroutine. What becomes of a unit is said before its job is said to be over.
func (p *pid1) DeliverSignal(_, name string, s *dbus.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case name == "PropertiesChanged" && s.Path == p.path && len(s.Body) == 3 && s.Body[0] == systemd1+".Service":
		changed, _ := s.Body[1].(map[string]dbus.Variant)
		for key, to := range map[string]any{"Result": &p.exit.Result, "ExecMainCode": &p.exit.Code, "ExecMainStatus": &p.exit.Status} {
			if v, said := changed[key]; said {
				_ = v.Store(to) // of another type it is not what we know under that name
			}
		}
	case name == "JobRemoved" && len(s.Body) == 4:
		job, isPath := s.Body[1].(dbus.ObjectPath)
		result, isText := s.Body[3].(string)
		if !isPath || !isText {
			return
		}
		p.ended[job] = result
		select {
		case p.news <- struct{}{}:
		default:
		}
	}
}

// wait gives the result of a job: "done", "failed", "canceled", "dependency", ...
func (p *pid1) wait(ctx context.Context, job dbus.ObjectPath) (result string, err error) {
	for {
		p.mu.Lock()
		result, ended := p.ended[job]
		p.mu.Unlock()
		if ended {
			return result, nil
		}
		select {
		case <-p.news:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (p *pid1) manage(ctx context.Context, verb string, args ...any) *dbus.Call {
	return p.conn.Object(systemd1, managerPath).CallWithContext(ctx, systemd1+".Manager."+verb, 0, args...)
}

// start starts a transient service. The job ends when its program has.
func (p *pid1) start(ctx context.Context, settings []setting) (job dbus.ObjectPath, err error) {
	type auxiliary struct {
		Name     string
		Settings []setting
	}
	err = p.manage(ctx, "StartTransientUnit", p.service, "fail", settings, []auxiliary{}).Store(&job)
	return job, err
}

// kill sends SIGKILL to every process of the service, and waits until it has
// ended.
func (p *pid1) kill(ctx context.Context) error {
	if err := p.manage(ctx, "KillUnit", p.service, "all", int32(syscall.SIGKILL)).Err; err != nil {
		return absent(err)
	}
	var job dbus.ObjectPath
	if err := p.manage(ctx, "StopUnit", p.service, "replace").Store(&job); err != nil {
		return absent(err)
	}
	_, err := p.wait(ctx, job)
	return err
}

func (p *pid1) running(ctx context.Context) (bool, error) {
	var path dbus.ObjectPath
	if err := p.manage(ctx, "GetUnit", p.service).Store(&path); err != nil {
		return false, absent(err)
	}
	v, err := p.conn.Object(systemd1, path).GetProperty(systemd1 + ".Unit.ActiveState")
	if err != nil {
		return false, err
	}
	active := v.Value()
	return active != "inactive" && active != "failed", nil
}

// absent takes a unit that isn't there for one that has ended.
func absent(err error) error {
	if is(err, errNoSuchUnit) {
		return nil
	}
	return err
}

func is(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

// failure is how the program ended, for one that failed. Nil when that was not
// told.
func (p *pid1) failure(program string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit.Result == "" || p.exit.Result == "success" {
		return nil
	}
	e := &ExitError{Path: program, Code: int(p.exit.Status)}
	if p.exit.Code != 1 {
		e.Code, e.Signal = -1, syscall.Signal(p.exit.Status)
	}
	if p.exit.Result == "timeout" {
		e.Cause = context.DeadlineExceeded
	}
	return e
}
