package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bootWithin is generous: a boot takes 2 s on an idle machine, but tests
	// boot several hosts on two busy cores.
	bootWithin = 90 * time.Second
	// shutdownWithin is systemd's own limit for stopping a service, and a little.
	shutdownWithin = 100 * time.Second
)

// Start boots the host on what its disk holds: after Boot for the first time,
// later after Shutdown or PowerLoss. It returns when systemd has finished
// starting and sshd answers over the network.
func (h *Host) Start(ctx context.Context) error {
	h.power.Lock()
	defer h.power.Unlock()
	ctx, cancel := context.WithTimeout(ctx, bootWithin)
	defer cancel()
	if h.Alive() {
		return fmt.Errorf("start host %s: it is running", h.rec.Name)
	}
	began := time.Now()
	if err := h.start(ctx); err != nil {
		err = fmt.Errorf("start host %s: %w; the end of its console:\n%s", h.rec.Name, err, lastLines(h.Console(), 20))
		return errors.Join(err, h.kill(context.WithoutCancel(ctx)))
	}
	h.log.Info("host is up", "addr", h.rec.Addr, "took", time.Since(began).Round(10*time.Millisecond))
	return nil
}

func (h *Host) start(ctx context.Context) error {
	if err := h.mount(); err != nil {
		return err
	}
	nspawn, exited, err := h.spawn(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.exited = exited
	h.mu.Unlock()
	if err := h.record(func(r *hostRecord) { r.Running = &running{Nspawn: nspawn} }); err != nil {
		return err
	}
	var leader process
	err = h.pollAlive(ctx, "process 1 to appear", func() (ok bool, err error) {
		leader, ok, err = leaderOf(nspawn)
		return ok, err
	})
	if err != nil {
		return err
	}
	if err := h.record(func(r *hostRecord) { r.Running.Leader = leader }); err != nil {
		return err
	}
	err = h.pollAlive(ctx, "systemd to finish starting", func() (bool, error) {
		out, err := h.Exec(ctx, "systemctl", "is-system-running", "--wait")
		state := strings.TrimSpace(out.Stdout)
		// Before its bus is up, systemctl fails; it is asked again.
		return err == nil && (state == "running" || state == "degraded"), nil
	})
	if err != nil {
		return err
	}
	veth, err := vethOf(ctx, leader)
	if err != nil {
		return err
	}
	if err := h.record(func(r *hostRecord) { r.Running.Veth = veth }); err != nil {
		return err
	}
	return h.pollAlive(ctx, "sshd to answer", func() (bool, error) {
		d := net.Dialer{Timeout: time.Second}
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(h.rec.Addr.String(), "22"))
		if err != nil {
			return false, nil //nolint:nilerr // not yet is the normal answer here
		}
		return true, conn.Close()
	})
}

// spawn starts systemd-nspawn in a session and a cgroup of its own, so that the
// guest outlives this process.
func (h *Host) spawn(ctx context.Context) (process, chan struct{}, error) {
	cgroup, err := createCgroup(ctx, h.machine())
	if err != nil {
		return process{}, nil, err
	}
	defer cgroup.Close()
	console, err := os.OpenFile(h.consoleFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return process{}, nil, err
	}
	defer console.Close()
	cmd := exec.Command("/usr/bin/systemd-nspawn",
		"--quiet", "--settings=no", "--register=no", "--keep-unit", "--boot",
		"--directory="+filepath.Join(h.dir, "root"),
		"--machine="+h.machine(),
		"--hostname="+h.rec.Name,
		"--network-bridge="+h.lab.rec.bridge(),
		"--resolv-conf=off", "--timezone=off", "--link-journal=no",
		"--console=read-only",
	)
	cmd.Env = environment("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := cmd.Start(); err != nil {
		return process{}, nil, err
	}
	exited := make(chan struct{})
	p, err := processOf(cmd.Process.Pid)
	go func() {
		defer close(exited)
		// How it ended does not matter: that it ended is the event, and the
		// console file has the words.
		_ = cmd.Wait()
	}()
	if err != nil {
		return process{}, nil, fmt.Errorf("systemd-nspawn ended at once: %w", err)
	}
	return p, exited, nil
}

// leaderOf finds the child of nspawn that is process 1 in a pid namespace.
func leaderOf(nspawn process) (process, bool, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", nspawn.PID))
	if err != nil {
		return process{}, false, err
	}
	for child := range strings.FieldsSeq(string(children)) {
		status, err := os.ReadFile("/proc/" + child + "/status")
		if err != nil {
			continue // a helper of nspawn that is gone already
		}
		for line := range strings.Lines(string(status)) {
			pids := strings.Fields(line)
			if len(pids) > 2 && pids[0] == "NSpid:" && pids[len(pids)-1] == "1" {
				pid, err := strconv.Atoi(child)
				if err != nil {
					return process{}, false, err
				}
				p, err := processOf(pid)
				return p, err == nil, err
			}
		}
	}
	return process{}, false, nil
}

// pollAlive waits for a condition, and no longer than the host lives.
func (h *Host) pollAlive(ctx context.Context, what string, done func() (bool, error)) error {
	err := poll(ctx, 50*time.Millisecond, func() (bool, error) {
		select {
		case <-h.Exited():
			return false, errors.New("the host died")
		default:
			return done()
		}
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}

// Alive tells whether the host runs.
func (h *Host) Alive() bool {
	select {
	case <-h.Exited():
		return false
	default:
		return true
	}
}

// Exited returns a channel that is closed once the host that runs now has
// stopped, for whatever reason. It is closed already when the host is off.
func (h *Host) Exited() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.exited == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return h.exited
}

// PowerLoss stops the host as a pulled plug would: its process 1 gets SIGKILL,
// and everything in it dies in the same instant. What its programs had written
// is kept, also without fsync, since the machine's kernel lives on: this proves
// recovery from any point in a program, not the use of fsync.
func (h *Host) PowerLoss(ctx context.Context) error {
	h.power.Lock()
	defer h.power.Unlock()
	if !h.Alive() {
		return errors.Join(h.kill(ctx), fmt.Errorf("power loss of host %s: %w", h.rec.Name, ErrOff))
	}
	if err := h.kill(ctx); err != nil {
		return fmt.Errorf("power loss of host %s: %w", h.rec.Name, err)
	}
	return nil
}

// Shutdown powers the host off in order, as "systemctl poweroff" does.
func (h *Host) Shutdown(ctx context.Context) error {
	h.power.Lock()
	defer h.power.Unlock()
	ctx, cancel := context.WithTimeout(ctx, shutdownWithin)
	defer cancel()
	if !h.Alive() {
		return fmt.Errorf("shut down host %s: %w", h.rec.Name, ErrOff)
	}
	h.mu.Lock()
	leader := h.rec.Running.Leader
	h.mu.Unlock()
	// systemd(1): SIGRTMIN+4 asks process 1 for poweroff.target.
	if err := leader.kill(unix.Signal(34 + 4)); err != nil {
		return fmt.Errorf("shut down host %s: %w", h.rec.Name, err)
	}
	select {
	case <-h.Exited():
		return h.kill(ctx)
	case <-ctx.Done():
		return fmt.Errorf("shut down host %s: %w", h.rec.Name, ctx.Err())
	}
}

// kill ends whatever is left of a run and forgets it. It is safe on a host that is off.
func (h *Host) kill(ctx context.Context) error {
	h.mu.Lock()
	var run running
	if h.rec.Running != nil {
		run = *h.rec.Running
	}
	h.mu.Unlock()
	if run.Leader.PID != 0 {
		if err := run.Leader.kill(unix.SIGKILL); err != nil {
			return err
		}
		// nspawn takes its devices away by itself once its guest is dead.
		settle, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_ = run.Nspawn.wait(settle) // else removeCgroup makes it
	}
	if err := removeCgroup(ctx, h.machine()); err != nil {
		return err
	}
	if err := h.removeRuntime(); err != nil {
		return err
	}
	if run.Veth != "" {
		heal := lossRules(h.machine(), running{})
		if _, err := onMachine(ctx, strings.NewReader(heal), "/usr/sbin/nft", "-f", "-"); err != nil {
			return err
		}
		if err := deleteLink(ctx, run.Veth); err != nil {
			return err
		}
	}
	h.mu.Lock()
	exited := h.exited
	h.mu.Unlock()
	if exited != nil {
		select {
		case <-exited:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h.mu.Lock()
	h.exited = nil
	h.mu.Unlock()
	if !exists(filepath.Join(h.dir, hostFile)) { // never written, or another process destroyed the host
		return nil
	}
	return h.record(func(r *hostRecord) { r.Running = nil })
}

// removeRuntime removes what nspawn keeps in /run and leaves there if it is killed itself.
func (h *Host) removeRuntime() error {
	dirs, err := filepath.Glob("/run/systemd/nspawn/*/" + h.machine())
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := unmountBelow(dir); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// machine is the name of the container and of its cgroup on this machine.
func (h *Host) machine() string { return h.lab.rec.bridge() + "-" + h.rec.Name }

func (h *Host) consoleFile() string { return filepath.Join(h.dir, "console.log") }

// Console is everything the host printed while booting and stopping.
func (h *Host) Console() string {
	raw, err := os.ReadFile(h.consoleFile())
	if err != nil {
		return ""
	}
	return string(raw)
}
