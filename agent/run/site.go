package run

import (
	"fmt"
	"io"
	"slices"
	"time"

	"chom.dev/proto/contract"
)

// SitesDir holds the shells of all sites, one directory per handle. It is on
// the host's plan: mounted nosuid and nodev, root-owned.
const SitesDir = "/srv/chom/sites"

// SiteUnit is a program that runs as a site's user, walled in: it sees no
// other site, no home, no device, no agent state; it can write to its own site
// and to a private /tmp, and gains no privilege whatever it executes.
type SiteUnit struct {
	Handle    contract.Handle
	Name      string // what it is for, a-z, 0-9 and hyphens; one at a time per site and name
	Argv      []string
	Env       map[string]string // no secrets: every user of the host can read it
	Dir       string            // "" is the site's public directory
	Stdin     io.Reader
	Timeout   time.Duration
	MaxOutput int

	// ReadOnly are further files or directories that the program may see at
	// their own place, e.g. an archive in the agent's cache.
	ReadOnly []string
	// RuntimeDir is a directory below /run, e.g. "chom-plugin/abcdefgh27",
	// that systemd makes for the site's user (0700) and removes at the end.
	RuntimeDir string
	// Beside, unless it is nil, runs the program beside the site instead of in it.
	Beside *Beside
	// Offline leaves the program no network but a loopback of its own, which
	// nobody else is on. Unix sockets that have a path are still there.
	Offline bool
	// Aside keeps the program out of what the site's processes may use together:
	// neither do visitors wait for it while a processor is there for them, nor it
	// for the site's share. It yields to every site, and has bounds of its own.
	Aside bool
	// Idle, of a program that runs aside, leaves it the processor time that nobody
	// else of the host has a use for. It may never end where there is none.
	Idle bool
}

// aside are those bounds. The unit is beside the sites' slices, of which each has a
// weight of 100; a VPS that is itself a container may have no weights, and then only
// what is nice yields: see NiceSession.
var aside = []Property{
	{"Nice", "10"},
	{"CPUWeight", "20"},
	{"IOWeight", "20"},
	{"MemoryMax", "805306368"}, // restic of a large repository, a small MariaDB, or a few requests of PHP
	{"MemorySwapMax", "0"},
	{"TasksMax", "256"},
}

// idle are those of what waits for everybody. Both Debian releases have systemd 252
// or newer, which knows a weight that is none.
var idle = []Property{
	{"CPUSchedulingPolicy", "idle"},
	{"IOSchedulingClass", "idle"},
	{"Nice", "19"},
	{"CPUWeight", "idle"},
	{"IOWeight", "1"},
}

// Beside is a world of its own for what is the site's and must not meet it: the
// site's tree is not in it.
type Beside struct {
	Tree  string   // what is in the place of the site's shell
	Fresh []string // directories of the host in whose place are empty ones, that the program can write to
}

// Unit gives the transient unit with the whole sandbox.
func (s SiteUnit) Unit() (Unit, error) {
	if s.Handle.IsZero() {
		return Unit{}, fmt.Errorf("run as site user: no handle")
	}
	dir := s.Dir
	if dir == "" {
		dir = SitesDir + "/" + s.Handle.String() + "/public"
	}
	slice, share := s.Handle.Slice(), []Property{{"Nice", "5"}} // serving goes before maintenance
	if s.Aside {
		slice, share = "", aside
	}
	if s.Aside && s.Idle {
		share = slices.Concat(aside, idle) // what comes last counts
	}
	props := SiteSandbox(s.Handle)
	if s.Beside != nil {
		props = s.Beside.sandbox(s.Handle)
	}
	props = append(props, share...)
	for _, p := range s.ReadOnly {
		props = append(props, Property{"BindReadOnlyPaths", p})
	}
	if s.RuntimeDir != "" {
		props = append(props, Property{"RuntimeDirectory", s.RuntimeDir}, Property{"RuntimeDirectoryMode", "0700"})
	}
	if s.Offline {
		props = append(props, Property{"PrivateNetwork", "yes"})
	}
	user := s.Handle.UnixUser().String()
	return Unit{
		Name: s.Handle.String() + "-" + s.Name,
		User: user, Group: user, Slice: slice,
		Argv: s.Argv, Env: s.Env, Dir: dir, Stdin: s.Stdin, Timeout: s.Timeout, MaxOutput: s.MaxOutput,
		Properties: props,
	}, nil
}

// sandbox is that of the site, with another tree in the place of the site's.
func (b Beside) sandbox(h contract.Handle) []Property {
	own := SitesDir + "/" + h.String()
	props := SiteSandbox(h)
	for i, p := range props {
		if p == (Property{"BindPaths", own}) {
			props[i].Value = b.Tree + ":" + own
		}
	}
	for _, dir := range b.Fresh {
		props = append(props, Property{"TemporaryFileSystem", dir + ":mode=1777,size=16M"})
	}
	return props
}

// SiteSandbox is the wall around everything that runs as a site's user: the
// transient units here and the site's lasting services (php, cron) alike. User,
// group and slice are not part of it.
func SiteSandbox(h contract.Handle) []Property {
	own := SitesDir + "/" + h.String()
	return []Property{
		{"UMask", "0027"}, // the group is nginx's way in, others get nothing
		{"NoNewPrivileges", "yes"},
		{"CapabilityBoundingSet", ""},
		{"RestrictSUIDSGID", "yes"},
		{"RestrictNamespaces", "yes"}, // no mounts inside a user namespace
		{"RestrictRealtime", "yes"},
		{"RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"},
		{"LockPersonality", "yes"},
		{"SystemCallArchitectures", "native"},
		{"PrivateTmp", "yes"},
		{"PrivateDevices", "yes"},
		{"ProtectSystem", "strict"},
		{"ProtectHome", "yes"},
		{"ProtectProc", "invisible"}, // other users' processes don't exist
		{"ProtectClock", "yes"},
		{"ProtectControlGroups", "yes"},
		{"ProtectHostname", "yes"},
		{"ProtectKernelLogs", "yes"},
		{"ProtectKernelModules", "yes"},
		{"ProtectKernelTunables", "yes"},
		{"KeyringMode", "private"},
		// What all users of a host share otherwise: a way from site to site, and
		// memory that a tenant could fill for everybody.
		{"PrivateIPC", "yes"},
		{"TemporaryFileSystem", "/dev/shm:mode=1777,size=64M"},
		{"InaccessiblePaths", "-/run/lock"},
		// Of all sites only this one exists, and it alone can be written.
		{"TemporaryFileSystem", "/srv/chom:ro"},
		{"BindPaths", own},
		{"InaccessiblePaths", "-/var/lib/chom-agent"},
		{"InaccessiblePaths", "-/run/chom-agent"},
		{"InaccessiblePaths", "-/var/log/chom"},
		{"InaccessiblePaths", "-/var/lib/mysql"}, // Debian lets everybody list it: the schemas of all neighbours
	}
}
