package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"chom.dev/packaging/lab"
)

// hostPackages have tests that need a booted host of their own: those with the
// build tag host, whose names end with OnHost.
var hostPackages = []string{"systemd", "unixuser", "tree", "mariadb", "php", "backup", "site"}

// TestPackagesOnHost runs the tests that the agent's packages have for a host,
// on a host that nothing else uses.
func TestPackagesOnHost(t *testing.T) {
	ctx := timeout(t, 10*time.Minute)
	dir := t.TempDir()
	for _, pkg := range hostPackages {
		build := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "host", "-o", filepath.Join(dir, pkg), "./"+pkg)
		build.Dir = filepath.Join(tree(), "agent")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build tests of %s: %v\n%s", pkg, err, out)
		}
	}
	for _, release := range lab.Releases {
		t.Run(string(release), func(t *testing.T) {
			base, err := lab.EnsureBase(ctx, release, lab.Stack, world.rig.Log)
			if err != nil {
				t.Fatal(err)
			}
			h, err := world.rig.Lab.Boot(ctx, lab.Config{Name: "packages-" + string(release), Base: base})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := h.Destroy(ctx); err != nil {
					t.Error(err)
				}
			}()
			for _, pkg := range hostPackages {
				t.Run(pkg, func(t *testing.T) {
					if err := h.Push(filepath.Join(dir, pkg), "/root/"+pkg, 0o755); err != nil {
						t.Fatal(err)
					}
					res, err := h.Exec(ctx, "/root/"+pkg, "-test.run=OnHost", "-test.count=1")
					if err != nil {
						t.Fatal(err)
					}
					if res.Code != 0 {
						t.Errorf("ended with %d:\n%s%s", res.Code, res.Stdout, res.Stderr)
					}
				})
			}
		})
	}
}
