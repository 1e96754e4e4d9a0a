//go:build host

// These claims need a booted systemd, root, MariaDB, php-fpm and restic: build the
// test with the tag "host" and run it on a lab host.
package site

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"chom.dev/agent/backup"
	"chom.dev/agent/backup/backuptest"
	"chom.dev/agent/drill"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/nginx"
	"chom.dev/agent/php"
	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/agent/unixuser"
	"chom.dev/proto/contract"
	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// hostHelper is where the test lies as the agent does: a site's sandbox sees neither
// /root nor /tmp.
const hostHelper = "/usr/local/bin/chom-drill-test"

// hostilePage is a site that tries what it can while it is drilled, and says in its
// title what it could.
const hostilePage = `<?php
$could = [];
foreach (explode(' ', 'ADDRESSES') as $to) {
	if (@stream_socket_client($to, $no, $why, 2)) { $could[] = "reach $to"; }
}
foreach (['/srv/chom/sites/HANDLE/public/live.txt', '/srv/chom/sites/HANDLE/drill', '/srv/chom/sites/NEIGHBOUR', '/var/lib/mysql/sHANDLE', '/var/lib/chom-agent/backup',
	'/run/chom-php/HANDLE', '/proc/1/root'] as $path) {
	if (@file_exists($path)) { $could[] = "see $path"; }
}
file_put_contents('/srv/chom/sites/HANDLE/public/canary', 'x');
file_put_contents('/srv/chom/sites/HANDLE/private/canary', 'x');
$db = new mysqli('localhost', 's-HANDLE', '', 'sHANDLE');
foreach (['since', 'old'] as $table) {
	try { $db->query("SELECT * FROM $table"); $could[] = "read $table"; } catch (Exception $e) {}
}
$db->query('DELETE FROM words');
$db->query('CREATE TABLE IF NOT EXISTS canary (x INT)');
if (@mail('root@localhost', 'drill', 'drill')) { $could[] = 'mail'; }
if (($_SERVER['HTTPS'] ?? '') !== 'on') { header('Location: https://' . $_SERVER['HTTP_HOST'] . '/index.php?again'); }
echo '<title>', implode(', ', $could), '</title>', getmyuid();
`

type hostKeeper struct{ server *httptest.Server }

func (k hostKeeper) FetchRepositoryKey(ctx context.Context, req *linkv1.FetchRepositoryKeyRequest) (*linkv1.FetchRepositoryKeyResponse, error) {
	return plane{}.FetchRepositoryKey(ctx, req)
}

func (k hostKeeper) Repository(r *http.Request) (*http.Response, error) {
	return plane{&scene{Repository: k.server.Listener.Addr().String()}}.Repository(r)
}

func TestDrillOnHost(t *testing.T) {
	ctx := t.Context()
	self, err := os.ReadFile("/proc/self/exe")
	if err := errors.Join(err, os.WriteFile(hostHelper, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(hostHelper) })
	sys := systemd.New()
	defer sys.Close()
	db, err := mariadb.New(mariadb.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	fpm := php.New(sys, slog.New(slog.NewTextHandler(t.Output(), nil)))
	installed, err := php.Find()
	if err != nil || len(installed) == 0 {
		t.Fatalf("no PHP: %v", err)
	}
	h, neighbour := contract.NewHandle(), contract.NewHandle()
	shells := tree.Host()
	pool := php.Pool{Handle: h, Version: installed[0].Version}
	if err := errors.Join(mariadb.EnsureConfigured(ctx, sys), shells.EnsureBase(), fpm.EnsureBase(ctx)); err != nil {
		t.Fatal(err)
	}
	for i, site := range []contract.Handle{h, neighbour} {
		u := unixuser.User{Name: site.UnixUser(), UID: 28100 + i}
		if err := errors.Join(unixuser.Ensure(ctx, sys, u), shells.Ensure(site, u.UID), db.Ensure(ctx, site.DBName(), site.UnixUser())); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		ctx, late := context.Background(), systemd.New()
		defer late.Close()
		if err := php.New(late, slog.New(slog.DiscardHandler)).Remove(ctx, h); err != nil {
			t.Error(err)
		}
		for _, site := range []contract.Handle{h, neighbour} {
			_ = os.RemoveAll(tree.Shell(site))
			if err := errors.Join(late.Kill(ctx, site.Slice()), late.Stop(ctx, site.Slice()), unixuser.Remove(ctx, late, site.UnixUser())); err != nil {
				t.Error(err)
			}
		}
	})
	if _, err := fpm.Ensure(ctx, pool); err != nil {
		t.Fatal(err)
	}
	as := func(script string) string {
		t.Helper()
		u, err := run.SiteUnit{Handle: h, Name: "test", Argv: []string{"/bin/sh", "-ec", script}, Dir: "/"}.Unit()
		if err != nil {
			t.Fatal(err)
		}
		res, err := sys.Run(ctx, u)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(res.Stdout))
	}
	sql := func(statements string) string {
		t.Helper()
		return as("mariadb --batch --skip-column-names " + h.DBName().String() + " <<'END'\n" + statements + "\nEND")
	}

	outside, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	port := strconv.Itoa(outside.Addr().(*net.TCPAddr).Port)
	addresses := []string{"tcp://127.0.0.1:" + port, "tcp://1.1.1.1:443", "unix:///run/chom-php/" + h.String() + "/php.sock"}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			addresses = append(addresses, "tcp://"+n.IP.String()+":"+port)
		}
	}
	page := strings.NewReplacer("HANDLE", h.String(), "NEIGHBOUR", neighbour.String(), "ADDRESSES", strings.Join(addresses, " ")).Replace(hostilePage)
	file := tree.Public(h) + "/index.php"
	if err := errors.Join(os.WriteFile(file, []byte(page), 0o640), os.Chown(file, 28100, 28100)); err != nil {
		t.Fatal(err)
	}
	sql("CREATE TABLE words (x VARCHAR(20)); INSERT INTO words VALUES ('one'), ('two'); CREATE VIEW v AS SELECT * FROM words; CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 3;")

	site := task.Site{ID: contract.NewSiteID(), Organization: contract.NewOrganizationID(), Handle: h, UID: 28100, Desired: &sitev1.DesiredState{Domains: []string{"drill.example"}}}
	repository := new(backuptest.Repository)
	server := httptest.NewServer(http.StripPrefix(contract.RepositoryPath+site.ID.String(), repository))
	t.Cleanup(server.Close)
	backups, err := backup.New(backup.Config{
		Dir: "/var/lib/chom-agent/backup", RunDir: backup.RunDir, Broker: hostKeeper{server}, Launch: backup.By(sys), Agent: hostHelper,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := backups.Remove(h); err != nil {
			t.Error(err)
		}
	})
	var c backup.Contents
	if err := errors.Join(
		backups.Make(ctx, site),
		backups.Do(ctx, site, backup.Work{Job: "backup", Timeout: time.Minute, Order: backup.ContentsOrder{Backup: "b", Database: true}}, nil, &c),
	); err != nil {
		t.Fatal(err)
	}
	as("echo live > " + tree.Public(h) + "/live.txt")
	sql("CREATE TABLE since (x INT); CREATE TABLE old (x INT); INSERT INTO words VALUES ('three')")
	before := as("cd "+tree.Shell(h)+" && find public private | sort") + sql("SHOW TABLES; SELECT * FROM words")

	public, signer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := contract.SignManifest(signer, &backupv1.Manifest{
		Schema: 1, OrganizationId: site.Organization.String(), SiteId: site.ID.String(), BackupId: contract.NewBackupID().String(), Sequence: 1,
		Contents: &backupv1.Contents{FilesSnapshot: c.Files.ID, DatabaseSnapshot: c.Database.ID},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := &drilling{drills: &drills{shells, sys, backups, hostHelper, mariadb.Socket, phpRuns}, site: site, limit: 5 * time.Minute}
	order := &orderv1.DrillSite{Handle: h.String(), DrillId: contract.NewDrillID().String(), Manifest: signed}
	if err := d.read(order, task.Order{Signers: []ed25519.PublicKey{public}}); err != nil {
		t.Fatal(err)
	}
	pool.Listen, pool.Ident = phpRuns+"/drill.sock", "drill"
	config, err := pool.Config()
	if err != nil {
		t.Fatal(err)
	}
	d.look.PHP = &drill.Master{Program: installed[0].FPM, Config: config, Socket: pool.Listen}
	d.look.HTTPS = false
	start := time.Now()
	for _, s := range d.plan().Steps {
		if err := s.Do(ctx, new(task.Log)); err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		t.Log(s.Name, time.Since(start))
	}
	var res orderv1.Result
	if err := d.report(&res); err != nil {
		t.Fatal(err)
	}
	e := res.GetDrill().GetEvidence()
	if e.GetFileCount() < 3 || fmt.Sprint(e.GetTables()) != fmt.Sprint([]*backupv1.Table{{Name: "words", Rows: 2}}) || string(e.GetDumpSha256()) != string(c.Database.SHA256) {
		t.Errorf("found %v", e)
	}
	if p := e.GetPages(); len(p) != 1 || p[0].GetHttpStatus() != 200 || p[0].GetTitle() != "" || p[0].GetBodyBytes() == 0 || p[0].GetProblem() != "" {
		t.Errorf("pages: %v", p)
	}
	if after := as("cd "+tree.Shell(h)+" && find public private | sort") + sql("SHOW TABLES; SELECT * FROM words"); after != before {
		t.Errorf("the site was\n%s\nand is\n%s", before, after)
	}
	if there, err := shells.Drilled(h); there || err != nil {
		t.Errorf("the place is left: %v", err)
	}
	if ok, err := fpm.Running(ctx, php.Pool{Handle: h, Version: pool.Version}); !ok || err != nil {
		t.Errorf("the site's php is gone: %v", err)
	}
	// Where it lives, the same page can: it is the walls that kept it from that.
	live, err := php.Get(ctx, nginx.Socket(h), map[string]string{"SCRIPT_FILENAME": file, "SCRIPT_NAME": "/index.php", "REQUEST_METHOD": "GET", "HTTPS": "on", "QUERY_STRING": ""})
	if err != nil {
		t.Fatal(err)
	}
	for _, could := range []string{"reach tcp://127.0.0.1:" + port, "see " + tree.Public(h) + "/live.txt", "see /run/chom-php", "read since"} {
		if !strings.Contains(string(live.Body), could) {
			t.Errorf("live, it can't %s: %s", could, live.Body)
		}
	}
}
