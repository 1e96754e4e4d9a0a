package certificate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
)

// gauges are of all organizations together: who has a problem is in the database.
type gauges struct {
	states *prometheus.GaugeVec
	first  prometheus.Gauge
}

func newGauges() gauges {
	return gauges{
		states: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "chom_certificates",
			Help: "Names of active sites that their hosts report, by state: valid, alarm, or none where there is neither a valid certificate nor an alarm.",
		}, []string{"state"}),
		first: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "chom_certificate_first_end_timestamp_seconds",
			Help: "When the first of the certificates of active sites ends; 0 where there is none.",
		}),
	}
}

func (g gauges) register(r prometheus.Registerer) error {
	return errors.Join(r.Register(g.states), r.Register(g.first))
}

// count reads them anew, in one pass.
func (g gauges) count(ctx context.Context, q db.Querier) error {
	var valid, alarm, none, first int64
	if err := q.QueryRow(ctx, `
		SELECT COALESCE(SUM(CASE WHEN c.alarm_at IS NULL AND c.valid THEN 1 ELSE 0 END), 0),
		       COALESCE(SUM(CASE WHEN c.alarm_at IS NOT NULL THEN 1 ELSE 0 END), 0),
		       COALESCE(SUM(CASE WHEN c.alarm_at IS NULL AND NOT c.valid THEN 1 ELSE 0 END), 0),
		       COALESCE(MIN(CASE WHEN c.ends_at <> 0 THEN c.ends_at END), 0)
		FROM certificates c
		JOIN sites s ON s.organization_id = c.organization_id AND s.id = c.site_id
		WHERE s.phase = 'active'`).Scan(&valid, &alarm, &none, &first); err != nil {
		return fmt.Errorf("count certificates: %w", err)
	}
	g.states.WithLabelValues("valid").Set(float64(valid))
	g.states.WithLabelValues("alarm").Set(float64(alarm))
	g.states.WithLabelValues("none").Set(float64(none))
	g.first.Set(float64(first) / float64(time.Second/time.Microsecond))
	return nil
}
