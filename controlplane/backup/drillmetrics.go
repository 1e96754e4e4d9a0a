package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
)

// drillMetrics are of all organizations together: which site is not proven is in the database.
type drillMetrics struct {
	ended  *prometheus.CounterVec
	sites  *prometheus.GaugeVec
	oldest prometheus.Gauge
}

func newDrillMetrics() drillMetrics {
	return drillMetrics{
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chom_drills_total",
			Help: "Drills that have ended, by result: passed, failed, or stopped where somebody stopped it.",
		}, []string{"result"}),
		sites: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "chom_backed_up_sites",
			Help: "Sites that have a backup and are not in the trash, by what is known of it: proven where a drill passed within a day more than drill-every, else unproven.",
		}, []string{"restore"}),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "chom_oldest_proven_restore_timestamp_seconds",
			Help: "When the last proven restore of that site was whose is the longest ago; 0 where there is none.",
		}),
	}
}

func (m drillMetrics) register(r prometheus.Registerer) error {
	return errors.Join(r.Register(m.ended), r.Register(m.sites), r.Register(m.oldest))
}

const (
	// provenFor is how long a proof counts where no drill is made by itself.
	provenFor = 8 * 24 * time.Hour
	// provenSlack is what a drill may come late: a host was away, or one failed and is tried again.
	provenSlack = 24 * time.Hour
)

// provenWithin is how long ago a drill may have passed for its site to be proven.
func (b *Backups) provenWithin() time.Duration {
	if b.config.DrillEvery > 0 {
		return b.config.DrillEvery + provenSlack
	}
	return provenFor
}

// countProven reads the gauges anew, in one pass.
func (b *Backups) countProven(ctx context.Context, now time.Time) error {
	var proven, unproven, oldest int64
	if err := b.db.Reader().QueryRow(ctx, `
		SELECT COALESCE(SUM(CASE WHEN p.at >= $1 THEN 1 ELSE 0 END), 0),
		       COALESCE(SUM(CASE WHEN p.at >= $1 THEN 0 ELSE 1 END), 0),
		       COALESCE(MIN(p.at), 0)
		FROM (SELECT (SELECT MAX(d.ended_at)
		              FROM drills d
		              WHERE d.organization_id = s.organization_id
		                AND d.site_id = s.id
		                AND d.state = 'passed') AS at
		      FROM sites s
		      WHERE s.phase IN ('active', 'suspended')
		        AND EXISTS (SELECT 1
		                    FROM backups r
		                    WHERE r.organization_id = s.organization_id
		                      AND r.site_id = s.id
		                      AND r.state = 'ready')) p`, db.Micros(now.Add(-b.provenWithin()))).Scan(&proven, &unproven, &oldest); err != nil {
		return fmt.Errorf("count proven restores: %w", err)
	}
	b.metrics.sites.WithLabelValues("proven").Set(float64(proven))
	b.metrics.sites.WithLabelValues("unproven").Set(float64(unproven))
	b.metrics.oldest.Set(float64(oldest) / float64(time.Second/time.Microsecond))
	return nil
}
