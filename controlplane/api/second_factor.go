package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "chom.dev/proto/gen/chom/account/v1"

	"chom.dev/controlplane/account"
)

type secondFactorService struct {
	accounts *account.Accounts
	cookies  cookies
}

func (s *secondFactorService) BeginTotp(ctx context.Context, _ *accountv1.BeginTotpRequest) (*accountv1.BeginTotpResponse, error) {
	setup, err := s.accounts.BeginTOTP(ctx, callerOf(ctx))
	if err != nil {
		return nil, err
	}
	return &accountv1.BeginTotpResponse{Seed: setup.Seed, Url: setup.URL, Qr: setup.QR}, nil
}

func (s *secondFactorService) ConfirmTotp(ctx context.Context, r *accountv1.ConfirmTotpRequest) (*accountv1.ConfirmTotpResponse, error) {
	renewed, codes, err := s.accounts.ConfirmTOTP(ctx, callerOf(ctx), r.GetCode())
	if err != nil {
		return nil, err
	}
	return &accountv1.ConfirmTotpResponse{RecoveryCodes: codes}, s.cookies.keep(ctx, renewed)
}

func (s *secondFactorService) DeleteTotp(ctx context.Context, _ *accountv1.DeleteTotpRequest) (*accountv1.DeleteTotpResponse, error) {
	renewed, err := s.accounts.RemoveTOTP(ctx, callerOf(ctx))
	if err != nil {
		return nil, err
	}
	return &accountv1.DeleteTotpResponse{}, s.cookies.keep(ctx, renewed)
}

func (s *secondFactorService) CreateRecoveryCodes(ctx context.Context, _ *accountv1.CreateRecoveryCodesRequest) (*accountv1.CreateRecoveryCodesResponse, error) {
	codes, err := s.accounts.CreateRecoveryCodes(ctx, callerOf(ctx))
	if err != nil {
		return nil, err
	}
	return &accountv1.CreateRecoveryCodesResponse{RecoveryCodes: codes}, nil
}

func (s *secondFactorService) BeginPasskey(ctx context.Context, _ *accountv1.BeginPasskeyRequest) (*accountv1.BeginPasskeyResponse, error) {
	asked, err := s.accounts.BeginPasskey(ctx, callerOf(ctx))
	if err != nil {
		return nil, err
	}
	return &accountv1.BeginPasskeyResponse{Challenge: challengeMessage(asked)}, nil
}

func (s *secondFactorService) CreatePasskey(ctx context.Context, r *accountv1.CreatePasskeyRequest) (*accountv1.CreatePasskeyResponse, error) {
	made, renewed, codes, err := s.accounts.CreatePasskey(ctx, callerOf(ctx), r.GetChallengeToken(), r.GetName(), r.GetCredential())
	if err != nil {
		return nil, err
	}
	return &accountv1.CreatePasskeyResponse{Passkey: passkeyMessage(made), RecoveryCodes: codes}, s.cookies.keep(ctx, renewed)
}

func (s *secondFactorService) ListPasskeys(ctx context.Context, _ *accountv1.ListPasskeysRequest) (*accountv1.ListPasskeysResponse, error) {
	all, err := s.accounts.ListPasskeys(ctx, callerOf(ctx).ID)
	if err != nil {
		return nil, err
	}
	answer := &accountv1.ListPasskeysResponse{}
	for _, passkey := range all {
		answer.Passkeys = append(answer.Passkeys, passkeyMessage(passkey))
	}
	return answer, nil
}

func (s *secondFactorService) UpdatePasskey(ctx context.Context, r *accountv1.UpdatePasskeyRequest) (*accountv1.UpdatePasskeyResponse, error) {
	renamed, err := s.accounts.RenamePasskey(ctx, callerOf(ctx), r.GetPasskeyId(), r.GetName())
	if err != nil {
		return nil, err
	}
	return &accountv1.UpdatePasskeyResponse{Passkey: passkeyMessage(renamed)}, nil
}

func (s *secondFactorService) DeletePasskey(ctx context.Context, r *accountv1.DeletePasskeyRequest) (*accountv1.DeletePasskeyResponse, error) {
	renewed, err := s.accounts.DeletePasskey(ctx, callerOf(ctx), r.GetPasskeyId())
	if err != nil {
		return nil, err
	}
	return &accountv1.DeletePasskeyResponse{}, s.cookies.keep(ctx, renewed)
}

func passkeyMessage(p account.Passkey) *accountv1.Passkey {
	return &accountv1.Passkey{Id: p.ID, Name: p.Name, CreateTime: timestamppb.New(p.CreatedAt), LastUsedTime: timeMessage(p.UsedAt)}
}
