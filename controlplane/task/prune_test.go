package task

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// prune runs batches at a moment until nothing is left to prune, and gives how many tasks each deleted.
func (w *world) prune(ahead time.Duration) (batches []int64) {
	w.t.Helper()
	for {
		n, more, err := w.ts.Prune(context.Background(), w.now.Add(ahead))
		if err != nil {
			w.t.Fatal(err)
		}
		if n > 0 {
			batches = append(batches, n)
		}
		if !more {
			return batches
		}
	}
}

// past makes a task that has ended, with a step and lines of a log.
func (w *world) past(n New, lines int) Task {
	w.t.Helper()
	t := w.enqueue(n)
	o := w.begin(n.Server)
	events := []*linkv1.TaskEvent{event(o, 2, finished)}
	for i := range lines {
		events = append(events, event(o, uint64(3+i), &linkv1.LogText{Text: fmt.Sprint("line ", i)}))
	}
	w.apply(n.Server, append(events, event(o, uint64(3+lines), done))...)
	return w.want(t.ID, Succeeded, "the past")
}

func TestPrune(t *testing.T) {
	const day = 24 * time.Hour
	noop := func(server string) New { return New{Server: server, Kind: Noop, Parameters: &orderv1.Noop{}} }
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		server := w.server()
		s := newSite(server)

		old := w.past(noop(server), 3)
		before := w.past(s.converge(1), 3)
		newest := w.past(s.converge(2), 3)
		w.exec(`INSERT INTO organizations (id, name, state, require_second_factor, created_at) VALUES ($1, $1, 'active', FALSE, 0)`, s.organization)
		w.exec(`INSERT INTO sites (organization_id, id, handle, server_id, name, type, desired, phase, frozen, generation, observed_generation,
			problem, last_task_id, created_at, updated_at)
			VALUES ($1, $2, $2, $3, $2, 'static', $4, 'active', FALSE, 2, 2, '', $5, 0, 0)`, s.organization, s.id, server, []byte{1}, newest.ID)
		prepared := w.past(New{Server: server, Kind: PrepareServer, Parameters: &orderv1.PrepareServer{}}, 3)
		w.exec(`UPDATE servers SET prepare_task_id = $1 WHERE id = $2`, prepared.ID, server)
		late := w.past(noop(server), 3) // took, or waited, for a week
		w.exec(`UPDATE tasks SET ended_at = $1 WHERE id = $2`, db.Micros(w.now.Add(7*day)), late.ID)
		running := w.enqueue(noop(server))
		w.begin(server)
		waits := w.enqueue(noop(server))
		ids := func() (left []string) {
			rows, err := d.Reader().Query(t.Context(), `SELECT id FROM tasks ORDER BY id`)
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			for rows.Next() {
				var id string
				if err := rows.Scan(&id); err != nil {
					t.Fatal(err)
				}
				left = append(left, id)
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
			return left
		}

		if got := w.prune(89 * day); got != nil {
			t.Errorf("%v tasks were pruned before their time", got)
		}
		if got := w.prune(91 * day); !slices.Equal(got, []int64{2}) {
			t.Errorf("%v tasks were pruned, not the two whose time is over", got)
		}
		if want := []string{newest.ID, prepared.ID, late.ID, running.ID, waits.ID}; !slices.Equal(ids(), want) {
			t.Errorf("left are %v, not the newest of site and server, one that ended later, and the open ones: %v", ids(), want)
		}
		for _, gone := range []Task{old, before} {
			if n := w.count(`SELECT COUNT(*) FROM task_steps WHERE task_id = $1`, gone.ID) + w.count(`SELECT COUNT(*) FROM task_logs WHERE task_id = $1`, gone.ID); n != 0 {
				t.Errorf("%d steps and lines of a pruned task are left", n)
			}
		}
		if steps, lines := w.count(`SELECT COUNT(*) FROM task_steps`), w.count(`SELECT COUNT(*) FROM task_logs`); steps != 3 || lines != 9 {
			t.Errorf("%d steps and %d lines of the others are left", steps, lines)
		}
		if got := w.prune(10 * 365 * day); !slices.Equal(got, []int64{1}) || len(ids()) != 4 {
			t.Errorf("in ten years %v more were pruned, left are %v", got, ids())
		}
		w.exec(`DELETE FROM sites`) // gone for good
		if got := w.prune(91 * day); !slices.Equal(got, []int64{1}) {
			t.Errorf("with its site gone, %v tasks were pruned", got)
		}

		t.Run("in batches", func(t *testing.T) {
			server := w.server()
			err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
				for range pruneTasks + 10 {
					if _, err := Enqueue(t.Context(), tx, noop(server)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			w.exec(`UPDATE tasks SET state = 'canceled', ended_at = $1 WHERE server_id = $2`, db.Micros(w.now), server)
			if got := w.prune(91 * day); !slices.Equal(got, []int64{pruneTasks, 10}) {
				t.Errorf("the batches are %v", got)
			}
			chatty := w.server()
			for range 8 {
				w.past(noop(chatty), 0)
			}
			w.exec(`UPDATE tasks SET log_sequence = $1 WHERE server_id = $2`, linesMax, chatty) // as if
			if got := w.prune(91 * day); !slices.Equal(got, []int64{pruneLines / linesMax, 3}) {
				t.Errorf("the batches of long logs are %v", got)
			}
		})
	})
}
