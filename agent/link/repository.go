package link

import (
	"context"
	"net/http"
	"strconv"

	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
)

// FetchRepositoryKey asks for the key of a site's backups.
func (l *Link) FetchRepositoryKey(ctx context.Context, req *linkv1.FetchRepositoryKeyRequest) (*linkv1.FetchRepositoryKeyResponse, error) {
	return brokered(ctx, l, l.brokers.signing, func(ctx context.Context, c linkv1connect.LinkServiceClient, epoch uint64) (*linkv1.FetchRepositoryKeyResponse, error) {
		req.Epoch = epoch
		return c.FetchRepositoryKey(ctx, req)
	})
}

// ReportBackup tells what came of a backup that the host made by itself.
func (l *Link) ReportBackup(ctx context.Context, req *linkv1.ReportBackupRequest) (*linkv1.ReportBackupResponse, error) {
	return brokered(ctx, l, l.brokers.signing, func(ctx context.Context, c linkv1connect.LinkServiceClient, epoch uint64) (*linkv1.ReportBackupResponse, error) {
		req.Epoch = epoch
		return c.ReportBackup(ctx, req)
	})
}

// Repository sends a request for a site's backups to the control plane: the
// request's URL has a path alone. It goes over a connection of its own, since what
// it carries is large and heartbeats must not wait behind it, and fails with
// ErrDown while there is no session. One that outlives its session is cut.
func (l *Link) Repository(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	s := l.current
	l.mu.Unlock()
	if s == nil || s.bulk == nil {
		return nil, ErrDown
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = "https", l.cfg.Address, ""
	r.RequestURI = "" // it may have come in from somewhere
	r.Header.Set(contract.EpochHeader, strconv.FormatUint(s.epoch, 10))
	return s.bulk.transport.RoundTrip(r)
}
