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
	signFor = 20 * time.Second
	// proveFor is as long as the control plane allows: a DNS provider takes its time.
	proveFor = 150 * time.Second
)

// brokers are the two kinds of brokered calls. Of each there is one at a time: the
// control plane takes four calls at once, reports among them, and a site that is
// being made must not wait for somebody's DNS provider.
type brokers struct{ signing, proving broker }

type broker struct {
	slot   chan struct{} // holds a token while a call is under way
	within time.Duration // a call, from when it has its turn
}

func newBrokers() brokers {
	return brokers{signing: broker{make(chan struct{}, 1), signFor}, proving: broker{make(chan struct{}, 1), proveFor}}
}

// IssuePlatformCertificate asks for a preview name's certificate.
func (l *Link) IssuePlatformCertificate(ctx context.Context, req *linkv1.IssuePlatformCertificateRequest) (*linkv1.IssuePlatformCertificateResponse, error) {
	return brokered(ctx, l, l.brokers.signing, func(ctx context.Context, c linkv1connect.LinkServiceClient, epoch uint64) (*linkv1.IssuePlatformCertificateResponse, error) {
		req.Epoch = epoch
		return c.IssuePlatformCertificate(ctx, req)
	})
}

// FetchCertificate asks for an uploaded certificate and its key.
func (l *Link) FetchCertificate(ctx context.Context, req *linkv1.FetchCertificateRequest) (*linkv1.FetchCertificateResponse, error) {
	return brokered(ctx, l, l.brokers.signing, func(ctx context.Context, c linkv1connect.LinkServiceClient, epoch uint64) (*linkv1.FetchCertificateResponse, error) {
		req.Epoch = epoch
		return c.FetchCertificate(ctx, req)
	})
}

// PresentChallenge has the record of a DNS-01 challenge set.
func (l *Link) PresentChallenge(ctx context.Context, req *linkv1.PresentChallengeRequest) (*linkv1.PresentChallengeResponse, error) {
	return brokered(ctx, l, l.brokers.proving, func(ctx context.Context, c linkv1connect.LinkServiceClient, epoch uint64) (*linkv1.PresentChallengeResponse, error) {
		req.Epoch = epoch
		return c.PresentChallenge(ctx, req)
	})
}

// RemoveChallenge has it removed.
func (l *Link) RemoveChallenge(ctx context.Context, req *linkv1.RemoveChallengeRequest) (*linkv1.RemoveChallengeResponse, error) {
	return brokered(ctx, l, l.brokers.proving, func(ctx context.Context, c linkv1connect.LinkServiceClient, epoch uint64) (*linkv1.RemoveChallengeResponse, error) {
		req.Epoch = epoch
		return c.RemoveChallenge(ctx, req)
	})
}

// brokered makes a call over the session that there is now.
func brokered[T any](ctx context.Context, l *Link, b broker, call func(context.Context, linkv1connect.LinkServiceClient, uint64) (*T, error)) (*T, error) {
	select {
	case b.slot <- struct{}{}:
		defer func() { <-b.slot }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l.mu.Lock()
	s := l.current
	l.mu.Unlock()
	if s == nil {
		return nil, ErrDown
	}
	ctx, stop := context.WithTimeout(ctx, b.within)
	defer stop()
	return call(ctx, s.client, s.epoch)
}

// connected makes a session the one that brokered calls go over; nil for none.
func (l *Link) connected(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = s
}
