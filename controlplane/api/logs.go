package api

import (
	"context"

	"connectrpc.com/connect"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/sitelog"
)

func (s *siteService) WatchLogs(ctx context.Context, r *sitev1.WatchLogsRequest, stream *connect.ServerStream[sitev1.WatchLogsResponse]) error {
	organization, id, err := siteIDs(r)
	if err != nil {
		return err
	}
	found, err := s.sites.Get(ctx, organization, id)
	if err != nil {
		return err
	}
	wanted := sitelog.Wanted{Organization: organization, Site: id, Server: found.Server, Sources: r.GetSources(), Lines: int(r.GetLines())}
	return s.logs.Watch(ctx, wanted, func(lines []*sitev1.LogLine) error {
		return stream.Send(&sitev1.WatchLogsResponse{Lines: lines})
	})
}
