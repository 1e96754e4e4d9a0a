package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/packaging/lab"
)

// sql runs a statement as the tenant, through the distribution's own client.
func sql(t *testing.T, h *host, s *sitev1.Site, statement string, options ...string) (out string, ok bool) {
	t.Helper()
	argv := append([]string{"/usr/bin/mariadb", "--no-defaults", "--batch", "--skip-column-names", "--local-infile=1"}, options...)
	res, err := h.Run(timeout(t, 30*time.Second), lab.Command{User: "s-" + s.GetHandle(), Argv: argv, Stdin: strings.NewReader(statement + ";\n")})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(res.Stdout + res.Stderr), res.Code == 0
}

func schema(s *sitev1.Site) string { return "s" + s.GetHandle() }

// grantPatterns is F16: in a GRANT "_" and "%" stand for anything. Without
// names that hold neither, or without their quoting, a schema whose name fits
// the pattern is open to a stranger.
func grantPatterns(t *testing.T, r *attackRange) {
	a, v := r.attacker(t), r.victim(t)
	name := schema(a)
	grants := sh(t, r.host, "mariadb --batch --skip-column-names -e \"SHOW GRANTS FOR 's-"+a.GetHandle()+"'@'localhost'\"")
	for _, on := range regexp.MustCompile("ON `(.*?)`\\.").FindAllStringSubmatch(grants, -1) {
		if on[1] != name || strings.ContainsAny(on[1], "_%") {
			t.Errorf("a grant on %s:\n%s", on[1], grants)
		}
	}
	// Every schema that a pattern in any place of the name would open.
	similar := []string{name + "x", "x" + name, name[:len(name)-1]}
	for i := range name {
		other := byte('q')
		if name[i] == other {
			other = 'z'
		}
		similar = append(similar, name[:i]+string(other)+name[i+1:])
	}
	var make, drop strings.Builder
	for _, s := range similar {
		fmt.Fprintf(&make, "CREATE DATABASE %s; CREATE TABLE %s.t (x INT); ", s, s)
		fmt.Fprintf(&drop, "DROP DATABASE IF EXISTS %s; ", s)
	}
	sh(t, r.host, "mariadb -e '"+make.String()+"'")
	defer sh(t, r.host, "mariadb -e '"+drop.String()+"'")
	if out, ok := sql(t, r.host, a, "SELECT COUNT(*) > 0 FROM "+name+".wp_options"); !ok || out != "1" {
		t.Fatalf("the account does not even reach its own schema: %s", out)
	}
	var all strings.Builder
	for _, s := range similar {
		fmt.Fprintf(&all, "SELECT * FROM %s.t;\nINSERT INTO %s.t VALUES (1);\nDROP TABLE %s.t;\n", s, s, s)
	}
	fmt.Fprintf(&all, "SELECT option_name FROM %s.wp_options; ", schema(v))
	out, _ := sql(t, r.host, a, all.String(), "--force")
	if denied, want := strings.Count(out, "command denied to user"), 3*len(similar)+1; denied != want {
		t.Errorf("%d of %d statements on others' schemas were refused:\n%s", denied, want, out)
	}
	if out, _ := sql(t, r.host, a, "SHOW DATABASES"); out != "information_schema\n"+name {
		t.Errorf("the account sees:\n%s", out)
	}
}

// databaseRights is F17.
func databaseRights(t *testing.T, r *attackRange) {
	a, v := r.attacker(t), r.victim(t)
	unharmed := r.guard(t)
	name := schema(a)
	if out, ok := sql(t, r.host, a, "CREATE TABLE hostile (x TEXT); INSERT INTO hostile VALUES ('1'); SELECT * FROM hostile", name); !ok || out != "1" {
		t.Fatalf("the account does not even work in its own schema: %s", out)
	}
	// A session of the victim's that holds a temporary table while we look.
	hold := background(t, r.host, v, "/usr/bin/mariadb", "--no-defaults", schema(v), "--execute=CREATE TEMPORARY TABLE held (x INT); INSERT INTO held VALUES (42); SELECT SLEEP(120)")
	defer func() { sh(t, r.host, "mariadb -e \"KILL USER 's-"+v.GetHandle()+"'@'localhost'\" || true"); hold() }()
	var theirs string
	for range 50 {
		if theirs = sh(t, r.host, "mariadb --batch --skip-column-names -e \"SELECT id FROM information_schema.processlist WHERE user = 's-"+v.GetHandle()+"' AND info LIKE '%SLEEP%'\""); theirs != "" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if theirs == "" {
		t.Fatal("the victim has no session")
	}
	theirs, _, _ = strings.Cut(theirs, "\n")

	for _, statement := range []string{
		"LOAD DATA INFILE '/etc/passwd' INTO TABLE hostile", "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE hostile",
		"SELECT 'x' INTO OUTFILE '/etc/hostile/dir/owned'", "SELECT 'x' INTO DUMPFILE '/etc/hostile/dir/owned'", "SELECT 'x' INTO OUTFILE '/var/lib/mysql-files/owned'", "SELECT '<?php' INTO OUTFILE '" + public(v) + "/owned.php'",
		"SELECT * FROM mysql.user", "SELECT * FROM mysql.global_priv", "SELECT * FROM mysql.db", "UPDATE mysql.global_priv SET Priv = '{}'", "SHOW GRANTS FOR 'root'@'localhost'", "SHOW GRANTS FOR 's-" + v.GetHandle() + "'@'localhost'",
		"CREATE DATABASE owned", "CREATE DATABASE a_b", "DROP DATABASE " + schema(v), "DROP DATABASE mysql", "ALTER DATABASE " + schema(v) + " CHARACTER SET latin1",
		"CREATE FUNCTION sys_exec RETURNS INT SONAME 'lib_mysqludf_sys.so'", "INSTALL SONAME 'ha_connect'", "INSTALL PLUGIN x SONAME 'auth_socket.so'", "INSERT INTO mysql.func VALUES ('x', 0, 'x.so', 'function')",
		"SET GLOBAL max_connections = 1", "SET GLOBAL general_log_file = '/etc/hostile/dir/owned'", "SET GLOBAL local_infile = 1", "SET PERSIST x = 1", "SET @@global.init_connect = 'x'",
		"SELECT * FROM " + schema(v) + ".held", "SELECT * FROM " + schema(v) + ".wp_users", "INSERT INTO " + schema(v) + ".wp_options (option_name) VALUES ('x')", "CREATE TABLE " + schema(v) + ".x (x INT)", "RENAME TABLE hostile TO " + schema(v) + ".hostile",
		"CREATE VIEW hostile_view AS SELECT * FROM " + schema(v) + ".wp_users", "CREATE DEFINER='root'@'localhost' VIEW hostile_view AS SELECT 1", "CREATE DEFINER='root'@'localhost' PROCEDURE hostile_p() SELECT 1", "CREATE DEFINER='root'@'localhost' TRIGGER hostile_t BEFORE INSERT ON hostile FOR EACH ROW SET @x = 1",
		"CREATE DEFINER='s-" + v.GetHandle() + "'@'localhost' PROCEDURE hostile_p() SELECT * FROM " + schema(v) + ".wp_users",
		"CREATE EVENT hostile_e ON SCHEDULE EVERY 1 SECOND DO SELECT 1", "CREATE USER owned", "CREATE ROLE owned", "DROP USER 's-" + v.GetHandle() + "'@'localhost'", "GRANT ALL ON *.* TO CURRENT_USER", "GRANT SELECT ON " + name + ".* TO 's-" + v.GetHandle() + "'@'localhost'",
		"ALTER USER CURRENT_USER IDENTIFIED VIA mysql_native_password USING PASSWORD('x')", "SET PASSWORD = PASSWORD('x')", "SET PASSWORD FOR 'root'@'localhost' = PASSWORD('x')", "RENAME USER CURRENT_USER TO owned",
		"KILL " + theirs, "SHUTDOWN", "FLUSH PRIVILEGES", "FLUSH TABLES WITH READ LOCK", "RESET MASTER", "CHANGE MASTER TO MASTER_HOST = 'x'", "SHOW MASTER STATUS", "SHOW BINARY LOGS", "PURGE BINARY LOGS BEFORE NOW()", "SHOW ENGINE INNODB STATUS",
		"BACKUP STAGE START", "SELECT * FROM information_schema.innodb_buffer_page LIMIT 1", "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'x')",
	} {
		if out, ok := sql(t, r.host, a, statement, name); ok {
			t.Errorf("not refused: %s: %q", statement, out)
		}
	}
	for _, q := range []struct{ statement, want string }{
		{"SELECT IFNULL(LOAD_FILE('/etc/passwd'), 'nothing')", "nothing"},
		{"SELECT COUNT(*) FROM information_schema.processlist WHERE user <> 's-" + a.GetHandle() + "'", "0"},
		{"SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name NOT IN ('information_schema', '" + name + "')", "0"},
		{"SELECT COUNT(*) FROM information_schema.tables WHERE table_schema NOT IN ('information_schema', 'performance_schema', '" + name + "')", "0"},
		{"SELECT COUNT(*) FROM information_schema.user_privileges WHERE privilege_type <> 'USAGE'", "0"},
		{"SELECT CONCAT_WS(' ', IF(@@local_infile, 'ON', 'OFF'), @@have_symlink, IF(@@skip_networking, 'ON', 'OFF'), @@secure_file_priv)", "OFF DISABLED ON /var/lib/mysql-files/"},
		// Tables may ask for another directory; they come to lie where all do.
		{"CREATE TABLE outside (x INT) ENGINE = MyISAM DATA DIRECTORY = '" + openDir + "' INDEX DIRECTORY = '" + openDir + "'; SELECT COUNT(*) FROM outside", "0"},
		{"CREATE TABLE outside2 (x INT) ENGINE = InnoDB DATA DIRECTORY = '" + openDir + "'; SELECT COUNT(*) FROM outside2", "0"},
		{"DROP TABLE hostile, outside, outside2; SELECT 'dropped'", "dropped"},
	} {
		if out, ok := sql(t, r.host, a, q.statement, name); !ok || out != q.want {
			t.Errorf("%s: %q, want %q", q.statement, out, q.want)
		}
	}
	// "KILL USER" is accepted by any account, and ends its own sessions only.
	sql(t, r.host, a, "KILL USER 's-"+v.GetHandle()+"'@'localhost'")
	if left := sh(t, r.host, "mariadb --batch --skip-column-names -e 'SELECT COUNT(*) FROM information_schema.processlist WHERE id = "+theirs+"'"); left != "1" {
		t.Error("the victim's session was ended")
	}
	// Nobody comes in as somebody else: the kernel says who he is.
	for _, user := range []string{"root", "mysql", "s-" + v.GetHandle(), "mariadb.sys", ""} {
		if out, ok := sql(t, r.host, a, "SELECT CURRENT_USER()", "--user="+user); ok && !strings.HasPrefix(out, "s-"+a.GetHandle()) {
			t.Errorf("logged in as %q: %s", user, out)
		}
	}
	if out, ok := sql(t, r.host, a, "SELECT 1", "--protocol=TCP", "--host=127.0.0.1"); ok {
		t.Errorf("MariaDB answers over TCP: %s", out)
	}
	if res, err := r.Run(timeout(t, 10*time.Second), lab.Command{User: "www-data", Argv: []string{"/usr/bin/mariadb", "--no-defaults", "--user=s-" + a.GetHandle(), "--execute=SELECT 1"}}); err != nil || res.Code == 0 {
		t.Errorf("www-data logs in as a site: %v", err)
	}
	unharmed(t)
}
