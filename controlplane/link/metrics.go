package link

import "github.com/prometheus/client_golang/prometheus"

// metrics count what passes the door. Labels come from our own tables only. How
// long tasks wait for their offer and its acceptance, and which events were
// refused, package task counts.
type metrics struct {
	agents      prometheus.GaugeFunc
	connections prometheus.Gauge
	turnedAway  *prometheus.CounterVec
	calls       *prometheus.CounterVec
	took        *prometheus.HistogramVec
	offers      prometheus.Counter
	events      prometheus.Counter
	cut         *prometheus.CounterVec
	flagged     prometheus.Counter
}

func newMetrics(registry prometheus.Registerer, agents func() int) (*metrics, error) {
	m := &metrics{
		agents: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "chom_link_agents",
			Help: "Agents that hold Watch or Poll at this process.",
		}, func() float64 { return float64(agents()) }),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "chom_link_connections",
			Help: "Connections at the agents' door whose handshake is done.",
		}),
		turnedAway: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chom_link_turned_away_total",
			Help: "Connections refused before or in the TLS handshake, by reason.",
		}, []string{"reason"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chom_link_calls_total",
			Help: "Calls through the agents' door by procedure and outcome (ok or the error's code).",
		}, []string{"procedure", "code"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "chom_link_call_duration_seconds",
			Help:    "How long calls with one answer took, Poll aside.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"procedure"}),
		offers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "chom_link_offers_total",
			Help: "Orders sent to agents.",
		}),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "chom_link_events_total",
			Help: "Events of tasks that agents reported.",
		}),
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chom_link_cut_total",
			Help: "Streams and polls that were ended before their agent did, by reason.",
		}, []string{"reason"}),
		flagged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "chom_link_flagged_agents_total",
			Help: "Agents that spoke of tasks of others again and again.",
		}),
	}
	for _, c := range []prometheus.Collector{
		m.agents, m.connections, m.turnedAway, m.calls, m.took, m.offers, m.events, m.cut, m.flagged,
	} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
