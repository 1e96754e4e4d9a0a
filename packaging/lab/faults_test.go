package lab_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/lab/labtest"
)

func TestFaults(t *testing.T) {
	l := labtest.New(t)
	h := labtest.Boot(t, l, lab.Config{Name: "one", Base: labtest.Base(t, lab.Bookworm, lab.Fresh)})
	url := serve(t, l)
	// fetch asks the gateway from inside; patience is what curl has, in seconds.
	fetch := func(t *testing.T, patience string) (lab.Result, time.Duration) {
		t.Helper()
		began := time.Now()
		r, err := h.Exec(t.Context(), "curl", "--silent", "--show-error", "--max-time", patience, url)
		if err != nil {
			t.Fatal(err)
		}
		return r, time.Since(began)
	}
	works := func(t *testing.T) {
		t.Helper()
		if r, _ := fetch(t, "10"); r.Code != 0 {
			t.Errorf("the network does not work: %+v", r)
		}
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	t.Run("a partition is silent, and heals", func(t *testing.T) {
		must(t, h.Partition(t.Context(), true))
		if r, _ := fetch(t, "1"); r.Code != 28 { // curl's number for a timeout
			t.Errorf("through the cut: %+v", r)
		}
		if got := labtest.Output(t, h, "cat", "/sys/class/net/host0/carrier"); got != "1" {
			t.Errorf("the guest sees carrier %s", got)
		}
		must(t, h.Partition(t.Context(), false))
		works(t)
	})
	t.Run("a pulled cable is seen, and heals", func(t *testing.T) {
		must(t, h.Unplug(t.Context(), true))
		if r, _ := fetch(t, "1"); r.Code == 0 {
			t.Errorf("without a cable: %+v", r)
		}
		if got := labtest.Output(t, h, "cat", "/sys/class/net/host0/carrier"); got != "0" {
			t.Errorf("the guest sees carrier %s", got)
		}
		must(t, h.Unplug(t.Context(), false))
		labtest.Output(t, h, "/lib/systemd/systemd-networkd-wait-online", "--timeout=10")
		works(t)
	})
	t.Run("packets are lost in the direction asked for", func(t *testing.T) {
		for d, heard := range map[lab.Direction]bool{lab.Inbound: true, lab.Outbound: false} {
			must(t, h.Lose(t.Context(), d, 100))
			if r, _ := fetch(t, "1"); r.Code != 28 {
				t.Errorf("direction %d lost: %+v", d, r)
			}
			if got := hears(t, l, h); got != heard {
				t.Errorf("direction %d lost: the gateway hears the host: %v", d, got)
			}
			must(t, h.Lose(t.Context(), d, 0))
			works(t)
		}
	})
	t.Run("a lossy network is slow, not dead", func(t *testing.T) {
		must(t, h.Lose(t.Context(), lab.Inbound|lab.Outbound, 20))
		began := time.Now()
		for range 3 {
			if r, _ := fetch(t, "60"); r.Code != 0 {
				t.Errorf("with a fifth lost: %+v", r)
			}
		}
		t.Logf("3 requests took %v", time.Since(began))
		must(t, h.Lose(t.Context(), lab.Inbound|lab.Outbound, 0))
		works(t)
	})
	t.Run("a restart heals", func(t *testing.T) {
		must(t, h.Partition(t.Context(), true))
		must(t, h.PowerLoss(t.Context()))
		must(t, h.Start(t.Context()))
		works(t)
	})
	t.Run("a limited directory runs full, and gets space again", func(t *testing.T) {
		labtest.Output(t, h, "install", "--directory", "--owner=daemon", "--mode=0750", "/srv/small")
		must(t, h.WriteFile("/srv/small/before", []byte("kept"), 0o600))
		must(t, h.LimitDir(t.Context(), "/srv/small", 1<<20))
		if got := labtest.Output(t, h, "stat", "--format=%U %a", "/srv/small"); got != "daemon 750" {
			t.Errorf("owner and mode are %q", got)
		}
		if got := labtest.Output(t, h, "cat", "/srv/small/before"); got != "kept" {
			t.Errorf("content is %q", got)
		}
		fill := []string{"dd", "if=/dev/zero", "of=/srv/small/fill", "bs=1M", "count=2"}
		if r, err := h.Exec(t.Context(), fill...); err != nil || !strings.Contains(r.Stderr, "No space left on device") {
			t.Errorf("2 MiB into 1 MiB: %+v, %v", r, err)
		}
		must(t, h.LimitDir(t.Context(), "/srv/small", 4<<20))
		labtest.Output(t, h, fill...)
		must(t, h.UnlimitDir(t.Context(), "/srv/small"))
		if got := labtest.Output(t, h, "ls", "/srv/small"); got != "before" {
			t.Errorf("unlimited, it holds %q", got)
		}
	})
}

// hears tells whether a datagram from the host arrives on the gateway.
func hears(t *testing.T, l *lab.Lab, h *lab.Host) bool {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(l.Gateway().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	host, port, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	labtest.Output(t, h, "bash", "-c", "echo hello >/dev/udp/"+host+"/"+port)
	if err := conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _, err = conn.ReadFrom(make([]byte, 16))
	return err == nil
}

func TestExec(t *testing.T) {
	l := labtest.New(t)
	h := labtest.Boot(t, l, lab.Config{Name: "one", Base: labtest.Base(t, lab.Bookworm, lab.Fresh)})
	tests := []struct {
		name string
		cmd  lab.Command
		want lab.Result
	}{
		{"gives back both outputs and the status", lab.Command{Argv: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}},
			lab.Result{Stdout: "out\n", Stderr: "err\n", Code: 3}},
		{"passes stdin", lab.Command{Argv: []string{"cat"}, Stdin: strings.NewReader("in")}, lab.Result{Stdout: "in"}},
		{"reports a signal as a shell does", lab.Command{Argv: []string{"sh", "-c", "kill -TERM $$"}}, lab.Result{Code: 143}},
		{"inherits nothing but PATH, LANG, HOME", lab.Command{Argv: []string{"env"}, Env: []string{"A=b"}},
			lab.Result{Stdout: "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nLANG=C.UTF-8\nHOME=/root\nA=b\n"}},
		{"becomes another user, groups and home too", lab.Command{User: "games", Argv: []string{"sh", "-c", "id -un; id -Gn; echo $HOME"}},
			lab.Result{Stdout: "games\ngames\n/usr/games\n"}},
		{"leaves another user no capability", lab.Command{User: "games", Argv: []string{"grep", "CapEff", "/proc/self/status"}},
			lab.Result{Stdout: "CapEff:\t0000000000000000\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := h.Run(t.Context(), tt.cmd); err != nil || got != tt.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
	t.Run("dies with its context, children too", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := h.Exec(ctx, "sh", "-c", "sleep 4321; true"); err == nil {
			t.Error("no error after the deadline")
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %v", took)
		}
		if r, err := h.Exec(t.Context(), "sh", "-c", "grep -l 432[1] /proc/[0-9]*/cmdline"); err != nil || r.Stdout != "" {
			t.Errorf("still there: %q, %v", r.Stdout, err)
		}
	})
	t.Run("refuses a user that is not there", func(t *testing.T) {
		if _, err := h.Run(t.Context(), lab.Command{User: "nosuch", Argv: []string{"true"}}); err == nil {
			t.Error("no error")
		}
	})
}

func TestFiles(t *testing.T) {
	l := labtest.New(t)
	h := labtest.Boot(t, l, lab.Config{Name: "one", Base: labtest.Base(t, lab.Bookworm, lab.Fresh)})
	t.Run("links lead where they lead the guest", func(t *testing.T) {
		labtest.Output(t, h, "ln", "--symbolic", "/etc/hostname", "/srv/absolute")
		labtest.Output(t, h, "ln", "--symbolic", "../../../../../../etc/hostname", "/srv/upward")
		for _, link := range []string{"/srv/absolute", "/srv/upward"} {
			if got, err := h.ReadFile(link); err != nil || string(got) != "one\n" {
				t.Errorf("%s holds %q, %v", link, got, err)
			}
		}
	})
	t.Run("writing replaces a link instead of following it", func(t *testing.T) {
		if err := h.WriteFile("/srv/absolute", []byte("mine"), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := labtest.Output(t, h, "stat", "--format=%F %a %U", "/srv/absolute"); got != "regular file 755 root" {
			t.Errorf("it is now a %s", got)
		}
		if got := labtest.Output(t, h, "cat", "/etc/hostname"); got != "one" {
			t.Errorf("its target is now %q", got)
		}
	})
	t.Run("missing directories are made, on the guest's mounts", func(t *testing.T) {
		if err := h.WriteFile("/run/a/b/c", []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := labtest.Output(t, h, "stat", "--file-system", "--format=%T", "/run/a/b/c"); got != "tmpfs" {
			t.Errorf("it lies on %s", got)
		}
	})
}
