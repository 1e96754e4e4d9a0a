package api

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count calls by method and outcome. Labels come from our own tables only, so that nobody can grow them.
type metrics struct {
	calls *prometheus.CounterVec
	took  *prometheus.HistogramVec
	// unrecorded counts refusals beyond those that the audit trail takes.
	unrecorded prometheus.Counter
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chom_api_calls_total",
			Help: "Calls through the people's door by procedure and outcome (ok or the error's code).",
		}, []string{"procedure", "code"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "chom_api_call_duration_seconds",
			Help:    "How long calls through the people's door took; for streams, how long they lasted.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"procedure"}),
		unrecorded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "chom_api_unrecorded_refusals_total",
			Help: "Calls refused to a known caller that are not in the audit trail, because there were too many in their minute.",
		}),
	}
	for _, collector := range []prometheus.Collector{m.calls, m.took, m.unrecorded} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) count(procedure, code string, took time.Duration) {
	m.calls.WithLabelValues(procedure, code).Inc()
	m.took.WithLabelValues(procedure).Observe(took.Seconds())
}
