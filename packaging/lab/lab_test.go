package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/lab/labtest"
)

func TestHost(t *testing.T) {
	for _, release := range lab.Releases {
		t.Run(string(release), func(t *testing.T) {
			base := labtest.Base(t, release, lab.Fresh)
			l := labtest.New(t)
			h := labtest.Boot(t, l, lab.Config{Name: "one", Base: base})
			t.Run("is a booted system without a failed unit", func(t *testing.T) {
				if got := labtest.Output(t, h, "systemctl", "is-system-running"); got != "running" {
					t.Errorf("state is %q; failed: %s", got, labtest.Output(t, h, "systemctl", "--failed"))
				}
			})
			t.Run("is what it says", func(t *testing.T) {
				os, err := h.ReadFile("/etc/os-release")
				if err != nil || !strings.Contains(string(os), "VERSION_CODENAME="+string(release)+"\n") {
					t.Errorf("os-release: %q, %v", os, err)
				}
				if got := labtest.Output(t, h, "hostname"); got != "one" {
					t.Errorf("hostname is %q", got)
				}
			})
			t.Run("starts services that apt installs", func(t *testing.T) {
				if _, err := h.ReadFile("/usr/sbin/policy-rc.d"); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("policy-rc.d in the guest: %v", err)
				}
			})
			t.Run("reaches the apt mirror", func(t *testing.T) {
				labtest.Output(t, h, "apt-get", "update", "--error-on=any")
			})
			t.Run("lets the lab's key in by ssh", func(t *testing.T) {
				out, err := overSSH(l, h, "hostname")
				if err != nil || out != "one\n" {
					t.Errorf("hostname over ssh is %q, %v", out, err)
				}
			})
		})
	}
}

func TestHosts(t *testing.T) {
	base := labtest.Base(t, lab.Bookworm, lab.Fresh)
	l := labtest.New(t)
	one := labtest.Boot(t, l, lab.Config{Name: "one", Base: base})
	two := labtest.Boot(t, l, lab.Config{Name: "two", Base: base, Hosts: map[string]netip.Addr{"one.test": one.Addr()}})

	t.Run("reach each other by address and given name", func(t *testing.T) {
		for _, to := range []string{one.Addr().String(), "one.test"} {
			got := labtest.Output(t, two, "ssh-keyscan", "-T", "5", "-t", "ed25519", to)
			if got != to+" "+one.SSHHostKey() {
				t.Errorf("at %s answers %q", to, got)
			}
		}
	})
	t.Run("reach a server on the gateway", func(t *testing.T) {
		url := serve(t, l)
		if got := labtest.Output(t, one, "curl", "--silent", "--max-time", "5", url); got != "from "+one.Addr().String() {
			t.Errorf("got %q", got)
		}
	})
	t.Run("are not each other", func(t *testing.T) {
		for _, argv := range [][]string{{"cat", "/etc/machine-id"}, {"cat", "/etc/ssh/ssh_host_ed25519_key.pub"}} {
			if a, b := labtest.Output(t, one, argv...), labtest.Output(t, two, argv...); a == b || a == "" {
				t.Errorf("%v: %q and %q", argv, a, b)
			}
		}
	})
	t.Run("have their own disks over one base", func(t *testing.T) {
		if err := one.WriteFile("/usr/bin/mine", []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := two.ReadFile("/usr/bin/mine"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the other host's file: %v", err)
		}
		if _, err := os.Lstat(filepath.Join(base.Root(), "usr/bin/mine")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file in the base: %v", err)
		}
	})
	t.Run("cannot share a name", func(t *testing.T) {
		if _, err := l.Boot(t.Context(), lab.Config{Name: "one", Base: base}); err == nil {
			t.Error("a second host named one came up")
		}
		labtest.Output(t, one, "true") // and the first one is unharmed
	})
}

func TestPower(t *testing.T) {
	l := labtest.New(t)
	h := labtest.Boot(t, l, lab.Config{Name: "one", Base: labtest.Base(t, lab.Bookworm, lab.Fresh)})
	stops := []struct {
		name string
		stop func(context.Context) error
	}{
		{"loss", h.PowerLoss},
		{"off in order", h.Shutdown},
	}
	for _, s := range stops {
		t.Run(s.name+" keeps the disk", func(t *testing.T) {
			if err := h.WriteFile("/srv/kept", []byte(s.name), 0o640); err != nil {
				t.Fatal(err)
			}
			if err := s.stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if h.Alive() {
				t.Fatal("alive after its end")
			}
			if _, err := h.Exec(t.Context(), "true"); !errors.Is(err, lab.ErrOff) {
				t.Errorf("exec while off: %v", err)
			}
			if err := s.stop(t.Context()); !errors.Is(err, lab.ErrOff) {
				t.Errorf("a second end: %v", err)
			}
			if kept, err := h.ReadFile("/srv/kept"); err != nil || string(kept) != s.name {
				t.Errorf("read while off: %q, %v", kept, err)
			}
			if err := h.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := labtest.Output(t, h, "cat", "/srv/kept"); got != s.name {
				t.Errorf("after the restart it holds %q", got)
			}
		})
	}
	t.Run("loss kills what runs, at once", func(t *testing.T) {
		running := make(chan error, 1)
		up, out := io.Pipe()
		go func() {
			_, err := h.Run(t.Context(), lab.Command{Argv: []string{"sh", "-c", "echo up; sleep 600"}, Stdout: out})
			running <- err
		}()
		if _, err := up.Read(make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		exited := h.Exited()
		began := time.Now()
		if err := h.PowerLoss(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-exited
		if err := <-running; !errors.Is(err, lab.ErrOff) {
			t.Errorf("the running program: %v", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if err := h.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("off from inside is noticed", func(t *testing.T) {
		exited := h.Exited()
		if _, err := h.Exec(t.Context(), "systemctl", "poweroff", "--no-block"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-exited:
		case <-time.After(time.Minute):
			t.Fatal("not noticed")
		}
		if err := h.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		labtest.Output(t, h, "true")
	})
}

func TestDown(t *testing.T) {
	base := labtest.Base(t, lab.Bookworm, lab.Fresh)
	before := read(t, "/proc/sys/fs/protected_symlinks")
	others, err := lab.List()
	if err != nil {
		t.Fatal(err)
	}
	l := labtest.New(t)
	if got := read(t, "/proc/sys/fs/protected_symlinks"); got != "1" {
		t.Errorf("fs.protected_symlinks is %s in a lab", got)
	}
	other := make(chan error, 1)
	go func() { // hosts may come up side by side
		_, err := l.Boot(t.Context(), lab.Config{Name: "one", Base: base})
		other <- err
	}()
	h := labtest.Boot(t, l, lab.Config{Name: "two", Base: base})
	if err := <-other; err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.LimitDir(t.Context(), "/srv", 1<<20), h.Partition(t.Context(), true)); err != nil {
		t.Fatal(err)
	}
	traces := []func() []string{
		func() []string { return grep(read(t, "/proc/self/mountinfo"), "/"+l.Name()+"/") },
		func() []string { return processesIn(t, l.Name(), l.Bridge()) },
		func() []string { return glob(t, "/sys/class/net/"+l.Bridge()+"*") },
		func() []string { return glob(t, "/sys/class/net/vb-"+l.Bridge()+"*") },
		func() []string {
			return glob(t, "/sys/fs/cgroup/"+l.Bridge()+"-*", "/sys/fs/cgroup/unified/"+l.Bridge()+"-*")
		},
		func() []string { return grep(tables(t), "table ip "+l.Bridge()) },
		func() []string { return grep(tables(t), "table bridge "+l.Bridge()+"-") },
		func() []string { return glob(t, filepath.Join(lab.StateDir(), l.Name())) },
		func() []string { return glob(t, "/run/systemd/nspawn/*/"+l.Bridge()+"-*") },
	}
	for i, trace := range traces {
		if len(trace()) == 0 {
			t.Errorf("trace %d is not there while the lab is up: the test looks in the wrong place", i)
		}
	}

	// Another process takes it down: all it knows is what is written.
	again, err := lab.Open(l.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(again.Hosts()); n != 2 {
		t.Fatalf("opened with %d hosts", n)
	}
	if err := again.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, trace := range traces {
		if left := trace(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	if len(others) == 0 {
		if after := read(t, "/proc/sys/fs/protected_symlinks"); after != before {
			t.Errorf("fs.protected_symlinks was %s, is %s", before, after)
		}
	}
	if err := again.Down(t.Context()); err != nil {
		t.Errorf("down twice: %v", err)
	}
	if _, err := lab.Open(l.Name(), nil); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("open after down: %v", err)
	}
}

func TestBrokenBoot(t *testing.T) {
	base := labtest.Base(t, lab.Bookworm, lab.Fresh)
	l := labtest.New(t)
	for _, after := range []time.Duration{0, 20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond} {
		t.Run(fmt.Sprintf("broken off after %v leaves nothing", after), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			if _, err := l.Boot(ctx, lab.Config{Name: "one", Base: base}); err == nil {
				t.Fatal("it booted all the same")
			}
			if n := len(l.Hosts()); n != 0 {
				t.Errorf("the lab has %d hosts", n)
			}
			for _, left := range [][]string{
				grep(read(t, "/proc/self/mountinfo"), "/"+l.Name()+"/"),
				processesIn(t, l.Name(), l.Bridge()),
				glob(t, filepath.Join(lab.StateDir(), l.Name(), "hosts", "*")),
				glob(t, "/run/systemd/nspawn/*/"+l.Bridge()+"-*", "/sys/fs/cgroup/"+l.Bridge()+"-*", "/sys/fs/cgroup/unified/"+l.Bridge()+"-*"),
			} {
				if len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
			}
		})
	}
	labtest.Boot(t, l, lab.Config{Name: "one", Base: base})
}

// orphanEnv turns this test binary into the process whose lab is orphaned.
const orphanEnv = "CHOM_LAB_TEST_ORPHAN"

func TestOrphan(t *testing.T) {
	if name := os.Getenv(orphanEnv); name != "" {
		l, err := lab.New(t.Context(), lab.Options{Name: name, Ephemeral: true})
		if err != nil {
			t.Fatal(err)
		}
		labtest.Boot(t, l, lab.Config{Name: "one", Base: labtest.Base(t, lab.Bookworm, lab.Fresh)})
		os.Exit(7) // without Down, as a crash would
	}
	name := fmt.Sprintf("orphan-%d", os.Getpid())
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOrphan$")
	child.Env = append(os.Environ(), orphanEnv+"="+name)
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("the child ended otherwise than it should: %v: %s", err, out)
	}
	orphan, err := lab.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if h, ok := orphan.Host("one"); !ok || !h.Alive() {
		t.Fatal("the host did not outlive its process")
	}
	labtest.New(t)
	if _, err := lab.Open(name, nil); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("the next New left it there: %v", err)
	}
}

// serve answers on the lab's gateway until the test ends.
func serve(t *testing.T, l *lab.Lab) string {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(l.Gateway().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, // TCP may repeat a lost packet for long
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprint(w, "from ", from)
		})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return "http://" + listener.Addr().String() + "/"
}

func overSSH(l *lab.Lab, h *lab.Host, cmd string) (string, error) {
	raw, err := os.ReadFile(l.SSHKey())
	if err != nil {
		return "", err
	}
	key, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		return "", err
	}
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(h.SSHHostKey()))
	if err != nil {
		return "", err
	}
	client, err := ssh.Dial("tcp", net.JoinHostPort(h.Addr().String(), "22"), &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(hostKey), Timeout: 10 * time.Second,
	})
	if err != nil {
		return "", err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return "", err
	}
	defer session.Close()
	out, err := session.Output(cmd)
	return string(out), err
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

func grep(text, word string) []string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			found = append(found, line)
		}
	}
	return found
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// processesIn finds processes by their cgroup or by a word of their command line.
func processesIn(t *testing.T, words ...string) []string {
	t.Helper()
	var found []string
	for _, dir := range glob(t, "/proc/[0-9]*") {
		if filepath.Base(dir) == fmt.Sprint(os.Getpid()) {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline") // it may end any time
		group, _ := os.ReadFile(dir + "/cgroup")
		state, _ := os.ReadFile(dir + "/status")
		if strings.Contains(string(state), "\nState:\tZ") { // dead; the machine's process 1 has yet to collect it
			continue
		}
		for _, w := range words {
			if strings.Contains(string(line), w) || strings.Contains(string(group), w+"-") {
				found = append(found, dir+" "+strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
	}
	return found
}

func tables(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "/usr/sbin/nft", "list", "tables").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
