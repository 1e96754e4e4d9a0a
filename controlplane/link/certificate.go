package link

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

var errNotYet = connect.NewError(connect.CodeUnimplemented, errors.New("not yet"))

// IssuePlatformCertificate gives a site's preview name its certificate.
func (s *Server) IssuePlatformCertificate(context.Context, *linkv1.IssuePlatformCertificateRequest) (*linkv1.IssuePlatformCertificateResponse, error) {
	return nil, errNotYet
}

// FetchCertificate gives an uploaded certificate to the host of its site.
func (s *Server) FetchCertificate(context.Context, *linkv1.FetchCertificateRequest) (*linkv1.FetchCertificateResponse, error) {
	return nil, errNotYet
}

// PresentChallenge sets the record of a DNS-01 challenge.
func (s *Server) PresentChallenge(context.Context, *linkv1.PresentChallengeRequest) (*linkv1.PresentChallengeResponse, error) {
	return nil, errNotYet
}

// RemoveChallenge takes it away.
func (s *Server) RemoveChallenge(context.Context, *linkv1.RemoveChallengeRequest) (*linkv1.RemoveChallengeResponse, error) {
	return nil, errNotYet
}
