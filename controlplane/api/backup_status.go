package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
)

func (s *backupService) GetBackupStatus(ctx context.Context, r *backupv1.GetBackupStatusRequest) (*backupv1.GetBackupStatusResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	found, err := s.backups.StatusOf(ctx, organization, site)
	if err != nil {
		return nil, err
	}
	m := &backupv1.Status{
		RepositoryBytes: found.Bytes, Problem: found.Problem, Policy: found.Policy.Message(),
		OrganizationBytes: found.Used, Quota: &organizationv1.Quota{BackupBytes: found.Quota},
	}
	if !found.Next.IsZero() {
		m.NextBackupTime = timestamppb.New(found.Next)
	}
	if found.Last != nil {
		m.LastBackup = backupMessage(*found.Last)
	}
	if found.Failure != nil {
		m.LastFailure = backupMessage(*found.Failure)
	}
	if found.Drill != nil {
		m.LastDrill = drillMessage(*found.Drill)
	}
	if found.Proven != nil {
		m.LastProven = drillMessage(*found.Proven)
	}
	if !found.VerifiedAt.IsZero() {
		m.VerifyTime = timestamppb.New(found.VerifiedAt)
	}
	return &backupv1.GetBackupStatusResponse{Status: m}, nil
}
