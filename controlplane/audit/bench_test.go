package audit_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

// BenchmarkRecord is a small change by 16 writers at a time: without an event, with one in the chain of an organization of
// each writer's own, and with one in the same chain for all.
func BenchmarkRecord(b *testing.B) {
	const writers = 16
	for engine, open := range map[string]func(testing.TB) *db.DB{"sqlite": dbtest.SQLite, "postgres": dbtest.Postgres} {
		for name, chains := range map[string]int{"no event": 0, "a chain each": writers, "one chain": 1} {
			for isolation, options := range map[string][]db.TxOption{"serializable": nil, "read committed": {db.ReadCommitted()}} {
				b.Run(engine+"/"+isolation+"/"+name, func(b *testing.B) {
					d := open(b)
					var ids [writers]string
					for i := range ids {
						ids[i] = uuid.NewString()
					}
					var writer, runs atomic.Int64
					b.SetParallelism(writers / 2) // times GOMAXPROCS
					b.ResetTimer()
					b.RunParallel(func(pb *testing.PB) {
						mine := int(writer.Add(1))
						for n := 0; pb.Next(); n++ {
							err := db.InTx(b.Context(), d, func(tx *db.Tx) error {
								runs.Add(1)
								if _, err := tx.Exec(b.Context(), `INSERT INTO settings (name, value) VALUES ($1, 'x')`, fmt.Sprintf("%d-%d", mine, n)); err != nil || chains == 0 {
									return err
								}
								return audit.Record(b.Context(), tx, audit.Event{Organization: ids[mine%chains], Action: "site.update", Object: ids[0]})
							}, options...)
							if err != nil {
								b.Error(err)
							}
						}
					})
					b.ReportMetric(float64(runs.Load())/float64(b.N), "runs/op")
				})
			}
		}
	}
}
