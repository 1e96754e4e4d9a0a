package main

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLogin(t *testing.T) {
	i, _ := newInstalled(t, nil)
	b := i.browse(t)
	mustFail := func(t *testing.T, a answer) {
		t.Helper()
		if a.status != http.StatusForbidden || a.loggedIn() {
			t.Errorf("got %v, want a refusal", a)
		}
	}

	t.Run("logs in once and never again", func(t *testing.T) {
		link := i.login(t)
		first := b.get(link)
		if first.status != http.StatusFound || !first.loggedIn() || first.location != i.site.URL()+"/wp-admin/" {
			t.Fatalf("first visit: %v", first)
		}
		if admin := b.withCookies(first).get("/wp-admin/"); admin.status != http.StatusOK || !strings.Contains(admin.body, "wpadminbar") {
			t.Errorf("the dashboard with the new session: %v", admin)
		}
		mustFail(t, b.get(link))
	})

	t.Run("lets exactly one of many parallel visits in", func(t *testing.T) {
		link := i.login(t)
		// Holding the row makes every visit read it before the first one can
		// delete it.
		const held = 2 // seconds, ample for all to get there
		holder := exec.Command("/usr/bin/mariadb", "--no-defaults", "--socket="+mariadb.socket, "--user=root", "--execute",
			fmt.Sprintf("START TRANSACTION; SELECT * FROM `%s`.wp_options WHERE option_name LIKE '\\_chom\\_login\\_%%' FOR UPDATE; SELECT SLEEP(%d); ROLLBACK",
				i.site.Database.Name, held))
		if err := holder.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := holder.Wait(); err != nil {
				t.Error(err)
			}
		}()
		time.Sleep(300 * time.Millisecond) // until the lock is taken
		const visits = 8                   // as many as the server has workers
		answers := make([]answer, visits)
		var all sync.WaitGroup
		for n := range visits {
			all.Go(func() {
				var err error
				if answers[n], err = b.request(http.MethodGet, link); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		in := 0
		for _, a := range answers {
			if a.loggedIn() {
				in++
			}
		}
		if in != 1 {
			t.Errorf("%d of %d visits got a session, want 1", in, visits)
		}
	})

	t.Run("refuses an expired link and forgets it", func(t *testing.T) {
		link := i.login(t)
		sql(t, "UPDATE `%s`.wp_options SET option_value = CONCAT('1', SUBSTRING(option_value, 11)) WHERE option_name LIKE '\\_chom\\_login\\_%%'", i.site.Database.Name)
		mustFail(t, b.get(link))
		if n := sql(t, "SELECT COUNT(*) FROM `%s`.wp_options WHERE option_name LIKE '\\_chom\\_login\\_%%'", i.site.Database.Name); n != "0" {
			t.Errorf("%s rows are left", n)
		}
	})

	t.Run("refuses a wrong secret without ending the right one", func(t *testing.T) {
		link := i.login(t)
		last := link[len(link)-1:]
		other := "A"
		if last == "A" {
			other = "Q"
		}
		mustFail(t, b.get(link[:len(link)-1]+other))
		if a := b.get(link); !a.loggedIn() {
			t.Errorf("the right link after the wrong one: %v", a)
		}
	})

	t.Run("refuses odd tokens", func(t *testing.T) {
		link := i.login(t)
		for _, odd := range []string{
			"/?chom_login=",
			"/?chom_login[]=" + strings.TrimPrefix(link, "/?chom_login="),
			link + "%0a",
			strings.ToUpper(link[:20]) + link[20:],
			"/?chom_login=%27%20OR%201=1",
		} {
			if a := b.get(odd); a.loggedIn() {
				t.Errorf("%s logged in", odd)
			}
		}
	})

	t.Run("ignores visits of link scanners", func(t *testing.T) {
		link := i.login(t)
		for _, method := range []string{http.MethodHead, http.MethodPost} {
			if a, err := b.request(method, link); err != nil || a.loggedIn() {
				t.Errorf("%s: %v, %v", method, a, err)
			}
		}
		if a := b.get(link); !a.loggedIn() {
			t.Errorf("the visit after the scanners: %v", a)
		}
	})

	t.Run("stores nothing that opens a session", func(t *testing.T) {
		link := i.login(t)
		_, secret, _ := strings.Cut(link, "=")
		dump, err := exec.Command("/usr/bin/mariadb-dump", "--no-defaults", "--socket="+mariadb.socket, "--user=root", i.site.Database.Name.String()).Output()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(dump), "_chom_login_") {
			t.Error("the dump does not hold the link's row")
		}
		if strings.Contains(string(dump), secret) {
			t.Error("the database holds the secret itself")
		}
	})

	t.Run("brings the oldest administrator in when the first is gone", func(t *testing.T) {
		db := i.site.Database.Name
		sql(t, "UPDATE `%s`.wp_users SET user_login = 'renamed'", db)
		if a := b.get(i.login(t)); !a.loggedIn() {
			t.Errorf("got %v", a)
		}
	})

	t.Run("puts back the must-use plugin that somebody deleted", func(t *testing.T) {
		remove(t, i.site.PublicPath()+"/"+mustUseDir+"/"+mustUseFile)
		if a := b.get(i.login(t)); !a.loggedIn() {
			t.Errorf("got %v", a)
		}
	})
}
