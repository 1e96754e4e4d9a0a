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
	"syscall"
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
	t.Run("tells of a signal, and of a program that isn't there", func(t *testing.T) {
		var exit *ExitError
		if _, err := (Unit{Name: "test-signal", Argv: []string{"/bin/sh", "-c", "kill -TERM $$"}}).Run(t.Context()); !errors.As(err, &exit) || exit.Signal != syscall.SIGTERM {
			t.Errorf("got %v", err)
		}
		if _, err := (Unit{Name: "test-absent", Argv: []string{"/usr/bin/c4nary"}}).Run(t.Context()); !errors.As(err, &exit) || exit.Code != 203 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("is not taken for one that ended well when systemd was executed anew meanwhile", func(t *testing.T) {
		u := Unit{Name: "test-reexec", Argv: []string{"/bin/sh", "-c", "systemctl daemon-reexec; sleep 1; echo over"}}
		res, err := u.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "anew") || string(res.Stdout) != "over\n" {
			t.Errorf("got %q, %v", res.Stdout, err)
		}
	})
	t.Run("leaves nothing behind", func(t *testing.T) {
		res, err := Cmd{Path: "/usr/bin/systemctl", Args: []string{"list-units", "--all", "--plain", "--no-legend", "chom-run-test-*"}}.Run(t.Context())
		if err != nil || len(res.Stdout) > 0 {
			t.Errorf("%s, %v", res.Stdout, err)
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
		if _, err := u.Start(t.Context()); err != nil { // nobody waits for it: the agent is dead
			t.Fatal(err)
		}
		if running, err := Running(t.Context(), u.Service()); !running || err != nil {
			t.Fatalf("running %v, %v: nothing is proved", running, err)
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

// TestSandboxOnHost compares with what systemd makes of a unit file: transient
// units say the same in another language.
func TestSandboxOnHost(t *testing.T) {
	h := contract.NewHandle()
	own := SitesDir + "/" + h.String()
	if err := os.MkdirAll(own+"/public", 0o755); err != nil {
		t.Fatal(err)
	}
	name := "chom-test-" + h.String() + ".service"
	path := "/etc/systemd/system/" + name
	t.Cleanup(func() {
		if err := errors.Join(Stop(context.Background(), name), os.RemoveAll(own), os.Remove(path)); err != nil {
			t.Error(err)
		}
		_, _ = Cmd{Path: "/usr/bin/systemctl", Args: []string{"reset-failed", name}}.Run(context.Background()) // may not have come to that
	})
	unit, err := SiteUnit{Handle: h, Name: "sandbox", Argv: []string{"/usr/bin/sleep", "60"}, ReadOnly: []string{"/usr/share/dict"}, RuntimeDir: "chom-test/x"}.Unit()
	if err != nil {
		t.Fatal(err)
	}
	unit.User, unit.Group = "nobody", "nogroup"
	unit.Properties = append(unit.Properties, Property{"ReadWritePaths", "/var/tmp"}, Property{"LimitNOFILE", "2048"})
	text := "[Service]\nType=oneshot\nExecStart=/usr/bin/sleep 60\nUser=nobody\nGroup=nogroup\nSlice=" + unit.Slice +
		"\nWorkingDirectory=" + unit.Dir + "\nTimeoutStartSec=60\nTimeoutStopSec=2\nEnvironment=" + strings.Join(env, " ") + "\n"
	seen := map[string]bool{}
	var asked []string
	for _, p := range unit.Properties {
		text += p.Key + "=" + p.Value + "\n"
		if !seen[p.Key] {
			seen[p.Key] = true
			asked = append(asked, "--property="+p.Key)
		}
	}
	for key := range types {
		if !seen[key] {
			t.Errorf("setting %s is not compared", key)
		}
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := (Cmd{Path: "/usr/bin/systemctl", Args: []string{"start", "--no-block", name}}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	started, err := unit.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = started.Wait() }() // it was killed
	defer func() { _ = started.Kill(context.Background()) }()
	asked = append(asked, "--property=User,Group,Slice,Type,WorkingDirectory,TimeoutStartUSec,TimeoutStopUSec,Environment,ActiveState")
	show := func(service string) string {
		res, err := Cmd{Path: "/usr/bin/systemctl", Args: append([]string{"show", service}, asked...)}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return string(res.Stdout)
	}
	if file, transient := show(name), show(unit.Service()); file != transient || !strings.Contains(file, "ActiveState=activating") {
		t.Errorf("of the file:\n%s\ntransient:\n%s", file, transient)
	}
}

func BenchmarkUnit(b *testing.B) {
	for b.Loop() {
		if _, err := (Unit{Name: "bench", Argv: []string{"/usr/bin/true"}}).Run(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
