package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"testing"
	"time"

	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
	"chom.dev/plugins/sdktest"
	"chom.dev/proto/contract"
	mariadbserver "chom.dev/servers/mariadb"
)

// mariadb is the real server that the tests talk to, on a socket of its own.
var mariadb struct {
	socket string
	err    error
}

// scratch is a folder for the whole run.
var scratch string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "chom-wordpress-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	if err := os.Chmod(dir, 0o755); err != nil { // site users come here
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server, err := mariadbserver.Start("--innodb-flush-log-at-trx-commit=0") // its durability is not what is tested
	if err != nil {
		// Every test that needs it fails with this; none is skipped.
		mariadb.err = err
		return m.Run()
	}
	defer server.Stop()
	mariadb.socket = server.Socket
	return m.Run()
}

func trySQL(statement string) (string, error) {
	out, err := exec.Command("/usr/bin/mariadb", "--no-defaults", "--socket="+mariadb.socket, "--user=root",
		"--batch", "--skip-column-names", "--execute="+statement).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// sql runs a statement as the database's root.
func sql(t *testing.T, format string, args ...any) string {
	t.Helper()
	out, err := trySQL(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// newSite makes what the agent makes: a unix user, a tree, a schema with an
// account that only that user can use.
func newSite(t *testing.T) (sdk.Site, host.User) {
	t.Helper()
	if mariadb.err != nil {
		t.Fatal(mariadb.err)
	}
	handle := contract.NewHandle()
	name := handle.UnixUser().String()
	if out, err := exec.Command("/usr/sbin/useradd", "--no-create-home", "--user-group", "--shell=/usr/sbin/nologin", "--", name).CombinedOutput(); err != nil {
		t.Fatalf("useradd: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("/usr/sbin/userdel", "--", name).CombinedOutput(); err != nil {
			t.Errorf("userdel: %v\n%s", err, out)
		}
	})
	account, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(account.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(account.Gid)
	if err != nil {
		t.Fatal(err)
	}
	siteUser := host.User{Handle: handle, UID: uid, GID: gid}
	sql(t, "CREATE DATABASE `%[1]s`; CREATE USER '%[2]s'@'localhost' IDENTIFIED VIA unix_socket; GRANT ALL ON `%[1]s`.* TO '%[2]s'@'localhost'",
		handle.DBName(), handle.UnixUser())
	t.Cleanup(func() {
		sql(t, "DROP DATABASE IF EXISTS `%s`; DROP USER '%s'@'localhost'", handle.DBName(), handle.UnixUser())
	})
	domain, err := contract.ParseDomain("www.example.com")
	if err != nil {
		t.Fatal(err)
	}
	return sdk.Site{
		Handle:   handle,
		Tree:     sdktest.NewTree(t, siteUser),
		Domain:   domain,
		Settings: sdk.Settings{"title": "Tom's Café", "admin_email": "tom@example.com"},
		PHP:      "/usr/bin/php",
		Database: &sdk.Database{Name: handle.DBName(), User: handle.UnixUser(), Socket: mariadb.socket},
		Archive:  testArchive(t),
	}, siteUser
}

// installed is a site with WordPress, and a way to its plugin.
type installed struct {
	site sdk.Site
	user host.User
	open sdktest.Opener
}

func newInstalled(t *testing.T, change func(*sdk.Site)) (installed, sdk.State) {
	t.Helper()
	site, siteUser := newSite(t)
	if change != nil {
		change(&site)
	}
	i := installed{site, siteUser, program(t)}
	var state sdk.State
	i.call(t, func(ctx context.Context, c sdktest.Conn) (err error) {
		state, err = c.Install(ctx, i.site, nil)
		return err
	})
	return i, state
}

func (i installed) call(t *testing.T, use func(context.Context, sdktest.Conn) error) {
	t.Helper()
	conn, err := i.open(t.Context(), i.user)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := use(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
}

func (i installed) check(t *testing.T) (state sdk.State) {
	t.Helper()
	i.call(t, func(ctx context.Context, c sdktest.Conn) (err error) {
		state, err = c.Check(ctx, i.site)
		return err
	})
	return state
}

func (i installed) update(t *testing.T) (state sdk.State) {
	t.Helper()
	i.call(t, func(ctx context.Context, c sdktest.Conn) (err error) {
		state, err = c.Update(ctx, i.site)
		return err
	})
	return state
}

// login arms a login and returns the path of its link.
func (i installed) login(t *testing.T) (link string) {
	t.Helper()
	var secret [32]byte
	rand.Read(secret[:])
	token := base64.RawURLEncoding.EncodeToString(secret[:])
	i.call(t, func(ctx context.Context, c sdktest.Conn) error {
		return c.ArmLogin(ctx, i.site, sdk.Login{TokenSHA256: sha256.Sum256([]byte(token)), Expires: time.Now().Add(50 * time.Second)})
	})
	return "/?" + sdk.LoginParameter + "=" + token
}

func (i installed) option(t *testing.T, name string) string {
	t.Helper()
	return sql(t, "SELECT option_value FROM `%s`.wp_options WHERE option_name = '%s'", i.site.Database.Name, name)
}
