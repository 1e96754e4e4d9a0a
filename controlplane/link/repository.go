package link

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// Repositories know the keys of sites' backups, and which backups there are.
type Repositories interface {
	// Key is that of a site's repository; the first call makes it.
	Key(ctx context.Context, organization contract.OrganizationID, site contract.SiteID) (string, error)
	// Reported takes in what came of a backup that the site's host began by itself.
	Reported(ctx context.Context, organization contract.OrganizationID, site contract.SiteID, r *linkv1.ReportBackupRequest) error
}

// FetchRepositoryKey gives the key of a site's backups to the host of the site, and to no other.
func (s *Server) FetchRepositoryKey(ctx context.Context, req *linkv1.FetchRepositoryKeyRequest) (*linkv1.FetchRepositoryKeyResponse, error) {
	held, err := s.held(ctx, req.GetSiteId())
	if err != nil {
		return nil, err
	}
	if s.repositories == nil {
		return nil, fault.NotFound("repository")
	}
	key, err := s.repositories.Key(ctx, held.Organization, held.ID)
	if err != nil {
		return nil, err
	}
	return &linkv1.FetchRepositoryKeyResponse{Key: key}, nil
}

// ReportBackup takes in what came of a backup that a host began by itself, from the host of the site and from no other. What is
// under way at the site ends, and FAILED_PRECONDITION would say that the epoch is over: the agent is told to come again.
func (s *Server) ReportBackup(ctx context.Context, req *linkv1.ReportBackupRequest) (*linkv1.ReportBackupResponse, error) {
	held, err := s.held(ctx, req.GetSiteId())
	if err != nil {
		return nil, err
	}
	if s.repositories == nil {
		return nil, fault.NotFound("repository")
	}
	err = s.repositories.Reported(ctx, held.Organization, held.ID, req)
	if f, ok := fault.Of(err); ok && f.Kind() == fault.KindConflict {
		return nil, connect.NewError(connect.CodeAborted, errors.New(f.Error()))
	}
	if err != nil {
		return nil, err
	}
	return &linkv1.ReportBackupResponse{}, nil
}
