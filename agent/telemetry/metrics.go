// Package telemetry measures the host: metrics by node_exporter's collectors,
// what its sites are asked for and use, and the facts that the control plane
// shows of a server. It sends nothing, and keeps nothing but counts and sizes; history is
// the control plane's.
package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/node_exporter/collector"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// collectors are those that tell how a web server is doing. Others would cost
// series without a question that they answer.
var collectors = []string{
	"cpu", "diskstats", "filesystem", "loadavg", "meminfo", "netdev", "pressure", "stat", "time", "uname", "vmstat",
}

const (
	maxSamples = 2000 // limits of chom.link.v1
	maxSeries  = 512
)

// Metrics gathers samples. Make it once per process.
type Metrics struct {
	registry *prometheus.Registry
	log      *slog.Logger
}

// NewMetrics sets the collectors up. They take their settings from flags of a
// package-wide parser and live in a package-wide cache, hence once.
func NewMetrics(log *slog.Logger) (*Metrics, error) {
	// Without a parse every collector counts as disabled. Never the process's
	// own arguments: they are not meant for it.
	if _, err := kingpin.CommandLine.Parse([]string{}); err != nil {
		return nil, fmt.Errorf("set up collectors: %w", err)
	}
	// A collector that fails says so by node_scrape_collector_success; its
	// log lines would repeat once a minute for ever.
	node, err := collector.NewNodeCollector(slog.New(slog.DiscardHandler), collectors...)
	if err != nil {
		return nil, fmt.Errorf("set up collectors: %w", err)
	}
	m := &Metrics{registry: prometheus.NewRegistry(), log: log}
	if err := m.registry.Register(node); err != nil {
		return nil, fmt.Errorf("set up collectors: %w", err)
	}
	return m, nil
}

// Gather measures now, in a few milliseconds. What can't be measured is
// missing.
func (m *Metrics) Gather(context.Context) []*linkv1.Sample {
	families, err := m.registry.Gather()
	if err != nil {
		m.log.Warn("some metrics could not be gathered", "err", err)
	}
	var out []*linkv1.Sample
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			value, ok := number(metric)
			series := name(f.GetName(), metric.GetLabel())
			if ok && len(series) <= maxSeries && len(out) < maxSamples {
				out = append(out, &linkv1.Sample{Series: series, Value: value})
			}
		}
	}
	return out
}

func number(m *dto.Metric) (float64, bool) {
	switch {
	case m.Gauge != nil:
		return m.Gauge.GetValue(), true
	case m.Counter != nil:
		return m.Counter.GetValue(), true
	case m.Untyped != nil:
		return m.Untyped.GetValue(), !math.IsNaN(m.Untyped.GetValue())
	}
	return 0, false // node_exporter has no histograms
}

// name is the series in Prometheus' text form, labels in order.
func name(metric string, labels []*dto.LabelPair) string {
	if len(labels) == 0 {
		return metric
	}
	labels = slices.Clone(labels)
	slices.SortFunc(labels, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	var b strings.Builder
	b.WriteString(metric)
	for i, l := range labels {
		b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		b.WriteString(l.GetName())
		b.WriteString(`="`)
		b.WriteString(escape.Replace(strings.ToValidUTF8(l.GetValue(), "?")))
		b.WriteString(`"`)
	}
	b.WriteString("}")
	return b.String()
}

// escape is what the text form asks for in label values.
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
