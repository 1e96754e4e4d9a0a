package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"chom.dev/agent/journal"
	"chom.dev/agent/link"
	"chom.dev/agent/link/linktest"
	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// beAgent makes this test's own program the agent: what is tested is the real
// main in a process of its own, which can be killed.
const beAgent = "TEST_BE_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(beAgent) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is an installed agent.
type process struct {
	t       *testing.T
	dir     string
	server  *linktest.Server
	id      string
	program string // the agent; this test's own program unless set
	cmd     *exec.Cmd
	output  bytes.Buffer
}

func install(t *testing.T) *process {
	p := &process{t: t, dir: t.TempDir(), server: linktest.New(t)}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Log(p.output.String())
		}
	})
	return p
}

// verb runs a verb to its end.
func (p *process) verb(stdin string, args ...string) (output string, code int) {
	p.t.Helper()
	ctx, stop := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer stop()
	cmd := p.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (p *process) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append(args, "--config", filepath.Join(p.dir, "config.yaml"), "--state-dir", p.dir, "--runtime-dir", filepath.Join(p.dir, "run"))
	cmd := exec.CommandContext(ctx, cmp.Or(p.program, os.Args[0]), args...)
	cmd.Env = []string{beAgent + "=1"}
	return cmd
}

func (p *process) enrol() *process {
	p.t.Helper()
	token, id := p.server.Token()
	p.id = id
	if out, code := p.verb(token+"\n", "enroll", "--server", p.server.Address); code != 0 {
		p.t.Fatalf("enroll: %d: %s", code, out)
	}
	return p
}

func (p *process) start() *process {
	p.t.Helper()
	p.cmd = p.command(context.Background(), "run")
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	return p
}

func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
	p.cmd.Wait() // that it was killed is no news
	p.cmd = nil
}

// died waits until the process was killed by somebody else.
func (p *process) died(within time.Duration) {
	p.t.Helper()
	timer := time.AfterFunc(within, func() { p.cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		p.t.Fatalf("the agent was not killed but ended with %v", err)
	}
	p.cmd = nil
}

func (p *process) until(what string, ok func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("it never happened: %s", what)
		}
	}
}

func (p *process) hellos() (n int) {
	p.server.Look(p.id, func(a *linktest.Agent) { n = len(a.Hellos) })
	return n
}

// noop is an order of some steps.
func noop(steps uint32, each time.Duration) *orderv1.Order {
	return &orderv1.Order{TaskId: contract.NewTaskID().String(), Attempt: 1,
		Kind: &orderv1.Order_Noop{Noop: &orderv1.Noop{Steps: steps, StepDuration: durationpb.New(each)}}}
}

func (p *process) succeeds(o *orderv1.Order) {
	p.t.Helper()
	p.until("the order succeeds", func() bool {
		return p.server.Result(p.id, o.TaskId, 1).GetOutcome() == orderv1.Outcome_OUTCOME_SUCCEEDED
	})
	accepted := 0
	for _, ev := range p.server.Events(p.id, o.TaskId, 1) {
		if ev.GetAccepted() != nil {
			accepted++
		}
	}
	if accepted != 1 {
		p.t.Errorf("the attempt was accepted %d times", accepted)
	}
}

func TestProcess(t *testing.T) {
	t.Run("enrols, runs, shows its status, stops, and can be reset", func(t *testing.T) {
		p := install(t)
		if out, code := p.verb("", "status"); code != exitNotRunning || !strings.Contains(out, "no identity") {
			t.Errorf("status before enrolment: %d: %s", code, out)
		}
		p.enrol()
		if out, code := p.verb("whatever", "enroll"); code != 0 || !strings.Contains(out, p.id) {
			t.Errorf("enroll again: %d: %s", code, out)
		}
		if out, code := p.verb("", "status"); code != exitNotRunning {
			t.Errorf("status before the start: %d: %s", code, out)
		}
		p.start()
		p.until("status says connected", func() bool { _, code := p.verb("", "status"); return code == 0 })
		o := noop(3, 0)
		p.server.Offer(p.id, o)
		p.succeeds(o)
		out, _ := p.verb("", "status", "-o", "json")
		var s status
		if err := json.Unmarshal([]byte(out), &s); err != nil || s.Server != p.id || s.Link.Phase != "connected" || s.PID != p.cmd.Process.Pid {
			t.Errorf("status is %s, %v", out, err)
		}
		if out, code := p.verb("", "reset-identity", "--yes"); code == 0 || !strings.Contains(out, "agent runs") {
			t.Errorf("reset of a running agent: %d: %s", code, out)
		}
		began := time.Now()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Wait(); err != nil || time.Since(began) > 5*time.Second {
			t.Errorf("it stopped after %s with %v", time.Since(began), err)
		}
		p.cmd = nil
		if out, code := p.verb("no\n", "reset-identity"); code == 0 {
			t.Errorf("reset without a yes: %s", out)
		}
		if out, code := p.verb("yes\n", "reset-identity"); code != 0 {
			t.Errorf("reset: %d: %s", code, out)
		}
		former := p.id
		p.enrol().start()
		if p.id == former {
			t.Fatal("it is still the same server")
		}
		p.until("the new server is connected", func() bool { return p.hellos() > 0 })
	})

	t.Run("ends within 5 s although steps run, and goes on with them afterwards", func(t *testing.T) {
		p := install(t).enrol().start()
		o := noop(3, 700*time.Millisecond)
		p.server.Offer(p.id, o)
		p.until("it began", func() bool { return len(p.server.Events(p.id, o.TaskId, 1)) >= 2 })
		began := time.Now()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Wait(); err != nil || time.Since(began) > 5*time.Second {
			t.Errorf("it stopped after %s with %v", time.Since(began), err)
		}
		p.start().succeeds(o)
	})

	t.Run("takes up after kill -9 what it had accepted", func(t *testing.T) {
		p := install(t).enrol().start()
		var orders []*orderv1.Order
		for range 3 {
			o := noop(4, 150*time.Millisecond)
			p.server.Offer(p.id, o)
			orders = append(orders, o)
			p.until("it is accepted", func() bool { return len(p.server.Events(p.id, o.TaskId, 1)) > 0 })
		}
		for range 4 {
			time.Sleep(350 * time.Millisecond)
			p.kill()
			p.start()
		}
		for _, o := range orders {
			p.succeeds(o)
		}
	})

	t.Run("waits to be enrolled rather than failing", func(t *testing.T) {
		p := install(t)
		if err := os.WriteFile(filepath.Join(p.dir, "config.yaml"), []byte("server: "+p.server.Address+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.start()
		time.Sleep(300 * time.Millisecond)
		p.enrol()
		p.until("it connects", func() bool { return p.hellos() > 0 })
	})

	t.Run("refuses to run on a damaged journal, and says so", func(t *testing.T) {
		p := install(t).enrol()
		if err := os.WriteFile(filepath.Join(p.dir, "journal.db"), bytes.Repeat([]byte("x"), 1<<16), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, code := p.verb("", "run"); code == 0 || !strings.Contains(out, "journal is damaged") {
			t.Errorf("%d: %s", code, out)
		}
	})

	t.Run("never repeats the token", func(t *testing.T) {
		p := install(t)
		token, _ := p.server.Token()
		p.server.SetFault(func(string, bool) error { return fmt.Errorf("no") })
		out, code := p.verb(token, "enroll", "--server", p.server.Address)
		if code == 0 || strings.Contains(out, strings.Split(token, ".")[2]) {
			t.Errorf("%d: %s", code, out)
		}
	})
}

// notifySocket listens like systemd.
func notifySocket(t *testing.T) (path string, said func() string) {
	path = filepath.Join(t.TempDir(), "notify")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { f.Close() })
	all := ""
	return path, func() string {
		buf := make([]byte, 4096)
		for {
			n, _, err := syscall.Recvfrom(fd, buf, 0)
			if err != nil {
				return all
			}
			all += string(buf[:n]) + "\n"
		}
	}
}

func TestHealthy(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	jrnl, err := journal.Open(filepath.Join(t.TempDir(), "j.db"), contract.NewServerID().String(), log)
	if err != nil {
		t.Fatal(err)
	}
	lnk := link.New(link.Config{Log: log})
	if err := healthy(jrnl, lnk); err != nil {
		t.Error("a fresh agent counts as hung:", err)
	}
	if c, err := jrnl.Counters(); err != nil || c.Beats != 1 {
		t.Errorf("nothing was written to prove that writing works: %+v, %v", c, err)
	}
	if err := jrnl.Close(); err != nil {
		t.Fatal(err)
	}
	if err := healthy(jrnl, lnk); err == nil {
		t.Error("an agent whose journal can't be written counts as healthy")
	}
}

func TestSystemd(t *testing.T) {
	p := install(t).enrol()
	path, said := notifySocket(t)
	p.cmd = p.command(context.Background(), "run")
	p.cmd.Env = append(p.cmd.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=600000")
	p.cmd.Stderr = &p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.until("it is ready and feeds the watchdog", func() bool {
		return strings.Contains(said(), "READY=1") && strings.Count(said(), "WATCHDOG=1") >= 3
	})
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Error(err)
	}
	p.cmd = nil
	if !strings.Contains(said(), "STOPPING=1") {
		t.Error("it stopped without a word")
	}
}
