package task

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	open     *prometheus.GaugeVec
	offered  prometheus.Histogram
	accepted prometheus.Histogram
	ended    *prometheus.HistogramVec
	refused  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	dispatch := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30}
	m := &metrics{
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "chom_tasks_open",
			Help: "Tasks that have not ended, by state.",
		}, []string{"state"}),
		offered: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "chom_task_offer_seconds",
			Help:    "Time from the creation of a task to its first offer.",
			Buckets: dispatch,
		}),
		accepted: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "chom_task_accept_seconds",
			Help:    "Time from the creation of a task until its agent had it in its journal, for first attempts.",
			Buckets: dispatch,
		}),
		ended: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "chom_task_duration_seconds",
			Help:    "Time from the creation of a task to its end.",
			Buckets: []float64{.01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 1800, 3600},
		}, []string{"kind", "state"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chom_task_events_refused_total",
			Help: "Events of agents that were not taken. Foreign ones are about another server's task.",
		}, []string{"reason"}),
	}
	for _, c := range []prometheus.Collector{m.open, m.offered, m.accepted, m.ended, m.refused} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// count sets the gauge of open tasks.
func (ts *Tasks) count(ctx context.Context) error {
	rows, err := ts.db.Reader().Query(ctx, `
		SELECT state, COUNT(*)
		FROM tasks
		WHERE state IN ('queued', 'offered', 'running', 'unknown')
		GROUP BY state`)
	if err != nil {
		return err
	}
	defer rows.Close()
	open := map[State]float64{Queued: 0, Offered: 0, Running: 0, Unknown: 0}
	for rows.Next() {
		var s State
		var n float64
		if err := rows.Scan(&s, &n); err != nil {
			return err
		}
		open[s] = n
	}
	for s, n := range open {
		ts.metrics.open.WithLabelValues(string(s)).Set(n)
	}
	return rows.Err()
}
