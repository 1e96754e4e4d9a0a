package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "chom.dev/proto/gen/chom/account/v1"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/fault"
)

type sessionService struct {
	accounts *account.Accounts
	cookies  cookies
}

func (s *sessionService) Login(ctx context.Context, r *accountv1.LoginRequest) (*accountv1.LoginResponse, error) {
	result, err := s.accounts.Login(ctx, r.GetEmail(), r.GetPassword(), clientOf(ctx), callerOf(ctx).Session)
	if err != nil {
		return nil, err
	}
	if result.SignedIn == nil {
		return &accountv1.LoginResponse{LoginToken: result.Token, Factors: factorsMessage(result.Factors)}, nil
	}
	return &accountv1.LoginResponse{AccountId: result.SignedIn.ID}, s.cookies.keep(ctx, *result.SignedIn)
}

func (s *sessionService) LoginWithCode(ctx context.Context, r *accountv1.LoginWithCodeRequest) (*accountv1.LoginWithCodeResponse, error) {
	opened, err := s.accounts.LoginWithCode(ctx, r.GetLoginToken(), r.GetCode(), clientOf(ctx), callerOf(ctx).Session)
	if err != nil {
		return nil, err
	}
	return &accountv1.LoginWithCodeResponse{AccountId: opened.ID}, s.cookies.keep(ctx, opened)
}

func (s *sessionService) BeginPasskeyLogin(ctx context.Context, r *accountv1.BeginPasskeyLoginRequest) (*accountv1.BeginPasskeyLoginResponse, error) {
	asked, err := s.accounts.BeginPasskeyLogin(ctx, r.GetLoginToken())
	if err != nil {
		return nil, err
	}
	return &accountv1.BeginPasskeyLoginResponse{Challenge: challengeMessage(asked)}, nil
}

func (s *sessionService) LoginWithPasskey(ctx context.Context, r *accountv1.LoginWithPasskeyRequest) (*accountv1.LoginWithPasskeyResponse, error) {
	opened, err := s.accounts.LoginWithPasskey(ctx, r.GetChallengeToken(), r.GetCredential(), clientOf(ctx), callerOf(ctx).Session)
	if err != nil {
		return nil, err
	}
	return &accountv1.LoginWithPasskeyResponse{AccountId: opened.ID}, s.cookies.keep(ctx, opened)
}

// errNotSignedIn is what a token hears that would sign out.
var errNotSignedIn = fault.Conflict("this call comes with an API token: it has no session to end")

func (s *sessionService) Logout(ctx context.Context, _ *accountv1.LogoutRequest) (*accountv1.LogoutResponse, error) {
	caller := callerOf(ctx)
	if caller.Session == "" {
		return nil, errNotSignedIn
	}
	if err := s.accounts.Logout(ctx, caller); err != nil {
		return nil, err
	}
	return &accountv1.LogoutResponse{}, s.cookies.forget(ctx)
}

func (s *sessionService) ListSessions(ctx context.Context, _ *accountv1.ListSessionsRequest) (*accountv1.ListSessionsResponse, error) {
	caller := callerOf(ctx)
	all, err := s.accounts.ListSessions(ctx, caller.ID)
	if err != nil {
		return nil, err
	}
	answer := &accountv1.ListSessionsResponse{}
	for _, session := range all {
		answer.Sessions = append(answer.Sessions, &accountv1.Session{
			Id: session.ID, UserAgent: session.UserAgent, Address: session.Address, CreateTime: timestamppb.New(session.CreatedAt),
			LastUsedTime: timestamppb.New(session.UsedAt), ExpireTime: timestamppb.New(session.ExpiresAt), Current: session.ID == caller.Session,
		})
	}
	return answer, nil
}

func (s *sessionService) RevokeSession(ctx context.Context, r *accountv1.RevokeSessionRequest) (*accountv1.RevokeSessionResponse, error) {
	return &accountv1.RevokeSessionResponse{}, s.accounts.RevokeSession(ctx, callerOf(ctx), r.GetSessionId())
}

func (s *sessionService) RevokeOtherSessions(ctx context.Context, _ *accountv1.RevokeOtherSessionsRequest) (*accountv1.RevokeOtherSessionsResponse, error) {
	ended, err := s.accounts.RevokeOtherSessions(ctx, callerOf(ctx))
	if err != nil {
		return nil, err
	}
	return &accountv1.RevokeOtherSessionsResponse{Ended: int32(ended)}, nil
}

func (s *sessionService) StepUp(ctx context.Context, r *accountv1.StepUpRequest) (*accountv1.StepUpResponse, error) {
	renewed, err := s.accounts.StepUp(ctx, callerOf(ctx), account.Proof{Password: r.GetPassword(), Code: r.GetCode()})
	if err != nil {
		return nil, err
	}
	return &accountv1.StepUpResponse{}, s.cookies.keep(ctx, renewed)
}

func (s *sessionService) BeginPasskeyStepUp(ctx context.Context, _ *accountv1.BeginPasskeyStepUpRequest) (*accountv1.BeginPasskeyStepUpResponse, error) {
	asked, err := s.accounts.BeginPasskeyStepUp(ctx, callerOf(ctx))
	if err != nil {
		return nil, err
	}
	return &accountv1.BeginPasskeyStepUpResponse{Challenge: challengeMessage(asked)}, nil
}

func (s *sessionService) StepUpWithPasskey(ctx context.Context, r *accountv1.StepUpWithPasskeyRequest) (*accountv1.StepUpWithPasskeyResponse, error) {
	renewed, err := s.accounts.StepUpWithPasskey(ctx, callerOf(ctx), r.GetChallengeToken(), r.GetCredential())
	if err != nil {
		return nil, err
	}
	return &accountv1.StepUpWithPasskeyResponse{}, s.cookies.keep(ctx, renewed)
}

func challengeMessage(asked account.Challenge) *accountv1.Challenge {
	return &accountv1.Challenge{Token: asked.Token, Options: asked.Options}
}
