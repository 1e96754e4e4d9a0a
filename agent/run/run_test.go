package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"chom.dev/proto/contract"
)

func TestCmd(t *testing.T) {
	ctx := t.Context()
	t.Run("gives a fixed environment and nothing of ours", func(t *testing.T) {
		t.Setenv("CHOM_CANARY", "leak")
		res, err := Cmd{Path: "/usr/bin/env"}.Run(ctx)
		if want := strings.Join(env, "\n") + "\n"; err != nil || string(res.Stdout) != want {
			t.Fatalf("env printed %q, %v, want %q", res.Stdout, err, want)
		}
	})
	t.Run("passes arguments through as they are", func(t *testing.T) {
		args := []string{"%s\\n", "$(id)", "`id`; id", "a b", "-x", "*"}
		res, err := Cmd{Path: "/usr/bin/printf", Args: args}.Run(ctx)
		if want := strings.Join(args[1:], "\n") + "\n"; err != nil || string(res.Stdout) != want {
			t.Fatalf("got %q, %v", res.Stdout, err)
		}
	})
	t.Run("feeds stdin", func(t *testing.T) {
		res, err := Cmd{Path: "/usr/bin/cat", Stdin: strings.NewReader("secret")}.Run(ctx)
		if err != nil || string(res.Stdout) != "secret" {
			t.Fatalf("got %q, %v", res.Stdout, err)
		}
	})
	t.Run("hands a secret over by a descriptor alone", func(t *testing.T) {
		res, err := Cmd{Path: "/bin/sh", Args: []string{"-c", "cat /dev/fd/3; cat /proc/$$/cmdline /proc/$$/environ | grep -c 's[3]cret'"}, Secret: "s3cret", Env: map[string]string{"GOGC": "20"}}.Run(ctx)
		var exit *ExitError
		if string(res.Stdout) != "s3cret0\n" || err != nil && (!errors.As(err, &exit) || exit.Code != 1) { // grep's, that found none
			t.Fatalf("got %q, %v", res.Stdout, err)
		}
		if _, err := (Cmd{Path: "/usr/bin/cat", Secret: strings.Repeat("x", maxSecret+1)}).Run(ctx); err == nil {
			t.Error("takes a secret that could block it")
		}
	})
	t.Run("gives the output to a writer while it comes", func(t *testing.T) {
		var out, noise strings.Builder
		_, err := Cmd{Path: "/bin/sh", Args: []string{"-c", "seq 1 200000; echo oh >&2; exit 3"}, Stdout: &out, Stderr: &noise, MaxOutput: 10}.Run(ctx)
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != 3 || exit.Stderr != "oh" || noise.String() != "oh\n" || !strings.HasSuffix(out.String(), "\n200000\n") {
			t.Fatalf("got %d bytes, %q, %v", out.Len(), noise.String(), err)
		}
	})
	t.Run("refuses relative, unclean and NUL-bearing programs", func(t *testing.T) {
		for _, c := range []Cmd{{Path: "env"}, {Path: ""}, {Path: "/usr/bin/../bin/env"}, {Path: "/usr/bin/env", Args: []string{"a\x00b"}}} {
			if _, err := c.Run(ctx); err == nil {
				t.Errorf("%q %q was run", c.Path, c.Args)
			}
		}
	})
	t.Run("a failure carries the code and the last lines of stderr", func(t *testing.T) {
		_, err := Cmd{Path: "/usr/bin/ls", Args: []string{"--", "/nonexistent/c4nary"}}.Run(ctx)
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != 2 || !strings.Contains(exit.Error(), "c4nary") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("keeps the head of a flood and says so", func(t *testing.T) {
		res, err := Cmd{Path: "/usr/bin/seq", Args: []string{"1", "100000"}, MaxOutput: 10}.Run(ctx)
		if err != nil || string(res.Stdout) != "1\n2\n3\n4\n5\n" || !res.Truncated {
			t.Fatalf("got %q, truncated %v, %v", res.Stdout, res.Truncated, err)
		}
	})
	t.Run("a deadline ends the whole process group", func(t *testing.T) {
		pidFile := t.TempDir() + "/pid"
		script := "sleep 60 & echo $! > " + pidFile + "; wait"
		start := time.Now()
		_, err := Cmd{Path: "/bin/sh", Args: []string{"-c", script}, Timeout: 300 * time.Millisecond}.Run(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second {
			t.Fatalf("got %v after %v", err, time.Since(start))
		}
		b, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if !gone(pid) {
			t.Errorf("grandchild %d outlived the deadline", pid)
		}
	})
	t.Run("cancellation is told apart from failure", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(100*time.Millisecond, cancel)
		_, err := Cmd{Path: "/usr/bin/sleep", Args: []string{"60"}}.Run(ctx)
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	})
}

// gone waits for a killed process to vanish or turn into a zombie that its
// reaper hasn't met yet.
func gone(pid int) bool {
	for range 100 {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return true
		}
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

func TestLastLines(t *testing.T) {
	in := "one\n\n two\x1b[31m\r\n\xffthree\u2028x\n"
	if got, want := lastLines([]byte(in), 2), "two [31m | \uFFFDthree x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTail(t *testing.T) {
	w := &tail{limit: 5}
	for _, s := range []string{"ab", "cde", "fg", "0123456789", "x"} {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("Write(%q) = %d, %v", s, n, err)
		}
	}
	if got := string(w.Bytes()); got != "6789x" {
		t.Errorf("kept %q", got)
	}
}

func TestUnitSettings(t *testing.T) {
	h, err := contract.ParseHandle("abcdefgh27")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a site's program is walled in to its own site", func(t *testing.T) {
		u, err := SiteUnit{Handle: h, Name: "install", Argv: []string{"/usr/bin/php", "-r", "echo $x;"}, Timeout: time.Second,
			Env: map[string]string{"B": "2", "A": "1 1"}, ReadOnly: []string{"/var/cache/chom-agent/wp.tar.gz"}, RuntimeDir: "chom-plugin/abcdefgh27"}.Unit()
		if err != nil {
			t.Fatal(err)
		}
		settings, err := u.Settings()
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, s := range settings {
			fmt.Fprintln(&got, s.Name, s.Value)
		}
		golden(t, "testdata/site-unit.settings", got.String())
	})
	t.Run("beside the site nothing of it is seen or taken", func(t *testing.T) {
		u, err := SiteUnit{Handle: h, Name: "drill", Argv: []string{"/usr/bin/true"}, Dir: "/", Offline: true,
			Aside: true, Beside: &Beside{Tree: SitesDir + "/abcdefgh27/drill", Fresh: []string{"/run/mysqld", "/run/chom-php"}}}.Unit()
		if err != nil {
			t.Fatal(err)
		}
		settings, err := u.Settings()
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, s := range settings {
			fmt.Fprintln(&got, s.Name, s.Value)
		}
		golden(t, "testdata/beside-unit.settings", got.String())
	})
	t.Run("names that systemd could read otherwise are refused", func(t *testing.T) {
		for _, name := range []string{"", "-x", "a b", "a/b", "a@b", "A", "a\n", strings.Repeat("a", 200)} {
			if _, err := (Unit{Name: name, Argv: []string{"/usr/bin/true"}}).Settings(); err == nil {
				t.Errorf("name %q passed", name)
			}
		}
		if _, err := (SiteUnit{Name: "x", Argv: []string{"/usr/bin/true"}}).Unit(); err == nil {
			t.Error("a unit without a site passed")
		}
	})
	t.Run("every setting that is known is one of a site's sandbox, or of the two more that are compared with it on a host", func(t *testing.T) {
		u, err := SiteUnit{Handle: h, Name: "x", Argv: []string{"/usr/bin/true"}, ReadOnly: []string{"/a"}, RuntimeDir: "b", Offline: true, Aside: true, Idle: true, Beside: &Beside{Tree: "/c"}}.Unit()
		if err != nil {
			t.Fatal(err)
		}
		used := map[string]bool{"ReadWritePaths": true, "LimitNOFILE": true}
		for _, p := range u.Properties {
			used[p.Key] = true
		}
		for key := range types {
			if !used[key] {
				t.Errorf("%s is not", key)
			}
		}
	})
	t.Run("what runs aside takes nothing of the site's share, yields, and is bounded all the same", func(t *testing.T) {
		within, err := SiteUnit{Handle: h, Name: "x", Argv: []string{"/usr/bin/true"}}.Unit()
		beside, err2 := SiteUnit{Handle: h, Name: "x", Argv: []string{"/usr/bin/true"}, Aside: true}.Unit()
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if within.Slice != h.Slice() || beside.Slice != "" || beside.User != within.User {
			t.Errorf("%+v, and aside %+v", within, beside)
		}
		if walls := SiteSandbox(h); !slices.Equal(beside.Properties[:len(walls)], walls) {
			t.Error("the walls are others")
		}
		for _, want := range []Property{{"CPUWeight", "20"}, {"MemoryMax", "805306368"}, {"MemorySwapMax", "0"}} {
			if !slices.Contains(beside.Properties, want) {
				t.Errorf("%s is not set", want.Key)
			}
		}
	})
	t.Run("what is idle waits for all others, with the same bounds", func(t *testing.T) {
		u, err := SiteUnit{Handle: h, Name: "x", Argv: []string{"/usr/bin/true"}, Aside: true, Idle: true}.Unit()
		if err != nil {
			t.Fatal(err)
		}
		last := map[string]string{}
		for _, p := range u.Properties {
			last[p.Key] = p.Value
		}
		for key, want := range map[string]string{"CPUSchedulingPolicy": "idle", "IOSchedulingClass": "idle", "Nice": "19", "CPUWeight": "idle", "MemoryMax": "805306368"} {
			if last[key] != want {
				t.Errorf("%s is %q", key, last[key])
			}
		}
	})
	t.Run("settings that would be said wrongly are refused", func(t *testing.T) {
		for _, p := range []Property{{"Unheard", "yes"}, {"PrivateTmp", "disconnected"}, {"CapabilityBoundingSet", "CAP_KILL"}, {"RestrictNamespaces", "user"}, {"UMask", "9"}, {"Nice", "x"}, {"CPUSchedulingPolicy", "fifo"}, {"CPUWeight", "none"}} {
			if _, err := (Unit{Name: "x", Argv: []string{"/usr/bin/true"}, Properties: []Property{p}}).Settings(); err == nil {
				t.Errorf("%s=%s passed", p.Key, p.Value)
			}
		}
	})
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", file, got)
	}
}
