//go:build host

// These claims need a booted systemd and root: build the test with the tag
// "host" and run it on a lab host with nginx.
package unixuser

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/proto/contract"
)

func TestLifeOnHost(t *testing.T) {
	ctx := t.Context()
	sys := systemd.New()
	defer sys.Close()
	u := User{Name: contract.NewHandle().UnixUser(), UID: 29000}
	t.Cleanup(func() {
		late := systemd.New()
		defer late.Close()
		if err := Remove(context.Background(), late, u.Name); err != nil {
			t.Error(err)
		}
	})
	t.Run("appears once however often it is asked for", func(t *testing.T) {
		for range 2 {
			start := time.Now()
			if err := Ensure(ctx, sys, u); err != nil {
				t.Fatal(err)
			}
			t.Log(time.Since(start))
		}
		res, err := run.Cmd{Path: "/usr/bin/getent", Args: []string{"passwd", u.Name.String()}}.Run(ctx)
		want := u.Name.String() + ":x:29000:29000:CHOM site:" + run.SitesDir + "/" + u.Name.Handle().String() + ":/usr/sbin/nologin\n"
		if err != nil || string(res.Stdout) != want {
			t.Fatalf("got %q, %v", res.Stdout, err)
		}
		res, err = run.Cmd{Path: "/usr/bin/id", Args: []string{"-Gn", WebUser}}.Run(ctx)
		if err != nil || !strings.Contains(string(res.Stdout), u.Name.String()) {
			t.Fatalf("nginx's groups: %q, %v", res.Stdout, err)
		}
		res, err = run.Cmd{Path: "/usr/bin/grep", Args: []string{"-c", u.Name.String(), "/etc/subuid"}}.Run(ctx)
		if strings.TrimSpace(string(res.Stdout)) != "0" {
			t.Errorf("subordinate ids were given: %q, %v", res.Stdout, err)
		}
	})
	t.Run("nginx is let in again after someone threw it out", func(t *testing.T) {
		if _, err := (run.Cmd{Path: "/usr/bin/gpasswd", Args: []string{"-d", WebUser, u.Name.String()}}).Run(ctx); err != nil {
			t.Fatal(err)
		}
		if err := Ensure(ctx, sys, u); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("another id for the name, or name for the id, is refused", func(t *testing.T) {
		for _, other := range []User{{u.Name, u.UID + 1}, {contract.NewHandle().UnixUser(), u.UID}} {
			if err := Ensure(ctx, sys, other); !errors.Is(err, ErrTaken) {
				t.Errorf("got %v", err)
			}
		}
	})
	t.Run("many at once don't trip over the lock", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				v := User{Name: contract.NewHandle().UnixUser(), UID: 29100 + i}
				if err := errors.Join(Ensure(ctx, sys, v), Remove(ctx, sys, v.Name)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("disappears with its group, and twice is fine", func(t *testing.T) {
		for range 2 {
			if err := Remove(ctx, sys, u.Name); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := Probe(u); err != nil || s != (State{}) {
			t.Fatalf("left %+v, %v", s, err)
		}
	})
}
