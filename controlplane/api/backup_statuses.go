package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/backup"
	"chom.dev/proto/contract"
)

func (s *backupService) ListBackupStatuses(ctx context.Context, r *backupv1.ListBackupStatusesRequest) (*backupv1.ListBackupStatusesResponse, error) {
	organization, err := contract.ParseOrganizationID(r.GetOrganizationId())
	if err != nil {
		return nil, invalid("organization_id", err)
	}
	found, next, err := s.backups.Statuses(ctx, organization, r.GetPageSize(), r.GetPageToken(), r.GetAttentionOnly(), reachOf(ctx))
	if err != nil {
		return nil, err
	}
	answer := &backupv1.ListBackupStatusesResponse{NextPageToken: next}
	for _, b := range found {
		m := &backupv1.SiteStatus{
			SiteId: b.Site.String(), SiteName: b.Name, Standing: backupStandings[b.Standing], Proof: backupProofs[b.Proof], Problem: b.Problem,
		}
		if !b.Last.IsZero() {
			m.LastBackupTime = timestamppb.New(b.Last)
		}
		if !b.Proven.IsZero() {
			m.LastProvenTime = timestamppb.New(b.Proven)
		}
		answer.Statuses = append(answer.Statuses, m)
	}
	return answer, nil
}

var backupStandings = map[backup.Standing]backupv1.Standing{
	backup.StandingWell:     backupv1.Standing_STANDING_WELL,
	backup.StandingUnwanted: backupv1.Standing_STANDING_UNWANTED,
	backup.StandingFailing:  backupv1.Standing_STANDING_FAILING,
	backup.StandingOverdue:  backupv1.Standing_STANDING_OVERDUE,
	backup.StandingDamaged:  backupv1.Standing_STANDING_DAMAGED,
}

var backupProofs = map[backup.Proof]backupv1.Proof{
	backup.ProofNone:     backupv1.Proof_PROOF_NONE,
	backup.ProofProven:   backupv1.Proof_PROOF_PROVEN,
	backup.ProofUnproven: backupv1.Proof_PROOF_UNPROVEN,
	backup.ProofFailed:   backupv1.Proof_PROOF_FAILED,
}
