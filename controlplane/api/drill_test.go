package api

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/backup"
	"chom.dev/proto/contract"
)

// TestDrillMessage: callers see all of a drill, and none of what is not there yet.
func TestDrillMessage(t *testing.T) {
	now := time.Unix(1700000000, 0).UTC()
	d := backup.Drill{
		Organization: contract.NewOrganizationID(), ID: contract.NewDrillID(), Site: contract.NewSiteID(), Backup: contract.NewBackupID(), State: backup.Drilling,
		TaskID: "task", CreatedAt: now,
	}
	want := &backupv1.Drill{
		Id: d.ID.String(), OrganizationId: d.Organization.String(), SiteId: d.Site.String(), BackupId: d.Backup.String(),
		State: backupv1.DrillState_DRILL_STATE_RUNNING, TaskId: "task", CreateTime: timestamppb.New(now),
	}
	if got := drillMessage(d); !proto.Equal(got, want) || got.Evidence != nil {
		t.Errorf("running: %v", got)
	}
	d.State, d.EndedAt, d.Evidence, d.Problem = backup.DrillFailed, now.Add(time.Minute), &backupv1.Evidence{FileCount: 1}, "a file is gone"
	want.State, want.EndTime, want.Evidence, want.Problem = backupv1.DrillState_DRILL_STATE_FAILED, timestamppb.New(d.EndedAt), d.Evidence, d.Problem
	if got := drillMessage(d); !proto.Equal(got, want) {
		t.Errorf("failed: %v", got)
	}
	d.State = backup.DrillPassed
	if got := drillMessage(d); got.State != backupv1.DrillState_DRILL_STATE_PASSED {
		t.Errorf("passed: %v", got)
	}
}
