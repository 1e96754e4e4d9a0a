package task

import (
	"context"
	"testing"

	"chom.dev/controlplane/db/dbtest"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// BenchmarkLife is the full life of a task without the network: five
// transactions, of which a hundred lives a second must leave most of a core.
func BenchmarkLife(b *testing.B) {
	for name, open := range map[string]func(testing.TB) *world{
		"sqlite":   func(t testing.TB) *world { return newWorld(t, dbtest.SQLite(t)) },
		"postgres": func(t testing.TB) *world { return newWorld(t, dbtest.Postgres(t)) },
	} {
		b.Run(name, func(b *testing.B) {
			w := open(b)
			server := w.server()
			for b.Loop() {
				w.noop(server)
				out, err := w.ts.Offer(context.Background(), server, epoch, w.now)
				if err != nil {
					b.Fatal(err)
				}
				order := w.open(out)[0]
				w.apply(server, event(order, 1, &linkv1.Accepted{StepCount: 1}))
				w.apply(server, event(order, 2, &linkv1.StepStarted{Name: "database"}), event(order, 3, finished))
				w.apply(server, event(order, 4, done))
			}
		})
	}
}
