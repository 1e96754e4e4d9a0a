//go:build host

// These claims need a booted systemd and root: build the test with the tag
// "host" and run it on a lab host.
package systemd

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

func TestRunOnHost(t *testing.T) {
	host := New()
	defer host.Close()
	running := func(t *testing.T, u run.Unit) bool {
		st, err := host.State(t.Context(), u.Service())
		if err != nil {
			t.Fatal(err)
		}
		return st.Active != "inactive"
	}
	t.Run("runs outside of our process tree and passes everything through", func(t *testing.T) {
		res, err := host.Run(t.Context(), run.Unit{Name: "test-pass", Argv: []string{"/usr/bin/printf", "%s|", "$HOME", "$$", "${PATH}", "a b", "%n", "-x", "\"q\"", "\\x41", "é;`id`\n"}})
		if want := "$HOME|$$|${PATH}|a b|%n|-x|\"q\"|\\x41|é;`id`\n|"; err != nil || string(res.Stdout) != want {
			t.Fatalf("got %q, %v, want %q", res.Stdout, err, want)
		}
	})
	t.Run("takes a secret by stdin", func(t *testing.T) {
		res, err := host.Run(t.Context(), run.Unit{Name: "test-stdin", Argv: []string{"/usr/bin/cat"}, Stdin: strings.NewReader("s3cret")})
		if err != nil || string(res.Stdout) != "s3cret" {
			t.Fatalf("got %q, %v", res.Stdout, err)
		}
	})
	t.Run("tells the exit status and the last words", func(t *testing.T) {
		_, err := host.Run(t.Context(), run.Unit{Name: "test-fail", Argv: []string{"/bin/sh", "-c", "echo c4nary >&2; exit 7"}})
		var exit *run.ExitError
		if !errors.As(err, &exit) || exit.Code != 7 || exit.Path != "/bin/sh" || !strings.Contains(exit.Stderr, "c4nary") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("ends at its deadline with every process", func(t *testing.T) {
		start := time.Now()
		u := run.Unit{Name: "test-deadline", Argv: []string{"/bin/sh", "-c", "sleep 61 & sleep 61"}, Timeout: 500 * time.Millisecond}
		if _, err := host.Run(t.Context(), u); err == nil || time.Since(start) > 8*time.Second {
			t.Fatalf("got %v after %v", err, time.Since(start))
		}
		if running(t, u) {
			t.Fatal("it runs on")
		}
	})
	t.Run("tells of a signal, and of a program that isn't there", func(t *testing.T) {
		var exit *run.ExitError
		if _, err := host.Run(t.Context(), run.Unit{Name: "test-signal", Argv: []string{"/bin/sh", "-c", "kill -TERM $$"}}); !errors.As(err, &exit) || exit.Signal != syscall.SIGTERM {
			t.Errorf("got %v", err)
		}
		if _, err := host.Run(t.Context(), run.Unit{Name: "test-absent", Argv: []string{"/usr/bin/c4nary"}}); !errors.As(err, &exit) || exit.Code != 203 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("is heard of though systemd was executed anew meanwhile", func(t *testing.T) {
		for end, want := range map[string]int{"exit 7": 7, "true": 0} {
			res, err := host.Run(t.Context(), run.Unit{Name: "test-reexec", Argv: []string{"/bin/sh", "-c", "systemctl daemon-reexec; sleep 1; echo over; " + end}})
			var exit *run.ExitError
			if errors.As(err, &exit) && exit.Code == want && want != 0 || err == nil && want == 0 {
				err = nil
			} else {
				t.Errorf("%s: %v", end, err)
			}
			if string(res.Stdout) != "over\n" {
				t.Errorf("%s: it said %q", end, res.Stdout)
			}
		}
	})
	t.Run("runs several programs until one fails", func(t *testing.T) {
		echo := func(text string) []string { return []string{"/usr/bin/echo", text} }
		res, err := host.Run(t.Context(), run.Unit{Name: "test-then", Argv: echo("one"), Then: [][]string{echo("two"), {"/usr/bin/false"}, echo("three")}})
		var exit *run.ExitError
		if !errors.As(err, &exit) || exit.Code != 1 || string(res.Stdout) != "one\ntwo\n" {
			t.Errorf("got %q, %v", res.Stdout, err)
		}
	})
	t.Run("one that failed unseen, under a dead agent, doesn't stand in the way", func(t *testing.T) {
		u := run.Unit{Name: "test-unseen", Argv: []string{"/usr/bin/false"}}
		if _, err := host.Launch(t.Context(), u); err != nil { // nobody waits for it
			t.Fatal(err)
		}
		for range 100 {
			if st, _ := host.State(t.Context(), u.Service()); st.Active == "failed" {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		u.Argv = []string{"/usr/bin/true"}
		if _, err := host.Run(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("is killed when its caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(300*time.Millisecond, cancel)
		u := run.Unit{Name: "test-cancel", Argv: []string{"/usr/bin/sleep", "61"}}
		if _, err := host.Run(ctx, u); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		if running(t, u) {
			t.Fatal("it runs on")
		}
	})
	t.Run("an older try of the same name, left by a dead agent, is ended first", func(t *testing.T) {
		u := run.Unit{Name: "test-older", Argv: []string{"/usr/bin/sleep", "61"}}
		if _, err := host.Launch(t.Context(), u); err != nil { // nobody waits for it: the agent is dead
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); !running(t, u); time.Sleep(20 * time.Millisecond) { // its job waits in a queue
			if time.Now().After(deadline) {
				t.Fatal("it does not run: nothing is proved")
			}
		}
		u.Argv = []string{"/usr/bin/echo", "second"}
		res, err := host.Run(t.Context(), u)
		if err != nil || string(res.Stdout) != "second\n" {
			t.Fatalf("got %q, %v", res.Stdout, err)
		}
	})
	t.Run("leaves nothing behind", func(t *testing.T) {
		res, err := run.Cmd{Path: "/usr/bin/systemctl", Args: []string{"list-units", "--all", "--plain", "--no-legend", "chom-run-test-*"}}.Run(t.Context())
		if err != nil || len(res.Stdout) > 0 {
			t.Errorf("%s, %v", res.Stdout, err)
		}
	})
}

func TestRunForSiteOnHost(t *testing.T) {
	host := New()
	defer host.Close()
	h := contract.NewHandle()
	user := h.UnixUser().String()
	own, other := run.SitesDir+"/"+h.String(), run.SitesDir+"/other"
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
		u, err := run.SiteUnit{Handle: h, Name: "test", Argv: []string{"/bin/sh", "-c", script}}.Unit()
		if err != nil {
			return "", err
		}
		res, err := host.Run(t.Context(), u)
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
		for _, dir := range []string{"/var/tmp/../lib", "/etc", "/srv", "/srv/chom", run.SitesDir, "/run", "/dev", "/dev/shm/../"} {
			if out, err := sh("touch " + dir + "/c4nary && echo wrote"); err == nil {
				t.Errorf("%s: %s", dir, out)
			}
		}
	})
	t.Run("sees neither other sites, other processes nor the agent", func(t *testing.T) {
		out, err := sh("ls " + run.SitesDir)
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
		u, err := run.SiteUnit{Handle: h, Name: "test", RuntimeDir: "chom-plugin/" + h.String(),
			Argv: []string{"/usr/bin/stat", "-c", "%U:%G %a", "/run/chom-plugin/" + h.String()}}.Unit()
		if err != nil {
			t.Fatal(err)
		}
		res, err := host.Run(t.Context(), u)
		if want := user + ":" + user + " 700\n"; err != nil || string(res.Stdout) != want {
			t.Errorf("got %q, %v", res.Stdout, err)
		}
	})
}

// TestSandboxOnHost compares with what systemd makes of a unit file: transient
// units say the same in another language.
func TestSandboxOnHost(t *testing.T) {
	host := New()
	defer host.Close()
	h := contract.NewHandle()
	own := run.SitesDir + "/" + h.String()
	if err := os.MkdirAll(own+"/public", 0o755); err != nil {
		t.Fatal(err)
	}
	name := "chom-test-" + h.String() + ".service"
	path := "/etc/systemd/system/" + name
	t.Cleanup(func() {
		ctx, late := context.Background(), New()
		defer late.Close()
		if err := errors.Join(late.Stop(ctx, name), late.ResetFailed(ctx, name), os.RemoveAll(own), os.Remove(path)); err != nil {
			t.Error(err)
		}
	})
	unit, err := run.SiteUnit{Handle: h, Name: "sandbox", Argv: []string{"/usr/bin/sleep", "60"}, ReadOnly: []string{"/usr/share/dict"}, RuntimeDir: "chom-test/x", Offline: true, Aside: true, Idle: true}.Unit()
	if err != nil {
		t.Fatal(err)
	}
	unit.User, unit.Group = "nobody", "nogroup"
	unit.Properties = append(unit.Properties, run.Property{Key: "ReadWritePaths", Value: "/var/tmp"}, run.Property{Key: "LimitNOFILE", Value: "2048"})
	text := "[Service]\nType=oneshot\nExecStart=/usr/bin/sleep 60\nUser=nobody\nGroup=nogroup\nSlice=" + cmp.Or(unit.Slice, "chom.slice") +
		"\nWorkingDirectory=" + unit.Dir + "\nTimeoutStartSec=60\nTimeoutStopSec=2\nEnvironment=PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8\n"
	seen := map[string]bool{}
	var asked []string
	for _, p := range unit.Properties {
		text += p.Key + "=" + p.Value + "\n"
		if !seen[p.Key] {
			seen[p.Key] = true
			asked = append(asked, "--property="+p.Key)
		}
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := (run.Cmd{Path: "/usr/bin/systemctl", Args: []string{"start", "--no-block", name}}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	started, err := host.Launch(t.Context(), unit)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = started.Wait() }() // it was killed
	defer func() { _ = started.Kill(context.Background()) }()
	asked = append(asked, "--property=User,Group,Slice,Type,WorkingDirectory,TimeoutStartUSec,TimeoutStopUSec,Environment,ActiveState")
	show := func(service string) string { // once it runs
		for {
			res, err := run.Cmd{Path: "/usr/bin/systemctl", Args: append([]string{"show", service}, asked...)}.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if shown := string(res.Stdout); !strings.Contains(shown, "ActiveState=inactive") {
				return shown
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if file, transient := show(name), show(unit.Service()); file != transient || !strings.Contains(file, "ActiveState=activating") {
		t.Errorf("of the file:\n%s\ntransient:\n%s", file, transient)
	}
}

func BenchmarkRunOnHost(b *testing.B) {
	host := New()
	defer host.Close()
	for b.Loop() {
		if _, err := host.Run(b.Context(), run.Unit{Name: "bench", Argv: []string{"/usr/bin/true"}}); err != nil {
			b.Fatal(err)
		}
	}
}
