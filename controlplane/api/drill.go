package api

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/backup"
)

func (s *backupService) DrillBackup(ctx context.Context, r *backupv1.DrillBackupRequest) (*backupv1.DrillBackupResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	id, err := backupID(r)
	if err != nil {
		return nil, err
	}
	made, err := s.backups.Drill(ctx, organization, site, id)
	if err != nil {
		return nil, err
	}
	return &backupv1.DrillBackupResponse{Drill: drillMessage(made)}, nil
}

func (s *backupService) ListDrills(ctx context.Context, r *backupv1.ListDrillsRequest) (*backupv1.ListDrillsResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	found, err := s.backups.ListDrills(ctx, organization, site)
	if err != nil {
		return nil, err
	}
	answer := &backupv1.ListDrillsResponse{}
	for _, one := range found {
		m := drillMessage(one)
		if m.Evidence != nil {
			m.Evidence.Tables = nil
		}
		answer.Drills = append(answer.Drills, m)
	}
	return answer, nil
}

// drillMessage is a drill as callers see it; its evidence is its host's word.
func drillMessage(d backup.Drill) *backupv1.Drill {
	m := &backupv1.Drill{
		Id: d.ID.String(), OrganizationId: d.Organization.String(), SiteId: d.Site.String(), BackupId: d.Backup.String(), State: drillStates[d.State],
		Problem: d.Problem, Note: d.Note, TaskId: d.TaskID, CreateTime: timestamppb.New(d.CreatedAt), Evidence: proto.CloneOf(d.Evidence),
	}
	if !d.EndedAt.IsZero() {
		m.EndTime = timestamppb.New(d.EndedAt)
	}
	return m
}

var drillStates = map[backup.DrillState]backupv1.DrillState{
	backup.Drilling:    backupv1.DrillState_DRILL_STATE_RUNNING,
	backup.DrillPassed: backupv1.DrillState_DRILL_STATE_PASSED,
	backup.DrillFailed: backupv1.DrillState_DRILL_STATE_FAILED,
}
