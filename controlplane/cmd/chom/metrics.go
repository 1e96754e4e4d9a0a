package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	metricv1 "chom.dev/proto/gen/chom/metric/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (p *program) metricsCommand() *cobra.Command {
	cmd := group("metrics", "What servers and sites measure: CPU, memory, requests, errors", []string{"metric"},
		p.metricsQuery(), p.metricsServers(), p.metricsSites())
	cmd.Long = `Servers report once a minute what they measure of themselves (in the names of node_exporter) and of each site:

  chom_site_requests_total{status}    requests, by class of status (2xx, 3xx, 4xx, 5xx)
  chom_site_sent_bytes_total          bytes of answers
  chom_site_request_seconds_bucket    how long requests took, with _sum and _count
  chom_site_cpu_seconds_total         CPU time
  chom_site_memory_bytes              memory
  chom_site_disk_bytes                what its files take of the disk
  chom_site_files                     how many files, directories and links there are
  chom_site_database_bytes            what its database takes of the disk
  chom_site_size_timestamp_seconds    when these three were measured, about once an hour

Labels are organization, server and site: their ids.`
	return cmd
}

func (p *program) metricsQuery() *cobra.Command {
	var span, step time.Duration
	var servers bool
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "query EXPR",
		Short: "Evaluate an expression in PromQL, now or over the time since",
		Long: `Query evaluates EXPR now, or with --since at each --step of that time. Whatever it says, it sees the series of one organization
alone; with --servers those of all servers instead, which is for operators.`,
		Example: `  chom metrics query 'sum by (site) (rate(chom_site_requests_total[5m]))'
  chom metrics query 'sum(rate(chom_site_requests_total{status="5xx"}[5m]))' --since 24h --step 10m
  chom metrics query node_load1 --servers --since 1h`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization := platform
			if !servers {
				var err error
				if organization, err = p.organizationID(ctx, c); err != nil {
					return err
				}
			}
			if span == 0 {
				got, err := c.Metrics.Query(ctx, &metricv1.QueryRequest{OrganizationId: organization, Query: args[0]})
				if err != nil {
					return err
				}
				return p.print(got, nil, func() error { return p.printAnswer(got) })
			}
			now := time.Now()
			got, err := c.Metrics.QueryRange(ctx, &metricv1.QueryRangeRequest{
				OrganizationId: organization, Query: args[0], StartTime: timestamppb.New(now.Add(-span)), EndTime: timestamppb.New(now), Step: durationpb.New(step),
			})
			if err != nil {
				return err
			}
			return p.print(got, nil, func() error { return p.printMatrix(got.GetMatrix()) })
		}),
	})
	cmd.Flags().DurationVar(&span, "since", 0, "how far back to go, for example 1h (default only now)")
	cmd.Flags().DurationVar(&step, "step", time.Minute, "time between two points, with --since")
	cmd.Flags().BoolVar(&servers, "servers", false, "ask about all servers instead of an organization")
	return cmd
}

func (p *program) printAnswer(a *metricv1.QueryResponse) error {
	switch r := a.GetResult().(type) {
	case *metricv1.QueryResponse_Scalar:
		_, err := fmt.Fprintln(p.out, decimal(r.Scalar.GetPoint().GetValue()))
		return err
	case *metricv1.QueryResponse_Text:
		_, err := fmt.Fprintln(p.out, plain(r.Text))
		return err
	case *metricv1.QueryResponse_Vector:
		var rows [][]string
		for _, s := range r.Vector.GetSamples() {
			rows = append(rows, []string{seriesText(s.GetLabels()), decimal(s.GetPoint().GetValue())})
		}
		return printTable(p.out, []string{"SERIES", "VALUE"}, rows)
	default:
		return p.printMatrix(a.GetMatrix())
	}
}

func (p *program) printMatrix(m *metricv1.Matrix) error {
	var rows [][]string
	for _, s := range m.GetSeries() {
		low, high := bounds(s.GetPoints())
		rows = append(rows, []string{seriesText(s.GetLabels()), course(s.GetPoints()), decimal(low), decimal(high), last(s.GetPoints())})
	}
	return printTable(p.out, []string{"SERIES", "COURSE", "LOWEST", "HIGHEST", "LAST"}, rows)
}

// seriesText is a series as PromQL writes it.
func seriesText(labels map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if name != "__name__" && name != "organization" { // which was named
			parts = append(parts, name+"="+strconv.Quote(labels[name]))
		}
	}
	return labels["__name__"] + "{" + strings.Join(parts, ",") + "}"
}

func decimal(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

func last(points []*metricv1.Point) string {
	if len(points) == 0 {
		return ""
	}
	return decimal(points[len(points)-1].GetValue())
}

// bounds are the lowest and the highest of the values that are numbers; NaN where there is none.
func bounds(points []*metricv1.Point) (low, high float64) {
	low, high = math.NaN(), math.NaN()
	for _, point := range points {
		v := point.GetValue()
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		if math.IsNaN(low) || v < low {
			low = v
		}
		if math.IsNaN(high) || v > high {
			high = v
		}
	}
	return low, high
}

// courseWidth is how many characters a course takes.
const courseWidth = 30

// course draws points as bars from their lowest to their highest.
func course(points []*metricv1.Point) string {
	bars := []rune("▁▂▃▄▅▆▇█")
	low, high := bounds(points)
	var b strings.Builder
	for i := range min(courseWidth, len(points)) {
		v := points[i*len(points)/min(courseWidth, len(points))].GetValue()
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0):
			b.WriteRune('?')
		case high == low:
			b.WriteRune(bars[0])
		default:
			b.WriteRune(bars[int((v-low)/(high-low)*float64(len(bars)-1)+0.5)])
		}
	}
	return b.String()
}

func (p *program) metricsServers() *cobra.Command {
	return &cobra.Command{
		Use:   "servers",
		Short: "List servers with their load: CPU and memory now and in the last hour, and how full their disk is",
		Args:  exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			all, err := c.allServers(ctx)
			if err != nil {
				return err
			}
			var ids, names []string
			for _, s := range all {
				ids, names = append(ids, s.GetId()), append(names, s.GetName())
			}
			return p.printLoad(ctx, c, names, ids, func(some []string, f metricv1.Figure) *metricv1.SparklinesRequest {
				return &metricv1.SparklinesRequest{OrganizationId: platform, ServerIds: some, Figure: f}
			}, []figure{
				{"CPU", metricv1.Figure_FIGURE_CPU, percent}, {"MEMORY", metricv1.Figure_FIGURE_MEMORY, percent}, {"DISK", metricv1.Figure_FIGURE_DISK, percent},
			})
		}),
	}
}

func (p *program) metricsSites() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "sites",
		Short: "List sites with their load: requests, errors, CPU, memory and disk now and in the last hour",
		Args:  exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := c.allSites(ctx, organization, false)
			if err != nil {
				return err
			}
			var ids, names []string
			for _, s := range all {
				ids, names = append(ids, s.GetId()), append(names, s.GetName())
			}
			return p.printLoad(ctx, c, names, ids, func(some []string, f metricv1.Figure) *metricv1.SparklinesRequest {
				return &metricv1.SparklinesRequest{OrganizationId: organization, SiteIds: some, Figure: f}
			}, []figure{
				{"REQUESTS/S", metricv1.Figure_FIGURE_REQUESTS, decimal}, {"ERRORS/S", metricv1.Figure_FIGURE_ERRORS, decimal}, {"CORES", metricv1.Figure_FIGURE_CPU, decimal},
				{"MEMORY", metricv1.Figure_FIGURE_MEMORY, amount}, {"DISK", metricv1.Figure_FIGURE_DISK, amount},
			})
		}),
	})
}

// figure is a column of a list of loads.
type figure struct {
	title string
	asked metricv1.Figure
	text  func(float64) string
}

func percent(v float64) string { return strconv.FormatFloat(100*v, 'f', 0, 64) + " %" }

func amount(v float64) string { return bytesText(uint64(max(v, 0))) }

// mostAtOnce is how many lines one call gives.
const mostAtOnce = 200

// printLoad asks for the figures of all of them and prints a row for each; the course is that of the first figure.
func (p *program) printLoad(ctx context.Context, c *client, names, ids []string, ask func([]string, metricv1.Figure) *metricv1.SparklinesRequest, figures []figure) error {
	answers := make([]*metricv1.SparklinesResponse, len(figures))
	rows := make([][]string, len(ids))
	for i := range ids {
		rows[i] = append([]string{names[i]}, make([]string, len(figures)+1)...)
	}
	heading := []string{"NAME"}
	for column, f := range figures {
		heading = append(heading, f.title)
		answers[column] = &metricv1.SparklinesResponse{}
		for some := range slices.Chunk(ids, mostAtOnce) {
			got, err := c.Metrics.Sparklines(ctx, ask(some, f.asked))
			if err != nil {
				return err
			}
			answers[column].Sparklines = append(answers[column].Sparklines, got.GetSparklines()...)
		}
		for _, line := range answers[column].GetSparklines() {
			i := slices.Index(ids, line.GetId())
			if i < 0 || len(line.GetPoints()) == 0 {
				continue
			}
			rows[i][1+column] = f.text(line.GetPoints()[len(line.GetPoints())-1].GetValue())
			if column == 0 {
				rows[i][1+len(figures)] = course(line.GetPoints())
			}
		}
	}
	return p.print(list(answers), names, func() error { return printTable(p.out, append(heading, "LAST HOUR"), rows) })
}
