package outbox

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

func TestKeep(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
			for range pruneMax + 7 {
				id, err := Enqueue(t.Context(), tx, New{Queue: "mail", Life: time.Hour})
				if err != nil {
					return err
				}
				if _, err := tx.Exec(t.Context(), `INSERT INTO mails (id, organization_id, template, recipient) VALUES ($1, '', '', '')`, id); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(t.Context(), `UPDATE outbox SET state = 'sent', ended_at = $1`, db.Micros(now.Add(-keepFor-time.Second))); err != nil {
				return err
			}
			for _, ended := range []time.Time{{}, now.Add(-keepFor + time.Minute)} {
				id, err := Enqueue(t.Context(), tx, New{Queue: "mail", Life: time.Hour})
				if err != nil {
					return err
				}
				if _, err := tx.Exec(t.Context(), `UPDATE outbox SET created_at = $2, ended_at = $3 WHERE id = $1`,
					id, db.Micros(now.Add(-90*24*time.Hour)), db.NullMicros(ended)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		o, err := Open(d, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		o.Add(Queue{Name: "mail"})
		if err := o.keep(t.Context(), now, false); err != nil {
			t.Fatal(err)
		}
		var items, mails int
		if err := d.Reader().QueryRow(t.Context(), `SELECT COUNT(*) FROM outbox`).Scan(&items); err != nil || items != pruneMax+9 {
			t.Errorf("by a clock that was set all but %d items were removed, %v", items, err)
		}
		if err := o.keep(t.Context(), now, true); err != nil {
			t.Fatal(err)
		}
		if err := d.Reader().QueryRow(t.Context(), `SELECT (SELECT COUNT(*) FROM outbox), (SELECT COUNT(*) FROM mails)`).Scan(&items, &mails); err != nil {
			t.Fatal(err)
		}
		if items != 2 || mails != 0 {
			t.Errorf("%d items and %d mails are left", items, mails)
		}
		if age := testutil.ToFloat64(o.metrics.oldest.WithLabelValues("mail")); age < 89*24*3600 {
			t.Errorf("the oldest is %f seconds old", age)
		}
	})
}
