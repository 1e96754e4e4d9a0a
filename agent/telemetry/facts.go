package telemetry

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
)

// Software is what the host has for sites. Empty versions mean "not installed".
type Software struct {
	PHP, Nginx, MariaDB string
	Prepared            bool     // all of it is installed, configured and answers
	Findings            []string // what the preflight found wrong, in words
}

// Host gathers facts. Safe for concurrent use.
type Host struct {
	version  string
	sites    string // the directory whose file system holds the sites
	software func(context.Context) Software
	log      *slog.Logger

	mu    sync.Mutex
	asked time.Time // when software was called last
	found Software
}

// softwareFor is how long an answer about the software holds: a link that
// flaps must not run the same programs each time.
const softwareFor = time.Minute

// NewHost makes a Host. Version is the agent's own; software probes what is
// installed and may be nil before there is anything to probe.
func NewHost(version, sites string, software func(context.Context) Software, log *slog.Logger) *Host {
	if software == nil {
		software = func(context.Context) Software { return Software{} }
	}
	return &Host{version: version, sites: sites, software: software, log: log}
}

// Forget has the next Facts look at the software again.
func (h *Host) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = time.Time{}
}

// lookAgain is between looks at software that is not complete.
const lookAgain = 3 * time.Second

// Watch looks at the software again and again while it is not complete, and
// tells once it is: after a boot the agent is up before databases are, and a
// server that is not prepared gets no sites.
func (h *Host) Watch(ctx context.Context, prepared func()) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if h.lookAgain(ctx) {
			prepared()
		}
	}
}

// lookAgain tells whether the software is complete now and was not before.
func (h *Host) lookAgain(ctx context.Context) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asked.IsZero() || h.found.Prepared {
		return false
	}
	h.found, h.asked = h.software(ctx), time.Now()
	return h.found.Prepared
}

// Facts says what the host is. What can't be found out is left empty.
func (h *Host) Facts(ctx context.Context) *fleetv1.Facts {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asked.IsZero() || time.Since(h.asked) > softwareFor {
		h.found, h.asked = h.software(ctx), time.Now()
	}
	f := &fleetv1.Facts{
		Os:             cut(osRelease("/etc/os-release"), 128),
		Arch:           runtime.GOARCH,
		AgentVersion:   cut(h.version, 64),
		CpuCount:       uint32(runtime.NumCPU()),
		Addresses:      addresses(h.log),
		PhpVersion:     cut(h.found.PHP, 32),
		NginxVersion:   cut(h.found.Nginx, 32),
		MariadbVersion: cut(h.found.MariaDB, 64),
		Prepared:       h.found.Prepared,
		MachineHint:    machineHint("/etc/machine-id"),
	}
	for _, finding := range h.found.Findings {
		f.Findings = append(f.Findings, cut(finding, 512))
	}
	if name, err := os.Hostname(); err == nil {
		f.Hostname = cut(name, 253)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		f.Kernel = cut(unix.ByteSliceToString(uts.Release[:]), 128)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		f.MemoryBytes = info.Totalram * uint64(info.Unit)
	}
	f.DiskBytes, f.DiskFreeBytes = disk(h.sites)
	return f
}

// disk measures the file system that holds a path, or would hold it.
func disk(path string) (size, free uint64) {
	var st unix.Statfs_t
	for unix.Statfs(path, &st) != nil {
		if path == "/" || path == "." {
			return 0, 0
		}
		path = filepath.Dir(path)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize)
}

// osRelease gives "debian 12" of a file like /etc/os-release.
func osRelease(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var id, version string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			id = value
		case "VERSION_ID":
			version = value
		}
	}
	return strings.TrimSpace(id + " " + version)
}

// machineHint is a hash of the machine's id, which itself is nobody's
// business. Cloned disks share it: it is a hint for people.
func machineHint(path string) string {
	id, err := os.ReadFile(path)
	if err != nil || len(bytes.TrimSpace(id)) == 0 {
		return ""
	}
	sum := sha256.Sum256(append([]byte("chom machine hint\x00"), bytes.TrimSpace(id)...))
	return hex.EncodeToString(sum[:8])
}

// addresses are those by which others may reach the host.
func addresses(log *slog.Logger) []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		log.Warn("addresses could not be read", "err", err)
		return nil
	}
	var out []string
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// cut makes one clean line of at most limit bytes.
func cut(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}
