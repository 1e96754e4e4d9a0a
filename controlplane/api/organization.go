package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	organizationv1 "chom.dev/proto/gen/chom/organization/v1"

	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

type organizationService struct{ organizations *organization.Organizations }

func (s *organizationService) CreateOrganization(ctx context.Context, r *organizationv1.CreateOrganizationRequest) (*organizationv1.CreateOrganizationResponse, error) {
	made, err := s.organizations.Create(ctx, r.GetName(), r.GetOwnerEmail())
	if err != nil {
		return nil, err
	}
	return &organizationv1.CreateOrganizationResponse{Organization: organizationMessage(made)}, nil
}

func (s *organizationService) GetOrganization(ctx context.Context, r *organizationv1.GetOrganizationRequest) (*organizationv1.GetOrganizationResponse, error) {
	id, err := contract.ParseOrganizationID(r.GetOrganizationId())
	if err != nil {
		return nil, invalid("organization_id", err)
	}
	found, err := s.organizations.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return &organizationv1.GetOrganizationResponse{Organization: organizationMessage(found)}, nil
}

func (s *organizationService) ListOrganizations(ctx context.Context, r *organizationv1.ListOrganizationsRequest) (*organizationv1.ListOrganizationsResponse, error) {
	found, next, err := s.organizations.List(ctx, callerOf(ctx), r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &organizationv1.ListOrganizationsResponse{NextPageToken: next}
	for _, o := range found {
		answer.Organizations = append(answer.Organizations, organizationMessage(o))
	}
	return answer, nil
}

func organizationMessage(o organization.Organization) *organizationv1.Organization {
	return &organizationv1.Organization{
		Id:         o.ID.String(),
		Name:       o.Name,
		OwnerEmail: o.OwnerEmail,
		CreateTime: timestamppb.New(o.CreatedAt),
	}
}
