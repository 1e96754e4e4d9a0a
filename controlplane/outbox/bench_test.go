package outbox_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/outbox"
)

// BenchmarkCarry measures how long an item takes from its commit until its end is noted, with a receiver that takes no time, and
// with many others that wait for a later try.
func BenchmarkCarry(b *testing.B) {
	for engine, open := range map[string]func(testing.TB) *db.DB{"sqlite": dbtest.SQLite, "postgres": dbtest.Postgres} {
		for _, waiting := range []int{0, 10_000} {
			b.Run(fmt.Sprintf("%s, %d wait", engine, waiting), func(b *testing.B) {
				d := open(b)
				fill(b, d, waiting)
				var done atomic.Int64
				o, err := outbox.Open(d, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
				if err != nil {
					b.Fatal(err)
				}
				o.Add(outbox.Queue{Name: queue, Workers: 32, Timeout: time.Minute, Carry: func(context.Context, outbox.Item) outbox.Result {
					return outbox.Result{Record: func(_ context.Context, tx *db.Tx, _ outbox.State) error {
						tx.AfterCommit(func() { done.Add(1) })
						return nil
					}}
				}})
				ctx, stop := context.WithCancel(b.Context())
				ended := make(chan error, 1)
				go func() { ended <- o.Run(ctx) }()
				for b.Loop() {
					put(b, d, 100)
				}
				for done.Load() < int64(b.N)*100 {
					time.Sleep(time.Millisecond)
				}
				b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "items/s")
				stop()
				<-ended
			})
		}
	}
}

// put adds items in a transaction.
func put(b *testing.B, d *db.DB, n int) {
	b.Helper()
	err := db.InTx(b.Context(), d, func(tx *db.Tx) error {
		for range n {
			if _, err := outbox.Enqueue(b.Context(), tx, outbox.New{Queue: queue, Life: time.Hour}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// fill adds items of a receiver who is away.
func fill(b *testing.B, d *db.DB, n int) {
	b.Helper()
	for range n / 1000 {
		put(b, d, 1000)
	}
	if err := db.InTx(b.Context(), d, func(tx *db.Tx) error {
		_, err := tx.Exec(b.Context(), `UPDATE outbox SET due_at = due_at + 3600000000`)
		return err
	}); err != nil {
		b.Fatal(err)
	}
}
