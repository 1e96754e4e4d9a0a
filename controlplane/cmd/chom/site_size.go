package main

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	metricv1 "chom.dev/proto/gen/chom/metric/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// siteSize is what a site takes of its host's disk, by series.
type siteSize map[string]float64

// siteSize asks for what was last measured, which may be a while ago where the server is away. Where no metrics are kept, or
// none are to be seen, there is none.
func (c *client) siteSize(ctx context.Context, s *sitev1.Site) (siteSize, error) {
	got, err := c.Metrics.Query(ctx, &metricv1.QueryRequest{OrganizationId: s.GetOrganizationId(), Query: fmt.Sprintf(
		`last_over_time({__name__=~"chom_site_(disk_bytes|files|database_bytes|size_timestamp_seconds)",site=%q,server=%q}[1d])`, s.GetId(), s.GetServerId())})
	switch connect.CodeOf(err) {
	case connect.CodeFailedPrecondition, connect.CodeUnavailable, connect.CodePermissionDenied:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	size := siteSize{}
	for _, sample := range got.GetVector().GetSamples() {
		if v := sample.GetPoint().GetValue(); v >= 0 && v < 1<<63 { // a host may say anything
			size[sample.GetLabels()["__name__"]] = v
		}
	}
	return size, nil
}

// text is "files 91.4 MiB in 3600, database 6.1 MiB, at 2026-11-27 05:10:00"; empty where nothing was measured.
func (s siteSize) text() string {
	measured := s["chom_site_size_timestamp_seconds"]
	if measured == 0 {
		return ""
	}
	text := fmt.Sprintf("files %s in %.0f", amount(s["chom_site_disk_bytes"]), s["chom_site_files"])
	if database, there := s["chom_site_database_bytes"]; there {
		text += ", database " + amount(database)
	}
	return text + ", at " + at(timestamppb.New(time.Unix(int64(measured), 0)))
}
