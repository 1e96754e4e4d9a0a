package main

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/metrics"
	"chom.dev/proto/contract"
)

// metricsConfig is how much is kept of what hosts measure.
type metricsConfig struct {
	MetricsRetention time.Duration `koanf:"metrics-retention"`
	MetricsMaxBytes  string        `koanf:"metrics-max-bytes"`
}

func metricsFlags(f *pflag.FlagSet) {
	f.Duration("metrics-retention", metrics.DefaultRetention, "how long what hosts and sites measure is kept for graphs, in DATA-DIR/metrics, 2h to 17520h; 0 keeps none of it")
	f.String("metrics-max-bytes", defaultMetricsBytes, "how much disk that may take, 100M or more; beyond it the oldest goes, but for the newest hours")
}

// defaultMetricsBytes are metrics.DefaultMaxBytes in words.
const defaultMetricsBytes = "8G"

// minMetricsBytes is what the newest hours of a small fleet take.
const minMetricsBytes = 100 << 20

func (c *metricsConfig) checkMetrics(rule func(bool, string, string)) {
	rule(c.MetricsRetention == 0 || c.MetricsRetention >= metrics.MinRetention && c.MetricsRetention <= 2*365*24*time.Hour, "metrics-retention", "must be 2h to 17520h, or 0")
	n, err := contract.ParseByteSize(c.MetricsMaxBytes)
	rule(err == nil && n.Bytes() >= minMetricsBytes, "metrics-max-bytes", "must be a size such as 8G, 100M or more")
}

// openMetrics keeps the history of what hosts measure.
func (c *config) openMetrics(d *db.DB, log *slog.Logger, registry prometheus.Registerer) (*metrics.Metrics, error) {
	size, err := contract.ParseByteSize(c.MetricsMaxBytes)
	if err != nil {
		return nil, err
	}
	return metrics.New(d, metrics.Config{
		Dir: filepath.Join(c.DataDir, "metrics"), Retention: c.MetricsRetention, MaxBytes: size.Bytes(), Log: log, Metrics: registry,
	})
}
