package mariadb

import (
	"os"
	"slices"
	"testing"

	"chom.dev/proto/contract"
)

func TestConfig(t *testing.T) {
	const file = "testdata/60-chom.cnf"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, config(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(config()); got != string(want) {
		t.Errorf("differs:\n%s", got)
	}
}

func TestQuoting(t *testing.T) {
	for in, want := range map[string]string{"abc": "`abc`", "a`b": "`a``b`", "``": "``````"} {
		if got := identifier(in); got != want {
			t.Errorf("identifier(%q) = %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"a_b": "`a\\_b`", "a%b": "`a\\%b`", `a\b`: "`a\\\\b`"} {
		if got := pattern(in); got != want {
			t.Errorf("pattern(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestRights(t *testing.T) {
	for _, never := range []string{"ALL PRIVILEGES", "FILE", "SUPER", "PROCESS", "EVENT", "GRANT OPTION", "RELOAD", "CREATE USER", "SHOW DATABASES"} {
		if slices.Contains(rights, never) {
			t.Errorf("%s is given", never)
		}
	}
}

func TestState(t *testing.T) {
	h, err := contract.ParseHandle("abcdefgh27")
	if err != nil {
		t.Fatal(err)
	}
	const (
		usage = "GRANT USAGE ON *.* TO `s-abcdefgh27`@`localhost` IDENTIFIED VIA unix_socket WITH MAX_USER_CONNECTIONS 30"
		on    = " ON `sabcdefgh27`.* TO `s-abcdefgh27`@`localhost`"
	)
	for _, c := range []struct {
		claim, grant            string
		account, rights, excess bool
	}{
		{"a socket account without global rights is right", usage, true, false, false},
		{"a password is foreign", "GRANT USAGE ON *.* TO `s-abcdefgh27`@`localhost` IDENTIFIED BY PASSWORD '*X'", false, false, true},
		{"a password beside the socket is foreign", "GRANT USAGE ON *.* TO `s-abcdefgh27`@`localhost` IDENTIFIED VIA unix_socket OR mysql_native_password USING '*X'", false, false, true},
		{"a global right is foreign", "GRANT FILE ON *.* TO `s-abcdefgh27`@`localhost` IDENTIFIED VIA unix_socket", false, false, true},
		{"another schema is foreign", "GRANT SELECT ON `sotherother`.* TO `s-abcdefgh27`@`localhost`", false, false, true},
		{"a wildcard is foreign", "GRANT SELECT ON `s%`.* TO `s-abcdefgh27`@`localhost`", false, false, true},
		{"too much on its own schema is foreign", "GRANT ALL PRIVILEGES" + on, false, false, true},
		{"passing rights on is foreign", "GRANT SELECT" + on + " WITH GRANT OPTION", false, false, true},
		{"too little on its own schema is not enough", "GRANT SELECT, INSERT" + on, false, false, false},
		{"a role is foreign", "GRANT `admin` TO `s-abcdefgh27`@`localhost`", false, false, true},
	} {
		t.Run(c.claim, func(t *testing.T) {
			var s State
			s.read(c.grant, h.DBName(), h.UnixUser())
			if s.Account != c.account || s.Rights != c.rights || (len(s.Foreign) > 0) != c.excess {
				t.Errorf("got %+v", s)
			}
		})
	}
}
