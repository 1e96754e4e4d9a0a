package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "chom.dev/proto/gen/chom/account/v1"

	"chom.dev/controlplane/account"
)

type accountService struct {
	accounts *account.Accounts
	cookies  cookies
}

func (s *accountService) CreateFirstOperator(ctx context.Context, r *accountv1.CreateFirstOperatorRequest) (*accountv1.CreateFirstOperatorResponse, error) {
	made, token, err := s.accounts.CreateFirstOperator(ctx, r.GetSetupSecret(), r.GetEmail(), r.GetPassword())
	if err != nil {
		return nil, err
	}
	return &accountv1.CreateFirstOperatorResponse{Token: token, AccountId: made.ID}, nil
}

func (s *accountService) GetCaller(ctx context.Context, _ *accountv1.GetCallerRequest) (*accountv1.GetCallerResponse, error) {
	caller := callerOf(ctx)
	factors, err := s.accounts.FactorsOf(ctx, caller.ID)
	if err != nil {
		return nil, err
	}
	return &accountv1.GetCallerResponse{
		AccountId: caller.ID, Email: caller.Email, Operator: caller.Operator, Factors: factorsMessage(factors),
		SessionId: caller.Session, TokenId: caller.Token, Scope: scopeMessages[caller.Scope], SecondFactor: caller.SecondFactor,
		FreshUntilTime: timeMessage(caller.FreshUntil), ImpersonatorId: caller.Impersonator,
	}, nil
}

func (s *accountService) SignUp(ctx context.Context, r *accountv1.SignUpRequest) (*accountv1.SignUpResponse, error) {
	return &accountv1.SignUpResponse{}, s.accounts.SignUp(ctx, r.GetEmail(), r.GetPassword())
}

func (s *accountService) VerifyEmail(ctx context.Context, r *accountv1.VerifyEmailRequest) (*accountv1.VerifyEmailResponse, error) {
	opened, err := s.accounts.VerifyEmail(ctx, r.GetToken(), r.GetPassword(), clientOf(ctx), callerOf(ctx).Session)
	if err != nil {
		return nil, err
	}
	return &accountv1.VerifyEmailResponse{AccountId: opened.ID}, s.cookies.keep(ctx, opened)
}

func (s *accountService) RequestPasswordReset(ctx context.Context, r *accountv1.RequestPasswordResetRequest) (*accountv1.RequestPasswordResetResponse, error) {
	return &accountv1.RequestPasswordResetResponse{}, s.accounts.RequestPasswordReset(ctx, r.GetEmail())
}

func (s *accountService) ResetPassword(ctx context.Context, r *accountv1.ResetPasswordRequest) (*accountv1.ResetPasswordResponse, error) {
	return &accountv1.ResetPasswordResponse{}, s.accounts.ResetPassword(ctx, r.GetToken(), r.GetPassword(), clientOf(ctx))
}

func (s *accountService) ChangePassword(ctx context.Context, r *accountv1.ChangePasswordRequest) (*accountv1.ChangePasswordResponse, error) {
	renewed, err := s.accounts.ChangePassword(ctx, callerOf(ctx), r.GetPassword())
	if err != nil {
		return nil, err
	}
	return &accountv1.ChangePasswordResponse{}, s.cookies.keep(ctx, renewed)
}

func (s *accountService) RequestEmailChange(ctx context.Context, r *accountv1.RequestEmailChangeRequest) (*accountv1.RequestEmailChangeResponse, error) {
	return &accountv1.RequestEmailChangeResponse{}, s.accounts.RequestEmailChange(ctx, callerOf(ctx), r.GetEmail())
}

func (s *accountService) ConfirmEmailChange(ctx context.Context, r *accountv1.ConfirmEmailChangeRequest) (*accountv1.ConfirmEmailChangeResponse, error) {
	return &accountv1.ConfirmEmailChangeResponse{}, s.accounts.ConfirmEmailChange(ctx, r.GetToken(), clientOf(ctx))
}

func factorsMessage(f account.Factors) *accountv1.Factors {
	return &accountv1.Factors{Totp: f.TOTP, Passkeys: int32(f.Passkeys), RecoveryCodes: int32(f.RecoveryCodes)}
}

var scopeMessages = map[account.Scope]accountv1.Scope{
	account.Read: accountv1.Scope_SCOPE_READ, account.Deploy: accountv1.Scope_SCOPE_DEPLOY, account.Manage: accountv1.Scope_SCOPE_MANAGE,
}

// timeMessage is unset for the zero time.
func timeMessage(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
