package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
)

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// withCookies is the browser with the answer's cookies: they are the domain's,
// which the jar, thinking of a loopback address, would not keep.
func (b *browser) withCookies(a answer) *browser {
	client := *b.client
	client.Transport = cookies(a.cookies)
	with := *b
	with.client = &client
	return &with
}

type cookies []*http.Cookie

func (c cookies) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for _, cookie := range c {
		r.AddCookie(cookie)
	}
	return http.DefaultTransport.RoundTrip(r)
}

func TestInstalledSite(t *testing.T) {
	const title = `Tom & "Jerry's" <b>bold</b> \n 'Café' -- <?php die; ?>`
	i, state := newInstalled(t, func(s *sdk.Site) { s.Settings["title"] = title })
	b := i.browse(t)

	t.Run("serves the announced title on its front page", func(t *testing.T) {
		home := b.get("/")
		if home.status != http.StatusOK || state.HomeTitle == "" || !strings.Contains(home.title(), state.HomeTitle) {
			t.Errorf("status %d, title %q, announced %q", home.status, home.title(), state.HomeTitle)
		}
		if strings.Contains(home.body, "<b>bold</b>") {
			t.Error("the title's markup reached the page")
		}
	})
	t.Run("offers no installer", func(t *testing.T) {
		for _, path := range []string{"/wp-admin/install.php", "/wp-admin/install.php?step=1", "/wp-admin/setup-config.php"} {
			a := b.get(path)
			if strings.Contains(a.body, `name="weblog_title"`) || strings.Contains(a.body, `name="dbname"`) ||
				!strings.Contains(a.body, "already") {
				t.Errorf("%s: %v", path, a)
			}
		}
	})
	t.Run("answers pretty addresses and the REST interface", func(t *testing.T) {
		if a := b.get("/hello-world/"); a.status != http.StatusOK {
			t.Errorf("post: %v", a)
		}
		if a := b.get("/wp-json/"); a.status != http.StatusOK || !strings.HasPrefix(a.body, `{"name":`) {
			t.Errorf("REST: %v", a)
		}
	})
	t.Run("keeps its configuration to its user and its keys to itself", func(t *testing.T) {
		info, err := os.Stat(filepath.Join(i.site.PublicPath(), configFile))
		if err != nil {
			t.Fatal(err)
		}
		stat := info.Sys().(*syscall.Stat_t)
		if info.Mode() != 0o600 || int(stat.Uid) != i.user.UID {
			t.Errorf("mode %v, owner %d", info.Mode(), stat.Uid)
		}
	})
	t.Run("runs wp-cron.php from the command line", func(t *testing.T) {
		cron := wordpress{}.Describe().Crons[0]
		cmd := exec.Command(i.site.PHP, filepath.Join(i.site.Tree, cron.PHPScript))
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(i.user.UID), Gid: uint32(i.user.GID)}}
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("can be read by no other user of the database", func(t *testing.T) {
		cmd := exec.Command("/usr/bin/mariadb", "--no-defaults", "--socket="+mariadb.socket, "--user="+i.site.Database.User.String(), "--execute=SELECT 1")
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("root connected as the site's account: %s", out)
		}
	})
	t.Run("is checked even when a plugin breaks every request", func(t *testing.T) {
		broken := filepath.Join(i.site.PublicPath(), "wp-content/plugins/broken.php")
		if err := os.WriteFile(broken, []byte("<?php\n/* Plugin Name: Broken */\nthrow new Exception('broken');\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		sql(t, "UPDATE `%s`.wp_options SET option_value = 'a:1:{i:0;s:10:\"broken.php\";}' WHERE option_name = 'active_plugins'", i.site.Database.Name)
		if a := b.get("/"); a.status != http.StatusInternalServerError {
			t.Fatalf("the site is not broken: %v", a)
		}
		if now := i.check(t); !now.Installed {
			t.Errorf("state %+v", now)
		}
		sql(t, "UPDATE `%s`.wp_options SET option_value = 'a:0:{}' WHERE option_name = 'active_plugins'", i.site.Database.Name)
	})
}

func TestUpdate(t *testing.T) {
	i, _ := newInstalled(t, nil)

	t.Run("brings title and address, and the front page follows", func(t *testing.T) {
		domain, err := contract.ParseDomain("new.example.org")
		if err != nil {
			t.Fatal(err)
		}
		moved := i
		moved.site.Domain, moved.site.HTTPS = domain, true
		if now := moved.check(t); len(now.Findings) != 1 || now.Findings[0].Code != "address-differs" {
			t.Errorf("before the update: %+v", now)
		}
		moved.site.HTTPS = false
		moved.site.Settings = sdk.Settings{"title": "Another & more", "admin_email": "x@example.com"}
		now := moved.update(t)
		if len(now.Findings) != 0 || now.HomeTitle != "Another &#038; more" && now.HomeTitle != "Another &amp; more" {
			t.Errorf("after the update: %+v", now)
		}
		if home, url := moved.option(t, "home"), moved.option(t, "siteurl"); home != "http://new.example.org" || url != home {
			t.Errorf("home %q, siteurl %q", home, url)
		}
		if page := moved.browse(t).get("/"); page.status != http.StatusOK || !strings.Contains(page.title(), now.HomeTitle) {
			t.Errorf("status %d, title %q, announced %q", page.status, page.title(), now.HomeTitle)
		}
	})
	t.Run("leaves administrator and address book alone", func(t *testing.T) {
		i.site.Settings = sdk.Settings{"title": "x", "admin_email": "other@example.com", "admin_user": "other"}
		i.update(t)
		if users := sql(t, "SELECT GROUP_CONCAT(CONCAT(user_login, ' ', user_email)) FROM `%s`.wp_users", i.site.Database.Name); users != "owner tom@example.com" {
			t.Errorf("users: %s", users)
		}
	})
	t.Run("switches calls to other servers, and only that line", func(t *testing.T) {
		path := filepath.Join(i.site.PublicPath(), configFile)
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		i.site.Settings = sdk.Settings{"title": "x", "admin_email": "tom@example.com", "block_external_http": "true"}
		i.update(t)
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Replace(string(before), "'WP_HTTP_BLOCK_EXTERNAL', false", "'WP_HTTP_BLOCK_EXTERNAL', true", 1)
		if string(after) != want || want == string(before) {
			t.Errorf("configuration:\n%s", after)
		}
	})
}

func TestInstallResumes(t *testing.T) {
	t.Run("when the tables were made and no row", func(t *testing.T) {
		done, _ := newInstalled(t, nil)
		site, user := newSite(t)
		for table := range strings.FieldsSeq(sql(t, "SHOW TABLES FROM `%s`", done.site.Database.Name)) {
			sql(t, "CREATE TABLE `%[1]s`.%[3]s LIKE `%[2]s`.%[3]s", site.Database.Name, done.site.Database.Name, table)
		}
		i := installed{site, user, done.open}
		conn, err := i.open(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if state, err := conn.Install(t.Context(), site, nil); err != nil || !state.Installed {
			t.Fatalf("state %+v, err %v", state, err)
		}
		if users := sql(t, "SELECT COUNT(*) FROM `%s`.wp_users", site.Database.Name); users != "1" {
			t.Errorf("%s users", users)
		}
	})
	t.Run("when the database was lost under an installed site", func(t *testing.T) {
		i, _ := newInstalled(t, nil)
		sql(t, "DROP DATABASE `%[1]s`; CREATE DATABASE `%[1]s`", i.site.Database.Name)
		if state := i.check(t); state.Installed || len(state.Findings) != 1 || state.Findings[0].Code != "database-empty" {
			t.Fatalf("state %+v", state)
		}
		conn, err := i.open(t.Context(), i.user)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if state, err := conn.Install(t.Context(), i.site, nil); err != nil || !state.Installed {
			t.Errorf("state %+v, err %v", state, err)
		}
	})
}

func TestDatabaseDown(t *testing.T) {
	site, user := newSite(t)
	site.Database.Socket = "/run/nobody-listens-here.sock"
	conn, err := program(t)(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.Install(t.Context(), site, nil)
	if err == nil || sdk.IsPermanent(err) {
		t.Fatalf("err = %v, want one that may be tried again", err)
	}
	t.Log(err)
	if entries, err := os.ReadDir(site.PublicPath()); err != nil || len(entries) != 0 {
		t.Errorf("public holds %v, %v", entries, err)
	}
}
