package api

import (
	"context"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/backup/target"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

type targetService struct{ targets *target.Targets }

// targetIDs parses the two ids that a request about one target has.
func targetIDs(r interface {
	GetOrganizationId() string
	GetTargetId() string
}) (contract.OrganizationID, contract.TargetID, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return organization, contract.TargetID{}, err
	}
	id, err := contract.ParseTargetID(r.GetTargetId())
	if err != nil {
		return organization, id, invalid("target_id", err)
	}
	return organization, id, nil
}

// targetPlace is the place that a request names; the zero value where it names none.
func targetPlace(r interface {
	GetS3() *backupv1.S3Place
	GetSftp() *backupv1.SftpPlace
}) target.Place {
	switch {
	case r.GetS3() != nil:
		return target.Place{S3: target.S3From(r.GetS3())}
	case r.GetSftp() != nil:
		return target.Place{SFTP: target.SFTPFrom(r.GetSftp())}
	}
	return target.Place{}
}

func (s *targetService) CreateTarget(ctx context.Context, r *backupv1.CreateTargetRequest) (*backupv1.CreateTargetResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	made, err := s.targets.Create(ctx, organization, r.GetName(), targetPlace(r), target.CredentialsFrom(r.GetCredentials()))
	if err != nil {
		return nil, err
	}
	return &backupv1.CreateTargetResponse{Target: made.Message()}, nil
}

func (s *targetService) GetTarget(ctx context.Context, r *backupv1.GetTargetRequest) (*backupv1.GetTargetResponse, error) {
	organization, id, err := targetIDs(r)
	if err != nil {
		return nil, err
	}
	found, err := s.targets.Get(ctx, organization, id)
	if err != nil {
		return nil, err
	}
	return &backupv1.GetTargetResponse{Target: found.Message()}, nil
}

func (s *targetService) ListTargets(ctx context.Context, r *backupv1.ListTargetsRequest) (*backupv1.ListTargetsResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, err := s.targets.List(ctx, organization)
	if err != nil {
		return nil, err
	}
	answer := &backupv1.ListTargetsResponse{}
	for _, one := range found {
		answer.Targets = append(answer.Targets, one.Message())
	}
	return answer, nil
}

func (s *targetService) UpdateTarget(ctx context.Context, r *backupv1.UpdateTargetRequest) (*backupv1.UpdateTargetResponse, error) {
	organization, id, err := targetIDs(r)
	if err != nil {
		return nil, err
	}
	name, place, credentials := r.GetName(), targetPlace(r), target.CredentialsFrom(r.GetCredentials())
	var change target.Change
	for _, path := range r.GetUpdateMask().GetPaths() {
		switch path {
		case "name":
			change.Name = &name
		case "place":
			change.Place = &place
		case "credentials":
			change.Credentials = &credentials
		default:
			return nil, errTargetMask
		}
	}
	if change == (target.Change{}) {
		return nil, errTargetMask
	}
	changed, err := s.targets.Update(ctx, organization, id, change)
	if err != nil {
		return nil, err
	}
	return &backupv1.UpdateTargetResponse{Target: changed.Message()}, nil
}

var errTargetMask = fault.Invalid("update_mask", "must name at least one of: name, place, credentials")

func (s *targetService) DeleteTarget(ctx context.Context, r *backupv1.DeleteTargetRequest) (*backupv1.DeleteTargetResponse, error) {
	organization, id, err := targetIDs(r)
	if err != nil {
		return nil, err
	}
	if err := s.targets.Delete(ctx, organization, id); err != nil {
		return nil, err
	}
	return &backupv1.DeleteTargetResponse{}, nil
}

func (s *targetService) CheckTarget(ctx context.Context, r *backupv1.CheckTargetRequest) (*backupv1.CheckTargetResponse, error) {
	organization, id, err := targetIDs(r)
	if err != nil {
		return nil, err
	}
	found, err := s.targets.Check(ctx, organization, id)
	if err != nil {
		return nil, err
	}
	return &backupv1.CheckTargetResponse{Target: found.Message()}, nil
}
