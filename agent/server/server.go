// Package server turns a bare Debian host into one that can hold sites: nginx,
// php-fpm and MariaDB from the distribution, configured so that tenants can be
// kept apart. It handles PREPARE_SERVER and can say whether the host is
// prepared. It knows nothing of any site.
package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"chom.dev/agent/mariadb"
	"chom.dev/agent/nginx"
	"chom.dev/agent/php"
	"chom.dev/agent/preflight"
	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
)

// packages are Debian's names for what sites need; php-* follow the
// distribution's release: 8.2 on Debian 12, 8.4 on Debian 13.
var packages = []string{
	"nginx", "logrotate", "mariadb-server", "mariadb-client", // without logrotate the sites' logs would fill the disk
	"php-fpm", "php-cli", "php-mysql", "php-xml", "php-mbstring", "php-curl", "php-gd", "php-zip", "php-intl",
}

const (
	aptGet    = "/usr/bin/apt-get"
	dpkgQuery = "/usr/bin/dpkg-query"

	// installWithin bounds one try of apt: a slow mirror, a small VPS.
	installWithin = 15 * time.Minute
)

// Server is this host.
type Server struct {
	systemd *systemd.Host
	nginx   *nginx.Manager
	php     *php.Manager
	mariadb *mariadb.Server
}

// New gives the host; nothing is touched yet.
func New(sd *systemd.Host, web *nginx.Manager, fpm *php.Manager, db *mariadb.Server) *Server {
	return &Server{sd, web, fpm, db}
}

// Prepare handles PREPARE_SERVER. On a prepared host it changes nothing.
func (s *Server) Prepare() task.Handler {
	return task.HandlerFunc(func(task.Order) (task.Plan, error) {
		return task.Plan{Steps: []task.Step{
			{Name: "preflight", Do: s.preflight},
			{Name: "sites-mount", Do: s.mount},
			{Name: "php-mask", Do: s.mask},
			{Name: "packages", Probe: s.installed, Do: s.install},
			{Name: "php", Do: s.fpm},
			{Name: "mariadb", Probe: s.databaseRuns, Do: s.database},
			{Name: "nginx", Do: s.web},
		}}, nil
	})
}

// Prepared tells whether everything that Prepare makes is there and answers. A
// host that merely has the packages is not: Prepare would restart the database
// under a site that is being made.
func (s *Server) Prepared(ctx context.Context) bool {
	if ok, _, err := s.installed(ctx); err != nil || !ok {
		return false
	}
	if ok, _, err := s.databaseRuns(ctx); err != nil || !ok {
		return false
	}
	if st, err := s.systemd.State(ctx, systemd.MountUnit().Name); err != nil || st.Active != "active" {
		return false
	}
	return s.nginx.Ready(ctx) == nil // nginx is the last step of all
}

// Versions of what is installed, for people; empty for what is not.
func (s *Server) Versions(ctx context.Context) (phpVersion, nginxVersion, mariadbVersion string) {
	if found, err := php.Find(); err == nil && len(found) > 0 {
		phpVersion = found[len(found)-1].Version.String()
	}
	if v, err := s.mariadb.Version(ctx); err == nil {
		mariadbVersion = v
	}
	res, err := run.Cmd{Path: dpkgQuery, Args: []string{"--show", "--showformat=${Version}", "--", "nginx"}}.Run(ctx)
	if err == nil {
		nginxVersion, _, _ = strings.Cut(string(res.Stdout), "-")
	}
	return phpVersion, nginxVersion, mariadbVersion
}

// preflight refuses a host on which tenants could not be kept apart.
func (s *Server) preflight(_ context.Context, log *task.Log) error {
	findings := preflight.Kernel()
	for _, f := range findings {
		log.Printf("%s", f)
	}
	if len(findings) > 0 {
		return task.Permanent(fmt.Errorf("this host cannot hold sites: %s", findings[0]))
	}
	return nil
}

// mount makes the place of sites, without setuid files and devices.
func (s *Server) mount(ctx context.Context, _ *task.Log) error {
	if err := s.mountUnit(ctx); err != nil {
		return err
	}
	// Once more inside the mount: it shows the same directory.
	return tree.Host().EnsureBase()
}

func (s *Server) mountUnit(ctx context.Context) error {
	if err := tree.Host().EnsureBase(); err != nil {
		return err
	}
	unit := systemd.MountUnit()
	if _, err := s.systemd.Install(ctx, unit); err != nil {
		return err
	}
	if err := s.systemd.Enable(unit.Name, "local-fs.target"); err != nil {
		return err
	}
	return s.systemd.Start(ctx, unit.Name)
}

// distributionMasters are the services that Debian 12 and 13 bring with php-fpm.
var distributionMasters = []string{"php8.2-fpm.service", "php8.4-fpm.service"}

// mask keeps the distribution's php-fpm, whose master runs as root, from ever
// starting: it is masked before it is installed.
func (s *Server) mask(ctx context.Context, _ *task.Log) error {
	for _, service := range distributionMasters {
		if err := s.systemd.Mask(ctx, service); err != nil {
			return err
		}
	}
	return nil
}

// installed asks dpkg for every package.
func (s *Server) installed(ctx context.Context) (bool, string, error) {
	res, err := run.Cmd{
		Path: dpkgQuery,
		Args: append([]string{"--show", "--showformat=${db:Status-Status}\\n", "--"}, packages...),
	}.Run(ctx)
	var exit *run.ExitError
	if errors.As(err, &exit) {
		return false, "", nil // one of them is not known at all
	}
	if err != nil {
		return false, "", err
	}
	states := strings.Fields(string(res.Stdout))
	for _, st := range states {
		if st != "installed" {
			return false, "", nil
		}
	}
	return len(states) == len(packages), "all there", nil
}

func (s *Server) install(ctx context.Context, log *task.Log) error {
	// A half-configured package of an earlier, killed try is finished first.
	if out, err := s.apt(ctx, "apt-repair", "/usr/bin/dpkg", "--configure", "-a", "--force-confold"); err != nil {
		return fmt.Errorf("finish interrupted installation: %w%s", err, tail(out))
	}
	begin := time.Now()
	if out, err := s.apt(ctx, "apt-update", aptGet, "--quiet=2", "update"); err != nil {
		return fmt.Errorf("fetch package lists: %w%s", err, tail(out))
	}
	log.Printf("package lists fetched in %.1f s", time.Since(begin).Seconds())
	begin = time.Now()
	out, err := s.apt(ctx, "apt-install", aptGet, append([]string{
		"--quiet=2", "--yes", "--no-install-recommends",
		"--option=DPkg::Lock::Timeout=300", // unattended upgrades of a fresh VPS hold it for minutes
		"--option=DPkg::Options::=--force-confold",
		"--option=Dpkg::Use-Pty=0",
		"install", "--",
	}, packages...)...)
	if err != nil {
		return fmt.Errorf("install packages: %w%s", err, tail(out))
	}
	log.Note("apt took %.0f s", time.Since(begin).Seconds())
	return nil
}

// apt runs outside of our sandbox, as apt must write everywhere, and survives
// our restart: the next try ends it and dpkg goes on where it was.
func (s *Server) apt(ctx context.Context, name, path string, args ...string) (string, error) {
	res, err := s.systemd.Run(ctx, run.Unit{
		Name:    name,
		Argv:    append([]string{path}, args...),
		Env:     map[string]string{"DEBIAN_FRONTEND": "noninteractive"},
		Timeout: installWithin,
	})
	return string(res.Stdout) + string(res.Stderr), err
}

// tail is the end of a program's output, for an error.
func tail(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if text := strings.Join(lines[max(0, len(lines)-5):], " / "); text != "" {
		return ": " + text
	}
	return ""
}

// fpm finds the release that was installed.
func (s *Server) fpm(ctx context.Context, log *task.Log) error {
	found, err := php.Find()
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return php.ErrNotInstalled
	}
	log.Note("PHP %s", found[len(found)-1].Version)
	return s.php.EnsureBase(ctx)
}

func (s *Server) databaseRuns(ctx context.Context) (bool, string, error) {
	ok, err := mariadb.Configured(ctx, s.systemd)
	return ok, "", err
}

func (s *Server) database(ctx context.Context, log *task.Log) error {
	if err := mariadb.EnsureConfigured(ctx, s.systemd); err != nil {
		return err
	}
	version, err := s.mariadb.Version(ctx)
	log.Note("MariaDB %s", version)
	return err
}

// RefreshWeb brings the web server's own part of its configuration to what this
// agent would make it, on a host that was prepared; elsewhere it does nothing.
func (s *Server) RefreshWeb(ctx context.Context) error {
	if ok, err := s.nginx.HasBase(); err != nil || !ok {
		return err
	}
	_, err := s.nginx.EnsureBase(ctx)
	return err
}

func (s *Server) web(ctx context.Context, log *task.Log) error {
	report, err := s.nginx.EnsureBase(ctx)
	for _, a := range report.SetAside {
		log.Printf("site %s was set aside: %s", a.Handle, a.Reason)
	}
	return err
}
