package contract

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// head and foot are around a dump's tables.
const (
	dumpHead = "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19  Distrib 10.11.19-MariaDB\n--\n-- Host: localhost    Database: x\n" +
		"/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;\n/*!40101 SET NAMES utf8mb4 */;\n/*!40103 SET TIME_ZONE='+00:00' */;\n\n"
	dumpFoot = "/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n\n-- Dump completed\n"
)

func table(name, rows string) string {
	quoted := "`" + strings.ReplaceAll(name, "`", "``") + "`"
	text := "\n--\n-- Table structure for table " + strings.ReplaceAll(quoted, "\n", "\n-- ") + "\n--\n\nDROP TABLE IF EXISTS " + quoted + ";\n" +
		"/*!40101 SET @saved_cs_client     = @@character_set_client */;\nCREATE TABLE " + quoted + " (\n  `id` int(11) NOT NULL DEFAULT (1 + (2)),\n" +
		"  `t` text DEFAULT 'VALUES (1),(2);' COMMENT '-- /* `' CHECK (json_valid(`t`))\n) ENGINE=InnoDB COMMENT='a;b''c)';\n" +
		"LOCK TABLES " + quoted + " WRITE;\n/*!40000 ALTER TABLE " + quoted + " DISABLE KEYS */;\n"
	if rows != "" {
		text += "INSERT INTO " + quoted + " VALUES\n" + rows + ";\n"
	}
	return text + "/*!40000 ALTER TABLE " + quoted + " ENABLE KEYS */;\nUNLOCK TABLES;\n"
}

// scan reads a dump in pieces of a size.
func scan(text string, piece int) ([]DumpTable, error) {
	s := &DumpScanner{}
	for b := []byte(text); len(b) > 0; {
		n := min(piece, len(b))
		if _, err := s.Write(b[:n]); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	return s.tables, s.End()
}

func TestScan(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []DumpTable
	}{
		"nothing":     {"", nil},
		"no rows":     {table("a", ""), []DumpTable{{"a", 0}}},
		"rows":        {table("a", "(1,'x'),\n(2,NULL),(-3,0x41)"), []DumpTable{{"a", 3}}},
		"two tables":  {table("a", "(1)") + table("b", "(1),(2)"), []DumpTable{{"a", 1}, {"b", 2}}},
		"two inserts": {table("a", "(1);\nINSERT INTO `a` VALUES (2),(3)"), []DumpTable{{"a", 3}}},
		"columns":     {strings.Replace(table("a", "(1),(2)"), "` VALUES", "` (`id`, `VALUES`) VALUES", 1), []DumpTable{{"a", 2}}},
		"strings that look like rows": {
			table("a", `(1,'x),('),(2,'\'),('),(3,''),(4,'''),('''),(5,'\\'),(6,'\\\'),(7')`),
			[]DumpTable{{"a", 6}},
		},
		"strings that look like ends":         {table("a", "(1,'\n-- Dump completed\n'),(2,';\\nDROP TABLE `b`;'),(3,'*/ /* -- # \"`')"), []DumpTable{{"a", 3}}},
		"NUL and bytes of no character":       {table("a", "(1,'\x00\xff\xfe\\0'),(2,_binary '\x80\\'')"), []DumpTable{{"a", 2}}},
		"functions in rows":                   {table("a", "(1,f(g(2),(3))),(2,(1))"), []DumpTable{{"a", 2}}},
		"names that look like something":      {table("e``m;(*/ VALUES (1)", "(1)") + table("`", "(2)") + table("-- x", "") + table("'", "(3)"), []DumpTable{{"e``m;(*/ VALUES (1)", 1}, {"`", 1}, {"-- x", 0}, {"'", 1}}},
		"a name with a line's end":            {table("a\n-- Dump completed\n", "(1)"), []DumpTable{{"a\n-- Dump completed\n", 1}}},
		"a name in another alphabet":          {table("größe-表", "(1)"), []DumpTable{{"größe-表", 1}}},
		"a transaction, as MariaDB 11 has it": {strings.NewReplacer("/*!40000 ALTER TABLE `a` DISABLE KEYS */;\n", "set autocommit=0;\n", "UNLOCK TABLES;\n", "UNLOCK TABLES;\nCOMMIT;\n").Replace(table("a", "(1)")), []DumpTable{{"a", 1}}},
		"a sequence":                          {"DROP SEQUENCE IF EXISTS `s`;\nCREATE SEQUENCE `s` start with 5;\nDO SETVAL(`s`, 5, 0);\n", []DumpTable{{"s", 0}}},
		"a table that is cut into parts":      {strings.Replace(table("a", "(1)"), "COMMENT='a;b''c)';", "COMMENT='x'\n/*!50100 PARTITION BY RANGE (`id`)\n(PARTITION p0 VALUES LESS THAN (10),\n PARTITION p1 VALUES LESS THAN MAXVALUE) */;", 1), []DumpTable{{"a", 1}}},
		"arithmetic that looks like comment":  {table("a", "(1-2),(4/2),(3*-1),(1 - -1)"), []DumpTable{{"a", 4}}},
	} {
		t.Run(name, func(t *testing.T) {
			whole := dumpHead + c.text + dumpFoot
			for _, piece := range []int{1, 2, 3, 7, 4096} {
				got, err := scan(whole, piece)
				if err != nil || !slices.Equal(got, c.want) {
					t.Fatalf("in pieces of %d: %v, %v", piece, got, err)
				}
			}
			for cut := range len(whole) {
				if _, err := scan(whole[:cut], 4096); err == nil {
					t.Fatalf("cut after %d bytes it is taken for whole: ...%q", cut, whole[max(0, cut-40):cut])
				}
			}
		})
	}
	for name, text := range map[string]string{
		"more after the end":              dumpHead + dumpFoot + "DROP TABLE `a`",
		"a statement after the end":       dumpHead + dumpFoot + "DROP TABLE `a`;\n",
		"a statement of another kind":     dumpHead + "GRANT ALL ON *.* TO x;\n" + dumpFoot,
		"another schema":                  dumpHead + "USE mysql;\n" + dumpFoot,
		"rows of no table":                dumpHead + "INSERT INTO `a` VALUES (1);\n" + dumpFoot,
		"a table twice":                   dumpHead + table("a", "") + table("a", "") + dumpFoot,
		"an end within a statement":       dumpHead + "DROP TABLE\n-- Dump completed\n",
		"an end within a string":          dumpHead + "SET x='\n-- Dump completed\n",
		"an end within a name":            dumpHead + "DROP TABLE `\n-- Dump completed\n",
		"an end within a comment":         dumpHead + "/* \n-- Dump completed\n",
		"an end within a versioned one":   dumpHead + "/*!40000 ALTER TABLE\n-- Dump completed\n",
		"an end within parentheses":       dumpHead + "CREATE TABLE `a` (\n-- Dump completed\n",
		"an end that is not alone":        dumpHead + "-- Dump completed?\n",
		"a comment that was not begun":    dumpHead + "*/;\n" + dumpFoot,
		"parentheses that were not begun": dumpHead + "DO 1);\n" + dumpFoot,
		"an error in its midst":           dumpHead + "mysqldump: Got error: 2013: Lost connection\n" + dumpFoot,
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			if got, err := scan(text, 4096); err == nil {
				t.Errorf("taken, with %v", got)
			}
		})
	}
	if _, err := scan(dumpHead, 4096); !errors.Is(err, ErrDumpCut) {
		t.Errorf("one that ends after its head: %v", err)
	}
}

func TestForeignDump(t *testing.T) {
	foreign := func(text string) ([]DumpTable, error) {
		s := &DumpScanner{Foreign: true}
		if _, err := s.Write([]byte(text)); err != nil {
			return nil, err
		}
		return s.Tables(), s.End()
	}
	dated := strings.Replace(dumpFoot, "completed", "completed on 2026-11-26 17:40:00", 1)
	for name, foot := range map[string]string{"with a date": dated, "without one": dumpFoot} {
		got, err := foreign(dumpHead + table("a", "(1),(2)") + foot)
		if err != nil || !slices.Equal(got, []DumpTable{{"a", 2}}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := scan(dumpHead+dated, 4096); err == nil {
		t.Error("a date is taken of an agent's dump")
	}
	for name, text := range map[string]string{
		"a view":                    "/*!50001 CREATE VIEW `v` AS SELECT 1 AS `a` */;\n",
		"a trigger":                 "DELIMITER ;;\n/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`localhost`*/ /*!50003 TRIGGER `t` BEFORE INSERT ON `a` FOR EACH ROW SET @x=1 */;;\n",
		"a trigger by a root":       "/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`localhost`*/ /*!50003 TRIGGER `t` BEFORE INSERT ON `a` FOR EACH ROW SET @x=1 */;\n",
		"a database":                "CREATE DATABASE /*!32312 IF NOT EXISTS*/ `x`;\n",
		"another schema":            "USE `mysql`;\n",
		"rights":                    "GRANT ALL ON *.* TO `x`@`%`;\n",
		"an event":                  "CREATE EVENT `e` ON SCHEDULE EVERY 1 DAY DO SELECT 1;\n",
		"a file of the client":      "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE `a`;\n",
		"a client's command":        "\\! id\nSELECT 1;\n",
		"rows that are not counted": "INSERT IGNORE INTO `a` VALUES (1);\n",
		"rows that replace":         "REPLACE INTO `a` VALUES (1);\n",
		"names without backticks":   "INSERT INTO a VALUES (1);\n",
		"a table that may be there": "CREATE TABLE IF NOT EXISTS `b` (`id` int);\n",
		"a table that is gone":      "CREATE TEMPORARY TABLE `b` (`id` int);\n",
	} {
		if got, err := foreign(dumpHead + table("a", "(1)") + text + dated); err == nil {
			t.Errorf("%s is taken, with %v", name, got)
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add(dumpHead + table("a", "(1,'x')") + dumpFoot)
	f.Add("/*!\\`'\"--\n")
	f.Fuzz(func(t *testing.T, text string) {
		one, errOne := scan(text, 1)
		all, errAll := scan(text, 1<<20)
		if (errOne == nil) != (errAll == nil) || errOne == nil && !slices.Equal(one, all) {
			t.Errorf("read byte by byte it is %v, %v, at once %v, %v", one, errOne, all, errAll)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	text := []byte(strings.Repeat("(123,'some text of a page that somebody wrote, with \\'quotes\\' in it',0x0011223344556677,NULL,-1.5),\n", 10000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		s := &DumpScanner{tables: []DumpTable{{}}, counting: true, statement: []string{"INSERT", "INTO", quoted}}
		if _, err := s.Write(text); err != nil {
			b.Fatal(err)
		}
	}
}
