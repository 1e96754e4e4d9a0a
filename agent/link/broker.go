package link

import (
	"context"
	"errors"
	"time"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
)

// What certificates need of the control plane: it signs preview names, hands out
// what organizations uploaded, and sets records in their DNS. All of it fails
// while the link is down, and is asked for again.

// ErrDown says that the link is down.
var ErrDown = errors.New("the control plane cannot be reached now")

const (
	// brokered calls leave room for reports: the control plane takes four at once.
	brokeredAtOnce = 2
	// brokerFor is longer than other calls: a DNS provider takes its time.
	brokerFor = 45 * time.Second
)

// IssuePlatformCertificate asks for a preview name's certificate.
func (l *Link) IssuePlatformCertificate(ctx context.Context, req *linkv1.IssuePlatformCertificateRequest) (*linkv1.IssuePlatformCertificateResponse, error) {
	return brokered(ctx, l, func(ctx context.Context, c linkv1connect.LinkServiceClient, epoch uint64) (*linkv1.IssuePlatformCertificateResponse, error) {
		req.Epoch = epoch
		return c.IssuePlatformCertificate(ctx, req)
	})
}

// FetchCertificate asks for an uploaded certificate and its key.
func (l *Link) FetchCertificate(ctx context.Context, req *linkv1.FetchCertificateRequest) (*linkv1.FetchCertificateResponse, error) {
	return brokered(ctx, l, func(ctx context.Context, c linkv1connect.LinkServiceClient, epoch uint64) (*linkv1.FetchCertificateResponse, error) {
		req.Epoch = epoch
		return c.FetchCertificate(ctx, req)
	})
}

// PresentChallenge has the record of a DNS-01 challenge set.
func (l *Link) PresentChallenge(ctx context.Context, req *linkv1.PresentChallengeRequest) (*linkv1.PresentChallengeResponse, error) {
	return brokered(ctx, l, func(ctx context.Context, c linkv1connect.LinkServiceClient, epoch uint64) (*linkv1.PresentChallengeResponse, error) {
		req.Epoch = epoch
		return c.PresentChallenge(ctx, req)
	})
}

// RemoveChallenge has it removed.
func (l *Link) RemoveChallenge(ctx context.Context, req *linkv1.RemoveChallengeRequest) (*linkv1.RemoveChallengeResponse, error) {
	return brokered(ctx, l, func(ctx context.Context, c linkv1connect.LinkServiceClient, epoch uint64) (*linkv1.RemoveChallengeResponse, error) {
		req.Epoch = epoch
		return c.RemoveChallenge(ctx, req)
	})
}

// brokered makes a call over the session that there is now.
func brokered[T any](ctx context.Context, l *Link, call func(context.Context, linkv1connect.LinkServiceClient, uint64) (*T, error)) (*T, error) {
	select {
	case l.brokering <- struct{}{}:
		defer func() { <-l.brokering }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l.mu.Lock()
	s := l.current
	l.mu.Unlock()
	if s == nil {
		return nil, ErrDown
	}
	ctx, stop := context.WithTimeout(ctx, brokerFor)
	defer stop()
	return call(ctx, s.client, s.epoch)
}

// connected makes a session the one that brokered calls go over; nil for none.
func (l *Link) connected(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = s
}
