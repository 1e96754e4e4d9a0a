//go:build host

// These claims need a booted systemd, root and php-fpm: build the test with
// the tag "host" and run it on a lab host.
package php

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"chom.dev/agent/nginx"
	"chom.dev/agent/systemd"
	"chom.dev/agent/tree"
	"chom.dev/agent/unixuser"
	"chom.dev/proto/contract"
)

func TestLifeOnHost(t *testing.T) {
	ctx := t.Context()
	sys := systemd.New()
	defer sys.Close()
	m := New(sys, slog.New(slog.NewTextHandler(t.Output(), nil)))
	p := Pool{Handle: contract.NewHandle()}
	user := unixuser.User{Name: p.Handle.UnixUser(), UID: 28000}
	installed := must(Find())
	if len(installed) == 0 {
		t.Fatal("no PHP on this host")
	}
	p.Version = installed[0].Version
	if err := errors.Join(tree.Host().EnsureBase(), unixuser.Ensure(ctx, sys, user), tree.Host().Ensure(p.Handle, user.UID), m.EnsureBase(ctx)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := errors.Join(m.Remove(ctx, p.Handle), sys.Stop(ctx, p.Handle.Slice()), os.RemoveAll(tree.Shell(p.Handle)), unixuser.Remove(ctx, sys, user.Name)); err != nil {
			t.Error(err)
		}
	})
	t.Run("a master runs as the site's user and answers", func(t *testing.T) {
		for i := range 2 {
			start := time.Now()
			changed, err := m.Ensure(ctx, p)
			if err != nil || changed != (i == 0) {
				t.Fatalf("changed %v, %v", changed, err)
			}
			t.Log(time.Since(start))
		}
		if ok, err := m.Running(ctx, p); !ok || err != nil {
			t.Fatalf("running %v, %v", ok, err)
		}
		out, err := exec.Command("/usr/bin/ps", "-eo", "user:20,args").Output()
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "php-fpm: master") {
				found = found || strings.HasPrefix(line, user.Name.String()+" ")
				if strings.HasPrefix(line, "root ") {
					t.Errorf("a master of root runs: %s", line)
				}
			}
		}
		if !found {
			t.Errorf("no master of the site: %s", out)
		}
	})
	t.Run("its socket opens for the site and nginx only", func(t *testing.T) {
		st, err := exec.Command("/usr/bin/stat", "-c", "%U:%G %a", nginx.Socket(p.Handle), "/run/chom-php/"+p.Handle.String()).Output()
		u := user.Name.String()
		if want := u + ":" + u + " 660\n" + u + ":" + u + " 750\n"; err != nil || string(st) != want {
			t.Errorf("%q, %v, want %q", st, err, want)
		}
	})
	t.Run("a change is served when Ensure returns, and shot masters come back", func(t *testing.T) {
		p.Workers = 3
		start := time.Now()
		if changed, err := m.Ensure(ctx, p); err != nil || !changed {
			t.Fatalf("changed %v, %v", changed, err)
		}
		t.Log(time.Since(start))
		if err := sys.Kill(ctx, p.Handle.PHPUnit()); err != nil {
			t.Fatal(err)
		}
		for range 200 {
			if ok, _ := m.Running(ctx, p); ok {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Error("it stayed down")
	})
	t.Run("a pool that php-fpm rejects leaves the running one", func(t *testing.T) {
		release := must(m.release(p.Version))
		if err := m.try(ctx, p, release, []byte("[x]\nno_such_setting = 1\n"), user.UID); err == nil {
			t.Error("accepted")
		}
		_, text, _, err := m.describe(p, release)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.try(ctx, p, release, text, user.UID); err != nil {
			t.Error(err)
		}
		if ok, err := m.Running(ctx, p); !ok || err != nil {
			t.Errorf("running %v, %v", ok, err)
		}
	})
	t.Run("a kill between writing and restarting is finished by the next Ensure", func(t *testing.T) {
		p.Workers = 4
		unit, text, _, err := m.describe(p, must(m.release(p.Version)))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(m.file(p.Handle), text, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := sys.Install(ctx, unit); err != nil {
			t.Fatal(err)
		}
		if changed, err := m.Ensure(ctx, p); err != nil || !changed {
			t.Fatalf("changed %v, %v", changed, err)
		}
	})
	t.Run("a release that isn't there is refused", func(t *testing.T) {
		other := p
		other.Version = must(contract.ParsePHPVersion("9.9"))
		if _, err := m.Ensure(ctx, other); !errors.Is(err, ErrNotInstalled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("stopped it is gone, and back when wanted", func(t *testing.T) {
		for range 2 {
			if err := m.Stop(ctx, p.Handle); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Ping(ctx, p.Handle); err == nil {
			t.Error("still answers")
		}
		if _, err := m.Ensure(ctx, p); err != nil {
			t.Error(err)
		}
	})
	t.Run("removed, nothing of it is left", func(t *testing.T) {
		for range 2 {
			if err := m.Remove(ctx, p.Handle); err != nil {
				t.Fatal(err)
			}
		}
		for _, path := range []string{m.file(p.Handle), "/etc/systemd/system/" + p.Handle.PHPUnit(), "/run/chom-php/" + p.Handle.String()} {
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("%s is left", path)
			}
		}
		if st, err := sys.State(ctx, p.Handle.PHPUnit()); err != nil || st.Load != "not-found" {
			t.Errorf("state %+v, %v", st, err)
		}
	})
}
