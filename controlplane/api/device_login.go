package api

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "chom.dev/proto/gen/chom/account/v1"

	"chom.dev/controlplane/account"
)

type deviceLoginService struct{ accounts *account.Accounts }

func (s *deviceLoginService) BeginDeviceLogin(ctx context.Context, r *accountv1.BeginDeviceLoginRequest) (*accountv1.BeginDeviceLoginResponse, error) {
	codes, err := s.accounts.BeginDeviceLogin(ctx, r.GetName(), scopeOf(r.GetScope()), clientOf(ctx))
	if err != nil {
		return nil, err
	}
	return &accountv1.BeginDeviceLoginResponse{
		DeviceCode: codes.Device, UserCode: codes.User, VerificationUrl: codes.URL, VerificationUrlComplete: codes.Complete,
		ExpireTime: timestamppb.New(codes.ExpiresAt), Interval: durationpb.New(codes.Interval),
	}, nil
}

func (s *deviceLoginService) PollDeviceLogin(ctx context.Context, r *accountv1.PollDeviceLoginRequest) (*accountv1.PollDeviceLoginResponse, error) {
	token, err := s.accounts.PollDeviceLogin(ctx, r.GetDeviceCode())
	if err != nil {
		return nil, err
	}
	return &accountv1.PollDeviceLoginResponse{Token: token}, nil
}

func (s *deviceLoginService) GetDeviceLogin(ctx context.Context, r *accountv1.GetDeviceLoginRequest) (*accountv1.GetDeviceLoginResponse, error) {
	found, err := s.accounts.GetDeviceLogin(ctx, callerOf(ctx), r.GetUserCode())
	if err != nil {
		return nil, err
	}
	return &accountv1.GetDeviceLoginResponse{
		Name: found.Name, Scope: scopeMessages[found.Scope], Address: found.From.Address, UserAgent: found.From.UserAgent, CreateTime: timestamppb.New(found.CreatedAt),
	}, nil
}

func (s *deviceLoginService) ApproveDeviceLogin(ctx context.Context, r *accountv1.ApproveDeviceLoginRequest) (*accountv1.ApproveDeviceLoginResponse, error) {
	return &accountv1.ApproveDeviceLoginResponse{}, s.accounts.ApproveDeviceLogin(ctx, callerOf(ctx), r.GetUserCode())
}

func (s *deviceLoginService) DenyDeviceLogin(ctx context.Context, r *accountv1.DenyDeviceLoginRequest) (*accountv1.DenyDeviceLoginResponse, error) {
	return &accountv1.DenyDeviceLoginResponse{}, s.accounts.DenyDeviceLogin(ctx, callerOf(ctx), r.GetUserCode())
}

// scopeOf is the reverse of scopeMessages.
func scopeOf(message accountv1.Scope) account.Scope {
	for scope, m := range scopeMessages {
		if m == message {
			return scope
		}
	}
	return account.NoScope
}
