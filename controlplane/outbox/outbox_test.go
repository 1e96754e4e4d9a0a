package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/outbox"
)

const queue = "mail"

// start runs an outbox until the returned function is called or the test ends.
func start(t *testing.T, d *db.DB, workers int, carry func(context.Context, outbox.Item) outbox.Result) (stop func()) {
	t.Helper()
	o, err := outbox.Open(d, slog.New(slog.NewTextHandler(t.Output(), nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	o.Add(outbox.Queue{
		Name: queue, Workers: workers, Timeout: 5 * time.Second, Backoff: outbox.Backoff{First: time.Millisecond, Most: time.Millisecond}, Carry: carry,
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
		case <-time.After(4500 * time.Millisecond):
			t.Error("it does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

func enqueue(t *testing.T, d *db.DB, n outbox.New) (id string) {
	t.Helper()
	n.Queue = queue
	in(t, d, func(tx *db.Tx) (err error) {
		id, err = outbox.Enqueue(t.Context(), tx, n)
		return err
	})
	return id
}

func in(t *testing.T, d *db.DB, fn func(tx *db.Tx) error) {
	t.Helper()
	if err := db.InTx(t.Context(), d, fn); err != nil {
		t.Fatal(err)
	}
}

func exec(t *testing.T, d *db.DB, query string, args ...any) {
	t.Helper()
	in(t, d, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), query, args...); return err })
}

type row struct {
	state, text string
	tries       int
}

func read(t *testing.T, d *db.DB, id string) (r row) {
	t.Helper()
	if err := d.Reader().QueryRow(t.Context(), `SELECT state, error, tries FROM outbox WHERE id = $1`, id).Scan(&r.state, &r.text, &r.tries); err != nil {
		t.Fatal(err)
	}
	return r
}

// becomes waits until an item is as wanted.
func becomes(t *testing.T, d *db.DB, id string, want row) {
	t.Helper()
	var have row
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if have = read(t, d, id); have == want {
			return
		}
	}
	t.Fatalf("the item is %+v, not %+v", have, want)
}

func TestRun(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		var mu sync.Mutex
		carried := map[string]int{}
		answers := map[string]func(try int) error{}
		start(t, d, 4, func(_ context.Context, item outbox.Item) outbox.Result {
			mu.Lock()
			defer mu.Unlock()
			carried[item.ID]++
			if answer := answers[item.Lane]; answer != nil {
				return outbox.Result{Err: answer(carried[item.ID])}
			}
			return outbox.Result{}
		})
		count := func(id string) int {
			mu.Lock()
			defer mu.Unlock()
			return carried[id]
		}
		answer := func(lane string, fn func(int) error) {
			mu.Lock()
			defer mu.Unlock()
			answers[lane] = fn
		}

		t.Run("carries what was committed, at once", func(t *testing.T) {
			began := time.Now()
			id := enqueue(t, d, outbox.New{Life: time.Hour})
			becomes(t, d, id, row{state: "sent", tries: 1})
			if took := time.Since(began); took > time.Second {
				t.Errorf("after %s: it waited for the sweep", took)
			}
		})
		t.Run("carries nothing of a transaction that failed", func(t *testing.T) {
			var id string
			undone := errors.New("undone")
			err := db.InTx(t.Context(), d, func(tx *db.Tx) (err error) {
				if id, err = outbox.Enqueue(t.Context(), tx, outbox.New{Queue: queue, Life: time.Hour}); err != nil {
					return err
				}
				return undone
			})
			if !errors.Is(err, undone) {
				t.Fatal(err)
			}
			becomes(t, d, enqueue(t, d, outbox.New{Life: time.Hour}), row{state: "sent", tries: 1})
			if count(id) != 0 {
				t.Error("it was carried")
			}
		})
		t.Run("tries again what failed", func(t *testing.T) {
			answer("flaky", func(try int) error {
				if try < 3 {
					return errors.New("not yet")
				}
				return nil
			})
			id := enqueue(t, d, outbox.New{Lane: "flaky", Life: time.Hour})
			becomes(t, d, id, row{state: "sent", tries: 3})
		})
		t.Run("gives up what was refused for good, and sends it when asked again", func(t *testing.T) {
			answer("refused", func(try int) error {
				if try == 1 {
					return outbox.Permanent(errors.New("no such user"))
				}
				return nil
			})
			id := enqueue(t, d, outbox.New{Lane: "refused", Life: time.Hour})
			becomes(t, d, id, row{"dead", "no such user", 1})
			in(t, d, func(tx *db.Tx) error { return outbox.Again(t.Context(), tx, queue, id, time.Hour) })
			becomes(t, d, id, row{state: "sent", tries: 1})
		})
		t.Run("never tries what is past its time", func(t *testing.T) {
			id := enqueue(t, d, outbox.New{Life: -time.Second})
			becomes(t, d, id, row{"dead", "its time was over before it could be sent", 1})
			if count(id) != 0 {
				t.Error("it was carried")
			}
		})
		t.Run("puts off without counting, until it is woken", func(t *testing.T) {
			answer("closed", func(try int) error {
				if try == 1 {
					return outbox.Later(errors.New("closed"), time.Hour)
				}
				return nil
			})
			id := enqueue(t, d, outbox.New{Lane: "closed", Life: time.Hour})
			becomes(t, d, id, row{"waiting", "closed", 0})
			in(t, d, func(tx *db.Tx) error { return outbox.Wake(t.Context(), tx, queue, "closed") })
			becomes(t, d, id, row{state: "sent", tries: 1})
		})
		t.Run("survives a panic", func(t *testing.T) {
			answer("panic", func(try int) error {
				if try == 1 {
					panic("oh")
				}
				return nil
			})
			becomes(t, d, enqueue(t, d, outbox.New{Lane: "panic", Life: time.Hour}), row{state: "sent", tries: 2})
		})
		t.Run("takes over from a process that died, once its lease is over", func(t *testing.T) {
			id := enqueue(t, d, outbox.New{Life: time.Hour})
			becomes(t, d, id, row{state: "sent", tries: 1})
			exec(t, d, `UPDATE outbox SET state = 'sending', due_at = $2, ended_at = NULL WHERE id = $1`, id, db.Micros(time.Now().Add(2*time.Second)))
			if err := db.InTx(t.Context(), d, func(tx *db.Tx) error { return outbox.Again(t.Context(), tx, queue, id, time.Hour) }); !errors.Is(err, outbox.ErrSending) {
				t.Errorf("again, while it is sent: %v", err)
			}
			d.Notify(outbox.Topic, queue)
			if now := read(t, d, id); now.state != "sending" {
				t.Errorf("within the lease it is %+v", now)
			}
			becomes(t, d, id, row{state: "sent", tries: 2})
		})
	})
}

func TestRecord(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		id := enqueue(t, d, outbox.New{Life: time.Hour})
		stolen, noted := make(chan struct{}), make(chan struct{})
		var once sync.Once
		start(t, d, 1, func(_ context.Context, item outbox.Item) outbox.Result {
			if item.Tries == 1 {
				once.Do(func() { close(stolen) })
				<-noted
			}
			return outbox.Result{Record: func(ctx context.Context, tx *db.Tx, now outbox.State) error {
				_, err := tx.Exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2)`, fmt.Sprint("try ", item.Tries), string(now))
				return err
			}}
		})
		<-stolen
		// Another process took the item, as if this one had been thought dead.
		exec(t, d, `UPDATE outbox SET tries = 2, due_at = 0 WHERE id = $1`, id)
		close(noted)
		becomes(t, d, id, row{state: "sent", tries: 3})
		var names string
		rows, err := d.Reader().Query(t.Context(), `SELECT name, value FROM settings WHERE name LIKE 'try %'`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var name, value string
			if err := rows.Scan(&name, &value); err != nil {
				t.Fatal(err)
			}
			names += name + " " + value
		}
		if err := rows.Err(); err != nil || names != "try 3 sent" {
			t.Errorf("recorded %q, %v", names, err)
		}
	})
}

func TestLanes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		release := make(chan struct{})
		var mu sync.Mutex
		now, most := 0, 0
		start(t, d, 3, func(ctx context.Context, item outbox.Item) outbox.Result {
			if item.Lane == "slow" {
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				select {
				case <-release:
				case <-ctx.Done():
				}
				mu.Lock()
				now--
				mu.Unlock()
			}
			return outbox.Result{}
		})
		var slow []string
		for range 20 {
			slow = append(slow, enqueue(t, d, outbox.New{Lane: "slow", Life: time.Hour}))
		}
		for range 5 {
			becomes(t, d, enqueue(t, d, outbox.New{Lane: "quick", Life: time.Hour}), row{state: "sent", tries: 1})
		}
		close(release)
		for _, id := range slow {
			becomes(t, d, id, row{state: "sent", tries: 1})
		}
		if most != 1 {
			t.Errorf("%d of one lane were carried at once", most)
		}
	})
}

func TestProcesses(t *testing.T) {
	for engine, url := range map[string]func(testing.TB) string{"sqlite": dbtest.SQLiteURL, "postgres": dbtest.PostgresURL} {
		t.Run(engine, func(t *testing.T) {
			at := url(t)
			d := dbtest.Open(t, at)
			var mu sync.Mutex
			carried := map[string]int{}
			by := map[int]int{}
			for process := range 3 {
				other := d
				if engine == "postgres" { // SQLite belongs to one process: there it is three loops
					other = dbtest.Open(t, at)
				}
				start(t, other, 4, func(_ context.Context, item outbox.Item) outbox.Result {
					mu.Lock()
					defer mu.Unlock()
					carried[item.ID]++
					by[process]++
					return outbox.Result{}
				})
			}
			var ids []string
			for range 50 {
				in(t, d, func(tx *db.Tx) error {
					ids = ids[:len(ids):len(ids)]
					for range 6 {
						id, err := outbox.Enqueue(t.Context(), tx, outbox.New{Queue: queue, Life: time.Hour})
						if err != nil {
							return err
						}
						ids = append(ids, id)
					}
					return nil
				})
			}
			for _, id := range ids {
				becomes(t, d, id, row{state: "sent", tries: 1})
			}
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids {
				if carried[id] != 1 {
					t.Errorf("%s was carried %d times", id, carried[id])
				}
			}
			if len(by) < 2 {
				t.Errorf("only %v took part", by)
			}
		})
	}
}

func TestStop(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		began := make(chan struct{})
		stop := start(t, d, 2, func(ctx context.Context, item outbox.Item) outbox.Result {
			if item.Lane == "hangs" {
				close(began)
				<-ctx.Done()
				return outbox.Result{Err: ctx.Err()}
			}
			time.Sleep(300 * time.Millisecond) // a mail under way
			return outbox.Result{}
		})
		hanging := enqueue(t, d, outbox.New{Lane: "hangs", Life: time.Hour})
		<-began
		finishing := enqueue(t, d, outbox.New{Life: time.Hour})
		becomes(t, d, finishing, row{state: "sending", tries: 1})
		stop()
		if got := read(t, d, finishing); got.state != "sent" {
			t.Errorf("what was nearly done is %+v", got)
		}
		if got := read(t, d, hanging); got != (row{"waiting", "the control plane stopped while it was sent", 0}) {
			t.Errorf("what hung is %+v", got)
		}
		late := enqueue(t, d, outbox.New{Life: time.Hour})
		start(t, d, 2, func(context.Context, outbox.Item) outbox.Result { return outbox.Result{} })
		becomes(t, d, hanging, row{state: "sent", tries: 1})
		becomes(t, d, late, row{state: "sent", tries: 1})
	})
}
