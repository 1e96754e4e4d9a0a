package swarm

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"chom.dev/agent/link/linktest"
	"chom.dev/agent/swarm/ledger"
	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// TestSwarm loads twenty agents with orders while they are killed at random
// and calls get lost, and lets the ledger judge. The control plane of the test
// knows what succeeded from what it was told.
func TestSwarm(t *testing.T) {
	const agents, ordersEach = 20, 8
	server := linktest.New(t)
	var tokens strings.Builder
	var ids []string
	for range agents {
		token, id := server.Token()
		fmt.Fprintln(&tokens, token)
		ids = append(ids, id)
	}
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	w, err := ledger.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Server: server.Address, Dir: t.TempDir(), Agents: agents, Tokens: strings.NewReader(tokens.String()), Ramp: 100 * time.Millisecond,
		Ledger: w, Log: slog.New(slog.DiscardHandler), KillEvery: 50 * time.Millisecond, DeadFor: 300 * time.Millisecond,
		StepTime: 20 * time.Millisecond, Samples: 3, Seed: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()

	var all []*queue
	for _, id := range ids {
		all = append(all, newQueue(server, id, ordersEach))
	}
	deadline := time.Now().Add(60 * time.Second)
	for open := true; open; time.Sleep(10 * time.Millisecond) {
		open = false
		for _, q := range all {
			open = !q.work() || open
		}
		if time.Now().After(deadline) {
			t.Fatalf("orders don't end; the swarm is %+v", s.Counts())
		}
	}
	counts := s.Counts()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var succeeded []string
	for _, q := range all {
		succeeded = append(succeeded, q.succeeded...)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum, findings, err := ledger.Check(f, succeeded)
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range findings {
		t.Error(finding)
	}
	t.Logf("%+v, %+v", sum, counts)
	if len(succeeded) != agents*ordersEach || sum.Kills < agents || sum.Resumed == 0 || sum.Effects < agents*ordersEach {
		t.Errorf("%d succeeded; the swarm did too little to prove anything: %+v", len(succeeded), sum)
	}
}

// queue is one agent's orders: some generations of a site, one after the
// other. What is not accepted in time is offered again as the next attempt.
type queue struct {
	server    *linktest.Server
	id        string
	desired   *sitev1.DesiredState
	left      int
	order     *orderv1.Order // under way
	offered   time.Time
	succeeded []string
}

func newQueue(s *linktest.Server, id string, orders int) *queue {
	return &queue{server: s, id: id, left: orders, desired: &sitev1.DesiredState{
		SiteId: contract.NewSiteID().String(), OrganizationId: contract.NewOrganizationID().String(), Handle: contract.NewHandle().String(),
		Phase: sitev1.Phase_PHASE_ACTIVE, Type: "static", Domains: []string{"a.example.com"},
	}}
}

// work looks at the order under way and offers the next one. It tells whether
// all are done.
func (q *queue) work() bool {
	if q.order != nil && !q.over() {
		return false
	}
	if q.left == 0 {
		return true
	}
	q.left--
	q.desired.Generation++
	q.offer(contract.NewTaskID().String(), 1)
	return false
}

func (q *queue) offer(task string, attempt uint32) {
	d := proto.CloneOf(q.desired)
	q.order = &orderv1.Order{
		TaskId: task, Attempt: attempt, SiteId: d.SiteId, OrganizationId: d.OrganizationId, Timeout: durationpb.New(time.Minute),
		Kind: &orderv1.Order_ConvergeSite{ConvergeSite: &orderv1.ConvergeSite{Desired: d}},
	}
	q.offered = time.Now()
	q.server.Offer(q.id, q.order)
}

// over tells whether the order under way succeeded. One that got lost on its
// way is offered again.
func (q *queue) over() bool {
	events := q.server.Events(q.id, q.order.TaskId, q.order.Attempt)
	if r := q.server.Result(q.id, q.order.TaskId, q.order.Attempt); r != nil {
		if r.Outcome == orderv1.Outcome_OUTCOME_SUCCEEDED {
			q.succeeded = append(q.succeeded, q.order.TaskId)
			q.order = nil
			return true
		}
		q.offer(q.order.TaskId, q.order.Attempt+1)
		return false
	}
	if len(events) == 0 && time.Since(q.offered) > 2*time.Second {
		q.offer(q.order.TaskId, q.order.Attempt+1)
	}
	return false
}
