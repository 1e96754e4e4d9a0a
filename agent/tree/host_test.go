//go:build host

// These claims need a booted systemd and root: build the test with the tag
// "host" and run it on a lab host.
package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/agent/unixuser"
	"chom.dev/proto/contract"
)

// helper is where the test lies as the agent does: a site's sandbox sees
// neither /root nor /tmp.
const helper = "/usr/local/bin/chom-tree-test"

func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "sandbox" && os.Args[2] == "empty-tree" {
		if err := Empty(context.Background(), os.Args[3:]...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func install(t *testing.T) {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	out, err := os.OpenFile(helper, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(helper) })
	if _, err := io.Copy(out, self); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRemoveOnHost(t *testing.T) {
	ctx := t.Context()
	install(t)
	sys := systemd.New()
	defer sys.Close()
	s, h := Host(), contract.NewHandle()
	user := unixuser.User{Name: h.UnixUser(), UID: 26000}
	canary := "/etc/chom-canary"
	if err := errors.Join(os.WriteFile(canary, []byte("keep"), 0o666), s.EnsureBase(), unixuser.Ensure(ctx, sys, user), s.Ensure(h, user.UID)); err != nil {
		t.Fatal(err)
	}
	neighbour := contract.NewHandle()
	other := unixuser.User{Name: neighbour.UnixUser(), UID: 26001}
	if err := errors.Join(unixuser.Ensure(ctx, sys, other), s.Ensure(neighbour, other.UID)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := errors.Join(s.Remove(ctx, sys, helper, neighbour), unixuser.Remove(ctx, sys, other.Name), unixuser.Remove(ctx, sys, user.Name), os.Remove(canary)); err != nil {
			t.Error(err)
		}
	})
	sh := func(h contract.Handle, name, script string) error {
		u, err := run.SiteUnit{Handle: h, Name: name, Argv: []string{"/bin/sh", "-c", script}, Timeout: time.Minute}.Unit()
		if err == nil {
			_, err = sys.Run(ctx, u)
		}
		return err
	}
	if err := errors.Join(
		sh(neighbour, "fill", "echo keep > keep"),
		sh(h, "fill", strings.Join([]string{
			"mkdir -p a/b/c ../private/x", "touch a/b/c/f -- -rf", "ln -s /etc/chom-canary link", "ln -s /etc dir", "ln -s " + Public(neighbour) + " other",
			"mkfifo pipe", "chmod 0 a/b", "chmod 777 .", "for i in $(seq 500); do echo $i > f$i; done",
		}, " && ")),
	); err != nil {
		t.Fatal(err)
	}
	t.Run("the tenant can't put links in the place of his directories", func(t *testing.T) {
		for _, script := range []string{"mv ../public ../x", "rmdir ../private", "ln -s /etc ../x", "chmod 777 ..", "rm -rf ../private && ln -s /etc ../private"} {
			if err := sh(h, "attack", script); err == nil {
				t.Errorf("%s: went through", script)
			}
		}
	})
	t.Run("a tree with processes that write to it is removed whole, and nothing else", func(t *testing.T) {
		busy := make(chan error, 1)
		go func() {
			busy <- sh(h, "busy", "mkdir -p w; while :; do echo x > w/$(date +%N) 2>/dev/null; mkdir -p w; done")
		}()
		time.Sleep(500 * time.Millisecond) // it is at work
		start := time.Now()
		for range 2 {
			if err := s.Remove(ctx, sys, helper, h); err != nil {
				t.Fatal(err)
			}
		}
		t.Log(time.Since(start))
		if err := <-busy; err == nil {
			t.Error("the process ended well")
		}
		if st, err := s.Probe(h, user.UID); err != nil || !st.Absent {
			t.Errorf("left %+v, %v", st, err)
		}
		for path, want := range map[string]string{canary: "keep", Public(neighbour) + "/keep": "keep\n"} {
			if b, err := os.ReadFile(path); err != nil || string(b) != want {
				t.Errorf("%s holds %q, %v", path, b, err)
			}
		}
	})
}
