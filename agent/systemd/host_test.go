//go:build host

// These claims need a booted systemd and root: build the test with the tag
// "host" and run it on a lab host.
package systemd

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

func service(name string, settings ...run.Property) Unit {
	return Unit{Name: name, Sections: []Section{{"Service", settings}}}
}

func TestLifeOnHost(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	h := New()
	defer h.Close()
	const name = "chom-test-life.service"
	t.Cleanup(func() {
		if err := h.Uninstall(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	want := func(active string) {
		t.Helper()
		if st, err := h.State(ctx, name); err != nil || st.Active != active {
			t.Fatalf("state %+v, %v, want %s", st, err, active)
		}
	}
	t.Run("a new unit starts without a reload", func(t *testing.T) {
		changed, err := h.Install(ctx, service(name, run.Property{Key: "ExecStart", Value: Argv("/usr/bin/sleep", "600")}))
		if err != nil || len(changed) != 1 {
			t.Fatalf("changed %v, %v", changed, err)
		}
		if err := h.Start(ctx, name); err != nil {
			t.Fatal(err)
		}
		if err := h.WaitActive(ctx, name); err != nil {
			t.Fatal(err)
		}
		want("active")
	})
	t.Run("installing it again changes nothing", func(t *testing.T) {
		changed, err := h.Install(ctx, service(name, run.Property{Key: "ExecStart", Value: Argv("/usr/bin/sleep", "600")}))
		if err != nil || len(changed) != 0 {
			t.Fatalf("changed %v, %v", changed, err)
		}
	})
	t.Run("a changed one is read before its restart", func(t *testing.T) {
		if _, err := h.Install(ctx, service(name, run.Property{Key: "ExecStart", Value: Argv("/usr/bin/sleep", "601")})); err != nil {
			t.Fatal(err)
		}
		if err := h.Restart(ctx, name); err != nil {
			t.Fatal(err)
		}
		res, err := run.Cmd{Path: "/usr/bin/systemctl", Args: []string{"show", "-p", "ExecStart", name}}.Run(ctx)
		if err != nil || !strings.Contains(string(res.Stdout), "sleep 601") {
			t.Fatalf("%s, %v", res.Stdout, err)
		}
	})
	t.Run("a change that a dead agent wrote but never loaded is read", func(t *testing.T) {
		u := service(name, run.Property{Key: "ExecStart", Value: Argv("/usr/bin/sleep", "602")})
		text, err := u.text()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // file times are coarse
		if err := os.WriteFile(UnitDir+"/"+name, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if changed, err := h.Install(ctx, u); err != nil || len(changed) != 0 {
			t.Fatalf("changed %v, %v", changed, err)
		}
		if st, err := h.State(ctx, name); err != nil || st.stale {
			t.Fatalf("still stale: %+v, %v", st, err)
		}
	})
	t.Run("a failing start says how it failed", func(t *testing.T) {
		const name = "chom-test-fails.service"
		defer func() { _ = h.Uninstall(ctx, name) }() // what remains shows in the next run
		if _, err := h.Install(ctx, service(name, run.Property{Key: "Type", Value: "oneshot"}, run.Property{Key: "ExecStart", Value: "/usr/bin/false"})); err != nil {
			t.Fatal(err)
		}
		if err := h.Start(ctx, name); err == nil || !strings.Contains(err.Error(), "exit-code") {
			t.Fatalf("got %v", err)
		}
		if err := h.WaitActive(ctx, name); err == nil {
			t.Fatal("a failed unit was waited for")
		}
	})
	t.Run("a signal reaches the main process", func(t *testing.T) {
		if err := h.Signal(ctx, name, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if st, _ := h.State(ctx, name); st.Active == "inactive" {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatal("still there")
	})
	t.Run("uninstalling leaves nothing, and twice is fine", func(t *testing.T) {
		if err := h.Enable(name, "multi-user.target"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := h.Uninstall(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
		if st, err := h.State(ctx, name); err != nil || st.Load != "not-found" {
			t.Fatalf("state %+v, %v", st, err)
		}
		if _, err := os.Lstat(UnitDir + "/multi-user.target.wants/" + name); err == nil {
			t.Fatal("still enabled")
		}
		if err := h.Kill(ctx, name); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSliceOnHost(t *testing.T) {
	ctx := t.Context()
	h := New()
	defer h.Close()
	site := contract.NewHandle()
	memory, _ := contract.ParseByteSize("256M")
	t.Cleanup(func() {
		if err := h.Uninstall(context.Background(), site.Slice()); err != nil {
			t.Error(err)
		}
	})
	t.Run("a slice that lives before its file still gets its limits", func(t *testing.T) {
		if err := h.Start(ctx, site.Slice()); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Install(ctx, SliceUnit(site, Limits{CPUPercent: 50, Memory: memory, Tasks: 77, IOWeight: 50})); err != nil {
			t.Fatal(err)
		}
		res, err := run.Cmd{Path: "/usr/bin/systemctl", Args: []string{"show", "-p", "TasksMax,MemoryMax,CPUQuotaPerSecUSec,IOWeight", site.Slice()}}.Run(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"TasksMax=77", "MemoryMax=268435456", "CPUQuotaPerSecUSec=500ms", "IOWeight=50"} {
			if !strings.Contains(string(res.Stdout), want) {
				t.Errorf("%s is missing in %s", want, res.Stdout)
			}
		}
	})
	t.Run("killing the slice empties it", func(t *testing.T) {
		sleeper, err := h.Launch(ctx, run.Unit{Name: "test-slice", Slice: site.Slice(), Argv: []string{"/usr/bin/sleep", "600"}})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if st, _ := h.State(ctx, sleeper.ID()); st.Active == "activating" {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err := h.Kill(ctx, site.Slice()); err != nil {
			t.Fatal(err)
		}
		if err := sleeper.Wait(); err == nil {
			t.Fatal("it ended well")
		}
	})
}

func TestMountOnHost(t *testing.T) {
	ctx := t.Context()
	h := New()
	defer h.Close()
	if err := os.MkdirAll("/srv/chom/sites", 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := h.Install(ctx, MountUnit()); err != nil {
			t.Fatal(err)
		}
		if err := h.Enable(SitesMount, "local-fs.target"); err != nil {
			t.Fatal(err)
		}
		if err := h.Start(ctx, SitesMount); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[4] == "/srv/chom" && strings.Contains(f[5], "nosuid") && strings.Contains(f[5], "nodev") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d mounts with nosuid and nodev", n)
	}
}

func TestMaskOnHost(t *testing.T) {
	ctx := t.Context()
	h := New()
	defer h.Close()
	const name = "test-distribution.service"
	for range 2 {
		if err := h.Mask(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Start(ctx, name); err == nil {
		t.Error("a masked unit started")
	}
	if err := os.Remove(UnitDir + "/" + name); err != nil {
		t.Error(err)
	}
}
