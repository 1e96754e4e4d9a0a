package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// TestDrill has backups restored beside their sites, which notice nothing, and finds the one that is spoiled.
func TestDrill(t *testing.T) {
	onBoth(t, func(t *testing.T, h *host) {
		for _, typ := range []string{"static", "wordpress"} {
			t.Run(typ, func(t *testing.T) { rehearse(t, h, typ) })
		}
	})
}

func rehearse(t *testing.T, h *host, typ string) {
	s := create(t, h, typ)
	write(t, h, s, "first")
	made := backUp(t, s)
	if typ == "wordpress" {
		sh(t, h, "systemctl stop chom-cron-"+s.GetHandle()+".timer") // the site's own work makes directories
	}
	ruin(t, h, s) // what the site is by now is nobody's matter
	before := imprint(t, h, s)

	passed := drill(t, s, made)
	e := passed.GetEvidence()
	if passed.GetState() != backupv1.DrillState_DRILL_STATE_PASSED || e.GetFileCount() != made.GetContents().GetFileCount() {
		t.Fatalf("a good backup: %s, %q, %d files", passed.GetState(), passed.GetProblem(), e.GetFileCount())
	}
	if pages := e.GetPages(); len(pages) == 0 || pages[0].GetHttpStatus() != 200 || !strings.Contains(pages[0].GetTitle(), s.GetSettings()["title"]) {
		t.Errorf("the restored site answers %v", pages)
	}
	status, err := world.rig.Backups.GetBackupStatus(t.Context(), &backupv1.GetBackupStatusRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	if got := status.GetStatus(); got.GetLastProven().GetId() != passed.GetId() || got.GetLastBackup().GetId() != made.GetId() {
		t.Errorf("the status: last backup %s, last proven %s", got.GetLastBackup().GetId(), got.GetLastProven().GetId())
	}

	spoil(t, s)
	failed := drill(t, s, made)
	if failed.GetState() != backupv1.DrillState_DRILL_STATE_FAILED || failed.GetProblem() == "" {
		t.Errorf("a spoiled backup: %s, %q", failed.GetState(), failed.GetProblem())
	}
	t.Logf("a spoiled one: %s", failed.GetProblem())

	if after := imprint(t, h, s); after != before {
		t.Errorf("the site has become\n%s\nand was\n%s", after, before)
	}
	if left := sh(t, h, "systemctl list-units --plain --no-legend 'chom-run-*' | grep -v -- -size.service; ls -d /srv/chom/sites/"+s.GetHandle()+"/drill /srv/chom/sites/"+s.GetHandle()+"/restore 2>/dev/null; pgrep -u s-"+s.GetHandle()+" -l 'mariadbd|restic'; true"); left != "" {
		t.Errorf("left: %s", left)
	}
	purge(t, h, s)
}

// drill has one made, and waits for what it comes to.
func drill(t *testing.T, s *sitev1.Site, b *backupv1.Backup) *backupv1.Drill {
	t.Helper()
	ctx := timeout(t, 5*time.Minute)
	made, err := world.rig.Backups.DrillBackup(ctx, &backupv1.DrillBackupRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), BackupId: b.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	for ; ; time.Sleep(500 * time.Millisecond) {
		res, err := world.rig.Backups.ListDrills(ctx, &backupv1.ListDrillsRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		if d := res.GetDrills()[0]; d.GetId() == made.GetDrill().GetId() && d.GetState() != backupv1.DrillState_DRILL_STATE_RUNNING {
			return d
		}
	}
}

// spoil flips a bit in the middle of the largest piece of a site's repository.
func spoil(t *testing.T, s *sitev1.Site) {
	t.Helper()
	var largest string
	var size int64
	data := filepath.Join(world.rig.Dir, "chomd", "backups", s.GetOrganizationId(), s.GetId(), "data")
	if err := filepath.WalkDir(data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err == nil && st.Size() > size {
			largest, size = path, st.Size()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(largest)
	if err != nil {
		t.Fatal(err)
	}
	text[size/3] ^= 1
	if err := os.Remove(largest); err != nil { // it may be written by nobody
		t.Fatal(err)
	}
	if err := os.WriteFile(largest, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
