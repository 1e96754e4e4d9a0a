package php

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"chom.dev/agent/nginx"
	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/proto/contract"
)

// Pool is what a site's php-fpm depends on. Zero values take the defaults
// named beside them.
type Pool struct {
	Handle  contract.Handle
	Version contract.PHPVersion
	Workers int               // at most so many requests at once; 0 is 5
	Memory  contract.ByteSize // of one request; zero is 256 MiB
	Upload  contract.ByteSize // largest upload; zero is 64 MiB
	Limit   time.Duration     // of one request; 0 is 110 seconds

	Listen string // its socket; "" is where nginx comes in
	Ident  string // its name in the system's log; "" is that of the site
}

const (
	defaultWorkers = 5
	defaultMemory  = 256 << 20
	defaultUpload  = 64 << 20
	defaultLimit   = 110 * time.Second // just under what nginx waits

	pingPath = "/chom-ping" // no file, and not *.php: nginx never passes it on
)

// entry is a line of a pool's description, or a section when value is unset.
type entry struct{ key, value string }

func (p Pool) entries(mark string) ([]entry, error) {
	if p.Handle.IsZero() || p.Version.IsZero() || p.Workers < 0 || p.Limit < 0 {
		return nil, fmt.Errorf("pool needs a handle, a version and no negative limits")
	}
	private := run.SitesDir + "/" + p.Handle.String() + "/private"
	workers := p.Workers
	if workers == 0 {
		workers = defaultWorkers
	}
	limit := p.Limit
	if limit == 0 {
		limit = defaultLimit
	}
	memory, upload := p.Memory.Bytes(), p.Upload.Bytes()
	if memory == 0 {
		memory = defaultMemory
	}
	if upload == 0 {
		upload = defaultUpload
	}
	seconds := strconv.Itoa(int(limit.Seconds()))
	listen, ident := cmp.Or(p.Listen, nginx.Socket(p.Handle)), cmp.Or(p.Ident, "php-"+p.Handle.String())
	num := func(n int64) string { return strconv.FormatInt(n, 10) }
	return []entry{
		{"[global]", ""},
		{"error_log", "syslog"}, // /dev/stderr can't be opened under systemd
		{"syslog.ident", ident},
		{"log_level", "warning"},
		{"daemonize", "no"},
		{"systemd_interval", "0"},
		{"[" + p.Handle.String() + "]", ""},
		{"listen", listen},
		{"listen.mode", "0660"},
		{"pm", "ondemand"}, // a site that nobody visits costs one idle master
		{"pm.max_children", strconv.Itoa(workers)},
		{"pm.process_idle_timeout", "10s"},
		{"pm.max_requests", "500"}, // plugins leak
		{"ping.path", pingPath},
		{"ping.response", mark},
		{"request_terminate_timeout", seconds + "s"},
		{"catch_workers_output", "no"},
		{"clear_env", "yes"},
		{"security.limit_extensions", ".php"},
		{"php_admin_value[memory_limit]", num(memory)},
		{"php_admin_value[upload_max_filesize]", num(upload)},
		{"php_admin_value[post_max_size]", num(upload + 1<<20)}, // the form around the file
		{"php_admin_value[max_execution_time]", seconds},
		{"php_admin_value[max_input_vars]", "5000"}, // large menus in WordPress
		{"php_admin_value[upload_tmp_dir]", private + "/upload"},
		{"php_admin_value[session.save_path]", private + "/sessions"},
		{"php_admin_value[session.gc_probability]", "1"}, // the distribution's cleaner doesn't come here
		{"php_admin_value[session.gc_divisor]", "1000"},
		{"php_admin_flag[session.use_strict_mode]", "on"},
		{"php_admin_flag[session.cookie_httponly]", "on"},
		{"php_admin_value[error_log]", "syslog"},
		{"php_admin_flag[log_errors]", "on"},
		{"php_admin_flag[display_errors]", "off"},
		{"php_admin_flag[expose_php]", "off"},
		{"php_admin_flag[allow_url_include]", "off"},
		{"php_admin_value[cgi.fix_pathinfo]", "0"}, // a.jpg/x.php is no script
	}, nil
}

// Config is the pool as a master of its own is to read it, that answers a ping with
// "here".
func (p Pool) Config() ([]byte, error) { return p.render("here") }

// render prints the pool, reads the print back and compares.
func (p Pool) render(mark string) ([]byte, error) {
	entries, err := p.entries(mark)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString("; Written by chom-agent; changes are overwritten.\n")
	for _, e := range entries {
		// Nothing that we write needs more, so nothing has to be escaped:
		// the format's quoting and ${...} rules are never met.
		if !harmless(e.key, "[].") || !harmless(e.value, "./-") {
			return nil, fmt.Errorf("pool setting %q holds an unexpected character", e.key)
		}
		if e.key[0] == '[' {
			fmt.Fprintf(&b, "\n%s\n", e.key)
			continue
		}
		if e.value == "" {
			return nil, fmt.Errorf("pool setting %q is empty", e.key)
		}
		fmt.Fprintf(&b, "%s = %s\n", e.key, e.value)
	}
	if back := read(b.String()); !slices.Equal(back, entries) {
		return nil, fmt.Errorf("pool reads back differently than it was meant")
	}
	return []byte(b.String()), nil
}

func harmless(s, also string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-' && !strings.ContainsRune(also, r)
	}) < 0
}

func read(text string) []entry {
	var out []entry
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch key, value, _ := strings.Cut(line, "="); {
		case line == "" || line[0] == ';':
		case line[0] == '[':
			out = append(out, entry{line, ""})
		default:
			out = append(out, entry{strings.TrimSpace(key), strings.TrimSpace(value)})
		}
	}
	return out
}

// unit is the service of the site's master.
func (m *Manager) unit(p Pool, release Installed) systemd.Unit {
	h := p.Handle
	user := h.UnixUser().String()
	private := run.SitesDir + "/" + h.String() + "/private"
	fpm := systemd.Argv(release.FPM, "--nodaemonize", "--fpm-config", m.file(h),
		// The opcode cache belongs to the master, so a pool can't set it.
		"-d", "opcache.memory_consumption=64", // enough for WordPress with plugins; taken only when used
		"-d", "opcache.interned_strings_buffer=8",
		"-d", "opcache.max_accelerated_files=16229",
		"-d", "opcache.validate_timestamps=1", // tenants edit files and expect to see it
		"-d", "opcache.revalidate_freq=2",
	)
	return systemd.Unit{Name: h.PHPUnit(), Sections: []systemd.Section{
		{Name: "Unit", Settings: []run.Property{
			{Key: "Description", Value: "PHP " + p.Version.String() + " of site " + h.String()},
			{Key: "RequiresMountsFor", Value: run.SitesDir},
			{Key: "After", Value: "network.target mariadb.service"},
			{Key: "StartLimitIntervalSec", Value: "0"}, // it comes back however often it is shot
		}},
		{Name: "Service", Settings: slices.Concat([]run.Property{
			{Key: "Type", Value: "notify"},
			// By the site's own user: root makes nothing in a tenant's directory.
			{Key: "ExecStartPre", Value: systemd.Argv("/usr/bin/mkdir", "-p", "-m", "0700", "--", private+"/sessions", private+"/upload")},
			{Key: "ExecStart", Value: fpm},
			{Key: "User", Value: user},
			{Key: "Group", Value: user},
			{Key: "Slice", Value: h.Slice()},
			{Key: "RuntimeDirectory", Value: strings.TrimPrefix(path.Dir(nginx.Socket(h)), "/run/")},
			{Key: "RuntimeDirectoryMode", Value: "0750"}, // nginx comes in as a member of the group
			{Key: "Restart", Value: "always"},
			{Key: "RestartSec", Value: "500ms"},
			{Key: "KillMode", Value: "mixed"},
			{Key: "TimeoutStartSec", Value: "30"},
			{Key: "TimeoutStopSec", Value: "5"},
			{Key: "LogRateLimitIntervalSec", Value: "60"},
			{Key: "LogRateLimitBurst", Value: "500"}, // a notice in a loop must not fill the journal
		}, run.SiteSandbox(h))},
		{Name: "Install", Settings: []run.Property{{Key: "WantedBy", Value: "multi-user.target"}}},
	}}
}

func groupID(path string) (int, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.IsDir() || sys.Gid == 0 {
		return 0, fmt.Errorf("%s is not a site's shell", path)
	}
	return int(sys.Gid), nil
}
