package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	tokenv1 "chom.dev/proto/gen/chom/token/v1"

	"chom.dev/controlplane/token"
	"chom.dev/proto/contract"
)

type tokenService struct{ tokens *token.Tokens }

func (s *tokenService) CreateToken(ctx context.Context, r *tokenv1.CreateTokenRequest) (*tokenv1.CreateTokenResponse, error) {
	wanted := token.Request{Name: r.GetName(), Scope: scopeOf(r.GetScope()), Sites: bounds(r.GetSiteIds()), Life: r.GetLifetime().AsDuration()}
	if r.GetOrganizationId() != "" {
		var err error
		if wanted.Organization, err = contract.ParseOrganizationID(r.GetOrganizationId()); err != nil {
			return nil, invalid("organization_id", err)
		}
	}
	made, secret, err := s.tokens.Create(ctx, callerOf(ctx), wanted)
	if err != nil {
		return nil, err
	}
	return &tokenv1.CreateTokenResponse{Token: tokenMessage(made), Secret: secret}, nil
}

func (s *tokenService) ListTokens(ctx context.Context, r *tokenv1.ListTokensRequest) (*tokenv1.ListTokensResponse, error) {
	found, next, err := s.tokens.Of(ctx, callerOf(ctx), r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	return &tokenv1.ListTokensResponse{Tokens: each(found, tokenMessage), NextPageToken: next}, nil
}

func (s *tokenService) RevokeToken(ctx context.Context, r *tokenv1.RevokeTokenRequest) (*tokenv1.RevokeTokenResponse, error) {
	if err := s.tokens.Revoke(ctx, callerOf(ctx), r.GetTokenId()); err != nil {
		return nil, err
	}
	return &tokenv1.RevokeTokenResponse{}, nil
}

func (s *tokenService) CreateOrganizationToken(ctx context.Context, r *tokenv1.CreateOrganizationTokenRequest) (*tokenv1.CreateOrganizationTokenResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	made, secret, err := s.tokens.CreateForOrganization(ctx, callerOf(ctx), token.Request{
		Name: r.GetName(), Organization: id, Role: roles[r.GetRole()], Scope: scopeOf(r.GetScope()),
		Sites: bounds(r.GetSiteIds()), Life: r.GetLifetime().AsDuration(),
	})
	if err != nil {
		return nil, err
	}
	return &tokenv1.CreateOrganizationTokenResponse{Token: tokenMessage(made), Secret: secret}, nil
}

func (s *tokenService) ListOrganizationTokens(ctx context.Context, r *tokenv1.ListOrganizationTokensRequest) (*tokenv1.ListOrganizationTokensResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.tokens.OfOrganization(ctx, id, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	return &tokenv1.ListOrganizationTokensResponse{Tokens: each(found, tokenMessage), NextPageToken: next}, nil
}

func (s *tokenService) RevokeOrganizationToken(ctx context.Context, r *tokenv1.RevokeOrganizationTokenRequest) (*tokenv1.RevokeOrganizationTokenResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	if err := s.tokens.RevokeOfOrganization(ctx, id, r.GetTokenId()); err != nil {
		return nil, err
	}
	return &tokenv1.RevokeOrganizationTokenResponse{}, nil
}

func (s *tokenService) StartImpersonation(ctx context.Context, r *tokenv1.StartImpersonationRequest) (*tokenv1.StartImpersonationResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	made, secret, err := s.tokens.Impersonate(ctx, callerOf(ctx), id, r.GetAccountId(), r.GetReason())
	if err != nil {
		return nil, err
	}
	return &tokenv1.StartImpersonationResponse{Token: tokenMessage(made), Secret: secret}, nil
}

func (s *tokenService) EndImpersonation(ctx context.Context, r *tokenv1.EndImpersonationRequest) (*tokenv1.EndImpersonationResponse, error) {
	if err := s.tokens.EndImpersonation(ctx, r.GetTokenId()); err != nil {
		return nil, err
	}
	return &tokenv1.EndImpersonationResponse{}, nil
}

func tokenMessage(t token.Token) *tokenv1.Token {
	m := &tokenv1.Token{
		Id:              t.ID,
		Kind:            tokenKinds[t.Kind],
		Name:            t.Name,
		Scope:           scopeMessages[t.Scope],
		OrganizationId:  t.Organization,
		Role:            roleMessages[t.Role],
		AllSites:        t.Sites == nil,
		SiteIds:         t.Sites,
		CreatorEmail:    t.CreatorEmail,
		CreateTime:      timestamppb.New(t.CreatedAt),
		ExpireTime:      timestamppb.New(t.ExpiresAt),
		LastUsedAddress: t.UsedFrom,
	}
	if !t.UsedAt.IsZero() {
		m.LastUsedTime = timestamppb.New(t.UsedAt)
	}
	return m
}

var tokenKinds = map[token.Kind]tokenv1.Kind{
	token.Personal:      tokenv1.Kind_KIND_PERSONAL,
	token.Organization:  tokenv1.Kind_KIND_ORGANIZATION,
	token.Impersonation: tokenv1.Kind_KIND_IMPERSONATION,
}
