package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
)

const (
	// keepEvery is how often the outbox is counted and pruned.
	keepEvery = time.Minute
	// keepFor is how long the end of an item can be looked up: long enough to notice on the next bill that something is amiss.
	keepFor = 30 * 24 * time.Hour
	// pruneMax keeps a transaction that prunes short.
	pruneMax = 500
)

// keep counts what is there and, by a clock that can be trusted, removes what ended long ago; the rows of the nouns go with it.
func (o *Outbox) keep(ctx context.Context, now time.Time, trusted bool) error {
	if !trusted {
		return o.count(ctx, now)
	}
	errs := []error{o.count(ctx, now), o.prune(ctx, now)}
	for _, q := range o.queues {
		if q.Keep != nil {
			errs = append(errs, q.Keep(ctx, now))
		}
	}
	return errors.Join(errs...)
}

func (o *Outbox) prune(ctx context.Context, now time.Time) error {
	for {
		var removed int64
		err := db.InTx(ctx, o.db, func(tx *db.Tx) error {
			var err error
			removed, err = tx.Exec(ctx, `
				DELETE FROM outbox
				WHERE id IN (
					SELECT id
					FROM outbox
					WHERE ended_at < $1
					LIMIT $2)`,
				db.Micros(now.Add(-keepFor)), pruneMax)
			return err
		}, db.ReadCommitted())
		if err != nil || removed < pruneMax {
			return err
		}
	}
}

type metrics struct {
	open   *prometheus.GaugeVec
	oldest *prometheus.GaugeVec
	tries  *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "chom_outbox_open",
			Help: "Mails and calls of webhooks that still must arrive, by queue.",
		}, []string{"queue"}),
		oldest: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "chom_outbox_oldest_seconds",
			Help: "Age of the oldest item that still must arrive, by queue; 0 when there is none.",
		}, []string{"queue"}),
		tries: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "chom_outbox_try_seconds",
			Help:    "Duration of a try, by queue and by what the item is after it: sent, waiting (failed, tried again) or dead.",
			Buckets: []float64{.01, .05, .1, .5, 1, 5, 10, 30, 60},
		}, []string{"queue", "state"}),
	}
	for _, c := range []prometheus.Collector{m.open, m.oldest, m.tries} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// count sets the gauges.
func (o *Outbox) count(ctx context.Context, now time.Time) error {
	rows, err := o.db.Reader().Query(ctx, `
		SELECT queue, COUNT(*), MIN(created_at)
		FROM outbox
		WHERE state IN ('waiting', 'sending')
		GROUP BY queue`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for _, q := range o.queues {
		o.metrics.open.WithLabelValues(q.Name).Set(0)
		o.metrics.oldest.WithLabelValues(q.Name).Set(0)
	}
	for rows.Next() {
		var name string
		var open, oldest int64
		if err := rows.Scan(&name, &open, &oldest); err != nil {
			return err
		}
		o.metrics.open.WithLabelValues(name).Set(float64(open))
		o.metrics.oldest.WithLabelValues(name).Set(now.Sub(db.Time(oldest)).Seconds())
	}
	return rows.Err()
}
