package backup

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// chaos makes sites of chance: what a seed makes once it makes again.
type chaos struct {
	*rand.Rand
	size int // of a site: as many times more of everything than of a small one
}

func newChaos(seed uint64) chaos { return chaos{rand.New(rand.NewPCG(seed, 5)), 1} }

func (c chaos) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(c.Uint32())
	}
	return b
}

func (c chaos) pick(of ...string) string { return of[c.IntN(len(of))] }

// name is one that a file may have, and people would rather not see.
func (c chaos) name() string {
	odd := c.pick("plain", "with space", "-rf", "ünïcode", "日本", "new\nline", "tab\t", "quote'", `double"`, "back\\slash", "$(x)", "*", "..dots", "\xff\xfe", "%2e%2e", "~", "#", "é", "e\u0301", "🎉", strings.Repeat("l", 200))
	return fmt.Sprintf("%s%d", odd, c.IntN(50))
}

// tree makes files, directories and links below a directory that is there.
func (c chaos) tree(dir string, uid int, depth int) error {
	var errs []error
	most := 7
	if depth == 1 {
		most *= c.size // below, it would be so many times more in each directory of each directory
	}
	for range c.IntN(most) + 1 {
		at := filepath.Join(dir, c.name())
		if _, err := os.Lstat(at); err == nil {
			continue
		}
		switch n := c.IntN(10); {
		case n < 2 && depth < 4:
			errs = append(errs, os.Mkdir(at, 0o700), c.tree(at, uid, depth+1), os.Chown(at, uid, uid))
			errs = append(errs, os.Chmod(at, []os.FileMode{0o700, 0o755, 0o500, 0o777, 0o750}[c.IntN(5)]))
		case n == 2:
			errs = append(errs, os.Symlink(c.pick("plain1", "/etc/passwd", "..", "nowhere", "ünï\n", "bad-\xff\xfe"), at), os.Lchown(at, uid, uid))
			continue // its time is of no consequence
		case n == 3:
			errs = append(errs, c.sparse(at))
		default:
			errs = append(errs, os.WriteFile(at, c.bytes([]int{0, 1, 100, 4096, 70_000}[c.IntN(5)]), 0o600))
		}
		if info, err := os.Lstat(at); err == nil && !info.IsDir() {
			errs = append(errs, os.Chown(at, uid, uid), os.Chmod(at, []os.FileMode{0o600, 0o644, 0o400, 0o777, 0o755}[c.IntN(5)]))
		}
		errs = append(errs, c.touch(at))
	}
	return errors.Join(errs...)
}

func (c chaos) touch(at string) error {
	when := time.Unix([]int64{0, 1, 1_000_000_000, 1_700_000_000, 4_000_000_000}[c.IntN(5)], c.Int64N(1_000_000_000))
	return os.Chtimes(at, when, when)
}

// sparse makes a file of holes.
func (c chaos) sparse(at string) error {
	f, err := os.Create(at)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(c.bytes(10), c.Int64N(2<<20))
	return errors.Join(err, f.Truncate(2<<20+c.Int64N(1<<20)), f.Close())
}

// mutate changes, removes and adds.
func (c chaos) mutate(dir string, uid int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		switch {
		case c.IntN(3) == 0:
			errs = append(errs, os.RemoveAll(at))
		case e.Type().IsRegular() && c.IntN(2) == 0:
			errs = append(errs, os.WriteFile(at, c.bytes(c.IntN(5000)), 0o600), c.touch(at))
		case e.IsDir():
			errs = append(errs, c.mutate(at, uid))
		}
	}
	return errors.Join(append(errs, c.tree(dir, uid, 1))...)
}

func (p *proven) fill(c chaos) {
	p.t.Helper()
	for _, dir := range []string{"public", "private"} {
		must(p.t, c.mutate(filepath.Join(p.shell(), dir), int(p.scene.UID)))
	}
	p.sql(c.schema())
}

// schema replaces all that is in a database by something else.
func (c chaos) schema() string {
	var b strings.Builder
	b.WriteString(dropAll)
	for i := range c.IntN(4 * c.size) {
		c.table(&b, i)
	}
	if c.IntN(2) == 0 {
		c.family(&b)
	}
	return b.String()
}

// dropAll drops what is there. The names are the server's own.
const dropAll = `SET FOREIGN_KEY_CHECKS=0;
DELIMITER $$
BEGIN NOT ATOMIC
  DECLARE done INT DEFAULT 0;
  DECLARE what TEXT;
  DECLARE all_of CURSOR FOR
    SELECT CONCAT('DROP ', IF(table_type = 'VIEW', 'VIEW', 'TABLE'), ' ` + "`', REPLACE(table_name, '`', '``'), '`" + `') FROM information_schema.tables WHERE table_schema = DATABASE()
    UNION ALL SELECT CONCAT('DROP ', routine_type, ' ` + "`', REPLACE(routine_name, '`', '``'), '`" + `') FROM information_schema.routines WHERE routine_schema = DATABASE();
  DECLARE CONTINUE HANDLER FOR NOT FOUND SET done = 1;
  OPEN all_of;
  every: LOOP
    FETCH all_of INTO what;
    IF done THEN LEAVE every; END IF;
    EXECUTE IMMEDIATE what;
  END LOOP;
END $$
DELIMITER ;
`

func quoted(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// column is a type, and a value of it in SQL.
type column struct {
	is    string
	value func(c chaos) string
}

func (c chaos) text() string {
	s := c.pick("", "a'b", `back\slash`, "new\nline", "日本語", "🎉 emoji", "-- chom: objects", "\x1a", "NULL", "x'00'", ";DROP", "/*! */")
	return "'" + strings.NewReplacer("'", "''", `\`, `\\`).Replace(s) + "'"
}

func (c chaos) columns() []column {
	return []column{
		{"BLOB", func(c chaos) string { return fmt.Sprintf("x'%x'", c.bytes(c.IntN(300))) }},
		{"TEXT", chaos.text},
		{"VARCHAR(60) COLLATE " + c.pick("utf8mb4_bin", "utf8mb4_general_ci", "utf8mb4_unicode_ci"), chaos.text},
		{"VARBINARY(40)", func(c chaos) string { return fmt.Sprintf("x'%x'", c.bytes(c.IntN(40))) }},
		{"DECIMAL(30,10)", func(c chaos) string { return fmt.Sprintf("%d.%010d", c.Int64N(1<<50), c.Int64N(10_000_000_000)) }},
		{"DOUBLE", func(c chaos) string { return fmt.Sprint(c.NormFloat64() * 1e9) }},
		{"BIGINT UNSIGNED", func(c chaos) string { return fmt.Sprint(c.Uint64()) }},
		{"DATETIME(6)", func(c chaos) string {
			return fmt.Sprintf("'20%02d-0%d-11 01:02:03.%06d'", c.IntN(60), c.IntN(9)+1, c.IntN(1_000_000))
		}},
		{"TIMESTAMP NULL", func(c chaos) string { return fmt.Sprintf("FROM_UNIXTIME(%d)", 1+c.IntN(2_000_000_000)) }},
		{"BIT(9)", func(c chaos) string { return fmt.Sprint(c.IntN(512)) }},
		{"ENUM('a','ü','')", func(c chaos) string { return c.pick("'a'", "'ü'", "''") }},
		{"JSON", func(c chaos) string { return fmt.Sprintf(`'{"n": %d, "s": "\\u00e9"}'`, c.IntN(1000)) }},
		{"POINT", func(c chaos) string { return fmt.Sprintf("POINT(%d, %d)", c.IntN(90), c.IntN(90)) }},
		{"TIME", func(c chaos) string { return fmt.Sprintf("'-%d:00:01'", c.IntN(800)) }},
		{"YEAR", func(c chaos) string { return fmt.Sprint(1901 + c.IntN(200)) }},
	}
}

func (c chaos) table(b *strings.Builder, i int) {
	name := fmt.Sprintf("%s%d", c.pick("select", "a b", "tä`ble", "quote'", "dash-1", `back\slash`, "per%cent", "Ünï", "dot.ted"), i)
	all := c.columns()
	c.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	all = all[:c.IntN(6)+1]
	var defined []string
	for n, col := range all {
		defined = append(defined, fmt.Sprintf("%s %s", quoted(fmt.Sprintf("c %d", n)), col.is))
	}
	keyed := c.IntN(4) > 0
	if keyed {
		defined = append([]string{"id INT NOT NULL AUTO_INCREMENT PRIMARY KEY"}, defined...)
	}
	generated := keyed && c.IntN(3) == 0
	if generated {
		defined = append(defined, "base INT DEFAULT 21", "twice INT GENERATED ALWAYS AS (base * 2) "+c.pick("VIRTUAL", "STORED"))
		if c.IntN(2) == 0 {
			defined = append(defined, "KEY (twice)")
		}
	}
	options := fmt.Sprintf(" ENGINE=InnoDB ROW_FORMAT=%s COMMENT=%s", c.pick("DYNAMIC", "COMPACT"), c.text())
	if keyed {
		options += fmt.Sprintf(" AUTO_INCREMENT=%d", 1+c.IntN(1000))
		if c.IntN(3) == 0 && !strings.Contains(strings.Join(defined, ","), "POINT") { // which partitions don't have
			options += c.pick(" PARTITION BY HASH (id) PARTITIONS 3", " PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE)")
		}
	}
	fmt.Fprintf(b, "CREATE TABLE %s (%s)%s;\n", quoted(name), strings.Join(defined, ", "), options)
	for range []int{0, 1, 5, 40 * c.size}[c.IntN(4)] {
		var names, values []string
		for n, col := range all {
			value := col.value(c)
			if c.IntN(8) == 0 {
				value = "NULL"
			}
			names, values = append(names, quoted(fmt.Sprintf("c %d", n))), append(values, value)
		}
		fmt.Fprintf(b, "INSERT INTO %s (%s) VALUES (%s);\n", quoted(name), strings.Join(names, ", "), strings.Join(values, ", "))
	}
	if c.IntN(2) == 0 {
		fmt.Fprintf(b, "CREATE VIEW %s AS SELECT COUNT(*) AS n, %d AS x FROM %s;\n", quoted("view of "+name), c.IntN(100), quoted(name))
	}
	if keyed && c.IntN(2) == 0 {
		fmt.Fprintf(b, "DELIMITER ;;\nCREATE TRIGGER %s AFTER INSERT ON %s FOR EACH ROW BEGIN SET @x = %d; END ;;\nDELIMITER ;\n", quoted(fmt.Sprintf("tr%d", i)), quoted(name), c.IntN(100))
	}
}

// family is tables that refer to each other, and to themselves.
func (c chaos) family(b *strings.Builder) {
	fmt.Fprintf(b, "CREATE TABLE parent (id INT PRIMARY KEY, boss INT, FOREIGN KEY (boss) REFERENCES parent (id));\n"+
		"CREATE TABLE child (id INT PRIMARY KEY, of INT, n INT, CONSTRAINT of_parent FOREIGN KEY (of) REFERENCES parent (id) ON DELETE %s);\n", c.pick("CASCADE", "SET NULL", "RESTRICT"))
	for i := range c.IntN(10) + 1 {
		fmt.Fprintf(b, "INSERT INTO parent VALUES (%d, %d); INSERT INTO child VALUES (%d, %d, %d);\n", i, c.IntN(i+1), i, c.IntN(i+1), c.IntN(1000))
	}
	fmt.Fprintf(b, "DELIMITER ;;\nCREATE PROCEDURE %s() BEGIN SELECT %d; SELECT 'end;'; END ;;\nCREATE FUNCTION f(x INT) RETURNS INT DETERMINISTIC RETURN x * %d ;;\nDELIMITER ;\n",
		quoted("pro`c"), c.IntN(100), c.IntN(100))
	b.WriteString("CREATE VIEW families AS SELECT p.id, f(c.n) AS m FROM parent p JOIN child c ON c.of = p.id;\n")
}
