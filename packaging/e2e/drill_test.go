package e2e

import (
	"testing"
	"time"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// TestDrill proves backups of a site of each type on both releases. The site is
// ruined meanwhile: it takes no part.
func TestDrill(t *testing.T) {
	onBoth(t, func(t *testing.T, h *host) {
		for _, typ := range []string{"static", "wordpress"} {
			t.Run(typ, func(t *testing.T) {
				s := create(t, h, typ)
				write(t, h, s, "proven")
				b := backUp(t, s)
				if typ == "wordpress" {
					sh(t, h, "systemctl stop chom-cron-"+s.GetHandle()+".timer") // the site's own work makes directories
				}
				ruin(t, h, s)
				ruined := imprint(t, h, s)
				d := drillOf(t, s, b)
				if d.GetState() != backupv1.DrillState_DRILL_STATE_PASSED {
					t.Errorf("it ended with %v", d)
				}
				if pages := d.GetEvidence().GetPages(); len(pages) != 1 || pages[0].GetTitle() != b.GetContents().GetPageTitle() || pages[0].GetTitle() == "" {
					t.Errorf("pages %v, and a backup titled %q", pages, b.GetContents().GetPageTitle())
				}
				if after := imprint(t, h, s); after != ruined {
					t.Errorf("the site was\n%s\nand is\n%s", ruined, after)
				}
				if out := sh(t, h, "systemctl list-units --plain --no-legend 'chom-run-*'; ls -d /srv/chom/sites/*/drill; pgrep -l restic; true"); out != "" {
					t.Errorf("left: %s", out)
				}
				purge(t, h, s)
			})
		}
	})
}

// drillOf has a backup drilled, and waits for the end of that.
func drillOf(t *testing.T, s *sitev1.Site, b *backupv1.Backup) *backupv1.Drill {
	t.Helper()
	ctx := timeout(t, 10*time.Minute)
	made, err := world.rig.Backups.DrillBackup(ctx, &backupv1.DrillBackupRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), BackupId: b.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, &taskv1.Task{Id: made.GetDrill().GetTaskId(), OrganizationId: s.GetOrganizationId()})
	res, err := world.rig.Backups.ListDrills(ctx, &backupv1.ListDrillsRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil || len(res.GetDrills()) == 0 || res.GetDrills()[0].GetId() != made.GetDrill().GetId() {
		t.Fatalf("drills: %v, %v", res, err)
	}
	return res.GetDrills()[0]
}
