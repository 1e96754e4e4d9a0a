package swarm

import (
	"context"
	"fmt"
	"log/slog"
	"math"
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

// TestMeasure: what a fake host measures is what the control plane asks a real one's history for, and counts only grow.
func TestMeasure(t *testing.T) {
	h := newHost()
	h.phases["up"], h.phases["down"] = sitev1.Phase_PHASE_ACTIVE, sitev1.Phase_PHASE_SUSPENDED
	now := time.Unix(1_700_000_000, 0)
	look := func() map[string]float64 {
		values := map[string]float64{}
		for _, s := range h.measure(now) {
			values[s.SiteId+" "+s.Series] = s.Value
		}
		return values
	}
	h.phases["plain"], h.types["plain"] = sitev1.Phase_PHASE_ACTIVE, "static"
	first := look()
	now = now.Add(time.Minute)
	second := look()
	if len(first) != len(second) {
		t.Errorf("%d series at first, %d then", len(first), len(second))
	}
	for _, series := range []string{"up chom_site_disk_bytes", "up chom_site_files", "up chom_site_database_bytes", "up chom_site_size_timestamp_seconds", "plain chom_site_disk_bytes"} {
		if second[series] == 0 || second[series] != first[series] {
			t.Errorf("%s went from %v to %v: it is measured once an hour", series, first[series], second[series])
		}
	}
	if n, there := second["plain chom_site_database_bytes"]; there {
		t.Errorf("a site without a database has one of %v bytes", n)
	}
	cpu := 0.0
	for series, value := range second {
		if strings.HasPrefix(series, "down ") {
			t.Errorf("a site that is not served has %s", series)
		}
		if strings.Contains(series, "_total") || strings.Contains(series, "_bucket") {
			if value <= first[series] {
				t.Errorf("%s went from %v to %v", series, first[series], value)
			}
		}
		if strings.HasPrefix(series, ` node_cpu_seconds_total{cpu="0"`) {
			cpu += value
		}
	}
	if math.Abs(cpu-60) > 1e-6 {
		t.Errorf("a core was %v s in its modes in a minute", cpu)
	}
	all := second["up chom_site_request_seconds_count"]
	if all == 0 || second[`up chom_site_request_seconds_bucket{le="+Inf"}`] != all {
		t.Errorf("%v requests, of which %v in the buckets", all, second[`up chom_site_request_seconds_bucket{le="+Inf"}`])
	}
	sum := 0.0
	for _, status := range []string{"2xx", "3xx", "4xx", "5xx"} {
		sum += second[`up chom_site_requests_total{status="`+status+`"}`]
	}
	if math.Abs(sum-all) > 1e-6 {
		t.Errorf("%v requests, of which %v by status", all, sum)
	}
	now = now.Add(time.Hour)
	if third := look(); third["up chom_site_disk_bytes"] <= first["up chom_site_disk_bytes"] || third["up chom_site_size_timestamp_seconds"] != float64(now.Unix()) {
		t.Errorf("an hour later: %v bytes at %v", third["up chom_site_disk_bytes"], third["up chom_site_size_timestamp_seconds"])
	}
}
