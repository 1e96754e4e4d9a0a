package site

import "testing"

func TestMakesNothing(t *testing.T) {
	for _, sql := range []string{"", "\n", nothing, nothing + "/*M!100616 SET NOTE_VERBOSITY=@OLD_NOTE_VERBOSITY */;\n"} {
		if !makesNothing.MatchString(sql) {
			t.Errorf("taken for something:\n%s", sql)
		}
	}
	for _, sql := range []string{
		"CREATE VIEW v AS SELECT 1;\n", "/*!50001 CREATE VIEW `v` AS SELECT 1 */;\n", "DELIMITER ;;\n", "INSERT INTO t VALUES (1);\n", "x\n",
		"/*!50003 SET sql_mode = '' */ ;CREATE VIEW v AS SELECT 1;\n", "/*!50003 SET x = 1 */; CREATE VIEW v AS SELECT 1;\n",
		"/*!50003 SET x = 1 */ CREATE VIEW v AS SELECT 1 /*!1 */;\n", "/*!50003 SET x = '*/; CREATE VIEW v AS SELECT ''*/;\n",
		"--x\n", "/*!50003 SET GLOBAL\nx = 1 */;\n", "CREATE PROCEDURE p() SELECT 1",
	} {
		if all := nothing + sql; makesNothing.MatchString(all) || makesNothing.MatchString(sql+nothing) {
			t.Errorf("taken for nothing: %s", sql)
		}
	}
}

// nothing is what mariadb-dump writes of triggers and routines where there are none.
const nothing = `/*M!999999\- enable the sandbox mode */ 
-- MariaDB dump 10.19  Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)
--
-- Host: localhost    Database: a
-- ------------------------------------------------------
-- Server version	10.11.19-MariaDB-0+deb12u1

/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET @OLD_CHARACTER_SET_RESULTS=@@CHARACTER_SET_RESULTS */;
/*!40101 SET @OLD_COLLATION_CONNECTION=@@COLLATION_CONNECTION */;
/*!40101 SET NAMES utf8mb4 */;
/*!40103 SET @OLD_TIME_ZONE=@@TIME_ZONE */;
/*!40103 SET TIME_ZONE='+00:00' */;
/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
/*!40111 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_NOTES=0 */;

--
-- Dumping routines for database 'a'
--
/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;

/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;
/*!40014 SET FOREIGN_KEY_CHECKS=@OLD_FOREIGN_KEY_CHECKS */;
/*!40101 SET CHARACTER_SET_CLIENT=@OLD_CHARACTER_SET_CLIENT */;
/*!40101 SET CHARACTER_SET_RESULTS=@OLD_CHARACTER_SET_RESULTS */;
/*!40101 SET COLLATION_CONNECTION=@OLD_COLLATION_CONNECTION */;
/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;

-- Dump completed
`
