//go:build host

// These claims need a booted systemd and root: build the test with the tag
// "host" and run it on a lab host.
package run

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"chom.dev/proto/contract"
)

func TestUnitOnHost(t *testing.T) {
	t.Run("runs outside of our process tree and passes everything through", func(t *testing.T) {
		res, err := Unit{Name: "test-pass", Argv: []string{"/usr/bin/printf", "%s|", "$HOME", "$$", "${PATH}", "a b", "%n", "-x", "\"q\"", "\\x41", "é;`id`\n"}}.Run(t.Context())
		if want := "$HOME|$$|${PATH}|a b|%n|-x|\"q\"|\\x41|é;`id`\n|"; err != nil || string(res.Stdout) != want {
			t.Fatalf("got %q, %v, want %q", res.Stdout, err, want)
		}
	})
	t.Run("takes a secret by stdin", func(t *testing.T) {
		res, err := Unit{Name: "test-stdin", Argv: []string{"/usr/bin/cat"}, Stdin: strings.NewReader("s3cret")}.Run(t.Context())
		if err != nil || string(res.Stdout) != "s3cret" {
			t.Fatalf("got %q, %v", res.Stdout, err)
		}
	})
	t.Run("tells the exit status and the last words", func(t *testing.T) {
		_, err := Unit{Name: "test-fail", Argv: []string{"/bin/sh", "-c", "echo c4nary >&2; exit 7"}}.Run(t.Context())
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != 7 || exit.Path != "/bin/sh" || !strings.Contains(exit.Stderr, "c4nary") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("ends at its deadline with every process", func(t *testing.T) {
		start := time.Now()
		u := Unit{Name: "test-deadline", Argv: []string{"/bin/sh", "-c", "sleep 61 & sleep 61"}, Timeout: 500 * time.Millisecond}
		if _, err := u.Run(t.Context()); err == nil || time.Since(start) > 8*time.Second {
			t.Fatalf("got %v after %v", err, time.Since(start))
		}
		if running, err := Running(t.Context(), u.Service()); running || err != nil {
			t.Fatalf("running %v, %v", running, err)
		}
	})
	t.Run("is killed when its caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(300*time.Millisecond, cancel)
		u := Unit{Name: "test-cancel", Argv: []string{"/usr/bin/sleep", "61"}}
		if _, err := u.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		if running, err := Running(t.Context(), u.Service()); running || err != nil {
			t.Fatalf("running %v, %v", running, err)
		}
	})
	t.Run("an older try of the same name, left by a dead agent, is ended first", func(t *testing.T) {
		u := Unit{Name: "test-older", Argv: []string{"/usr/bin/sleep", "61"}}
		cmd, err := u.Command()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if running, _ := Running(t.Context(), u.Service()); running {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err := cmd.Process.Kill(); err != nil { // the client dies as the agent would
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		if running, _ := Running(t.Context(), u.Service()); !running {
			t.Fatal("the unit died with its client; nothing is proved")
		}
		u.Argv = []string{"/usr/bin/echo", "second"}
		res, err := u.Run(t.Context())
		if err != nil || string(res.Stdout) != "second\n" {
			t.Fatalf("got %q, %v", res.Stdout, err)
		}
	})
}

func TestSiteUnitOnHost(t *testing.T) {
	h := contract.NewHandle()
	user := h.UnixUser().String()
	own, other := SitesDir+"/"+h.String(), SitesDir+"/other"
	for _, args := range [][]string{
		{"/usr/sbin/useradd", "--system", "--user-group", "--no-create-home", "--home-dir", own, "--", user},
		{"/usr/bin/mkdir", "-p", "-m", "0755", own + "/public", other},
		{"/usr/bin/chown", "-R", user + ":" + user, own + "/public"},
		{"/usr/bin/touch", other + "/secret"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		for _, args := range [][]string{{"/usr/bin/rm", "-rf", own, other}, {"/usr/sbin/userdel", user}} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", args, err, out)
			}
		}
	})
	sh := func(script string) (string, error) {
		res, err := SiteUnit{Handle: h, Name: "test", Argv: []string{"/bin/sh", "-c", script}}.Run(t.Context())
		return strings.TrimSpace(string(res.Stdout)), err
	}
	t.Run("runs as the site's user in its slice with nothing to gain", func(t *testing.T) {
		out, err := sh("id -un; id -Gn; umask; pwd; grep -E 'NoNewPrivs|CapBnd' /proc/self/status; cat /proc/self/cgroup; env")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{user + "\n" + user, "0027", own + "/public", "NoNewPrivs:\t1", "CapBnd:\t0000000000000000", h.Slice()} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in %q", want, out)
			}
		}
	})
	t.Run("writes its own site and /tmp, and nowhere else", func(t *testing.T) {
		if out, err := sh("echo x > a && echo x > /tmp/chom-test-a && ls /tmp"); err != nil || out != "chom-test-a" {
			t.Errorf("got %q, %v", out, err)
		}
		if _, err := os.Stat("/tmp/chom-test-a"); err == nil {
			t.Error("its /tmp is ours")
		}
		for _, dir := range []string{"/var/tmp/../lib", "/etc", "/srv", "/srv/chom", SitesDir, "/run", "/dev", "/dev/shm/../"} {
			if out, err := sh("touch " + dir + "/c4nary && echo wrote"); err == nil {
				t.Errorf("%s: %s", dir, out)
			}
		}
	})
	t.Run("sees neither other sites, other processes nor the agent", func(t *testing.T) {
		out, err := sh("ls " + SitesDir)
		if err != nil || out != h.String() {
			t.Errorf("sites: %q, %v", out, err)
		}
		if out, err := sh("cat " + other + "/secret /proc/1/cmdline"); err == nil {
			t.Errorf("read %q", out)
		}
		if err := os.MkdirAll("/var/lib/chom-agent", 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := sh("ls /var/lib/chom-agent && echo listed"); err == nil {
			t.Errorf("agent state: %q", out)
		}
	})
	t.Run("a setuid file gains nothing", func(t *testing.T) {
		if out, err := sh("cp /usr/bin/id ./id && chmod u+s ./id && echo set"); err == nil {
			t.Errorf("chmod u+s: %q", out)
		}
		if out, err := sh("unshare -Urm id && echo unshared"); err == nil {
			t.Errorf("unshare: %q", out)
		}
	})
	t.Run("a runtime directory is its own", func(t *testing.T) {
		res, err := SiteUnit{Handle: h, Name: "test", RuntimeDir: "chom-plugin/" + h.String(),
			Argv: []string{"/usr/bin/stat", "-c", "%U:%G %a", "/run/chom-plugin/" + h.String()}}.Run(t.Context())
		if want := user + ":" + user + " 700\n"; err != nil || string(res.Stdout) != want {
			t.Errorf("got %q, %v", res.Stdout, err)
		}
	})
}

func BenchmarkUnit(b *testing.B) {
	for b.Loop() {
		if _, err := (Unit{Name: "bench", Argv: []string{"/usr/bin/true"}}).Run(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
