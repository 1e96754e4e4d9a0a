package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
)

// countEvery is how old gauges may be.
const countEvery = 5 * time.Minute

// gauges are of all organizations together: who has a problem is in the database.
type gauges struct {
	backups  *prometheus.GaugeVec
	sites    *prometheus.GaugeVec
	bytes    prometheus.Gauge
	oldest   prometheus.Gauge
	damaged  prometheus.Gauge
	verified prometheus.Gauge
}

func newGauges() gauges {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	return gauges{
		backups: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "chom_backups", Help: "Backups that there are, by state: running, checking, ready, failed.",
		}, []string{"state"}),
		sites: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "chom_backup_sites", Help: "Sites by what is wrong with their backups: well, failing, overdue, damaged.",
		}, []string{"state"}),
		bytes:    gauge("chom_backup_repository_bytes", "Bytes that all repositories take, as last measured."),
		oldest:   gauge("chom_backup_oldest_newest_timestamp_seconds", "When the newest good backup was found good of that site for which this is longest ago; 0 where no site has one."),
		damaged:  gauge("chom_backup_repositories_damaged", "Repositories that were found damaged."),
		verified: gauge("chom_backup_oldest_verification_timestamp_seconds", "When all of a repository was found intact at last, of that one for which this is longest ago; 0 where there is none."),
	}
}

func (g gauges) register(r prometheus.Registerer) error {
	return errors.Join(r.Register(g.backups), r.Register(g.sites), r.Register(g.bytes), r.Register(g.oldest), r.Register(g.damaged), r.Register(g.verified))
}

// count reads them anew.
func (g gauges) count(ctx context.Context, q db.Querier) error {
	if err := tally(ctx, q, g.backups, map[string]string{"running": "running", "checking": "checking", "ready": "ready", "failed": "failed"}, `
		SELECT state,
		       COUNT(*)
		FROM backups
		GROUP BY state`); err != nil {
		return fmt.Errorf("count backups: %w", err)
	}
	if err := tally(ctx, q, g.sites, map[string]string{"0": "well", "1": "failing", "2": "overdue", "3": "damaged"}, `
		SELECT about,
		       COUNT(*)
		FROM backup_alarms
		GROUP BY about`); err != nil {
		return fmt.Errorf("count sites: %w", err)
	}
	var bytes, oldest, damaged, verified int64
	if err := q.QueryRow(ctx, `
		SELECT COALESCE(SUM(bytes), 0),
		       COALESCE(SUM(CASE WHEN damaged_at IS NOT NULL THEN 1 ELSE 0 END), 0),
		       COALESCE(MIN(verified_at), 0)
		FROM repositories`).Scan(&bytes, &damaged, &verified); err != nil {
		return fmt.Errorf("count repositories: %w", err)
	}
	if err := q.QueryRow(ctx, `
		SELECT COALESCE(MIN(newest), 0)
		FROM (
		    SELECT MAX(b.checked_at) AS newest
		    FROM backups b
		    JOIN sites s ON s.organization_id = b.organization_id AND s.id = b.site_id
		    WHERE b.state = 'ready'
		      AND b.reason NOT IN ('copied', 'imported')
		      AND s.phase = 'active'
		    GROUP BY b.organization_id, b.site_id
		) all_sites`).Scan(&oldest); err != nil {
		return fmt.Errorf("find the oldest newest backup: %w", err)
	}
	g.bytes.Set(float64(bytes))
	g.damaged.Set(float64(damaged))
	g.oldest.Set(float64(oldest) / float64(time.Second/time.Microsecond))
	g.verified.Set(float64(verified) / float64(time.Second/time.Microsecond))
	return nil
}

// tally sets a gauge for each of some values, 0 for those that there are none of.
func tally(ctx context.Context, q db.Querier, g *prometheus.GaugeVec, labels map[string]string, query string) error {
	rows, err := q.Query(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	found := map[string]int64{}
	for rows.Next() {
		var value string
		var n int64
		if err := rows.Scan(&value, &n); err != nil {
			return err
		}
		found[value] = n
	}
	for value, label := range labels {
		g.WithLabelValues(label).Set(float64(found[value]))
	}
	return rows.Err()
}
