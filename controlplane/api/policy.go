package api

import (
	"context"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/backup"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

type policyService struct{ backups *backup.Backups }

// policyIDs parses the two ids that a request about one policy has.
func policyIDs(r interface {
	GetOrganizationId() string
	GetPolicyId() string
}) (contract.OrganizationID, contract.PolicyID, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return organization, contract.PolicyID{}, err
	}
	id, err := contract.ParsePolicyID(r.GetPolicyId())
	if err != nil {
		return organization, id, invalid("policy_id", err)
	}
	return organization, id, nil
}

func (s *policyService) CreatePolicy(ctx context.Context, r *backupv1.CreatePolicyRequest) (*backupv1.CreatePolicyResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	name, tags, rank, interval, retention := r.GetName(), r.GetTags(), r.GetRank(), r.GetInterval().AsDuration(), backup.RetentionFrom(r.GetRetention())
	lies, err := policyTarget(r)
	if err != nil {
		return nil, err
	}
	paths := r.GetDrillPaths()
	made, err := s.backups.CreatePolicy(ctx, organization, backup.PolicyChange{
		Name: &name, Tags: &tags, Rank: &rank, Interval: &interval, Retention: &retention, Target: &lies, DrillPaths: &paths,
	})
	if err != nil {
		return nil, err
	}
	return &backupv1.CreatePolicyResponse{Policy: made.Message()}, nil
}

func (s *policyService) ListPolicies(ctx context.Context, r *backupv1.ListPoliciesRequest) (*backupv1.ListPoliciesResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, err := s.backups.ListPolicies(ctx, organization)
	if err != nil {
		return nil, err
	}
	answer := &backupv1.ListPoliciesResponse{}
	for _, one := range append(found, s.backups.Platform()) {
		answer.Policies = append(answer.Policies, one.Message())
	}
	return answer, nil
}

func (s *policyService) UpdatePolicy(ctx context.Context, r *backupv1.UpdatePolicyRequest) (*backupv1.UpdatePolicyResponse, error) {
	organization, id, err := policyIDs(r)
	if err != nil {
		return nil, err
	}
	change, err := policyChange(r)
	if err != nil {
		return nil, err
	}
	changed, err := s.backups.UpdatePolicy(ctx, organization, id, change)
	if err != nil {
		return nil, err
	}
	return &backupv1.UpdatePolicyResponse{Policy: changed.Message()}, nil
}

// policyChange is what a request names of a policy.
func policyChange(r *backupv1.UpdatePolicyRequest) (change backup.PolicyChange, err error) {
	name, tags, rank, interval, retention := r.GetName(), r.GetTags(), r.GetRank(), r.GetInterval().AsDuration(), backup.RetentionFrom(r.GetRetention())
	paths := r.GetDrillPaths()
	for _, path := range r.GetUpdateMask().GetPaths() {
		switch path {
		case "name":
			change.Name = &name
		case "tags":
			change.Tags = &tags
		case "rank":
			change.Rank = &rank
		case "interval":
			change.Interval = &interval
		case "retention":
			change.Retention = &retention
		case "target":
			lies, err := policyTarget(r)
			if err != nil {
				return change, err
			}
			change.Target = &lies
		case "drill_paths":
			change.DrillPaths = &paths
		default:
			return change, errPolicyMask
		}
	}
	if change == (backup.PolicyChange{}) {
		return change, errPolicyMask
	}
	return change, nil
}

// policyTarget is the target that a request names for a policy; the zero value is the platform's own store.
func policyTarget(r interface{ GetTargetId() string }) (id contract.TargetID, err error) {
	if r.GetTargetId() == "" {
		return id, nil
	}
	if id, err = contract.ParseTargetID(r.GetTargetId()); err != nil {
		return id, invalid("target_id", err)
	}
	return id, nil
}

var errPolicyMask = fault.Invalid("update_mask", "must name at least one of: name, tags, rank, interval, retention, target, drill_paths")

func (s *policyService) DeletePolicy(ctx context.Context, r *backupv1.DeletePolicyRequest) (*backupv1.DeletePolicyResponse, error) {
	organization, id, err := policyIDs(r)
	if err != nil {
		return nil, err
	}
	if err := s.backups.DeletePolicy(ctx, organization, id); err != nil {
		return nil, err
	}
	return &backupv1.DeletePolicyResponse{}, nil
}
