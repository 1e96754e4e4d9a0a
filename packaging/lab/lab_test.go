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
