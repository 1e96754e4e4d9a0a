package task

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// world is a database with servers and the queue over it.
type world struct {
	t      reporter
	d      *db.DB
	ts     *Tasks
	signer ed25519.PrivateKey
	ends   []ending // what the noun heard
	lates  []string // what it hears of TIMED_OUT ones
	now    time.Time
}

type ending struct {
	Task
	result *orderv1.Result
}

const epoch = 7 // of every server's link

// reporter is what a world needs of a test, also of a generated one.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func newWorld(t reporter, d *db.DB) *world {
	t.Helper()
	w := &world{t: t, d: d, signer: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), now: time.Now().Round(0)}
	w.restart()
	return w
}

// restart makes a new queue over the same rows, as a new process would.
func (w *world) restart() {
	w.t.Helper()
	hear := func(_ context.Context, _ *db.Tx, t Task, r *orderv1.Result) error {
		w.ends = append(w.ends, ending{t, r})
		return nil
	}
	late := func(_ context.Context, _ *db.Tx, t Task, r *orderv1.Result) error {
		w.lates = append(w.lates, fmt.Sprintf("%s %s %s", t.ID, t.State, r.GetOutcome()))
		return nil
	}
	ts, err := NewTasks(w.d, w.signer, slog.New(slog.DiscardHandler), prometheus.NewRegistry(),
		OnEnd(Noop, hear), OnEnd(ConvergeSite, hear), OnEnd(PrepareServer, hear), OnEnd(SiteLogin, hear), OnLateEnd(Noop, late))
	if err != nil {
		w.t.Fatal(err)
	}
	w.ts = ts
}

func (w *world) exec(query string, args ...any) {
	w.t.Helper()
	err := db.InTx(context.Background(), w.d, func(tx *db.Tx) error {
		_, err := tx.Exec(context.Background(), query, args...)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// server adds an active one.
func (w *world) server() string {
	w.t.Helper()
	id := contract.NewServerID().String()
	w.exec(`INSERT INTO servers (id, name, tenancy, state, problem, created_at, changed_at, prepared, prepare_task_id, serial,
		next_serial, recoveries, epoch, instance_id, task_sequence)
		VALUES ($1, $1, 'shared', 'active', '', 0, 0, TRUE, '', '', '', 0, $2, '', 0)`, id, epoch)
	w.exec(`INSERT INTO server_links (server_id, fence) VALUES ($1, 0)`, id)
	return id
}

func (w *world) enqueue(n New) Task {
	w.t.Helper()
	t, err := w.tryEnqueue(n)
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

func (w *world) tryEnqueue(n New) (t Task, err error) {
	err = db.InTx(context.Background(), w.d, func(tx *db.Tx) error {
		t, err = Enqueue(context.Background(), tx, n)
		return err
	})
	return t, err
}

func (w *world) noop(server string) Task {
	w.t.Helper()
	return w.enqueue(New{Server: server, Kind: Noop, Parameters: &orderv1.Noop{Steps: 1}})
}

// site is a site that tasks may be about.
type site struct{ organization, id, server string }

func newSite(server string) site {
	return site{contract.NewOrganizationID().String(), contract.NewSiteID().String(), server}
}

func (s site) converge(generation uint64) New {
	return New{
		Organization: s.organization, Server: s.server, Site: s.id, Kind: ConvergeSite, Generation: generation,
		Parameters: &orderv1.ConvergeSite{Desired: &sitev1.DesiredState{SiteId: s.id, Generation: generation}},
	}
}

func (s site) login() New {
	return New{
		Organization: s.organization, Server: s.server, Site: s.id, Kind: SiteLogin,
		Parameters: &orderv1.SiteLogin{Handle: "abcdefgh23", ExpireTime: timestamppb.Now()},
	}
}

// offer gives the orders of the next offer, verified as an agent would.
func (w *world) offer(server string) []*orderv1.Order {
	w.t.Helper()
	out, err := w.ts.offerAt(context.Background(), server, epoch, time.Time{}, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.open(out)
}

func (w *world) open(out Outbox) []*orderv1.Order {
	w.t.Helper()
	var orders []*orderv1.Order
	for _, so := range out.Offers {
		o, err := contract.VerifyOrder([]ed25519.PublicKey{w.signer.Public().(ed25519.PublicKey)}, so)
		if err != nil {
			w.t.Fatal(err)
		}
		orders = append(orders, o)
	}
	return orders
}

// begin offers and accepts the only task that waits, and gives its order.
func (w *world) begin(server string) *orderv1.Order {
	w.t.Helper()
	orders := w.offer(server)
	if len(orders) != 1 {
		w.t.Fatalf("%d orders instead of one", len(orders))
	}
	w.apply(server, event(orders[0], 1, &linkv1.Accepted{StepCount: 2}))
	return orders[0]
}

func (w *world) apply(server string, events ...*linkv1.TaskEvent) Applied {
	w.t.Helper()
	var a Applied
	err := db.InTx(context.Background(), w.d, func(tx *db.Tx) (err error) {
		a, err = w.ts.Apply(context.Background(), tx, server, events, w.now)
		return err
	}, db.ReadCommitted())
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) hello(server string, older bool, journal ...*linkv1.JournalEntry) []*linkv1.JournalEntry {
	w.t.Helper()
	var resend []*linkv1.JournalEntry
	err := db.InTx(context.Background(), w.d, func(tx *db.Tx) (err error) {
		resend, err = w.ts.Reconcile(context.Background(), tx, server, journal, older, w.now)
		return err
	}, db.ReadCommitted())
	if err != nil {
		w.t.Fatal(err)
	}
	return resend
}

// pass lets time pass and sweeps.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(d)
	if err := w.ts.Sweep(context.Background(), w.now); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) get(id string) Task {
	w.t.Helper()
	t, err := scan(w.d.Reader().QueryRow(context.Background(), `SELECT `+columns+` FROM tasks WHERE id = $1`, id))
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

func (w *world) want(id string, s State, why string) Task {
	w.t.Helper()
	t := w.get(id)
	if t.State != s {
		w.t.Errorf("%s: the task is %s (%q), not %s", why, t.State, t.Error, s)
	}
	return t
}

func (w *world) cancel(t Task) (Task, error) {
	var got Task
	err := db.InTx(context.Background(), w.d, func(tx *db.Tx) (err error) {
		got, err = w.ts.Cancel(context.Background(), tx, t.Organization, t.ID)
		return err
	})
	return got, err
}

func event(o *orderv1.Order, sequence uint64, what proto.Message) *linkv1.TaskEvent {
	e := &linkv1.TaskEvent{TaskId: o.TaskId, Attempt: o.Attempt, Fence: o.Fence, Sequence: sequence, Time: timestamppb.Now()}
	switch m := what.(type) {
	case *linkv1.Accepted:
		e.Event = &linkv1.TaskEvent_Accepted{Accepted: m}
	case *linkv1.StepStarted:
		e.Event = &linkv1.TaskEvent_StepStarted{StepStarted: m}
	case *linkv1.StepEnded:
		e.Event = &linkv1.TaskEvent_StepEnded{StepEnded: m}
	case *linkv1.LogText:
		e.Event = &linkv1.TaskEvent_Log{Log: m}
	case *orderv1.Result:
		e.Event = &linkv1.TaskEvent_Result{Result: m}
	}
	return e
}

func entry(o *orderv1.Order, ended bool) *linkv1.JournalEntry {
	return &linkv1.JournalEntry{TaskId: o.TaskId, Attempt: o.Attempt, Ended: ended}
}

func result(o orderv1.Outcome, text string) *orderv1.Result {
	return &orderv1.Result{Outcome: o, Error: text}
}

var (
	done     = result(orderv1.Outcome_OUTCOME_SUCCEEDED, "")
	refused  = result(orderv1.Outcome_OUTCOME_REFUSED, "the disk is full")
	finished = &linkv1.StepEnded{Name: "database", State: taskv1.StepState_STEP_STATE_DONE, Message: "made"}
)

func (w *world) count(query string, args ...any) int {
	w.t.Helper()
	var n int
	if err := w.d.Reader().QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// finish ends whatever is open on a server.
func (w *world) finish(server string) {
	w.t.Helper()
	err := db.InTx(context.Background(), w.d, func(tx *db.Tx) error {
		return w.ts.Removed(context.Background(), tx, server, w.now)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}
