package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
)

// TestBackup makes backups of a site of each type on both releases, ruins it, and
// has it back.
func TestBackup(t *testing.T) {
	onBoth(t, func(t *testing.T, h *host) {
		for _, typ := range []string{"static", "wordpress"} {
			t.Run(typ, func(t *testing.T) { backUpAndRestore(t, h, typ) })
		}
	})
}

func backUpAndRestore(t *testing.T, h *host, typ string) {
	s := create(t, h, typ)
	hasDatabase := typ == "wordpress"
	write(t, h, s, "first")
	session := sessionOf(t, h, "restic")
	first := backUp(t, s)
	if got := <-session; !nice.MatchString(got) {
		t.Errorf("the session that the backup ran in is %q, which yields to nobody", got)
	}
	whole := imprint(t, h, s)
	c := first.GetContents()
	if c.GetFileCount() == 0 || c.GetFileBytes() == 0 || (c.GetDatabaseSnapshot() != "") != hasDatabase || hasDatabase && len(c.GetTables()) < 10 {
		t.Errorf("contents: %v", c)
	}
	if title := c.GetPageTitle(); !strings.Contains(title, s.GetSettings()["title"]) {
		t.Errorf("it shows a page titled %q", title)
	}
	t.Logf("the first adds %d of %d bytes", first.GetAddedBytes(), c.GetFileBytes()+c.GetDumpBytes())

	if page := download(t, s, first, "/public/own/page.html"); page != "first\n" {
		t.Errorf("a file of it is %q", page)
	}
	if hasDatabase {
		if dump := download(t, s, first, ""); !strings.Contains(dump, "CREATE TABLE `wp_posts`") || !strings.Contains(dump, "\n-- Dump completed\n") {
			t.Errorf("the dump has %d bytes, and not all that it should", len(dump))
		}
	}

	second := backUp(t, s)
	if second.GetSequence() != 2 || second.GetAddedBytes() > max(first.GetAddedBytes()/10, 100_000) {
		t.Errorf("the second, number %d, adds %d bytes to %d", second.GetSequence(), second.GetAddedBytes(), first.GetAddedBytes())
	}

	ruin(t, h, s)
	ruined := imprint(t, h, s)
	restore := restoreFrom(t, s, first)
	if after := imprint(t, h, s); after != whole {
		t.Errorf("restored it is\n%s\nand was\n%s", after, whole)
	}
	shows(t, h, s, http.StatusOK, s.GetSettings()["title"])
	if undo := restore.GetUndoUntil().AsTime(); time.Until(undo) < 23*time.Hour {
		t.Errorf("it can be undone until %s", undo)
	}

	undo(t, s, restore)
	if after := imprint(t, h, s); after != ruined {
		t.Errorf("undone it is\n%s\nand was\n%s", after, ruined)
	}
	undo(t, s, restore)
	if after := imprint(t, h, s); after != whole {
		t.Errorf("the undoing undone it is\n%s\nand was\n%s", after, whole)
	}
	shows(t, h, s, http.StatusOK, s.GetSettings()["title"])
	if out := sh(t, h, "systemctl list-units --plain --no-legend 'chom-run-*' | grep -v -- -size.service; ls /run/chom-backup; pgrep -l restic; true"); out != "" {
		t.Errorf("left running: %s", out)
	}

	repository := filepath.Join(world.rig.Dir, "chomd", "backups", s.GetOrganizationId(), s.GetId())
	if entries, err := os.ReadDir(filepath.Join(repository, "manifests")); err != nil || len(entries) != 2 {
		t.Errorf("manifests in the repository: %v, %v", entries, err)
	}
	purge(t, h, s)
	for ctx := timeout(t, time.Minute); ; time.Sleep(time.Second) {
		if _, err := os.Stat(repository); os.IsNotExist(err) {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("the repository of a purged site is still there")
		}
	}
}

// nice is what a kernel that shares the processor among sessions says of one that yields to others; one that does not says nothing.
var nice = regexp.MustCompile(`^(?:none|/autogroup-\d+ nice 1[0-9])$`)

// sessionOf waits until a program runs on the host, and gives what the kernel says of its session.
func sessionOf(t *testing.T, h *host, program string) <-chan string {
	t.Helper()
	said := make(chan string, 1)
	ctx := timeout(t, 2*time.Minute)
	go func() {
		out, err := h.Output(ctx, "/bin/bash", "-c", "[ -e /proc/self/autogroup ] || { echo none; exit; }; until p=$(pgrep -x "+program+" | head -1) && cat /proc/$p/autogroup 2>/dev/null; do sleep 0.01; done")
		if err != nil {
			out = err.Error()
		}
		said <- out
	}()
	return said
}

// write gives a site something that only its owner has put there.
func write(t *testing.T, h *host, s *sitev1.Site, what string) {
	t.Helper()
	as(t, h, s, fmt.Sprintf(`cd /srv/chom/sites/%s/public && mkdir -p own && echo %q >own/page.html && ln -sfn page.html own/link && printf '\377\000' >"own/näme $(printf '\n') line" && chmod 0600 own/page.html && touch -d '2001-02-03 04:05:06.789' own/page.html`, s.GetHandle(), what))
	if s.GetType() == "wordpress" {
		settle(t, h, s)
		mariadbAs(t, h, s, fmt.Sprintf("INSERT INTO wp_posts (post_title, post_content, post_excerpt, to_ping, pinged, post_content_filtered) VALUES ('own', REPEAT('%s ü 漢 \\' \\\\', 1000), '', '', '', '')", what))
	}
}

// settle has WordPress do now what it does once, and makes directories by: a look at it later sees only what was done to it.
func settle(t *testing.T, h *host, s *sitev1.Site) {
	t.Helper()
	sh(t, h, "systemctl start chom-cron-"+s.GetHandle()+".service")
}

// ruin is what a person does in an unlucky minute.
func ruin(t *testing.T, h *host, s *sitev1.Site) {
	t.Helper()
	as(t, h, s, "cd /srv/chom/sites/"+s.GetHandle()+"/public && rm -rf own && echo ruined >>index.html; echo other >other.txt; mkdir -p empty")
	if s.GetType() == "wordpress" {
		mariadbAs(t, h, s, "DELETE FROM wp_posts; DROP TABLE wp_links; CREATE TABLE other (a INT); INSERT INTO other VALUES (1)")
	}
}

func mariadbAs(t *testing.T, h *host, s *sitev1.Site, statements string) {
	t.Helper()
	if res := as(t, h, s, fmt.Sprintf("mariadb s%s <<'END'\n%s;\nEND", s.GetHandle(), statements)); res.Code != 0 {
		t.Fatalf("%s: %s%s", statements, res.Stdout, res.Stderr)
	}
}

// imprint is all that a site has, but for what WordPress itself writes all the time.
func imprint(t *testing.T, h *host, s *sitev1.Site) string {
	t.Helper()
	return sh(t, h, strings.ReplaceAll(`
cd /srv/chom/sites/HANDLE
find public private -printf '%y %m %u:%g %p %l\n' | sort | sha256sum
find public private -type f -printf '%T@ %s %p\0' | sort -z | sha256sum
find public private -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum
ls public | head -30
mariadb --batch --skip-column-names -e "SELECT table_name FROM information_schema.tables WHERE table_schema = 'sHANDLE' AND table_name <> 'wp_options' ORDER BY 1" | while read -r table; do
	mariadb --batch --skip-column-names -e "CHECKSUM TABLE sHANDLE.$table EXTENDED"
done`, "HANDLE", s.GetHandle()))
}

// backUp makes one and waits until it is ready.
func backUp(t *testing.T, s *sitev1.Site) *backupv1.Backup {
	t.Helper()
	ctx := timeout(t, 5*time.Minute)
	made, err := world.rig.Backups.CreateBackup(ctx, &backupv1.CreateBackupRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := world.rig.Backups.CreateBackup(ctx, &backupv1.CreateBackupRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()}); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("another one beside it: %v", err)
	}
	done(t, ctx, &taskv1.Task{Id: made.GetBackup().GetTaskId(), OrganizationId: s.GetOrganizationId()})
	return ready(t, ctx, made.GetBackup())
}

func download(t *testing.T, s *sitev1.Site, b *backupv1.Backup, path string) string {
	t.Helper()
	stream, err := world.rig.Backups.DownloadBackup(timeout(t, time.Minute), &backupv1.DownloadBackupRequest{
		OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), BackupId: b.GetId(), Path: path,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var out strings.Builder
	for stream.Receive() {
		out.Write(stream.Msg().GetData())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func ready(t *testing.T, ctx context.Context, b *backupv1.Backup) *backupv1.Backup {
	t.Helper()
	for {
		res, err := world.rig.Backups.GetBackup(ctx, &backupv1.GetBackupRequest{OrganizationId: b.GetOrganizationId(), SiteId: b.GetSiteId(), BackupId: b.GetId()})
		switch {
		case err != nil:
			t.Fatal(err)
		case res.GetBackup().GetState() == backupv1.State_STATE_READY:
			return res.GetBackup()
		case res.GetBackup().GetState() == backupv1.State_STATE_FAILED:
			t.Fatalf("backup failed: %s", res.GetBackup().GetProblem())
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// restoreFrom puts a backup back and waits until the site has it.
func restoreFrom(t *testing.T, s *sitev1.Site, b *backupv1.Backup) *backupv1.Restore {
	t.Helper()
	ctx := timeout(t, 5*time.Minute)
	made, err := world.rig.Backups.RestoreBackup(ctx, &backupv1.RestoreBackupRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), BackupId: b.GetId(), WithoutBackup: true})
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, &taskv1.Task{Id: made.GetRestore().GetTaskId(), OrganizationId: s.GetOrganizationId()})
	res, err := world.rig.Backups.ListRestores(ctx, &backupv1.ListRestoresRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil || len(res.GetRestores()) == 0 || res.GetRestores()[0].GetId() != made.GetRestore().GetId() {
		t.Fatalf("restores: %v, %v", res, err)
	}
	return res.GetRestores()[0]
}

func undo(t *testing.T, s *sitev1.Site, r *backupv1.Restore) {
	t.Helper()
	ctx := timeout(t, 5*time.Minute)
	res, err := world.rig.Backups.UndoRestore(ctx, &backupv1.UndoRestoreRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), RestoreId: r.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, &taskv1.Task{Id: res.GetRestore().GetTaskId(), OrganizationId: s.GetOrganizationId()})
}

// TestBackupKilled kills the agent again and again in the middle of one backup and of
// one restore: each comes to its end as if nothing had happened.
func TestBackupKilled(t *testing.T) {
	w, h := &world, world.hosts[lab.Bookworm]
	s := create(t, h, "wordpress")
	write(t, h, s, "kept")
	ctx := timeout(t, 10*time.Minute)
	taskOf := func(id string) *taskv1.Task {
		return &taskv1.Task{Id: id, OrganizationId: s.GetOrganizationId()}
	}
	var b *backupv1.Backup
	task := killThrough(t, w, h, []string{
		"task/backup-site/repository/after", "task/backup-site/contents/before", "task/backup-site/contents/after", "task/backup-site/result/before",
	}, func() *taskv1.Task {
		res, err := w.rig.Backups.CreateBackup(ctx, &backupv1.CreateBackupRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		b = res.GetBackup()
		return taskOf(b.GetTaskId())
	})
	done(t, ctx, task)
	b = ready(t, ctx, b)
	whole := imprint(t, h, s)
	ruin(t, h, s)
	ruined := imprint(t, h, s)
	var r *backupv1.Restore
	task = killThrough(t, w, h, []string{
		"restore.staged", "mariadb.import-granted", "restore.quiet", "restore.committed",
		"tree.public-exchanged", "mariadb.switched", "restore.objects-made", "restore.kept", "task/restore-site/result/before",
	}, func() *taskv1.Task {
		res, err := w.rig.Backups.RestoreBackup(ctx, &backupv1.RestoreBackupRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), BackupId: b.GetId(), WithoutBackup: true})
		if err != nil {
			t.Fatal(err)
		}
		r = res.GetRestore()
		return taskOf(r.GetTaskId())
	})
	done(t, ctx, task)
	if after := imprint(t, h, s); after != whole {
		t.Errorf("restored it is\n%s\nand was\n%s", after, whole)
	}
	shows(t, h, s, http.StatusOK, s.GetSettings()["title"])
	undo(t, s, r)
	if after := imprint(t, h, s); after != ruined {
		t.Errorf("undone it is\n%s\nand was\n%s", after, ruined)
	}
	purge(t, h, s)
}
