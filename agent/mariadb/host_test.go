//go:build host

// These claims need root and MariaDB under a booted systemd: build the test
// with the tag "host" and run it on a lab host.
package mariadb

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/agent/unixuser"
	"chom.dev/proto/contract"
)

func TestLifeOnHost(t *testing.T) {
	ctx := t.Context()
	sys := systemd.New()
	defer sys.Close()
	s, err := New(Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 2 {
		start := time.Now()
		if err := EnsureConfigured(ctx, sys); err != nil {
			t.Fatal(err)
		}
		if ok, err := Configured(ctx, sys); !ok || err != nil {
			t.Fatalf("configured %v, %v", ok, err)
		}
		t.Log("base", time.Since(start))
	}
	h, other := contract.NewHandle(), contract.NewHandle()
	t.Cleanup(func() {
		ctx := context.Background()
		late, err := New(Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer late.Close()
		if err := errors.Join(late.Remove(ctx, h.DBName(), h.UnixUser()), late.Remove(ctx, other.DBName(), other.UnixUser()), unixuser.Remove(ctx, sys, h.UnixUser())); err != nil {
			t.Error(err)
		}
	})
	if err := unixuser.Ensure(ctx, sys, unixuser.User{Name: h.UnixUser(), UID: 27000}); err != nil {
		t.Fatal(err)
	}
	// sql runs a statement as the site's user, through its unix_socket account.
	sql := func(query string) (string, error) {
		res, err := sys.Run(ctx, run.Unit{Name: "test-sql", User: h.UnixUser().String(), Group: h.UnixUser().String(), Stdin: strings.NewReader(query),
			Argv: []string{"/usr/bin/mariadb", "--no-defaults", "--batch", "--skip-column-names", "--socket=" + Socket, h.DBName().String()}})
		return strings.TrimSpace(string(res.Stdout)), err
	}
	t.Run("schema and account appear once however often they are asked for", func(t *testing.T) {
		for range 2 {
			start := time.Now()
			if err := errors.Join(s.Ensure(ctx, h.DBName(), h.UnixUser()), s.Ensure(ctx, other.DBName(), other.UnixUser())); err != nil {
				t.Fatal(err)
			}
			t.Log(time.Since(start) / 2)
		}
		if st, err := s.Probe(ctx, h.DBName(), h.UnixUser()); err != nil || !st.Complete() {
			t.Fatalf("%+v, %v", st, err)
		}
	})
	t.Run("the site's user works in it without a password", func(t *testing.T) {
		out, err := sql("CREATE TABLE a (x INT); INSERT INTO a VALUES (42); CREATE TEMPORARY TABLE b AS SELECT * FROM a; CREATE VIEW v AS SELECT * FROM a; SELECT x FROM v; SELECT CURRENT_USER();")
		if want := "42\n" + h.UnixUser().String() + "@localhost"; err != nil || out != want {
			t.Fatalf("got %q, %v", out, err)
		}
	})
	t.Run("and nowhere else, and as nobody's administrator", func(t *testing.T) {
		o := other.DBName().String()
		for _, query := range []string{
			"CREATE TABLE " + o + ".x (x INT)", "SELECT * FROM " + o + ".x", "USE " + o, "SELECT * FROM mysql.global_priv", "SELECT * FROM mysql.user",
			"CREATE DATABASE c4nary", "DROP DATABASE " + o, "CREATE USER x", "GRANT SELECT ON " + h.DBName().String() + ".* TO '" + other.UnixUser().String() + "'@'localhost'",
			"SELECT 1 INTO OUTFILE '/tmp/c4nary'", "SELECT LOAD_FILE('/etc/passwd') + 0 FROM a WHERE LOAD_FILE('/etc/passwd') IS NOT NULL INTO @x; SIGNAL SQLSTATE '45000'",
			"LOAD DATA INFILE '/etc/passwd' INTO TABLE a", "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE a",
			"SET GLOBAL local_infile = 1", "SET GLOBAL general_log = 1", "INSTALL SONAME 'x'", "CREATE FUNCTION f RETURNS INT SONAME 'x.so'",
			"CREATE EVENT e ON SCHEDULE EVERY 1 HOUR DO SELECT 1", "CREATE DEFINER=root@localhost VIEW w AS SELECT 1", "SHUTDOWN", "FLUSH TABLES", "KILL 1",
			"SET PASSWORD = PASSWORD('x')",
		} {
			if out, err := sql(query); err == nil {
				t.Errorf("%s: allowed: %q", query, out)
			}
		}
		if out, err := sql("SHOW DATABASES"); err != nil || strings.Contains(out, o) || strings.Contains(out, "mysql") {
			t.Errorf("sees %q, %v", out, err)
		}
		if out, err := sql("SELECT COUNT(*) FROM information_schema.processlist WHERE user <> '" + h.UnixUser().String() + "'"); err != nil || out != "0" {
			t.Errorf("sees %q other processes, %v", out, err)
		}
	})
	t.Run("no password and no other user can come in as the site", func(t *testing.T) {
		for _, user := range []string{"root", "www-data", "nobody"} {
			if _, err := sys.Run(ctx, run.Unit{Name: "test-sql", User: user, Argv: []string{"/usr/bin/mariadb", "--no-defaults", "--user=" + h.UnixUser().String(), "--password=x", "--socket=" + Socket, "-e", "SELECT 1"}}); err == nil {
				t.Errorf("%s came in", user)
			}
		}
	})
	t.Run("what someone gave it beyond its schema is taken away", func(t *testing.T) {
		for _, query := range []string{
			"GRANT FILE ON *.* TO " + account(h.UnixUser()), "GRANT ALL ON `s%`.* TO " + account(h.UnixUser()), "GRANT ALL ON " + pattern(h.DBName().String()) + ".* TO " + account(h.UnixUser()) + " WITH GRANT OPTION",
			"ALTER USER " + account(h.UnixUser()) + " IDENTIFIED BY 'password'",
		} {
			if _, err := s.db.ExecContext(ctx, query); err != nil {
				t.Fatal(err)
			}
			if st, err := s.Probe(ctx, h.DBName(), h.UnixUser()); err != nil || st.Complete() {
				t.Errorf("after %q: %+v, %v", query, st, err)
			}
			if err := s.Ensure(ctx, h.DBName(), h.UnixUser()); err != nil {
				t.Errorf("after %q: %v", query, err)
			}
			if out, err := sql("SELECT x FROM a"); err != nil || out != "42" {
				t.Errorf("after %q: %q, %v", query, out, err)
			}
		}
	})
	t.Run("removal doesn't wait for the site's own locks, and twice is fine", func(t *testing.T) {
		locked := run.Unit{Name: "test-sql-lock", User: h.UnixUser().String(), Stdin: strings.NewReader("LOCK TABLES a WRITE; SELECT SLEEP(50);"),
			Argv: []string{"/usr/bin/mariadb", "--no-defaults", "--socket=" + Socket, h.DBName().String()}}
		done := make(chan error, 1)
		go func() { _, err := sys.Run(ctx, locked); done <- err }()
		time.Sleep(time.Second) // it takes its lock
		start := time.Now()
		for range 2 {
			if err := s.Remove(ctx, h.DBName(), h.UnixUser()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		if err := <-done; err == nil {
			t.Error("the locking session ended well")
		}
		if st, err := s.Probe(ctx, h.DBName(), h.UnixUser()); err != nil || !st.Absent() {
			t.Errorf("left %+v, %v", st, err)
		}
		if st, err := s.Probe(ctx, other.DBName(), other.UnixUser()); err != nil || !st.Complete() {
			t.Errorf("the neighbour is %+v, %v", st, err)
		}
	})
}
