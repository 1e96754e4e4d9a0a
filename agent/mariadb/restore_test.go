package mariadb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chom.dev/proto/contract"
)

// load carries out a dump as the site's unix user and the import account.
func (u tenant) load(in Import, dump string) (string, error) {
	u.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		u.t.Fatal(err)
	}
	defer r.Close()
	if err := r.Chown(int(u.cred.Uid), int(u.cred.Gid)); err != nil { // as if that user had made it
		u.t.Fatal(err)
	}
	if _, err := w.Write(in.OptionFile()); err != nil {
		u.t.Fatal(err)
	}
	w.Close()
	cmd := exec.Command("/usr/bin/mariadb", "--defaults-file=/dev/fd/3", "--batch", "--database="+in.Schema.String())
	cmd.Stdin, cmd.ExtraFiles = strings.NewReader(dump), []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.cred}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// define makes objects as the site's unix user.
func (u tenant) define(objects []Object) ([]string, error) {
	type result struct {
		left []string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(u.cred.Uid), uintptr(u.cred.Uid), uintptr(u.cred.Uid)); e != 0 {
			done <- result{nil, e}
			return
		}
		left, err := Define(context.Background(), Definitions{Socket: u.socket, Schema: u.schema, User: u.user, Objects: objects})
		done <- result{left, err}
	}()
	got := <-done
	return got.left, got.err
}

// dump is what a tenant's schema holds, in SQL, as far as these tests look.
func (u tenant) dump(s *Server, schema contract.DBName) string {
	u.t.Helper()
	out, err := exec.Command("/usr/bin/mariadb-dump", "--no-defaults", "--socket="+u.socket, "--user=root", "--skip-dump-date", "--routines", "--triggers", "--skip-comments", schema.String()).CombinedOutput()
	if err != nil {
		u.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func (u tenant) must(statements string) string {
	u.t.Helper()
	out, err := u.sql("USE " + u.schema.String() + ";\n" + statements)
	if err != nil {
		u.t.Fatalf("%v: %s", err, out)
	}
	return out
}

func site(t *testing.T, s *Server, socket string) (tenant, contract.Handle) {
	t.Helper()
	u := newTenant(t, socket)
	if err := s.Ensure(t.Context(), u.schema, u.user); err != nil {
		t.Fatal(err)
	}
	return u, u.user.Handle()
}

func TestImport(t *testing.T) {
	socket := start(t)
	s, err := New(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	a, h := site(t, s, socket)
	b, _ := site(t, s, socket)
	b.must("CREATE TABLE secret (x INT); INSERT INTO secret VALUES (1);")
	a.must("CREATE TABLE live (x INT); INSERT INTO live VALUES (1);")
	before := a.dump(s, a.schema) + b.dump(s, b.schema)
	in, err := s.OpenImport(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("takes tables, and their rows are counted", func(t *testing.T) {
		if out, err := a.load(in, "CREATE TABLE `a``b` (x INT); INSERT INTO `a``b` VALUES (1),(2); LOCK TABLES `a``b` WRITE; UNLOCK TABLES; CREATE TABLE `ö'\"` (x INT);"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got, err := s.Count(ctx, h.ScratchDB())
		if want := map[string]uint64{"a`b": 2, "ö'\"": 0}; err != nil || !maps.Equal(got, want) {
			t.Errorf("%v, %v", got, err)
		}
	})
	live, other := a.schema.String(), b.schema.String()
	for name, sql := range map[string]string{
		"the site's own table":           "INSERT INTO " + live + ".live VALUES (2)",
		"another site":                   "SELECT * FROM " + other + ".secret",
		"USE of the site":                "USE " + live,
		"USE of the server's accounts":   "USE mysql",
		"a versioned comment":            "/*!50000 INSERT INTO " + live + ".live VALUES (3) */",
		"a newer versioned comment":      "/*M!100000 DROP TABLE " + live + ".live */",
		"a grant":                        "GRANT ALL ON *.* TO CURRENT_USER()",
		"a grant on its own schema":      "GRANT SELECT ON " + in.Schema.String() + ".* TO " + account(b.user),
		"an account":                     "CREATE USER x@localhost",
		"a definer that is root":         "CREATE DEFINER=root@localhost VIEW v AS SELECT 1",
		"a view":                         "CREATE VIEW v AS SELECT 1",
		"a trigger":                      "CREATE TABLE tt (x INT); CREATE TRIGGER tr BEFORE INSERT ON tt FOR EACH ROW SET NEW.x = 1",
		"a routine":                      "CREATE PROCEDURE p() SELECT 1",
		"an event":                       "CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO SELECT 1",
		"a file of the client":           "CREATE TABLE IF NOT EXISTS f (x TEXT); LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE f",
		"a file of the server":           "CREATE TABLE IF NOT EXISTS f (x TEXT); LOAD DATA INFILE '/etc/passwd' INTO TABLE f",
		"a file to write":                "SELECT 1 INTO OUTFILE '/tmp/chom-import'",
		"a global setting":               "SET GLOBAL general_log = 1",
		"a key to another schema":        "SET FOREIGN_KEY_CHECKS=0; CREATE TABLE fk (x INT, FOREIGN KEY (x) REFERENCES " + other + ".secret (x))",
		"a rename out of its schema":     "CREATE TABLE r (x INT); RENAME TABLE r TO " + live + ".r",
		"a data directory":               "CREATE TABLE dd (x INT) DATA DIRECTORY='/tmp/chom-import-dir'; INSERT INTO " + live + ".live VALUES (4)",
		"a federated table":              "CREATE TABLE fed (x INT) ENGINE=FEDERATED CONNECTION='mysql://x@127.0.0.1/y/z'",
		"a merge over another's table":   "CREATE TABLE mrg (x INT) ENGINE=MERGE UNION=(" + other + ".secret)",
		"a schema of its own":            "CREATE DATABASE evil",
		"a wildcard schema of the like":  "CREATE DATABASE `" + in.Schema.String() + "x`",
		"a setting of what is logged":    "SET SESSION sql_log_bin = 0",
		"a query of the server's secret": "SELECT * FROM mysql.global_priv",
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			if out, err := a.load(in, sql); err == nil {
				t.Errorf("went through: %s", out)
			}
		})
	}
	t.Run("a client's command runs as the site's user at most", func(t *testing.T) {
		mark := t.TempDir() + "/mark" // root's: the site's user can't write there
		out, _ := a.load(in, "\\! touch "+mark+"\n")
		if _, err := os.Stat(mark); err == nil {
			t.Errorf("as root: %s", out)
		}
	})
	t.Run("nothing outside of its schema has changed", func(t *testing.T) {
		if after := a.dump(s, a.schema) + b.dump(s, b.schema); after != before {
			t.Errorf("changed:\n%s", after)
		}
		if _, err := os.Stat("/tmp/chom-import"); err == nil {
			t.Error("a file was written")
		}
	})
	t.Run("its password shows nowhere, and is void after a second opening and at the end", func(t *testing.T) {
		if text := fmt.Sprintf("%v %+v %#v %s", in, in, in, in); strings.Contains(text, in.password) {
			t.Error(text)
		}
		again, err := s.OpenImport(ctx, h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.load(in, "SELECT 1"); err == nil {
			t.Error("the old password is let in")
		}
		if out, err := a.load(again, "CREATE TABLE t (x INT)"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		for range 2 {
			if err := s.CloseImport(ctx, h); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.load(again, "SELECT 1"); err == nil {
			t.Error("let in after the end")
		}
		if n, err := s.Count(ctx, h.ScratchDB()); err != nil || len(n) != 1 {
			t.Errorf("%v, %v", n, err)
		}
	})
	t.Run("a connection that was open ends with it", func(t *testing.T) {
		in, err := s.OpenImport(ctx, h)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { _, err := a.load(in, "SELECT SLEEP(60)"); done <- err }()
		for range 100 {
			var n int
			if s.db.QueryRow("SELECT COUNT(*) FROM information_schema.processlist WHERE user = ?", in.user).Scan(&n); n > 0 {
				break
			}
		}
		if err := s.CloseImport(ctx, h); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err == nil {
			t.Error("it ended well")
		}
	})
	t.Run("all of it is forgotten, also with the site", func(t *testing.T) {
		if _, err := s.OpenImport(ctx, h); err != nil {
			t.Fatal(err)
		}
		if gone, err := s.Forgotten(ctx, h); err != nil || gone {
			t.Errorf("before: %v, %v", gone, err)
		}
		if err := s.Remove(ctx, a.schema, a.user); err != nil {
			t.Fatal(err)
		}
		if gone, err := s.Forgotten(ctx, h); err != nil || !gone {
			t.Errorf("after: %v, %v", gone, err)
		}
	})
}

// plain is what tables, views, triggers and routines of a schema come to, whatever the schema is called.
func (u tenant) plain(s *Server) string { return u.dump(s, u.schema) }

const weird = "CREATE TABLE `we``ird'\" ;--` (`id` INT PRIMARY KEY); INSERT INTO `we``ird'\" ;--` VALUES (1);" +
	"CREATE TABLE `äöü名前` (x INT); CREATE TABLE `n234567890123456789012345678901234567890123456789012345678901234` (x INT);" +
	"CREATE TABLE `#mysql50` (x INT); CREATE TABLE `with space.dot/slash\\\\` (x INT);"

const keys = "CREATE TABLE child (id INT PRIMARY KEY, p INT, CONSTRAINT `named key` FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE) ENGINE=InnoDB;" +
	"CREATE TABLE parent (id INT PRIMARY KEY, self INT, FOREIGN KEY (self) REFERENCES parent (id)) ENGINE=InnoDB;"

const objects = "CREATE VIEW v1 AS SELECT id FROM parent; CREATE VIEW a_first AS SELECT id FROM v1;" +
	"CREATE FUNCTION f(x INT) RETURNS INT DETERMINISTIC RETURN x + 1; CREATE VIEW vf AS SELECT f(id) AS y FROM parent;" +
	"\nDELIMITER //\nCREATE PROCEDURE p() BEGIN SELECT ';;' AS `x;`; END//\nCREATE TRIGGER tr BEFORE INSERT ON parent FOR EACH ROW BEGIN SET NEW.self = NULL; END//\nCREATE TRIGGER tr2 BEFORE INSERT ON parent FOR EACH ROW FOLLOWS tr SET NEW.id = NEW.id//\nDELIMITER ;\n"

func TestSwitch(t *testing.T) {
	socket := start(t)
	s, err := New(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	unchecked := "SET FOREIGN_KEY_CHECKS=0;"
	for name, c := range map[string]struct{ live, objects, staged string }{
		"tables on both sides":         {unchecked + keys + "INSERT INTO parent VALUES (1,NULL),(2,1); INSERT INTO child VALUES (1,2);", objects, unchecked + keys + "INSERT INTO parent VALUES (7,NULL); INSERT INTO child VALUES (1,7);"},
		"an empty live schema":         {"", "", keysInOrder()},
		"an empty backup":              {unchecked + keys, objects, ""},
		"nothing on either side":       {"", "", ""},
		"tables on one side only":      {"CREATE TABLE a (x INT); CREATE TABLE shared (x INT);", "", "CREATE TABLE b (x INT); CREATE TABLE shared (y TEXT);"},
		"weird names":                  {weird, "CREATE VIEW `v``iew'` AS SELECT * FROM `we``ird'\" ;--`;", weird + "INSERT INTO `äöü名前` VALUES (1);"},
		"engines other than InnoDB":    {"CREATE TABLE m (x INT) ENGINE=MyISAM; CREATE TABLE ar (x INT) ENGINE=Aria;", "", "CREATE TABLE m (x INT, y INT) ENGINE=MyISAM;"},
		"sequences and system history": {"CREATE SEQUENCE sq; CREATE TABLE h (x INT) WITH SYSTEM VERSIONING;", "", "CREATE SEQUENCE sq START 7; CREATE TABLE h2 (x INT) WITH SYSTEM VERSIONING;"},
	} {
		t.Run(name, func(t *testing.T) {
			u, h := site(t, s, socket)
			restore := contract.NewRestoreID()
			in, err := s.OpenImport(ctx, h)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := u.load(in, c.staged); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if err := s.CloseImport(ctx, h); err != nil {
				t.Fatal(err)
			}
			staged := u.dump(s, h.ScratchDB())
			u.must(c.live + c.objects)
			old := u.plain(s)
			saved, err := s.Objects(ctx, u.schema)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Restored(ctx, h, restore); !errors.Is(err, ErrNoMark) {
				t.Errorf("before anything: %v", err)
			}
			for range 2 {
				if err := s.Prepare(ctx, h, restore); err != nil {
					t.Fatal(err)
				}
			}
			if is, err := s.Restored(ctx, h, restore); err != nil || is {
				t.Errorf("prepared: %v, %v", is, err)
			}
			if err := s.Switch(ctx, h, restore, nil, false); err != nil || u.plain(s) != old {
				t.Errorf("a switch to what is there: %v, or it changed", err)
			}
			for round := range 2 { // there and back, twice: an undo can be undone
				for range 2 {
					if err := s.Switch(ctx, h, restore, nil, true); err != nil {
						t.Fatal(err)
					}
				}
				if is, err := s.Restored(ctx, h, restore); err != nil || !is {
					t.Errorf("restored: %v, %v", is, err)
				}
				if got := u.plain(s); got != staged {
					t.Errorf("round %d: the site has\n%s\nwant\n%s", round, got, staged)
				}
				for range 2 {
					if err := s.Switch(ctx, h, restore, nil, false); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 {
					if err := s.DropObjects(ctx, u.schema); err != nil {
						t.Fatal(err)
					}
					if left, err := u.define(saved); err != nil || len(left) > 0 {
						t.Fatalf("%v, %v", left, err)
					}
				}
				if got := u.plain(s); got != old {
					t.Errorf("round %d: the site is back with\n%s\nwant\n%s", round, got, old)
				}
			}
			if strings.Contains(c.live, "parent") {
				if out, err := u.sql("USE " + u.schema.String() + "; INSERT INTO child VALUES (9, 99)"); err == nil {
					t.Errorf("a key no longer holds: %s", out)
				}
				u.must("INSERT INTO parent VALUES (50, NULL); INSERT INTO child VALUES (50, 50); DELETE FROM parent WHERE id = 50;")
			}
			if err := s.Ensure(ctx, u.schema, u.user); err != nil {
				t.Error(err)
			}
			for range 2 {
				if err := s.Forget(ctx, h); err != nil {
					t.Fatal(err)
				}
			}
			if gone, err := s.Forgotten(ctx, h); err != nil || !gone {
				t.Errorf("left: %v, %v", gone, err)
			}
		})
	}
}

func keysInOrder() string { return "SET FOREIGN_KEY_CHECKS=0;" + keys }

func TestDefine(t *testing.T) {
	socket := start(t)
	s, err := New(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	u, _ := site(t, s, socket)
	other, _ := site(t, s, socket)
	other.must("CREATE TABLE secret (x INT)")
	u.must("CREATE TABLE t (x INT)")
	t.Run("is no more than the site's own user may, and says what is left", func(t *testing.T) {
		left, err := u.define([]Object{
			{Kind: "VIEW", Name: "root", Create: "CREATE DEFINER=root@localhost VIEW root AS SELECT 1"},
			{Kind: "VIEW", Name: "foreign", Create: "CREATE VIEW `foreign` AS SELECT * FROM " + other.schema.String() + ".secret"},
			{Kind: "VIEW", Name: "two", Create: "CREATE VIEW two AS SELECT 1; DROP TABLE t"},
			{Kind: "VIEW", Name: "good", Create: "CREATE VIEW good AS SELECT x FROM t"},
		})
		if err != nil || len(left) != 3 || slices.ContainsFunc(left, func(l string) bool { return strings.Contains(l, "good") }) {
			t.Errorf("%v, %v", left, err)
		}
		u.must("SELECT * FROM good; SELECT * FROM t")
	})
	t.Run("keeps mode and collation of a definition", func(t *testing.T) {
		u.must("SET sql_mode='ANSI_QUOTES,NO_BACKSLASH_ESCAPES'; SET collation_connection=utf8mb4_bin; CREATE PROCEDURE q() SELECT 'a\\' AS \"x\";")
		before, err := s.Objects(t.Context(), u.schema)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.DropObjects(t.Context(), u.schema); err != nil {
			t.Fatal(err)
		}
		if left, err := u.define(before); err != nil || len(left) > 0 {
			t.Fatalf("%v, %v", left, err)
		}
		after, err := s.Objects(t.Context(), u.schema)
		if err != nil || !slices.Equal(before, after) {
			t.Errorf("%v\n%v\n%v", before, after, err)
		}
	})
}

// A server that dies in the middle of a switch comes back with all tables on one
// side, or all on the other.
func TestServerDies(t *testing.T) {
	ctx := t.Context()
	server := serve(t)
	socket := server.Socket
	for round := range 6 {
		s, err := New(socket)
		if err != nil {
			t.Fatal(err)
		}
		u, h := site(t, s, socket)
		restore := contract.NewRestoreID()
		in, err := s.OpenImport(ctx, h)
		if err != nil {
			t.Fatal(err)
		}
		var sql strings.Builder
		for i := range 40 {
			fmt.Fprintf(&sql, "CREATE TABLE t%d (x INT); INSERT INTO t%d VALUES (%%d);", i, i)
		}
		u.must(strings.ReplaceAll(sql.String(), "%d", "1"))
		if out, err := u.load(in, strings.ReplaceAll(sql.String(), "%d", "2")); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := errors.Join(s.CloseImport(ctx, h), s.Prepare(ctx, h, restore)); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Switch(ctx, h, restore, nil, true) }()
		time.Sleep(time.Duration(round) * 40 * time.Millisecond)
		server.Kill()
		t.Log("round", round, "the switch says", <-done)
		s.Close()
		if err := server.Again(); err != nil {
			t.Fatal(err)
		}
		if s, err = New(socket); err != nil {
			t.Fatal(err)
		}
		is, err := s.Restored(ctx, h, restore)
		if err != nil {
			t.Fatal(err)
		}
		look := func(want string) {
			t.Helper()
			if got := u.must("SELECT GROUP_CONCAT(DISTINCT n) FROM (" + union() + ") a; SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()"); got != want+"\n40" {
				t.Errorf("round %d, restored %v: the site's tables hold %q", round, is, got)
			}
		}
		look(map[bool]string{false: "1", true: "2"}[is])
		t.Log("round", round, "restored", is)
		if err := s.Switch(ctx, h, restore, nil, true); err != nil {
			t.Fatal(err)
		}
		look("2")
		s.Close()
	}
}

func union() string {
	var parts []string
	for i := range 40 {
		parts = append(parts, fmt.Sprintf("SELECT x AS n FROM t%d", i))
	}
	return strings.Join(parts, " UNION ALL ")
}

func TestNativeHash(t *testing.T) {
	if got, want := nativeHash("password"), "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"; got != want {
		t.Error(got)
	}
	if bytes.Contains(Import{password: "secret"}.OptionFile(), []byte("local-infile=1")) {
		t.Error("a dump may read files")
	}
}
