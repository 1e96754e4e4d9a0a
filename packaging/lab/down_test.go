package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/lab/labtest"
)

func TestDown(t *testing.T) {
	base := labtest.Base(t, lab.Bookworm, lab.Fresh)
	before := read(t, "/proc/sys/fs/protected_symlinks")
	others, err := lab.List()
	if err != nil {
		t.Fatal(err)
	}
	l := labtest.New(t)
	if got := read(t, "/proc/sys/fs/protected_symlinks"); got != "1" {
		t.Errorf("fs.protected_symlinks is %s in a lab", got)
	}
	other := make(chan error, 1)
	go func() { // hosts may come up side by side
		_, err := l.Boot(t.Context(), lab.Config{Name: "one", Base: base})
		other <- err
	}()
	h := labtest.Boot(t, l, lab.Config{Name: "two", Base: base})
	if err := <-other; err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.LimitDir(t.Context(), "/srv", 1<<20), h.Partition(t.Context(), true)); err != nil {
		t.Fatal(err)
	}
	traces := []func() []string{
		func() []string { return grep(read(t, "/proc/self/mountinfo"), "/"+l.Name()+"/") },
		func() []string { return processesIn(t, l.Name(), l.Bridge()) },
		func() []string { return glob(t, "/sys/class/net/"+l.Bridge()+"*") },
		func() []string { return glob(t, "/sys/class/net/vb-"+l.Bridge()+"*") },
		func() []string {
			return glob(t, "/sys/fs/cgroup/"+l.Bridge()+"-*", "/sys/fs/cgroup/unified/"+l.Bridge()+"-*")
		},
		func() []string { return grep(tables(t), "table ip "+l.Bridge()) },
		func() []string { return grep(tables(t), "table bridge "+l.Bridge()+"-") },
		func() []string { return glob(t, filepath.Join(lab.StateDir(), l.Name())) },
		func() []string { return glob(t, "/run/systemd/nspawn/*/"+l.Bridge()+"-*") },
	}
	for i, trace := range traces {
		if len(trace()) == 0 {
			t.Errorf("trace %d is not there while the lab is up: the test looks in the wrong place", i)
		}
	}

	// Another process takes it down: all it knows is what is written.
	again, err := lab.Open(l.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(again.Hosts()); n != 2 {
		t.Fatalf("opened with %d hosts", n)
	}
	if err := again.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, trace := range traces {
		if left := trace(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	if len(others) == 0 {
		if after := read(t, "/proc/sys/fs/protected_symlinks"); after != before {
			t.Errorf("fs.protected_symlinks was %s, is %s", before, after)
		}
	}
	if err := again.Down(t.Context()); err != nil {
		t.Errorf("down twice: %v", err)
	}
	if _, err := lab.Open(l.Name(), nil); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("open after down: %v", err)
	}
}

func TestBrokenBoot(t *testing.T) {
	base := labtest.Base(t, lab.Bookworm, lab.Fresh)
	l := labtest.New(t)
	for _, after := range []time.Duration{0, 20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond} {
		t.Run(fmt.Sprintf("broken off after %v leaves nothing", after), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			if _, err := l.Boot(ctx, lab.Config{Name: "one", Base: base}); err == nil {
				t.Fatal("it booted all the same")
			}
			if n := len(l.Hosts()); n != 0 {
				t.Errorf("the lab has %d hosts", n)
			}
			for _, left := range [][]string{
				grep(read(t, "/proc/self/mountinfo"), "/"+l.Name()+"/"),
				processesIn(t, l.Name(), l.Bridge()),
				glob(t, filepath.Join(lab.StateDir(), l.Name(), "hosts", "*")),
				glob(t, "/run/systemd/nspawn/*/"+l.Bridge()+"-*", "/sys/fs/cgroup/"+l.Bridge()+"-*", "/sys/fs/cgroup/unified/"+l.Bridge()+"-*"),
			} {
				if len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
			}
		})
	}
	labtest.Boot(t, l, lab.Config{Name: "one", Base: base})
}

// orphanEnv turns this test binary into the process whose lab is orphaned.
const orphanEnv = "CHOM_LAB_TEST_ORPHAN"

func TestOrphan(t *testing.T) {
	if name := os.Getenv(orphanEnv); name != "" {
		l, err := lab.New(t.Context(), lab.Options{Name: name, Ephemeral: true})
		if err != nil {
			t.Fatal(err)
		}
		labtest.Boot(t, l, lab.Config{Name: "one", Base: labtest.Base(t, lab.Bookworm, lab.Fresh)})
		os.Exit(7) // without Down, as a crash would
	}
	name := fmt.Sprintf("orphan-%d", os.Getpid())
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOrphan$")
	child.Env = append(os.Environ(), orphanEnv+"="+name)
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("the child ended otherwise than it should: %v: %s", err, out)
	}
	orphan, err := lab.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if h, ok := orphan.Host("one"); !ok || !h.Alive() {
		t.Fatal("the host did not outlive its process")
	}
	labtest.New(t)
	if _, err := lab.Open(name, nil); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("the next New left it there: %v", err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

func grep(text, word string) []string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			found = append(found, line)
		}
	}
	return found
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// processesIn finds processes by their cgroup or by a word of their command line.
func processesIn(t *testing.T, words ...string) []string {
	t.Helper()
	var found []string
	for _, dir := range glob(t, "/proc/[0-9]*") {
		if filepath.Base(dir) == fmt.Sprint(os.Getpid()) {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline") // it may end any time
		group, _ := os.ReadFile(dir + "/cgroup")
		state, _ := os.ReadFile(dir + "/status")
		if strings.Contains(string(state), "\nState:\tZ") { // dead; the machine's process 1 has yet to collect it
			continue
		}
		for _, w := range words {
			if strings.Contains(string(line), w) || strings.Contains(string(group), w+"-") {
				found = append(found, dir+" "+strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
	}
	return found
}

func tables(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "/usr/sbin/nft", "list", "tables").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
