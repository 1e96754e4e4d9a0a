package task

import (
	"crypto/ed25519"
	"testing"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

func TestReseal(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		server := w.server()
		offered := w.noop(server)
		order := w.offer(server)[0]
		waits := w.enqueue(newSite(server).converge(3))
		forged := w.noop(server)
		w.exec(`UPDATE tasks SET parameters = $1 WHERE id = $2`, []byte{8, 9}, forged.ID) // nine steps
		ended := w.past(New{Server: w.server(), Kind: Noop, Parameters: &orderv1.Noop{}}, 0)

		former := w.signer
		w.signer = ed25519.NewKeyFromSeed([]byte("another seed of thirty-two bytes"))
		w.restart()
		for range 2 { // as after a crash in between
			if err := w.ts.Reseal(t.Context(), former); err != nil {
				t.Fatal(err)
			}
		}

		for _, o := range w.offer(server) { // w verifies that they are by the new signer
			if o.TaskId != waits.ID || o.GetConvergeSite().GetDesired().GetGeneration() != 3 {
				t.Errorf("offered was %v", o)
			}
		}
		w.want(waits.ID, Offered, "what waited is done")
		if got := w.want(forged.ID, Failed, "what was forged is not"); got.Error != "its order was made or changed outside of CHOM" {
			t.Errorf("it says %q", got.Error)
		}
		w.want(offered.ID, Offered, "what was offered stays so")
		w.hello(server, false) // and never arrived
		again := w.offer(server)
		if len(again) != 2 || again[0].TaskId != order.TaskId || again[0].Attempt != 2 {
			t.Errorf("offered again was %v", again)
		}
		w.want(ended.ID, Succeeded, "the past stays")
	})
}
