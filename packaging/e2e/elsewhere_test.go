package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

// TestRestoreElsewhere restores a backup of a site to a new one on another server: it is that site under its own name, and the first
// one knows nothing of it.
func TestRestoreElsewhere(t *testing.T) {
	for _, typ := range []string{"static", "wordpress"} {
		t.Run(typ, func(t *testing.T) { restoreElsewhere(t, typ) })
	}
}

func restoreElsewhere(t *testing.T, typ string) {
	from, to := world.hosts[lab.Bookworm], world.hosts[lab.Trixie]
	s := create(t, from, typ)
	defer purge(t, from, s)
	write(t, from, s, "first")
	if typ == "wordpress" {
		mariadbAs(t, from, s, "UPDATE wp_posts SET post_content = CONCAT('<img src=\"http://', '"+s.GetDomains()[0]+"', '/own.png\">'), post_name = 'moved', post_status = 'publish' WHERE post_title = 'own'")
	}
	b := backUp(t, s)
	was := imprint(t, from, s)

	ctx := timeout(t, 10*time.Minute)
	wanted := newSite(to, typ)
	wanted.Settings["title"] = s.GetSettings()["title"] // as chom backup restore --to-new asks for it
	res, err := world.rig.Sites.CreateSite(ctx, wanted)
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, res.GetTask())
	other := get(t, res.GetSite())
	defer purge(t, to, other)
	if typ == "wordpress" {
		settle(t, to, other)
	}
	before := imprint(t, to, other)

	made, err := world.rig.Backups.CopyBackup(ctx, &backupv1.CopyBackupRequest{
		OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), BackupId: b.GetId(), ToSiteId: other.GetId(),
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	there := ready(t, ctx, made.GetBackup())
	t.Logf("copied within %s", time.Since(began).Round(time.Millisecond))
	if there.GetReason() != backupv1.Reason_REASON_COPIED || there.GetSequence() != 1 || there.GetSourceBackupId() != b.GetId() || there.GetSourceSiteId() != s.GetId() {
		t.Errorf("the copy: %v", there)
	}
	restore := restoreFrom(t, other, there)
	if page := shows(t, to, other, http.StatusOK, s.GetSettings()["title"]); strings.Contains(page.Body, s.GetDomains()[0]) {
		t.Errorf("its page names %s:\n%s", s.GetDomains()[0], page.Body)
	}
	if text := as(t, to, other, "cat /srv/chom/sites/"+other.GetHandle()+"/public/own/page.html").Stdout; text != "first\n" {
		t.Errorf("a file of it is %q", text)
	}
	if typ == "wordpress" {
		isItself(t, to, s, other)
	}
	if now := imprint(t, from, s); now != was {
		t.Errorf("the first one is\n%s\nand was\n%s", now, was)
	}
	shows(t, from, s, http.StatusOK, s.GetSettings()["title"])

	undo(t, other, restore)
	if now := imprint(t, to, other); now != before {
		t.Errorf("undone it is\n%s\nand was\n%s", now, before)
	}
	shows(t, to, other, http.StatusOK, wanted.GetSettings()["title"])
	undo(t, other, restore)
	shows(t, to, other, http.StatusOK, s.GetSettings()["title"])
	// It has backups of its own as ever, in the repository that the copy made.
	if own := backUp(t, other); own.GetSequence() != 2 {
		t.Errorf("its own backup is number %d", own.GetSequence())
	}
}

// isItself is what WordPress must be under another name.
func isItself(t *testing.T, h *host, from, s *sitev1.Site) {
	t.Helper()
	config := as(t, h, s, "cat /srv/chom/sites/"+s.GetHandle()+"/public/wp-config.php").Stdout
	if strings.Contains(config, from.GetHandle()) || !strings.Contains(config, "'s"+s.GetHandle()+"'") {
		t.Errorf("its configuration:\n%s", config)
	}
	url := strings.TrimSuffix(s.GetUrl(), "/")
	address := sh(t, h, "mariadb --batch --skip-column-names s"+s.GetHandle()+" -e \"SELECT option_value FROM wp_options WHERE option_name IN ('home', 'siteurl')\"")
	if !slices.Equal(strings.Fields(address), []string{url, url}) {
		t.Errorf("it goes by %q, not by %q", address, url)
	}
	post, err := rig.Visit(timeout(t, 20*time.Second), h.Host, s.GetDomains()[0], "/moved/")
	if err != nil || post.Status != http.StatusOK || !strings.Contains(post.Body, "//"+s.GetDomains()[0]+"/own.png") || strings.Contains(post.Body, from.GetDomains()[0]) {
		t.Errorf("a post of it: %v, %d\n%s", err, post.Status, post.Body)
	}
	ctx := timeout(t, time.Minute)
	res, err := world.rig.Sites.CreateSiteLogin(ctx, &sitev1.CreateSiteLoginRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	page, err := rig.Visit(ctx, h.Host, s.GetDomains()[0], strings.TrimPrefix(res.GetUrl(), "http://"+s.GetDomains()[0]))
	if err != nil || !loggedIn(page) {
		t.Errorf("a login: %v, %d", err, page.Status)
	}
}
