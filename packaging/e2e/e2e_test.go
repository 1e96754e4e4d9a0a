// Package e2e proves CHOM on real hosts: a chomd child process, Debian 12 and
// Debian 13 booted in the lab, agents installed from their package by the
// pasted line. Nothing is faked; what cannot be had here is not claimed.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

// shared is what all tests of the package share: booting costs more than most
// tests, and a fleet is shared in real life as well.
type shared struct {
	rig   *rig.Rig
	org   string
	hosts map[lab.Release]*host
}

// host is a lab host that is enrolled and prepared.
type host struct {
	*lab.Host
	server *fleetv1.Server
}

var world shared

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil { // tests wait for hosts far more than they compute
		panic(err)
	}
	within := 55 * time.Minute
	if proving {
		within = 235 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	os.Exit(run(ctx, m))
}

// run is TestMain with defers that run.
func run(ctx context.Context, m *testing.M) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	dir, err := os.MkdirTemp("/var/tmp", "chom-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	l, err := lab.New(ctx, lab.Options{Ephemeral: true, Log: log})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := l.Down(context.WithoutCancel(ctx)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := world.build(ctx, l, dir, log); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer world.rig.Stop(ctx)
	code := m.Run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "chomd's last words:\n%s\n", world.rig.Tail(60))
		for _, h := range world.hosts {
			if words, err := h.Output(ctx, "journalctl", "--no-pager", "--lines=80", "--unit=chom-agent"); err == nil {
				fmt.Fprintf(os.Stderr, "agent on %s:\n%s\n", h.Name(), words)
			}
		}
	}
	return code
}

// tree is the repository's root.
func tree() string {
	wd, err := os.Getwd()
	if err != nil {
		panic(err) // a test binary always has one
	}
	return filepath.Join(wd, "../..")
}

// build boots both releases at once. Agents and chomd are the failpoint build:
// it differs from the shipped one in nothing but that it can be killed at a
// named point.
func (w *shared) build(ctx context.Context, l *lab.Lab, dir string, log *slog.Logger) error {
	archive, err := lab.EnsureWordPress(ctx, lab.Bookworm, log)
	if err != nil {
		return err
	}
	w.rig, err = rig.Start(ctx, rig.Options{
		Lab: l, Dir: dir,
		Bin: filepath.Join(tree(), "bin-failpoint"), Packages: filepath.Join(tree(), "dist-failpoint"),
		Archive: &archive, Log: log,
		Names: true, NonceReject: 20,
		Args: []string{"--trash-period", trashPeriod()},
		Env:  []string{"CHOM_FAILPOINT_FILE=" + filepath.Join(dir, "failpoint")},
	})
	if err != nil {
		return err
	}
	if w.org, err = w.rig.Organization(ctx, "tests", "owner@tests.example", "tests.example"); err != nil {
		return err
	}

	w.hosts = map[lab.Release]*host{}
	var mu sync.Mutex
	errs := make(chan error, len(lab.Releases))
	for _, release := range lab.Releases {
		go func() {
			h, err := w.join(ctx, l, release, log)
			mu.Lock()
			w.hosts[release] = h
			mu.Unlock()
			errs <- err
		}()
	}
	for range lab.Releases {
		if e := <-errs; e != nil {
			err = e
		}
	}
	return err
}

// trashPeriod is long enough to restore a site within, and short enough to wait for.
func trashPeriod() string {
	if proving {
		return "1m" // what happens to a site in the trash takes longer there
	}
	return "20s"
}

func (w *shared) join(ctx context.Context, l *lab.Lab, release lab.Release, log *slog.Logger) (*host, error) {
	base, err := lab.EnsureBase(ctx, release, lab.Stack, log)
	if err != nil {
		return nil, err
	}
	h, err := l.Boot(ctx, lab.Config{Name: string(release), Base: base})
	if err != nil {
		return nil, err
	}
	server, err := w.rig.Join(ctx, h, nil)
	if err != nil {
		return nil, err
	}
	if server, err = w.rig.Prepared(ctx, server.GetId(), nil); err != nil {
		return nil, err
	}
	return &host{h, server}, nil
}

// onBoth runs a claim on both releases at once, and last of all in its test: what one host does is nothing to the other.
func onBoth(t *testing.T, claim func(t *testing.T, h *host)) {
	t.Helper()
	for _, release := range lab.Releases {
		t.Run(string(release), func(t *testing.T) {
			t.Parallel()
			claim(t, world.hosts[release])
		})
	}
}

// names gives each site of a test a name of its own.
var names = func() func() string {
	var mu sync.Mutex
	n := 0
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		n++
		return fmt.Sprintf("site%d", n)
	}
}()

// newSite is what a test asks for; the rest is the same for all.
func newSite(h *host, typ string) *sitev1.CreateSiteRequest {
	name := names()
	settings := map[string]string{"title": "Site " + name}
	if typ == "wordpress" {
		settings["admin_user"] = "owner"
		settings["admin_email"] = "owner@tests.example"
	}
	return &sitev1.CreateSiteRequest{
		OrganizationId: world.org, Name: name, Type: typ, ServerId: h.server.GetId(),
		Domains: []string{name + ".tests.example"}, Settings: settings,
	}
}

// create makes a site and waits until its task has succeeded.
func create(t *testing.T, h *host, typ string) *sitev1.Site {
	t.Helper()
	ctx := timeout(t, 2*time.Minute)
	res, err := world.rig.Sites.CreateSite(ctx, newSite(h, typ))
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, res.GetTask())
	return get(t, res.GetSite())
}

func done(t *testing.T, ctx context.Context, task *taskv1.Task) *taskv1.Task {
	t.Helper()
	task, err := world.rig.WaitDone(ctx, task)
	if err != nil {
		for _, s := range task.GetSteps() {
			t.Logf("step %s: %s %s", s.GetName(), s.GetState(), s.GetMessage())
		}
		t.Fatal(err)
	}
	return task
}

func get(t *testing.T, s *sitev1.Site) *sitev1.Site {
	t.Helper()
	res, err := world.rig.Sites.GetSite(t.Context(), &sitev1.GetSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetSite()
}

// shows waits until a visitor gets the page.
func shows(t *testing.T, h *host, s *sitev1.Site, status int, titled string) rig.Page {
	t.Helper()
	p, err := rig.WaitPage(timeout(t, 15*time.Second), h.Host, s.GetDomains()[0], status, titled)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// sh runs a line in the host's shell, for looking around as a person would.
func sh(t *testing.T, h *host, line string) string {
	t.Helper()
	out, err := h.Output(timeout(t, time.Minute), "/bin/bash", "-c", line)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// as runs a line as a site's user, as code of the tenant would.
func as(t *testing.T, h *host, s *sitev1.Site, line string) lab.Result {
	t.Helper()
	res, err := h.Run(timeout(t, time.Minute), lab.Command{User: "s-" + s.GetHandle(), Argv: []string{"/bin/bash", "-c", line}})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// traces lists what of a site is left on its host.
func traces(t *testing.T, h *host, handle string) string {
	t.Helper()
	return sh(t, h, strings.NewReplacer("H", handle).Replace(`
ls -d /srv/chom/sites/H /etc/nginx/chom/*/H* /etc/chom-agent/php/H* /var/log/chom/sites/H /run/chom-php/H /run/chom-plugin/H /run/chom-backup/H /var/lib/chom-agent/backup/H /var/lib/chom-agent/restore/H* /etc/systemd/system/*H* 2>/dev/null
getent passwd s-H; getent group s-H
mariadb --batch --skip-column-names -e "SELECT schema_name FROM information_schema.schemata WHERE schema_name IN ('sH', 'rH', 'uH'); SELECT user FROM mysql.user WHERE user IN ('s-H', 'r-H')"
systemctl list-units --all --plain --no-legend '*H*' | grep -v 'not-found'
true`))
}
