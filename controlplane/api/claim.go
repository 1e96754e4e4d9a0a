package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	domainv1 "chom.dev/proto/gen/chom/domain/v1"

	"chom.dev/controlplane/domain"
)

type claimService struct{ domains *domain.Domains }

func (s *claimService) CreateClaim(ctx context.Context, r *domainv1.CreateClaimRequest) (*domainv1.CreateClaimResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	made, err := s.domains.Create(ctx, organization, r.GetName())
	if err != nil {
		return nil, err
	}
	return &domainv1.CreateClaimResponse{Claim: claimMessage(made)}, nil
}

func (s *claimService) AttestClaim(ctx context.Context, r *domainv1.AttestClaimRequest) (*domainv1.AttestClaimResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	made, err := s.domains.Attest(ctx, organization, r.GetName())
	if err != nil {
		return nil, err
	}
	return &domainv1.AttestClaimResponse{Claim: claimMessage(made)}, nil
}

func (s *claimService) GetClaim(ctx context.Context, r *domainv1.GetClaimRequest) (*domainv1.GetClaimResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, err := s.domains.Get(ctx, organization, r.GetClaimId())
	if err != nil {
		return nil, err
	}
	return &domainv1.GetClaimResponse{Claim: claimMessage(found)}, nil
}

func (s *claimService) ListClaims(ctx context.Context, r *domainv1.ListClaimsRequest) (*domainv1.ListClaimsResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.domains.List(ctx, organization, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &domainv1.ListClaimsResponse{NextPageToken: next}
	for _, one := range found {
		answer.Claims = append(answer.Claims, claimMessage(one))
	}
	return answer, nil
}

func (s *claimService) CheckClaim(ctx context.Context, r *domainv1.CheckClaimRequest) (*domainv1.CheckClaimResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, err := s.domains.Check(ctx, organization, r.GetClaimId())
	if err != nil {
		return nil, err
	}
	return &domainv1.CheckClaimResponse{Claim: claimMessage(found)}, nil
}

func (s *claimService) ReleaseClaim(ctx context.Context, r *domainv1.ReleaseClaimRequest) (*domainv1.ReleaseClaimResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	released, err := s.domains.Release(ctx, organization, r.GetClaimId())
	if err != nil {
		return nil, err
	}
	return &domainv1.ReleaseClaimResponse{Claim: claimMessage(released)}, nil
}

var (
	claimStates = map[domain.State]domainv1.ClaimState{
		domain.Pending:  domainv1.ClaimState_CLAIM_STATE_PENDING,
		domain.Verified: domainv1.ClaimState_CLAIM_STATE_VERIFIED,
		domain.Released: domainv1.ClaimState_CLAIM_STATE_RELEASED,
	}
	proofs = map[domain.Proof]domainv1.Proof{domain.DNS: domainv1.Proof_PROOF_DNS, domain.Operator: domainv1.Proof_PROOF_OPERATOR}
)

func claimMessage(c domain.Claim) *domainv1.Claim {
	m := &domainv1.Claim{
		Id:             c.ID,
		OrganizationId: c.Organization.String(),
		Name:           c.Name.String(),
		State:          claimStates[c.State],
		Proof:          proofs[c.Proof],
		Record:         &domainv1.DnsRecord{Name: c.Record.Name, Type: c.Record.Type, Value: c.Record.Value},
		Problem:        c.Problem,
		CreateTime:     timestamppb.New(c.CreatedAt),
	}
	if !c.LookedAt.IsZero() {
		m.CheckTime = timestamppb.New(c.LookedAt)
	}
	if !c.NextLookAt.IsZero() {
		m.NextCheckTime = timestamppb.New(c.NextLookAt)
	}
	if !c.VerifiedAt.IsZero() {
		m.VerifyTime = timestamppb.New(c.VerifiedAt)
	}
	if !c.HeldUntil.IsZero() {
		m.HoldTime = timestamppb.New(c.HeldUntil)
	}
	return m
}
