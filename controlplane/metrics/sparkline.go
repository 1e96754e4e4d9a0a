package metrics

import (
	"context"
	"fmt"
	"strings"
	"time"

	"chom.dev/proto/contract"
)

// Figure is what a sparkline shows.
type Figure string

// Figures; what they are of servers and of sites is said in chom.metric.v1.
const (
	CPU      Figure = "cpu"
	Memory   Figure = "memory"
	Disk     Figure = "disk"
	Requests Figure = "requests"
	Errors   Figure = "errors"
)

// Limits of sparklines.
const (
	// MaxSparklines is how many lines one call gives.
	MaxSparklines = 200
	// MaxWindow is how far back they go.
	MaxWindow = 31 * 24 * time.Hour

	sparkPoints = 60
	// rateOver is the least range of a rate: reports come once a minute, and one may be lost.
	rateOver = 3 * time.Minute
)

// Expressions of figures, with the selector of the wanted ids ($) and the range to look over (%).
var (
	ofServers = map[Figure]string{
		// A part of the time that was counted: the rates of a server's first minutes are too small, but all alike.
		CPU:      `1 - sum by (server) (rate(node_cpu_seconds_total{mode="idle",site="",$}[%])) / sum by (server) (rate(node_cpu_seconds_total{site="",$}[%]))`,
		Memory:   `1 - sum by (server) (avg_over_time(node_memory_MemAvailable_bytes{site="",$}[%])) / sum by (server) (avg_over_time(node_memory_MemTotal_bytes{site="",$}[%]))`,
		Disk:     `1 - min by (server) (avg_over_time(node_filesystem_avail_bytes{mountpoint="/",site="",$}[%])) / min by (server) (avg_over_time(node_filesystem_size_bytes{mountpoint="/",site="",$}[%]))`,
		Requests: `sum by (server) (rate(chom_site_requests_total{$}[%]))`,
		Errors:   `sum by (server) (rate(chom_site_requests_total{status="5xx",$}[%]))`,
	}
	ofSites = map[Figure]string{
		CPU:    `sum by (site) (rate(chom_site_cpu_seconds_total{$}[%]))`,
		Memory: `sum by (site) (avg_over_time(chom_site_memory_bytes{$}[%]))`,
		// Not every site has a database.
		Disk: `sum by (site) (avg_over_time(chom_site_disk_bytes{$}[%])) + sum by (site) (avg_over_time(chom_site_database_bytes{$}[%]))` +
			` or sum by (site) (avg_over_time(chom_site_disk_bytes{$}[%]))`,
		Requests: `sum by (site) (rate(chom_site_requests_total{$}[%]))`,
		Errors:   `sum by (site) (rate(chom_site_requests_total{status="5xx",$}[%]))`,
	}
)

// ServerSparklines gives the course of a figure of servers, by id, over a window that ends now. Servers that have none are left out.
func (m *Metrics) ServerSparklines(ctx context.Context, scope Scope, servers []contract.ServerID, figure Figure, window time.Duration, now time.Time) (map[string][]Point, error) {
	return sparklines(ctx, m, scope, serverLabel, ofServers[figure], servers, window, now)
}

// SiteSparklines does the same for sites.
func (m *Metrics) SiteSparklines(ctx context.Context, scope Scope, sites []contract.SiteID, figure Figure, window time.Duration, now time.Time) (map[string][]Point, error) {
	return sparklines(ctx, m, scope, siteLabel, ofSites[figure], sites, window, now)
}

// sparklines asks one question about all of them.
func sparklines[ID fmt.Stringer](ctx context.Context, m *Metrics, scope Scope, label, expression string, wanted []ID, window time.Duration, now time.Time) (map[string][]Point, error) {
	if len(wanted) == 0 {
		return map[string][]Point{}, nil
	}
	step := max(MinStep, window/sparkPoints)
	ids := make([]string, len(wanted)) // UUIDs: nothing in them needs quotes
	for i, id := range wanted {
		ids[i] = id.String()
	}
	text := strings.NewReplacer(
		"$", label+`=~"`+strings.Join(ids, "|")+`"`,
		"%", fmt.Sprintf("%ds", int64(max(step, rateOver)/time.Second)),
	).Replace(expression)
	a, err := m.overRange(ctx, scope, text, now.Add(-window+step), now, step)
	if err != nil {
		return nil, err
	}
	lines := map[string][]Point{}
	for _, s := range a.Series {
		lines[s.Labels[label]] = s.Points
	}
	return lines, nil
}
