// Package systemd is the agent's hold on the host's init: it writes unit files,
// starts and stops units, and asks how they are. It talks D-Bus to PID 1
// directly, so it works while the message bus is down.
//
// It also runs programs in transient units, as package run describes them.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Host is the init system of this machine. It connects when first used and
// again after PID 1 was re-executed. Safe for concurrent use.
type Host struct {
	dir string // where unit files go

	mu   sync.Mutex
	conn *dbus.Conn
}

// UnitDir is where an administrator's units live; ours are such.
const UnitDir = "/etc/systemd/system"

// New gives the host's systemd without talking to it yet.
func New() *Host { return &Host{dir: UnitDir} }

// Close ends the connection. A later use makes a new one.
func (h *Host) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil {
		h.conn.Close()
		h.conn = nil
	}
}

// connect gives a live connection to PID 1's own socket.
func (h *Host) connect() (*dbus.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil && h.conn.Connected() {
		return h.conn, nil
	}
	if h.conn != nil {
		h.conn.Close()
		h.conn = nil
	}
	conn, err := dbus.NewConnection(func() (*godbus.Conn, error) { return dial() })
	if err != nil {
		return nil, err
	}
	h.conn = conn
	return conn, nil
}

// State is how a unit is right now.
type State struct {
	Load   string // "loaded", "not-found", "masked", ...
	Active string // "active", "inactive", "failed", "activating", ...
	Sub    string // finer, by type: "running", "dead", "mounted", ...
	Result string // of services: "success", "exit-code", "timeout", "oom-kill", ...

	fragment     string
	stale        bool
	code, status int32 // of a service's main process: how it ended, and with what
}

// State asks for a unit's state. A unit that doesn't exist is no error: its
// Load is "not-found".
func (h *Host) State(ctx context.Context, unit string) (State, error) {
	conn, err := h.connect()
	if err != nil {
		return State{}, err
	}
	props, err := conn.GetAllPropertiesContext(ctx, unit)
	if err != nil {
		return State{}, fmt.Errorf("state of %s: %w", unit, err)
	}
	str := func(key string) string { s, _ := props[key].(string); return s }
	number := func(key string) int32 { n, _ := props[key].(int32); return n }
	stale, _ := props["NeedDaemonReload"].(bool)
	return State{
		Load: str("LoadState"), Active: str("ActiveState"), Sub: str("SubState"), Result: str("Result"),
		fragment: str("FragmentPath"), stale: stale, code: number("ExecMainCode"), status: number("ExecMainStatus"),
	}, nil
}

// Start starts a unit and waits until its job is done: for a service of type
// notify, until it said it is ready. A unit that is active is left alone.
func (h *Host) Start(ctx context.Context, unit string) error {
	return h.job(ctx, "start", unit, (*dbus.Conn).StartUnitContext)
}

// Stop stops a unit and waits until every process of it is gone. A unit that
// doesn't exist is fine.
func (h *Host) Stop(ctx context.Context, unit string) error {
	err := h.job(ctx, "stop", unit, (*dbus.Conn).StopUnitContext)
	if isNoSuchUnit(err) {
		return nil
	}
	return err
}

// Restart stops a unit if it runs, and starts it.
func (h *Host) Restart(ctx context.Context, unit string) error {
	return h.job(ctx, "restart", unit, (*dbus.Conn).RestartUnitContext)
}

// Reload makes a running service read its configuration, by its own ExecReload.
func (h *Host) Reload(ctx context.Context, unit string) error {
	return h.job(ctx, "reload", unit, (*dbus.Conn).ReloadUnitContext)
}

// Signal sends a signal to the main process of a service.
func (h *Host) Signal(ctx context.Context, unit string, sig syscall.Signal) error {
	return h.kill(ctx, unit, dbus.Main, sig)
}

// Kill sends SIGKILL to every process below a unit. Together with Stop it is
// how a slice is emptied. A unit that doesn't exist is fine.
func (h *Host) Kill(ctx context.Context, unit string) error {
	err := h.kill(ctx, unit, dbus.All, syscall.SIGKILL)
	if isNoSuchUnit(err) {
		return nil
	}
	return err
}

func (h *Host) kill(ctx context.Context, unit string, who dbus.Who, sig syscall.Signal) error {
	conn, err := h.connect()
	if err != nil {
		return err
	}
	if err := conn.KillUnitWithTarget(ctx, unit, who, int32(sig)); err != nil {
		return fmt.Errorf("signal %v to %s: %w", sig, unit, err)
	}
	return nil
}

// ResetFailed lets a failed unit start again before its start limit allows.
func (h *Host) ResetFailed(ctx context.Context, unit string) error {
	conn, err := h.connect()
	if err != nil {
		return err
	}
	if err := conn.ResetFailedUnitContext(ctx, unit); err != nil && !isNoSuchUnit(err) {
		return fmt.Errorf("reset %s: %w", unit, err)
	}
	return nil
}

type starter func(c *dbus.Conn, ctx context.Context, name, mode string, done chan<- string) (int, error)

// job submits a job and waits for its result.
func (h *Host) job(ctx context.Context, verb, unit string, start starter) error {
	conn, err := h.connect()
	if err != nil {
		return err
	}
	done := make(chan string, 1)
	if _, err := start(conn, ctx, unit, "replace", done); err != nil {
		return fmt.Errorf("%s %s: %w", verb, unit, err)
	}
	select {
	case result := <-done:
		if result == "done" || result == "skipped" && verb == "stop" {
			return nil
		}
		st, err := h.State(ctx, unit)
		if err != nil {
			return fmt.Errorf("%s %s: job %s", verb, unit, result)
		}
		return fmt.Errorf("%s %s: job %s, unit is %s (%s), result %s", verb, unit, result, st.Active, st.Sub, st.Result)
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", verb, unit, ctx.Err())
	}
}

// WaitActive waits until a unit is active, looking every 20 ms. It returns at
// once when the unit has failed.
func (h *Host) WaitActive(ctx context.Context, unit string) error {
	tick := time.NewTicker(20 * time.Millisecond) // far below what anyone notices, far above what a question costs
	defer tick.Stop()
	for {
		st, err := h.State(ctx, unit)
		if err != nil {
			return err
		}
		switch st.Active {
		case "active":
			return nil
		case "failed":
			return fmt.Errorf("wait for %s: it failed, result %s", unit, st.Result)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s, which is %s: %w", unit, st.Active, ctx.Err())
		case <-tick.C:
		}
	}
}

// Units lists loaded units whose names match a shell pattern, e.g.
// "chom-run-*", as name to active state.
func (h *Host) Units(ctx context.Context, pattern string) (map[string]string, error) {
	conn, err := h.connect()
	if err != nil {
		return nil, err
	}
	list, err := conn.ListUnitsByPatternsContext(ctx, nil, []string{pattern})
	if err != nil {
		return nil, fmt.Errorf("list units %s: %w", pattern, err)
	}
	out := make(map[string]string, len(list))
	for _, u := range list {
		out[u.Name] = u.ActiveState
	}
	return out, nil
}

func isNoSuchUnit(err error) bool { return is(err, "NoSuchUnit") }

// is tells whether systemd gave this error.
func is(err error, name string) bool {
	var e godbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.systemd1."+name
}

// Ready says that the agent is up. It and the three after it talk to our own
// supervisor, when there is one; elsewhere they do nothing.
func Ready() error { return notify(daemon.SdNotifyReady) }

// Stopping says that a clean stop has begun.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

// Watchdog says that the agent is alive. Only a loop that has proved that may
// call it.
func Watchdog() error { return notify(daemon.SdNotifyWatchdog) }

// Status shows a line in "systemctl status".
func Status(line string) error { return notify("STATUS=" + line) }

// WatchdogInterval is how often Watchdog must be called at the latest, 0 when
// nobody watches. Callers use half of it.
func WatchdogInterval() (time.Duration, error) { return daemon.SdWatchdogEnabled(false) }

func notify(state string) error {
	_, err := daemon.SdNotify(false, state)
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
