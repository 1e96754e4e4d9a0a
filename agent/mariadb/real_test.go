package mariadb

import (
	"context"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"chom.dev/proto/contract"
	mariadbserver "chom.dev/servers/mariadb"
)

// start runs a real MariaDB of this machine's Debian package.
func start(t *testing.T) string {
	t.Helper()
	return serve(t).Socket
}

func serve(t *testing.T) *mariadbserver.Server {
	t.Helper()
	s, err := mariadbserver.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// tenant is a site's user with a way to speak SQL as it.
type tenant struct {
	t      *testing.T
	socket string
	schema contract.DBName
	user   contract.UnixUser
	cred   *syscall.Credential
}

func newTenant(t *testing.T, socket string) tenant {
	t.Helper()
	h := contract.NewHandle()
	name := h.UnixUser().String()
	if out, err := exec.Command("/usr/sbin/useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("/usr/sbin/userdel", name).Run() })
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return tenant{t, socket, h.DBName(), h.UnixUser(), &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

func (u tenant) sql(statement string) (string, error) {
	cmd := exec.Command("/usr/bin/mariadb", "--no-defaults", "--socket="+u.socket, "--user="+u.user.String(), "--batch", "--skip-column-names", "--local-infile=1", "--default-character-set=utf8mb4")
	cmd.Stdin = strings.NewReader(statement)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.cred}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func TestSite(t *testing.T) {
	socket := start(t)
	s, err := New(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	a, b := newTenant(t, socket), newTenant(t, socket)

	for _, u := range []tenant{a, b} {
		if st, err := s.Probe(ctx, u.schema, u.user); err != nil || !st.Absent() {
			t.Fatalf("before: %+v, %v", st, err)
		}
		for range 2 { // everything can happen twice
			if err := s.Ensure(ctx, u.schema, u.user); err != nil {
				t.Fatal(err)
			}
		}
		if st, err := s.Probe(ctx, u.schema, u.user); err != nil || !st.Complete() {
			t.Fatalf("after: %+v, %v", st, err)
		}
	}

	t.Run("the account does everything in its own schema", func(t *testing.T) {
		out, err := a.sql("USE " + a.schema.String() + "; CREATE TABLE t (x INT); INSERT INTO t VALUES (7); CREATE VIEW v AS SELECT x FROM t; SELECT x FROM v; DROP VIEW v; DROP TABLE t;")
		if err != nil || out != "7" {
			t.Fatalf("%v: %s", err, out)
		}
	})
	t.Run("another unix user is not let in under its name", func(t *testing.T) {
		impostor := b
		impostor.user = a.user
		if out, err := impostor.sql("SELECT 1"); err == nil || !strings.Contains(out, "Access denied") {
			t.Fatalf("%v: %s", err, out)
		}
	})
	if _, err := b.sql("USE " + b.schema.String() + "; CREATE TABLE secret (x INT)"); err != nil {
		t.Fatal(err)
	}
	for name, statement := range map[string]string{
		"read another's table":      "SELECT * FROM " + b.schema.String() + ".secret",
		"make a schema":             "CREATE DATABASE other",
		"make a schema alike":       "CREATE DATABASE `" + a.schema.String() + "x`",
		"read accounts":             "SELECT * FROM mysql.user",
		"write a file":              "SELECT 1 INTO OUTFILE '/tmp/chom-outfile'",
		"read a file":               "USE " + a.schema.String() + "; CREATE TABLE IF NOT EXISTS f (x TEXT); LOAD DATA INFILE '/etc/passwd' INTO TABLE f",
		"read a file of the client": "USE " + a.schema.String() + "; CREATE TABLE IF NOT EXISTS f (x TEXT); LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE f",
		"set a global":              "SET GLOBAL general_log = 1",
		"make a function in C":      "CREATE FUNCTION f RETURNS STRING SONAME 'udf.so'",
		"make an event":             "CREATE EVENT " + a.schema.String() + ".e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
		"grant":                     "GRANT SELECT ON " + a.schema.String() + ".* TO " + account(b.user),
		"act as root":               "USE " + a.schema.String() + "; CREATE DEFINER=root@localhost PROCEDURE p() SELECT 1",
	} {
		t.Run("refuses to "+name, func(t *testing.T) {
			if out, err := a.sql(statement); err == nil {
				t.Fatalf("went through: %s", out)
			}
		})
	}
	t.Run("shows no one else's processes", func(t *testing.T) {
		out, err := a.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE user <> '" + a.user.String() + "'")
		if err != nil || out != "0" {
			t.Fatalf("%v: %s", err, out)
		}
	})
	t.Run("takes back what was granted besides", func(t *testing.T) {
		if _, err := s.db.ExecContext(ctx, "GRANT FILE ON *.* TO "+account(a.user)); err != nil {
			t.Fatal(err)
		}
		if st, err := s.Probe(ctx, a.schema, a.user); err != nil || st.Complete() {
			t.Fatalf("probe with FILE: %+v, %v", st, err)
		}
		if err := s.Ensure(ctx, a.schema, a.user); err != nil {
			t.Fatal(err)
		}
		if st, err := s.Probe(ctx, a.schema, a.user); err != nil || !st.Complete() {
			t.Fatalf("after: %+v, %v", st, err)
		}
	})
	t.Run("removes one and leaves the other", func(t *testing.T) {
		for range 2 {
			if err := s.Remove(ctx, a.schema, a.user); err != nil {
				t.Fatal(err)
			}
		}
		if st, err := s.Probe(ctx, a.schema, a.user); err != nil || !st.Absent() {
			t.Fatalf("removed: %+v, %v", st, err)
		}
		if st, err := s.Probe(ctx, b.schema, b.user); err != nil || !st.Complete() {
			t.Fatalf("neighbour: %+v, %v", st, err)
		}
	})
}
