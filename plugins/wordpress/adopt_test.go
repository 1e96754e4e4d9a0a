package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
)

// restoredElsewhere is another site, with the files and the database of the first, as a restore puts them there.
func restoredElsewhere(t *testing.T, from installed) installed {
	t.Helper()
	site, siteUser := newSite(t)
	domain, err := contract.ParseDomain("shop.example.net")
	if err != nil {
		t.Fatal(err)
	}
	site.Domain = domain
	for _, dir := range []string{"public", "private"} {
		for _, args := range [][]string{
			{"rm", "-rf", site.Tree + "/" + dir},
			{"cp", "-a", from.site.Tree + "/" + dir, site.Tree + "/" + dir},
			{"chown", "-R", "--from=" + from.user.Handle.UnixUser().String(), siteUser.Handle.UnixUser().String(), site.Tree + "/" + dir},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
		}
	}
	dump, err := exec.Command("/usr/bin/mariadb-dump", "--no-defaults", "--socket="+mariadb.socket, "--user=root", from.site.Database.Name.String()).Output()
	if err != nil {
		t.Fatal(err)
	}
	load := exec.Command("/usr/bin/mariadb", "--no-defaults", "--socket="+mariadb.socket, "--user=root", site.Database.Name.String())
	load.Stdin = strings.NewReader(string(dump))
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return installed{site, siteUser, from.open}
}

func (i installed) config(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(i.site.PublicPath(), configFile))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// meta are texts of a site's database, as its owner has them there, and what they are at another address.
var meta = map[string][2]string{
	"link":       {`<a href="http://www.example.com/page">`, `<a href="http://shop.example.net/page">`},
	"https":      {`https://www.example.com`, `http://shop.example.net`},
	"any scheme": {`src="//www.example.com/a.png"`, `src="//shop.example.net/a.png"`},
	"sentence":   {`See http://www.example.com.`, `See http://shop.example.net.`},
	"json":       {`{"u":"http:\/\/www.example.com\/x"}`, `{"u":"http:\/\/shop.example.net\/x"}`},
	"others": {
		`http://www.example.com.evil.org http://www.example.community http://www.example.com:8080 http://xwww.example.com a@www.example.com`,
		`http://www.example.com.evil.org http://www.example.community http://www.example.com:8080 http://xwww.example.com a@www.example.com`,
	},
	"serialized": {
		`a:2:{s:3:"url";s:25:"http://www.example.com/é";s:22:"http://www.example.com";i:1;}`,
		`a:2:{s:3:"url";s:26:"http://shop.example.net/é";s:22:"http://www.example.com";i:1;}`,
	},
	"object": {
		`O:7:"Unknown":2:{s:1:"a";s:22:"http://www.example.com";s:4:"` + "\x00*\x00" + `b";N;}`,
		`O:7:"Unknown":2:{s:1:"a";s:23:"http://shop.example.net";s:4:"` + "\x00*\x00" + `b";N;}`,
	},
	"twice serialized": {
		`s:30:"s:22:"http://www.example.com";";`,
		`s:31:"s:23:"http://shop.example.net";";`,
	},
	"by itself": {
		`C:3:"Own":24:{x http://www.example.com}`,
		`C:3:"Own":24:{x http://www.example.com}`,
	},
	"looks serialized": {
		`a:2:{ is what it says: http://www.example.com/`,
		`a:2:{ is what it says: http://shop.example.net/`,
	},
}

func quoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\x00", `\0`).Replace(s) + "'"
}

func TestAdopt(t *testing.T) {
	i, _ := newInstalled(t, nil)
	schema := i.site.Database.Name
	for name, texts := range meta {
		sql(t, "INSERT INTO `%s`.wp_postmeta (post_id, meta_key, meta_value) VALUES (1, %s, %s)", schema, quoted(name), quoted(texts[0]))
	}
	sql(t, "CREATE TABLE `%[1]s`.wp_own (a VARCHAR(10), b TEXT, v VARCHAR(40) AS (LEFT(b, 40)) VIRTUAL, PRIMARY KEY (a)); INSERT INTO `%[1]s`.wp_own (a, b) VALUES ('x ü', 'http://www.example.com/')", schema)
	before, guid := i.config(t), sql(t, "SELECT guid FROM `%s`.wp_posts WHERE ID = 1", schema)

	moved := restoredElsewhere(t, i)
	t.Run("says that it is another site's, without its database", func(t *testing.T) {
		if now := moved.check(t); !now.Installed || len(now.Findings) != 1 || now.Findings[0].Code != "of-another-site" {
			t.Errorf("before the update: %+v", now)
		}
	})
	now := moved.update(t)
	if len(now.Findings) != 0 || !now.Installed {
		t.Fatalf("after the update: %+v", now)
	}
	t.Run("has a database and keys of its own", func(t *testing.T) {
		config := moved.config(t)
		for _, own := range []string{schema.String(), i.user.Handle.UnixUser().String()} {
			if !strings.Contains(before, own) || strings.Contains(config, own) {
				t.Errorf("%q is in\n%s", own, config)
			}
		}
		for _, name := range keyNames {
			line := func(text string) string {
				_, rest, _ := strings.Cut(text, "define( '"+name+"'")
				value, _, _ := strings.Cut(rest, "\n")
				return value
			}
			if line(config) == line(before) || len(line(config)) != len(line(before)) {
				t.Errorf("%s is %s, and was %s", name, line(config), line(before))
			}
		}
	})
	t.Run("goes by its own address, in all texts", func(t *testing.T) {
		if home, url := moved.option(t, "home"), moved.option(t, "siteurl"); home != "http://shop.example.net" || url != home {
			t.Errorf("home %q, siteurl %q", home, url)
		}
		for name, texts := range meta {
			got := sql(t, "SELECT HEX(meta_value) FROM `%s`.wp_postmeta WHERE meta_key = %s", moved.site.Database.Name, quoted(name))
			if want := sql(t, "SELECT HEX(%s)", quoted(texts[1])); got != want {
				t.Errorf("%s: %s", name, sql(t, "SELECT meta_value FROM `%s`.wp_postmeta WHERE meta_key = %s", moved.site.Database.Name, quoted(name)))
			}
		}
		if text := sql(t, "SELECT b FROM `%s`.wp_own", moved.site.Database.Name); text != "http://shop.example.net/" {
			t.Errorf("a table of its own: %s", text)
		}
		if now := sql(t, "SELECT guid FROM `%s`.wp_posts WHERE ID = 1", moved.site.Database.Name); now != guid || !strings.Contains(guid, "www.example.com") {
			t.Errorf("guid %q, not %q", now, guid)
		}
	})
	t.Run("is served, and takes logins", func(t *testing.T) {
		b := moved.browse(t)
		if page := b.get("/"); page.status != http.StatusOK || !strings.Contains(page.title(), now.HomeTitle) {
			t.Errorf("status %d, title %q", page.status, page.title())
		}
		if a := b.get(moved.login(t)); a.status != http.StatusFound || !strings.HasPrefix(a.location, "http://shop.example.net/wp-admin") {
			t.Errorf("login: %d to %q", a.status, a.location)
		}
	})
	t.Run("leaves the other site alone", func(t *testing.T) {
		if i.config(t) != before || i.option(t, "home") != "http://www.example.com" {
			t.Error("it was changed")
		}
		if now := i.update(t); len(now.Findings) != 0 || i.config(t) != before {
			t.Errorf("updated it is another one: %+v", now)
		}
	})
	t.Run("goes on where it was killed", func(t *testing.T) {
		again := restoredElsewhere(t, i)
		name := again.site.Tree + "/private/" + movedFile
		config := strings.NewReplacer(i.user.Handle.String(), again.user.Handle.String()).Replace(before)
		if err := os.WriteFile(filepath.Join(again.site.PublicPath(), configFile), []byte(config), configMode); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if now := again.check(t); len(now.Findings) != 1 || now.Findings[0].Code != "of-another-site" {
			t.Errorf("before the update: %+v", now)
		}
		again.update(t)
		text := sql(t, "SELECT meta_value FROM `%s`.wp_postmeta WHERE meta_key = 'link'", again.site.Database.Name)
		if _, err := os.Stat(name); !os.IsNotExist(err) || text != meta["link"][1] {
			t.Errorf("%v, %s", err, text)
		}
	})
	t.Run("says so where a text would be too long", func(t *testing.T) {
		again := restoredElsewhere(t, i)
		sql(t, "CREATE TABLE `%[1]s`.wp_short (a INT PRIMARY KEY, b VARCHAR(23)); INSERT INTO `%[1]s`.wp_short VALUES (1, 'http://www.example.com/'); CREATE TABLE `%[1]s`.wp_keyless (b TEXT)",
			again.site.Database.Name)
		if now := again.update(t); len(now.Findings) != 1 || now.Findings[0].Code != "old-address-left" {
			t.Errorf("after the update: %+v", now)
		}
		if text := sql(t, "SELECT b FROM `%s`.wp_short", again.site.Database.Name); text != "http://www.example.com/" {
			t.Errorf("it is cut: %s", text)
		}
		if home := again.option(t, "home"); home != "http://shop.example.net" {
			t.Errorf("home %q", home)
		}
	})
}

func TestAdopted(t *testing.T) {
	site := configSite(t)
	own := string(renderConfig(site, make([]string, len(keyNames))))
	other := site
	handle := contract.NewHandle()
	other.Database = &sdk.Database{Name: handle.DBName(), User: handle.UnixUser(), Socket: site.Database.Socket}
	for name, c := range map[string]struct {
		present string
		another bool
	}{
		"its own":                   {own, false},
		"another site's":            {string(renderConfig(other, make([]string, len(keyNames)))), true},
		"another site's, reworded":  {`define("DB_NAME",   "` + handle.DBName().String() + `" ) ;`, true},
		"of the customer's choice":  {`define( 'DB_NAME', 'mydatabase' );`, false},
		"by a variable":             {`define( 'DB_NAME', getenv( 'DB' ) );`, false},
		"in a comment of its owner": {`// define( 'DB_NAME', '` + handle.DBName().String() + `' );`, false},
		"nothing":                   {"", false},
	} {
		got, another := adopted([]byte(c.present), site)
		if another != c.another || !another && string(got) != c.present || another && !strings.Contains(string(got), site.Database.Name.String()) {
			t.Errorf("%s: %t\n%s", name, another, got)
		}
	}
}
