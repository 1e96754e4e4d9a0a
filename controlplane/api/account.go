package api

import (
	"context"

	accountv1 "chom.dev/proto/gen/chom/account/v1"

	"chom.dev/controlplane/account"
)

type accountService struct{ accounts *account.Accounts }

func (s *accountService) CreateFirstOperator(ctx context.Context, r *accountv1.CreateFirstOperatorRequest) (*accountv1.CreateFirstOperatorResponse, error) {
	made, token, err := s.accounts.CreateFirstOperator(ctx, r.GetSetupSecret(), r.GetEmail())
	if err != nil {
		return nil, err
	}
	return &accountv1.CreateFirstOperatorResponse{Token: token, AccountId: made.ID}, nil
}

func (s *accountService) GetCaller(ctx context.Context, _ *accountv1.GetCallerRequest) (*accountv1.GetCallerResponse, error) {
	caller := callerOf(ctx)
	return &accountv1.GetCallerResponse{AccountId: caller.ID, Email: caller.Email, Operator: caller.Operator}, nil
}
