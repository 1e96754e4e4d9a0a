// Package preflight looks whether a host can keep tenants apart at all: what
// the kernel protects, and how the place of sites is mounted. It only looks;
// what a finding leads to is the caller's decision.
package preflight

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Finding is one thing that must be otherwise before the host takes a tenant.
type Finding struct {
	What string // e.g. "fs.protected_symlinks"
	Want string
	Have string
}

func (f Finding) String() string {
	return fmt.Sprintf("%s is %s, must be %s", f.What, f.Have, f.Want)
}

// kernel settings that take the sting out of links, pipes and files that a
// tenant puts where others write. "at least": regular and fifos know 2, which
// also covers directories writable by a group.
var protections = []struct {
	name string
	min  int
}{
	{"fs.protected_symlinks", 1},
	{"fs.protected_hardlinks", 1},
	{"fs.protected_regular", 2},
	{"fs.protected_fifos", 2},
}

// openat2 came with it, which bounds what a path may cross.
const (
	kernelMajor = 5
	kernelMinor = 6
)

// Kernel lists in words what the running kernel lacks. Empty is good.
func Kernel() []string { return words(kernel("/proc")) }

// Host lists everything: the kernel's findings, and those of the mount of the
// sites once it is there.
func Host() []Finding { return append(kernel("/proc"), mount("/proc", "/srv/chom")...) }

func words(found []Finding) []string {
	var out []string
	for _, f := range found {
		out = append(out, f.String())
	}
	return out
}

func kernel(proc string) []Finding {
	var found []Finding
	if f, bad := release(read(proc + "/sys/kernel/osrelease")); bad {
		found = append(found, f)
	}
	for _, p := range protections {
		have := read(proc + "/sys/" + strings.ReplaceAll(p.name, ".", "/"))
		if n, err := strconv.Atoi(have); err != nil || n < p.min {
			found = append(found, Finding{p.name, strconv.Itoa(p.min), have})
		}
	}
	return found
}

func release(have string) (Finding, bool) {
	f := Finding{"kernel release", fmt.Sprintf("at least %d.%d", kernelMajor, kernelMinor), have}
	major, rest, _ := strings.Cut(have, ".")
	minor := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	x, err1 := strconv.Atoi(major)
	y, err2 := strconv.Atoi(minor)
	return f, err1 != nil || err2 != nil || x < kernelMajor || x == kernelMajor && y < kernelMinor
}

// mount finds the file system that dir is on and looks at its options. The
// last mount of a place is the one that is seen.
func mount(proc, dir string) []Finding {
	info := read(proc + "/self/mountinfo")
	options := ""
	for line := range strings.Lines(info) {
		if f := strings.Fields(line); len(f) > 5 && f[4] == dir {
			options = f[5]
		}
	}
	if options == "" {
		return []Finding{{"mount " + dir, "a mount of its own", "none"}}
	}
	var found []Finding
	for _, want := range []string{"nosuid", "nodev"} {
		if !strings.Contains(","+options+",", ","+want+",") {
			found = append(found, Finding{"mount " + dir, want, options})
		}
	}
	return found
}

// read gives a small file of the kernel's, or why it can't be read: both end
// up in a finding.
func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unreadable"
	}
	return strings.TrimSpace(string(b))
}
