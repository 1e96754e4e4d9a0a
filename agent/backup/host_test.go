//go:build host

// These claims need a booted systemd, root, MariaDB and restic: build the test
// with the tag "host" and run it on a lab host.
package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"chom.dev/agent/backup/backuptest"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/agent/unixuser"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// helper is where the test lies as the agent does: a site's sandbox sees neither
// /root nor /tmp.
const helper = "/usr/local/bin/chom-backup-test"

func init() { walls["look"] = look }

// seen is what a job finds of the world.
type seen struct {
	UID     int
	Reached []string // of the addresses that it was told to call
	Read    []string // of the files
	Written []string // of the directories
}

type lookOrder struct{ Addresses, Files, Dirs []string }

func look(ctx context.Context, s *Inside, text json.RawMessage) (any, error) {
	var o lookOrder
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, err
	}
	w := seen{UID: os.Getuid()}
	for _, a := range o.Addresses {
		network, address, _ := strings.Cut(a, ":")
		c, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, address)
		if err == nil {
			c.Close()
			w.Reached = append(w.Reached, a)
		}
	}
	for _, f := range o.Files {
		if _, err := os.ReadDir(f); err == nil {
			w.Read = append(w.Read, f)
		} else if _, err := os.ReadFile(f); err == nil {
			w.Read = append(w.Read, f)
		}
	}
	for _, d := range o.Dirs {
		if err := os.WriteFile(d+"/chom-canary", nil, 0o600); err == nil {
			_ = os.Remove(d + "/chom-canary")
			w.Written = append(w.Written, d)
		}
	}
	return w, nil
}

// hostBroker is the control plane, on the host's own loopback.
type hostBroker struct {
	id     contract.SiteID
	server *httptest.Server
}

func (b hostBroker) FetchRepositoryKey(context.Context, *linkv1.FetchRepositoryKeyRequest) (*linkv1.FetchRepositoryKeyResponse, error) {
	return &linkv1.FetchRepositoryKeyResponse{Key: testKey}, nil
}

func (b hostBroker) Repository(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", b.server.Listener.Addr().String()
	return http.DefaultTransport.RoundTrip(r)
}

func TestHelperOnHost(t *testing.T) {
	ctx := t.Context()
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(helper, self, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(helper) })
	sys := systemd.New()
	defer sys.Close()
	db, err := mariadb.New(mariadb.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	shells := tree.Host()
	if err := errors.Join(mariadb.EnsureConfigured(ctx, sys), shells.EnsureBase()); err != nil {
		t.Fatal(err)
	}
	h, neighbour := contract.NewHandle(), contract.NewHandle()
	for i, site := range []contract.Handle{h, neighbour} {
		u := unixuser.User{Name: site.UnixUser(), UID: 28000 + i}
		if err := errors.Join(unixuser.Ensure(ctx, sys, u), shells.Ensure(site, u.UID), db.Ensure(ctx, site.DBName(), site.UnixUser()),
			os.WriteFile(tree.Public(site)+"/index.html", bytes.Repeat([]byte("x"), 1<<20), 0o640), os.Chown(tree.Public(site)+"/index.html", u.UID, u.UID)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		ctx, late := context.Background(), systemd.New()
		defer late.Close()
		for _, site := range []contract.Handle{h, neighbour} {
			_ = os.RemoveAll(tree.Shell(site))
			if err := errors.Join(late.Kill(ctx, site.Slice()), late.Stop(ctx, site.Slice()), unixuser.Remove(ctx, late, site.UnixUser())); err != nil {
				t.Error(err)
			}
		}
	})
	site := task.Site{ID: contract.NewSiteID(), Organization: contract.NewOrganizationID(), Handle: h, UID: 28000}
	repository := new(backuptest.Repository)
	server := httptest.NewServer(http.StripPrefix(contract.RepositoryPath+site.ID.String(), repository))
	t.Cleanup(server.Close)
	dir := "/var/lib/chom-agent/backup"
	m, err := New(Config{
		Dir: dir, RunDir: RunDir, Broker: hostBroker{site.ID, server}, Launch: By(sys), Agent: helper,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Remove(h); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod("/var/lib/chom-agent", 0o700); err != nil {
		t.Fatal(err)
	}
	do := func(job string, order, result any) error {
		return m.Do(ctx, site, Work{Job: job, Order: order, Timeout: 2 * time.Minute}, func(p Progress) { t.Log(p) }, result)
	}

	t.Run("a job is the site's user, and sees nothing but the site", func(t *testing.T) {
		outside, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		defer outside.Close()
		port := strconv.Itoa(outside.Addr().(*net.TCPAddr).Port)
		var gateway string
		addrs, _ := net.InterfaceAddrs()
		order := lookOrder{
			Addresses: []string{"tcp:127.0.0.1:" + port, "tcp:" + server.Listener.Addr().String(), "unix:" + mariadb.Socket, "udp:192.0.2.1:53", "tcp:1.1.1.1:443"},
			Files: []string{tree.Public(h) + "/index.html", tree.Public(neighbour) + "/index.html", tree.Shell(neighbour), dir, dir + "/" + h.String() + "/key",
				"/var/lib/mysql", "/run/chom-backup", "/run/chom-agent", "/etc/shadow"},
			Dirs: []string{tree.Public(h), tree.Private(h), tree.Shell(h), tree.Public(neighbour), "/tmp", "/var/tmp", "/usr/local/bin", "/run", "/etc"},
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
				gateway = "tcp:" + n.IP.String() + ":" + port
				order.Addresses = append(order.Addresses, gateway)
			}
		}
		if gateway == "" {
			t.Fatal("the host has no address to try")
		}
		var got seen
		if err := do("look", order, &got); err != nil {
			t.Fatal(err)
		}
		want := seen{
			UID: 28000, Reached: []string{"unix:" + mariadb.Socket}, Read: []string{tree.Public(h) + "/index.html"},
			Written: []string{tree.Public(h), tree.Private(h), "/tmp", "/var/tmp"},
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("it finds %+v, not %+v", got, want)
		}
	})
	if _, err := sys.Run(ctx, run.Unit{Name: "test-sql", User: h.UnixUser().String(), Group: h.UnixUser().String(), Stdin: strings.NewReader(hostile),
		Argv: []string{"/usr/bin/mariadb", "--no-defaults", "--socket=" + mariadb.Socket, h.DBName().String()}}); err != nil {
		t.Fatal(err)
	}
	t.Run("a backup is made, and its key is nowhere to be seen", func(t *testing.T) {
		if err := m.Make(ctx, site); err != nil {
			t.Fatal(err)
		}
		reached, release := make(chan struct{}), make(chan struct{})
		first := true
		repository.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/data/") && first {
				first = false
				close(reached)
				<-release
			}
			return false
		}
		ended := make(chan error, 1)
		var c Contents
		go func() {
			ended <- do("backup", ContentsOrder{Backup: contract.NewBackupID().String(), Database: true}, &c)
		}()
		select {
		case <-reached:
		case err := <-ended:
			t.Fatal(err)
		}
		programs := 0
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
			environ, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
			if bytes.HasPrefix(line, []byte(restic)) || bytes.HasPrefix(line, []byte(helper+"\x00sandbox")) {
				programs++
				group, _ := os.ReadFile("/proc/" + e.Name() + "/cgroup")
				if strings.Contains(string(group), h.Slice()) { // what visitors have to do with is there
					t.Errorf("%q is in %s", line, group)
				}
			}
			if bytes.Contains(append(line, environ...), []byte(testKey)) {
				t.Errorf("the key is in /proc/%s", e.Name())
			}
		}
		if programs < 2 {
			t.Errorf("%d programs were found", programs)
		}
		u, err := run.SiteUnit{Handle: h, Name: "thief", Timeout: time.Minute, Argv: []string{"/usr/bin/curl", "--silent", "--output", "/dev/null",
			"--write-out", "%{http_code}", "--unix-socket", RunDir + "/" + h.String() + "/repository.sock", "http://x/config"}}.Unit()
		if err != nil {
			t.Fatal(err)
		}
		if res, err := sys.Run(ctx, u); err != nil || string(res.Stdout) != "403" {
			t.Errorf("the site's own code is answered %s, %v", res.Stdout, err)
		}
		if u, err = (run.SiteUnit{Handle: neighbour, Name: "thief", Timeout: time.Minute, Argv: u.Argv}).Unit(); err != nil {
			t.Fatal(err)
		}
		if res, err := sys.Run(ctx, u); err == nil {
			t.Errorf("the neighbour is answered %s", res.Stdout)
		}
		close(release)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if c.Files.ID == "" || c.Database == nil || len(c.Database.Tables) != 10 || len(repository.Objects("snapshots")) != 2 || len(repository.Objects("locks")) != 0 {
			t.Errorf("made %+v", c)
		}
		if l := listingAt(t, server, site, testKey, c.Files.ID); l.Count() != 3 || l.Bytes() != 1<<20 {
			t.Errorf("%d files of %d bytes are in it", l.Count(), l.Bytes())
		}
	})
	t.Run("another agent's job is ended before the next begins, with all that it has begun", func(t *testing.T) {
		hang := make(chan struct{})
		repository.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/data/") && r.Method == http.MethodPost {
				select {
				case <-hang:
				case <-r.Context().Done():
				}
			}
			return false
		}
		if err := os.WriteFile(tree.Public(h)+"/more", []byte(strings.Repeat("y", 5000)), 0o644); err != nil {
			t.Fatal(err)
		}
		ctx, kill := context.WithCancel(ctx)
		defer kill()
		ended := make(chan error, 1)
		go func() {
			ended <- m.Do(ctx, site, Work{Job: "backup", Order: ContentsOrder{Backup: contract.NewBackupID().String()}, Timeout: time.Minute}, nil, nil)
		}()
		for range 200 {
			if slices.ContainsFunc(repository.Requests(), func(s string) bool { return strings.HasPrefix(s, "POST /data/") }) && len(repository.Objects("locks")) > 0 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		kill()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("canceled, it says %v", err)
		}
		close(hang)
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			if line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline"); bytes.HasPrefix(line, []byte(restic)) {
				t.Errorf("%q is alive", line)
			}
		}
		if left := repository.Objects("locks"); len(left) != 0 {
			t.Errorf("locks are left: %v", left)
		}
	})
}
