package task

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// each runs a test on both engines.
func each(t *testing.T, test func(t *testing.T, w *world)) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) { test(t, newWorld(t, d)) })
}

func TestLife(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		s := newSite(server)
		made := w.enqueue(s.converge(3))
		order := w.begin(server)
		if order.TaskId != made.ID || order.ServerId != server || order.SiteId != s.id || order.OrganizationId != s.organization ||
			order.Attempt != 1 || order.Fence < 1 || order.GetConvergeSite().GetDesired().GetGeneration() != 3 {
			t.Fatalf("the order is %v", order)
		}
		w.want(made.ID, Running, "accepted")
		w.apply(server,
			event(order, 2, &linkv1.StepStarted{Name: "database"}),
			event(order, 3, &linkv1.LogText{Text: "creating\x1b[31m\x00 it"}),
			event(order, 4, finished),
			event(order, 5, &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_SUCCEEDED, Observed: &sitev1.ObservedState{SiteId: s.id, HttpStatus: 200}}))
		got, err := w.ts.Get(t.Context(), s.organization, made.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got.State != Succeeded || got.StepCount != 2 || len(got.Steps) != 1 || got.Steps[0].State != StepDone || got.Steps[0].Message != "made" ||
			got.Steps[0].Ended.IsZero() || got.Ended.IsZero() || got.Started.IsZero() || got.Generation != 3 {
			t.Errorf("got %+v", got)
		}
		if len(w.ends) != 1 || w.ends[0].ID != made.ID || w.ends[0].State != Succeeded || w.ends[0].result.GetObserved().GetHttpStatus() != 200 {
			t.Errorf("the noun heard %+v", w.ends)
		}
		lines, err := readLog(t.Context(), w.d.Reader(), made.ID, 0, 10)
		if err != nil || len(lines) != 1 || lines[0].Text != "creating [31m  it" {
			t.Errorf("log %+v, %v", lines, err)
		}
	})
}

func TestEnqueue(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		t.Run("a server that is unknown or removed is not found", func(t *testing.T) {
			removed := w.server()
			w.exec(`UPDATE servers SET state = 'removed' WHERE id = $1`, removed)
			for _, id := range []string{removed, contract.NewServerID().String()} {
				if _, err := w.tryEnqueue(New{Server: id, Kind: Noop, Parameters: &orderv1.Noop{}}); fault.KindOf(err) != fault.KindNotFound {
					t.Errorf("got %v", err)
				}
			}
		})
		t.Run("what does not fit together is refused", func(t *testing.T) {
			s := newSite(server)
			bad := map[string]func(*New){
				"parameters of another kind": func(n *New) { n.Parameters = &orderv1.Noop{} },
				"no parameters":              func(n *New) { n.Parameters = nil },
				"a typed nil":                func(n *New) { n.Parameters = (*orderv1.ConvergeSite)(nil) },
				"an unknown kind":            func(n *New) { n.Kind = "run_command" },
				"no site":                    func(n *New) { n.Site = "" },
				"no organization":            func(n *New) { n.Organization = "" },
				"a site that is no UUID":     func(n *New) { n.Site = "../etc" },
				"no generation":              func(n *New) { n.Generation = 0 },
				"a timeout above a day":      func(n *New) { n.Timeout = 25 * time.Hour },
				"a deadline in the past":     func(n *New) { n.Deadline = time.Now().Add(-time.Second) },
				"more than an order holds": func(n *New) {
					n.Parameters = &orderv1.ConvergeSite{Desired: &sitev1.DesiredState{Type: strings.Repeat("x", 300_000)}}
				},
			}
			for name, change := range bad {
				n := s.converge(1)
				change(&n)
				if _, err := w.tryEnqueue(n); err == nil {
					t.Errorf("%s passed", name)
				}
			}
			if n := w.count(`SELECT COUNT(*) FROM tasks WHERE site_id = $1`, s.id); n != 0 {
				t.Errorf("%d tasks were made", n)
			}
		})
		t.Run("nothing is left of a transaction that failed", func(t *testing.T) {
			var made Task
			want := errors.New("no")
			err := db.InTx(t.Context(), w.d, func(tx *db.Tx) (err error) {
				made, err = Enqueue(t.Context(), tx, New{Server: server, Kind: Noop, Parameters: &orderv1.Noop{}})
				return errors.Join(err, want)
			})
			if !errors.Is(err, want) || w.count(`SELECT COUNT(*) FROM tasks WHERE id = $1`, made.ID) != 0 {
				t.Errorf("err %v", err)
			}
		})
		t.Run("a newer generation supersedes what waits, and nothing else", func(t *testing.T) {
			s, other := newSite(server), newSite(server)
			running := w.enqueue(s.converge(1))
			w.begin(server)
			old, login, foreign := w.enqueue(s.converge(2)), w.enqueue(s.login()), w.enqueue(other.converge(1))
			newest := w.enqueue(s.converge(3))
			if got := w.want(old.ID, Canceled, "an older generation that waits"); got.Error != "superseded by generation 3" || got.Ended.IsZero() {
				t.Errorf("got %+v", got)
			}
			w.want(running.ID, Running, "an older generation that runs")
			w.want(login.ID, Queued, "another kind")
			w.want(foreign.ID, Queued, "another site")
			w.want(newest.ID, Queued, "the newest")
			if len(w.ends) != 0 {
				t.Errorf("the noun was told of what it did itself: %+v", w.ends)
			}
		})
		t.Run("a site's queue has an end", func(t *testing.T) {
			s := newSite(server)
			for range siteOpenMax {
				w.enqueue(s.login())
			}
			if _, err := w.tryEnqueue(s.login()); fault.KindOf(err) != fault.KindConflict {
				t.Errorf("got %v", err)
			}
			w.enqueue(newSite(server).login())
		})
	})
}

func TestOrderAndSlots(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		t.Run("one task at a time per site, in order, and so many per server", func(t *testing.T) {
			server := w.server()
			a, b := newSite(server), newSite(server)
			first, second, third := w.enqueue(a.converge(1)), w.enqueue(a.login()), w.enqueue(b.converge(1))
			orders := w.offer(server)
			if len(orders) != 2 || orders[0].TaskId != first.ID || orders[1].TaskId != third.ID || orders[1].Fence <= orders[0].Fence {
				t.Fatalf("offered %v", orders)
			}
			if more := w.offer(server); len(more) != 0 {
				t.Errorf("the second of a site was offered beside the first: %v", more)
			}
			for range slots {
				w.noop(server)
			}
			if more := w.offer(server); len(more) != slots-2 {
				t.Errorf("%d more for %d free slots", len(more), slots-2)
			}
			w.apply(server, event(orders[0], 1, done))
			more := w.offer(server)
			if len(more) != 1 || more[0].TaskId != second.ID || more[0].Fence <= orders[1].Fence {
				t.Errorf("after the first ended came %v", more)
			}
		})
		t.Run("an UNKNOWN task blocks its site", func(t *testing.T) {
			server := w.server()
			s := newSite(server)
			first := w.enqueue(s.converge(1))
			w.enqueue(s.login())
			w.offer(server)
			w.pass(offerLease)
			w.want(first.ID, Unknown, "not answered")
			if more := w.offer(server); len(more) != 0 {
				t.Errorf("offered %v", more)
			}
		})
		t.Run("a task that rests is not overtaken by its own site, only by others", func(t *testing.T) {
			server := w.server()
			s := newSite(server)
			w.enqueue(s.converge(1))
			later := w.enqueue(s.login())
			order := w.offer(server)[0]
			w.apply(server, event(order, 1, refused))
			other := w.enqueue(newSite(server).converge(1))
			orders := w.offer(server)
			if len(orders) != 1 || orders[0].TaskId != other.ID {
				t.Fatalf("offered %v", orders)
			}
			w.now = w.now.Add(refusalPause)
			orders = w.offer(server)
			if len(orders) != 1 || orders[0].TaskId != order.TaskId || orders[0].Attempt != 2 {
				t.Errorf("after the rest came %v", orders)
			}
			w.want(later.ID, Queued, "the later one")
		})
		t.Run("a server is prepared by one task at a time", func(t *testing.T) {
			server := w.server()
			for range 2 {
				w.enqueue(New{Server: server, Kind: PrepareServer, Parameters: &orderv1.PrepareServer{}})
			}
			if orders := w.offer(server); len(orders) != 1 {
				t.Errorf("%d offers", len(orders))
			}
		})
		t.Run("processes that offer at once offer each task once, under growing fences", func(t *testing.T) {
			server := w.server()
			for range 3 * slots {
				w.enqueue(newSite(server).converge(1))
			}
			var mu sync.Mutex
			var orders []*orderv1.Order
			for round := range 3 {
				var wg sync.WaitGroup
				for range 6 {
					wg.Go(func() {
						out, err := w.ts.offerAt(context.Background(), server, epoch, time.Time{}, w.now)
						if err != nil {
							t.Error(err)
						}
						mu.Lock()
						defer mu.Unlock()
						orders = append(orders, w.open(out)...)
					})
				}
				wg.Wait()
				if len(orders) != (round+1)*slots {
					t.Fatalf("%d orders after round %d", len(orders), round)
				}
				for _, o := range orders[round*slots:] {
					w.apply(server, event(o, 1, done))
				}
			}
			seen, fences := map[string]bool{}, map[uint64]bool{}
			for _, o := range orders {
				if seen[o.TaskId] || fences[o.Fence] {
					t.Errorf("offered twice: %v", o)
				}
				seen[o.TaskId], fences[o.Fence] = true, true
			}
		})
		t.Run("nothing is offered over an epoch that is over or to a server out of service", func(t *testing.T) {
			server := w.server()
			made := w.noop(server)
			if _, err := w.ts.Offer(t.Context(), server, epoch-1, time.Time{}); !errors.Is(err, ErrStale) {
				t.Errorf("older epoch: %v", err)
			}
			for _, state := range []string{"pending", "quarantined", "removed"} {
				w.exec(`UPDATE servers SET state = $1 WHERE id = $2`, state, server)
				if _, err := w.ts.Offer(t.Context(), server, epoch, time.Time{}); !errors.Is(err, ErrStale) {
					t.Errorf("%s: %v", state, err)
				}
			}
			w.want(made.ID, Queued, "never sent")
			w.exec(`UPDATE servers SET state = 'draining' WHERE id = $1`, server)
			if orders := w.offer(server); len(orders) != 1 {
				t.Error("a draining server does not get its work")
			}
		})
	})
}

// TestForgery is cases E04, E06 and E12.
func TestForgery(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		t.Run("an agent can't speak about another server's task", func(t *testing.T) {
			mine, other := w.server(), w.server()
			made := w.noop(other)
			order := w.begin(other)
			a := w.apply(mine, event(order, 2, done), event(order, 3, &linkv1.LogText{Text: "x"}))
			if len(a.Refused) != 2 || a.Foreign != 2 || a.Refused[0].Reason != "there is no such task" {
				t.Errorf("got %+v", a)
			}
			if resend := w.hello(mine, true, entry(order, true)); len(resend) != 0 {
				t.Errorf("asked for %v", resend)
			}
			if err := w.ts.Renew(t.Context(), mine, []*linkv1.JournalEntry{entry(order, false)}, w.now.Add(time.Hour)); err != nil {
				t.Error(err)
			}
			if got := w.want(made.ID, Running, "spoken about by another"); !got.lease.Equal(db.Time(db.Micros(w.now.Add(runLease)))) {
				t.Errorf("the lease is %v", got.lease)
			}
			gone := w.apply(mine, event(&orderv1.Order{TaskId: contract.NewTaskID().String(), Attempt: 1}, 1, done))
			if len(gone.Refused) != 1 || gone.Foreign != 0 || gone.Refused[0].Reason != a.Refused[0].Reason {
				t.Errorf("a task that does not exist looks different: %+v", gone)
			}
		})
		t.Run("no result counts for what was never sent, is over or of an older attempt", func(t *testing.T) {
			server := w.server()
			never := w.noop(server)
			forged := &orderv1.Order{TaskId: never.ID, Attempt: 1}
			if a := w.apply(server, event(forged, 1, done)); len(a.Refused) != 1 {
				t.Errorf("never sent: %+v", a)
			}
			w.hello(server, false, entry(forged, true))
			w.want(never.ID, Queued, "only claimed to be done")

			order := w.begin(server)
			for name, change := range map[string]func(*linkv1.TaskEvent){
				"a later attempt": func(e *linkv1.TaskEvent) { e.Attempt = 2 },
				"attempt 0":       func(e *linkv1.TaskEvent) { e.Attempt = 0 },
				"another fence":   func(e *linkv1.TaskEvent) { e.Fence++ },
				"a giant number":  func(e *linkv1.TaskEvent) { e.Sequence = 1 << 63 },
			} {
				e := event(order, 2, done)
				change(e)
				if a := w.apply(server, e); len(a.Refused) != 1 {
					t.Errorf("%s: %+v", name, a)
				}
				w.want(never.ID, Running, name)
			}
			w.apply(server, event(order, 2, result(orderv1.Outcome_OUTCOME_FAILED, "no space")))
			if a := w.apply(server, event(order, 3, done)); len(a.Refused) != 1 {
				t.Errorf("after the end: %+v", a)
			}
			if got := w.want(never.ID, Failed, "ended"); got.Error != "no space" {
				t.Errorf("error %q", got.Error)
			}

			again := w.noop(server)
			first := w.offer(server)[0]
			w.hello(server, false)
			second := w.offer(server)[0]
			if second.TaskId != again.ID || second.Attempt != 2 {
				t.Fatalf("second offer %v", second)
			}
			if a := w.apply(server, event(first, 1, done)); len(a.Refused) != 1 {
				t.Errorf("older attempt: %+v", a)
			}
			w.want(again.ID, Offered, "of an older attempt")

			if _, err := w.cancel(w.noop(server)); err != nil {
				t.Fatal(err)
			}
		})
		t.Run("a result about another site brings nothing but its outcome", func(t *testing.T) {
			server := w.server()
			s := newSite(server)
			w.enqueue(s.converge(1))
			order := w.begin(server)
			w.ends = nil
			w.apply(server, event(order, 2, &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_SUCCEEDED,
				Observed: &sitev1.ObservedState{SiteId: newSite(server).id, HttpStatus: 200}}))
			if len(w.ends) != 1 || w.ends[0].result.GetObserved() != nil {
				t.Errorf("the noun heard %+v", w.ends)
			}
		})
		t.Run("a task that was written into the database, or changed there, is never signed", func(t *testing.T) {
			server := w.server()
			s := newSite(server)
			evil, err := proto.Marshal(&orderv1.ConvergeSite{Desired: &sitev1.DesiredState{SiteId: s.id, Generation: 99}})
			if err != nil {
				t.Fatal(err)
			}
			changes := map[string]string{
				"parameters": `UPDATE tasks SET parameters = $2 WHERE id = $1`,
				"server":     `UPDATE tasks SET server_id = $2, sequence = 1000 WHERE id = $1`,
				"deadline":   `UPDATE tasks SET deadline_at = $2 WHERE id = $1`,
				"seal":       `UPDATE tasks SET seal = $2 WHERE id = $1`,
			}
			other := w.server()
			for name, query := range changes {
				made := w.enqueue(newSite(server).converge(1))
				args := map[string]any{"parameters": evil, "server": other, "deadline": db.Micros(w.now.Add(48 * time.Hour)), "seal": []byte{}}
				w.exec(query, made.ID, args[name])
				if orders := append(w.offer(server), w.offer(other)...); len(orders) != 0 {
					t.Errorf("%s was changed and %v was signed", name, orders)
				}
				w.want(made.ID, Failed, name+" changed")
			}
			honest := w.enqueue(s.converge(1))
			id := contract.NewTaskID().String()
			w.exec(`INSERT INTO tasks (organization_id, id, server_id, site_id, kind, parameters, generation, seal, state, sequence, attempt, fence,
				step_count, event_sequence, log_sequence, log_bytes, timeout_us, not_before, deadline_at, error, created_by, created_at, version)
				SELECT organization_id, $1, server_id, 'x', kind, parameters, generation, seal, 'queued', 900, 0, 0, 0, 0, 0, 0, timeout_us, 0,
				deadline_at, '', '', created_at, 1 FROM tasks WHERE id = $2`, id, honest.ID)
			orders := w.offer(server)
			if len(orders) != 1 || orders[0].TaskId != honest.ID {
				t.Errorf("signed %v", orders)
			}
			w.want(id, Failed, "written by somebody else")
		})
	})
}

func TestEventsCountOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		made := w.noop(server)
		order := w.begin(server)
		log := event(order, 2, &linkv1.LogText{Text: "once"})
		for range 3 {
			if a := w.apply(server, event(order, 1, &linkv1.Accepted{}), log, log); len(a.Refused) != 0 {
				t.Errorf("a repeat was refused: %v", a.Refused)
			}
		}
		end := event(order, 4, done)
		w.apply(server, end)
		if a := w.apply(server, end, event(order, 3, &linkv1.StepStarted{Name: "late"})); len(a.Refused) != 0 {
			t.Errorf("a repeat was refused: %v", a.Refused)
		}
		got, err := w.ts.Get(t.Context(), Platform, made.ID)
		if err != nil || got.State != Succeeded || len(got.Steps) != 0 || got.logSequence != 1 {
			t.Errorf("got %+v, %v", got, err)
		}
		if len(w.ends) != 1 {
			t.Errorf("the noun heard %d ends", len(w.ends))
		}
	})
}

// TestHello is the table in the package comment.
func TestHello(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		offered := func() *orderv1.Order { w.noop(server); return w.offer(server)[0] }
		accepted := func() *orderv1.Order { w.noop(server); return w.begin(server) }
		cases := []struct {
			name    string
			prepare func() *orderv1.Order
			journal func(o *orderv1.Order) []*linkv1.JournalEntry
			want    State
			resend  bool
		}{
			{"offered, unknown to the journal", offered, nil, Queued, false},
			{"offered, runs", offered, func(o *orderv1.Order) []*linkv1.JournalEntry { return []*linkv1.JournalEntry{entry(o, false)} }, Running, false},
			{"offered, ended", offered, func(o *orderv1.Order) []*linkv1.JournalEntry { return []*linkv1.JournalEntry{entry(o, true)} }, Running, true},
			{"accepted, unknown to the journal", accepted, nil, Failed, false},
			{"accepted, runs", accepted, func(o *orderv1.Order) []*linkv1.JournalEntry { return []*linkv1.JournalEntry{entry(o, false)} }, Running, false},
			{"accepted, ended", accepted, func(o *orderv1.Order) []*linkv1.JournalEntry { return []*linkv1.JournalEntry{entry(o, true)} }, Running, true},
		}
		for _, c := range cases {
			for _, lost := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, lease lost %v", c.name, lost), func(t *testing.T) {
					order := c.prepare()
					if lost {
						w.pass(runLease)
						w.want(order.TaskId, Unknown, "lease lost")
					}
					var journal []*linkv1.JournalEntry
					if c.journal != nil {
						journal = c.journal(order)
					}
					resend := w.hello(server, false, journal...)
					w.want(order.TaskId, c.want, "after Hello")
					if (len(resend) == 1) != c.resend {
						t.Errorf("asked for %v", resend)
					}
					if c.resend {
						w.apply(server, event(order, 5, done))
						w.want(order.TaskId, Succeeded, "resent")
					}
					if c.want == Queued {
						next := w.offer(server)[0]
						if next.TaskId != order.TaskId || next.Attempt != 2 || next.Fence <= order.Fence {
							t.Errorf("next attempt %v", next)
						}
					}
					w.finish(server)
				})
			}
		}
		t.Run("a journal that may have been cut proves nothing by its silence", func(t *testing.T) {
			order := offered()
			full := make([]*linkv1.JournalEntry, journalMax)
			for i := range full {
				full[i] = &linkv1.JournalEntry{TaskId: contract.NewTaskID().String(), Attempt: 1, Ended: true}
			}
			w.hello(server, false, full...)
			w.want(order.TaskId, Offered, "not named by a full journal")
			w.finish(server)
		})
		t.Run("a cancel that came too late to be heard ends what was never accepted", func(t *testing.T) {
			order := offered()
			if _, err := w.cancel(w.get(order.TaskId)); err != nil {
				t.Fatal(err)
			}
			w.hello(server, false)
			w.want(order.TaskId, Canceled, "never accepted and not wanted")
		})
		t.Run("the next attempt is told apart after a crash in between", func(t *testing.T) {
			first := offered()
			w.hello(server, false)
			second := w.offer(server)[0]
			// The answer to Hello was lost: the agent says Hello again, knowing neither.
			w.hello(server, false)
			third := w.offer(server)[0]
			if first.Attempt != 1 || second.Attempt != 2 || third.Attempt != 3 {
				t.Errorf("attempts %d %d %d", first.Attempt, second.Attempt, third.Attempt)
			}
			w.finish(server)
		})
	})
}

// TestOlderDatabase is case I20: the database was restored from a backup and
// the agents are ahead of it.
func TestOlderDatabase(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		s := newSite(server)
		a, b, c := w.enqueue(s.converge(1)), w.noop(server), w.noop(server)
		// The backup is of this moment. After it the agent ran a, runs b, and did not get c.
		ran := &orderv1.Order{TaskId: a.ID, Attempt: 1, Fence: 90}
		runs := &orderv1.Order{TaskId: b.ID, Attempt: 2, Fence: 91}
		gone := &orderv1.Order{TaskId: contract.NewTaskID().String(), Attempt: 1, Fence: 92}
		resend := w.hello(server, true, entry(ran, true), entry(runs, false), entry(gone, true))
		if len(resend) != 1 || resend[0].TaskId != a.ID {
			t.Errorf("asked for %v", resend)
		}
		w.want(a.ID, Running, "ended on the host")
		w.want(b.ID, Running, "runs on the host")
		w.want(c.ID, Queued, "never reached the host")
		orders := w.offer(server)
		if len(orders) != 1 || orders[0].TaskId != c.ID {
			t.Errorf("run again: %v", orders)
		}
		w.apply(server, event(ran, 4, done), event(runs, 9, result(orderv1.Outcome_OUTCOME_FAILED, "x")))
		w.want(a.ID, Succeeded, "told again")
		w.want(b.ID, Failed, "told at last")
	})
}

func TestTime(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		deadline := func(d time.Duration) New {
			return New{Server: server, Kind: Noop, Parameters: &orderv1.Noop{}, Deadline: w.now.Add(d)}
		}
		t.Run("an offer without an answer is UNKNOWN after 30 s, not before, and the agent is asked", func(t *testing.T) {
			w.noop(server)
			order := w.offer(server)[0]
			w.pass(offerLease - time.Second)
			w.want(order.TaskId, Offered, "in time")
			began := w.now
			w.pass(time.Second)
			w.want(order.TaskId, Unknown, "late")
			out, err := w.ts.offerAt(t.Context(), server, epoch, began, w.now)
			if err != nil || !out.Lost {
				t.Errorf("not asked: %+v, %v", out, err)
			}
			out, err = w.ts.offerAt(t.Context(), server, epoch, w.now.Add(time.Second), w.now)
			if err != nil || out.Lost {
				t.Errorf("asked again in the next epoch: %+v, %v", out, err)
			}
			w.apply(server, event(order, 1, &linkv1.Accepted{}))
			w.want(order.TaskId, Running, "accepted after all")
			w.finish(server)
		})
		t.Run("heartbeats keep a lease, and bring a lost one back", func(t *testing.T) {
			w.noop(server)
			order := w.begin(server)
			running := []*linkv1.JournalEntry{entry(order, false)}
			for range 5 {
				w.pass(runLease - time.Second)
				w.want(order.TaskId, Running, "renewed")
				if err := w.ts.Renew(t.Context(), server, running, w.now); err != nil {
					t.Fatal(err)
				}
			}
			w.pass(runLease)
			w.want(order.TaskId, Unknown, "three heartbeats missed")
			older := []*linkv1.JournalEntry{{TaskId: order.TaskId, Attempt: order.Attempt + 1}}
			if err := w.ts.Renew(t.Context(), server, older, w.now); err != nil {
				t.Fatal(err)
			}
			w.want(order.TaskId, Unknown, "renewed by another attempt")
			if err := w.ts.Renew(t.Context(), server, running, w.now); err != nil {
				t.Fatal(err)
			}
			w.want(order.TaskId, Running, "heard of again")
			w.finish(server)
		})
		t.Run("what waits or is unknown ends at its deadline", func(t *testing.T) {
			unknown := w.enqueue(deadline(10 * time.Minute))
			w.offer(server)
			w.exec(`UPDATE servers SET state = 'quarantined' WHERE id = $1`, server)
			queued := w.enqueue(deadline(10 * time.Minute))
			w.pass(9 * time.Minute)
			w.want(queued.ID, Queued, "in time")
			w.want(unknown.ID, Unknown, "in time")
			w.pass(time.Minute)
			w.want(queued.ID, TimedOut, "late")
			w.want(unknown.ID, TimedOut, "late")
			w.exec(`UPDATE servers SET state = 'active' WHERE id = $1`, server)
		})
		t.Run("what runs is asked to stop at its deadline, and ends 30 s later; then its result is a line, and the noun's to know", func(t *testing.T) {
			made := w.enqueue(deadline(time.Minute))
			order := w.begin(server)
			if d := order.Timeout.AsDuration(); d > time.Minute {
				t.Errorf("the attempt may run for %s", d)
			}
			w.pass(time.Minute)
			if got := w.want(made.ID, Running, "at its deadline"); got.CancelRequested.IsZero() {
				t.Error("not asked to stop")
			}
			out, err := w.ts.offerAt(t.Context(), server, epoch, w.now, w.now)
			if err != nil || len(out.Cancels) != 1 || out.Cancels[0].TaskId != made.ID || out.Cancels[0].Attempt != 1 {
				t.Errorf("the agent is told %+v, %v", out, err)
			}
			w.pass(deadlineGrace)
			w.want(made.ID, TimedOut, "after the grace")
			heard := len(w.ends)
			late := event(order, 7, done)
			for range 2 {
				w.apply(server, late, event(order, 8, &linkv1.LogText{Text: "more"}))
			}
			if got := w.want(made.ID, TimedOut, "after a late result"); got.logSequence != 1 {
				t.Errorf("%d lines", got.logSequence)
			}
			lines, err := readLog(t.Context(), w.d.Reader(), made.ID, 0, 10)
			if err != nil || len(lines) != 1 || lines[0].Text != "after its deadline the agent says: succeeded" {
				t.Errorf("log %+v, %v", lines, err)
			}
			if len(w.ends) != heard {
				t.Error("the noun heard of the end twice")
			}
			if len(w.lates) != 1 || w.lates[0] != made.ID+" timed_out OUTCOME_SUCCEEDED" {
				t.Errorf("of the late end it heard %v", w.lates)
			}
		})
		t.Run("an agent that refuses for ever is not asked for ever", func(t *testing.T) {
			made := w.noop(server)
			for attempt := range uint32(refusalsMax) {
				order := w.offer(server)[0]
				if order.Attempt != attempt+1 {
					t.Fatalf("attempt %d", order.Attempt)
				}
				w.apply(server, event(order, 1, refused))
				w.now = w.now.Add(time.Minute)
			}
			if got := w.want(made.ID, Failed, "refused again and again"); got.Error != "the agent refuses it: the disk is full" {
				t.Errorf("error %q", got.Error)
			}
		})
	})
}

func TestCancel(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		t.Run("what waits ends at once", func(t *testing.T) {
			made := w.noop(server)
			if got, err := w.cancel(made); err != nil || got.State != Canceled {
				t.Errorf("got %+v, %v", got, err)
			}
			if orders := w.offer(server); len(orders) != 0 {
				t.Errorf("offered %v", orders)
			}
			if len(w.ends) != 1 || w.ends[0].result != nil {
				t.Errorf("the noun heard %+v", w.ends)
			}
			if _, err := w.cancel(made); fault.KindOf(err) != fault.KindConflict {
				t.Errorf("twice: %v", err)
			}
		})
		t.Run("what runs is asked, and ends as its agent says", func(t *testing.T) {
			for outcome, want := range map[orderv1.Outcome]State{
				orderv1.Outcome_OUTCOME_CANCELED:  Canceled,
				orderv1.Outcome_OUTCOME_SUCCEEDED: Succeeded,
			} {
				made := w.noop(server)
				order := w.begin(server)
				if got, err := w.cancel(made); err != nil || got.State != Running || got.CancelRequested.IsZero() {
					t.Errorf("got %+v, %v", got, err)
				}
				w.apply(server, event(order, 2, result(outcome, "")))
				w.want(made.ID, want, outcome.String())
			}
		})
		t.Run("an agent that stops without being asked has failed", func(t *testing.T) {
			made := w.noop(server)
			w.apply(server, event(w.begin(server), 2, result(orderv1.Outcome_OUTCOME_CANCELED, "")))
			w.want(made.ID, Failed, "not asked")
		})
		t.Run("another organization's task is not found", func(t *testing.T) {
			made := w.noop(server)
			made.Organization = contract.NewOrganizationID().String()
			if _, err := w.cancel(made); fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("cancel: %v", err)
			}
			if _, err := w.ts.Get(t.Context(), made.Organization, made.ID); fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("get: %v", err)
			}
			if tasks, err := w.ts.List(t.Context(), Query{Organization: made.Organization}); err != nil || len(tasks) != 0 {
				t.Errorf("list: %v, %v", tasks, err)
			}
			w.want(made.ID, Queued, "canceled by a stranger")
		})
	})
}

func TestNounFails(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		made := w.noop(server)
		order := w.begin(server)
		broken := true
		OnEnd(Noop, func(context.Context, *db.Tx, Task, *orderv1.Result) error {
			if broken {
				return errors.New("the site's row can't be changed")
			}
			return nil
		})(w.ts)
		err := db.InTx(t.Context(), w.d, func(tx *db.Tx) error {
			_, err := w.ts.Apply(t.Context(), tx, server, []*linkv1.TaskEvent{event(order, 2, done)}, w.now)
			return err
		}, db.ReadCommitted())
		if err == nil {
			t.Fatal("no error")
		}
		w.want(made.ID, Running, "the noun could not follow")
		broken = false
		w.apply(server, event(order, 2, done))
		w.want(made.ID, Succeeded, "told again")
	})
}

func TestReplacedAndRemoved(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		w.noop(server)
		running := w.begin(server).TaskId
		offered := w.noop(server).ID
		w.offer(server)
		queued := w.noop(server).ID
		in := func(fn func(context.Context, *db.Tx, string, time.Time) error) {
			t.Helper()
			if err := db.InTx(t.Context(), w.d, func(tx *db.Tx) error { return fn(t.Context(), tx, server, w.now) }); err != nil {
				t.Fatal(err)
			}
		}
		in(w.ts.Replaced)
		w.want(running, Failed, "replaced")
		w.want(offered, Failed, "replaced")
		w.want(queued, Queued, "replaced")
		in(w.ts.Removed)
		w.want(queued, Failed, "removed")
		if len(w.ends) != 3 {
			t.Errorf("the noun heard %d ends", len(w.ends))
		}
	})
}

func TestLogHasAnEnd(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		print := func(lines int, text string) Task {
			w.noop(server)
			order := w.begin(server)
			sequence := uint64(1)
			for range lines / 500 {
				var events []*linkv1.TaskEvent
				for range 500 {
					sequence++
					events = append(events, event(order, sequence, &linkv1.LogText{Text: text}))
				}
				if a := w.apply(server, events...); len(a.Refused) != 0 {
					t.Fatalf("refused %v", a.Refused[0])
				}
			}
			w.apply(server, event(order, sequence+1, done))
			return w.want(order.TaskId, Succeeded, "printed a lot")
		}
		if got := print(2500, "x"); got.logSequence != linesMax {
			t.Errorf("%d lines are kept", got.logSequence)
		}
		if got := print(500, strings.Repeat("é", textMax/2)); got.logBytes > bytesMax+textMax || got.logSequence > 300 {
			t.Errorf("%d bytes in %d lines are kept", got.logBytes, got.logSequence)
		}
	})
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain ü 中":                    "plain ü 中",
		"\x1b[2Jred\x07":               " [2Jred",
		"a\r\nb\tc":                    "a  b c",
		"rtl\u202egnp.exe":             "rtl gnp.exe",
		"zero\u200bwidth\u2028line":    "zero width line",
		"bad\xff\xfeutf8":              "bad\uFFFDutf8",
		"<script>alert(1)</script>":    "<script>alert(1)</script>",
		strings.Repeat("é", 10) + "  ": strings.Repeat("é", 10),
	} {
		if got := Text(in, 100); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
	if got := Text(strings.Repeat("é", 10), 7); got != "ééé" {
		t.Errorf("cut in the middle: %q", got)
	}
}

func TestAgentTime(t *testing.T) {
	now := time.Now()
	for _, bad := range []*timestamppb.Timestamp{nil, {Seconds: -1}, {Seconds: 1 << 60}, {Nanos: -5}} {
		if got := agentTime(bad, now); !got.Equal(now) {
			t.Errorf("%v gave %v", bad, got)
		}
	}
}

func TestList(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server, other := w.server(), w.server()
		s := newSite(server)
		first, second := w.enqueue(s.login()), w.enqueue(s.login())
		third := w.enqueue(New{Organization: s.organization, Server: other, Site: newSite(other).id, Kind: SiteLogin, Parameters: &orderv1.SiteLogin{}})
		w.noop(server)
		ids := func(q Query) string {
			t.Helper()
			tasks, err := w.ts.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			names := map[string]string{first.ID: "1", second.ID: "2", third.ID: "3"}
			var out string
			for _, task := range tasks {
				out += names[task.ID]
			}
			return out
		}
		for want, q := range map[string]Query{
			"321":  {Organization: s.organization},
			"21":   {Organization: s.organization, Site: s.id},
			"3":    {Organization: s.organization, Server: other},
			"32":   {Organization: s.organization, Limit: 2},
			"1":    {Organization: s.organization, Limit: 2, Before: second.ID},
			"":     {Organization: contract.NewOrganizationID().String()},
			"321 ": {Organization: s.organization, States: []State{Running, Queued}, Kinds: []Kind{ConvergeSite, SiteLogin}},
			" ":    {Organization: s.organization, States: []State{Running, Unknown}},
			"  ":   {Organization: s.organization, Kinds: []Kind{ConvergeSite}},
		} {
			if got := ids(q); got != strings.TrimSpace(want) {
				t.Errorf("%+v gave %q, want %q", q, got, want)
			}
		}
	})
}

func TestWatch(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		defer stop()
		var running sync.WaitGroup
		running.Go(func() {
			if err := w.ts.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("run: %v", err)
			}
		})
		defer running.Wait()
		defer stop()
		server := w.server()
		made := w.noop(server)
		seen := make(chan State, 100)
		var lines []LogLine
		watching := make(chan error, 1)
		go func() {
			watching <- w.ts.Watch(ctx, Platform, made.ID, 0, func(t Task, l []LogLine) error {
				lines = append(lines, l...)
				seen <- t.State
				return nil
			})
		}()
		await := func(want State) {
			t.Helper()
			for {
				select {
				case s := <-seen:
					if s == want {
						return
					}
				case err := <-watching:
					watching <- err // for the one who asks how it ended
					if len(seen) == 0 {
						t.Fatalf("the watch ended before %s: %v", want, err)
					}
				}
			}
		}
		await(Queued)
		order := w.offer(server)[0]
		await(Offered)
		began := time.Now()
		w.apply(server, event(order, 1, &linkv1.Accepted{}))
		await(Running)
		if d := time.Since(began); d > time.Second {
			t.Errorf("a change was seen after %s: by the sweep, not by a wake-up", d)
		}
		var events []*linkv1.TaskEvent
		for i := range uint64(watchLines) {
			events = append(events, event(order, i+2, &linkv1.LogText{Text: fmt.Sprint(i)}))
		}
		w.apply(server, append(events, event(order, watchLines+2, done))...)
		await(Succeeded)
		if err := <-watching; err != nil {
			t.Errorf("watch: %v", err)
		}
		if len(lines) != watchLines {
			t.Errorf("%d lines", len(lines))
		}
		for i, l := range lines {
			if l.Sequence != uint64(i+1) || l.Text != fmt.Sprint(i) {
				t.Fatalf("line %d is %+v", i, l)
			}
		}
		t.Run("a task that has ended is shown once, with the lines that were not seen", func(t *testing.T) {
			calls := 0
			err := w.ts.Watch(ctx, Platform, made.ID, watchLines-1, func(t2 Task, l []LogLine) error {
				calls++
				if t2.State != Succeeded || len(l) != 1 {
					t.Errorf("shown %s with %d lines", t2.State, len(l))
				}
				return nil
			})
			if err != nil || calls != 1 {
				t.Errorf("%d calls, %v", calls, err)
			}
		})
		t.Run("another organization sees nothing", func(t *testing.T) {
			err := w.ts.Watch(ctx, contract.NewOrganizationID().String(), made.ID, 0, func(Task, []LogLine) error { return nil })
			if fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestRestart(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.server()
		queued, offered := w.enqueue(newSite(server).converge(1)), w.noop(server)
		s := newSite(server)
		running := w.enqueue(s.converge(1))
		orders := map[string]*orderv1.Order{}
		for _, o := range w.offer(server) {
			orders[o.TaskId] = o
		}
		w.apply(server, event(orders[running.ID], 1, &linkv1.Accepted{}))
		w.apply(server, event(orders[queued.ID], 1, refused))
		w.restart()
		w.hello(server, false, entry(orders[running.ID], true))
		w.apply(server, event(orders[running.ID], 2, done))
		w.want(running.ID, Succeeded, "ended while nobody listened")
		w.now = w.now.Add(time.Minute)
		for _, o := range w.offer(server) {
			if o.Attempt != 2 || o.Fence <= orders[o.TaskId].Fence {
				t.Errorf("offered %v", o)
			}
			w.apply(server, event(o, 1, done))
		}
		w.want(queued.ID, Succeeded, "in the queue")
		w.want(offered.ID, Succeeded, "on its way")
		due, err := w.ts.Due(t.Context())
		if err != nil || len(due) != 0 {
			t.Errorf("due %v, %v", due, err)
		}
	})
}
