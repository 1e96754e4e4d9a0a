package task

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/agent/clock"
	"chom.dev/agent/journal"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// host is an agent without a link: orders go in, events come out.
type host struct {
	t        testing.TB
	path     string
	server   contract.ServerID
	signer   ed25519.PrivateKey
	handlers map[Kind]Handler
	slots    int
	log      *slog.Logger

	clock   clock.Clock
	journal *journal.Journal
	engine  *Engine
	stop    context.CancelFunc
	ended   chan error
	fence   uint64
	events  map[string][]*linkv1.TaskEvent // taken, by attempt, each number once
}

func newHost(t testing.TB) *host {
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &host{
		t: t, path: filepath.Join(fastDir(t), "journal.db"), server: contract.NewServerID(), signer: signer,
		handlers: map[Kind]Handler{Noop: NoopHandler()}, log: slog.New(slog.DiscardHandler),
		events: map[string][]*linkv1.TaskEvent{},
	}
}

// fastDir is in memory where that can be had: what is tested is order, not the disk.
func fastDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "chom-task-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start opens the journal and runs the engine, as a new process would.
func (h *host) start() *host {
	h.t.Helper()
	var err error
	if h.journal, err = journal.Open(h.path, h.server.String(), h.log); err != nil {
		h.t.Fatal(err)
	}
	h.engine, err = New(Config{
		Server: h.server, Journal: h.journal, Handlers: h.handlers, Signers: []ed25519.PublicKey{h.signer.Public().(ed25519.PublicKey)},
		Clock: &h.clock, Log: h.log, Slots: h.slots, Pause: time.Millisecond,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	h.stop, h.ended = stop, make(chan error, 1)
	engine := h.engine
	ended := h.ended
	go func() { ended <- engine.Run(ctx) }()
	h.t.Cleanup(stop)
	return h
}

// end stops it as SIGTERM does.
func (h *host) end() {
	h.t.Helper()
	h.stop()
	if err := <-h.ended; err != nil {
		h.t.Error("engine ended with", err)
	}
	if err := h.journal.Close(); err != nil {
		h.t.Error(err)
	}
}

// kill stops it as SIGKILL does: what is not in the journal is gone.
func (h *host) kill() {
	h.journal.Abandon()
	h.stop()
	<-h.ended
}

// order is a valid noop for this host, changed by edits.
func (h *host) order(edits ...func(*orderv1.Order)) *orderv1.Order {
	h.fence++
	o := &orderv1.Order{
		Schema: contract.OrderSchema, TaskId: contract.NewTaskID().String(), ServerId: h.server.String(),
		OrganizationId: nilUUID, Attempt: 1, Fence: h.fence, Nonce: make([]byte, 16),
		IssueTime: timestamppb.Now(), ExpireTime: timestamppb.New(time.Now().Add(time.Minute)), Timeout: durationpb.New(time.Minute),
		Kind: &orderv1.Order_Noop{Noop: &orderv1.Noop{Steps: 2}},
	}
	for _, edit := range edits {
		edit(o)
	}
	return o
}

const nilUUID = "00000000-0000-0000-0000-000000000000"

// converge makes the order about a site.
func converge(d *sitev1.DesiredState) func(*orderv1.Order) {
	return func(o *orderv1.Order) {
		o.SiteId, o.OrganizationId = d.SiteId, d.OrganizationId
		o.Kind = &orderv1.Order_ConvergeSite{ConvergeSite: &orderv1.ConvergeSite{Desired: d}}
	}
}

// desired is a site's first generation.
func desired() *sitev1.DesiredState {
	return &sitev1.DesiredState{
		SiteId: contract.NewSiteID().String(), OrganizationId: contract.NewOrganizationID().String(),
		Handle: contract.NewHandle().String(), Generation: 1, Phase: sitev1.Phase_PHASE_ACTIVE, Type: "static",
		Domains: []string{"a.example.com"},
	}
}

func (h *host) sign(o *orderv1.Order) *orderv1.SignedOrder {
	h.t.Helper()
	so, err := contract.SignOrder(h.signer, o)
	if err != nil {
		h.t.Fatal(err)
	}
	return so
}

func (h *host) offer(o *orderv1.Order) *orderv1.Order {
	h.t.Helper()
	h.engine.Offer(h.sign(o))
	return o
}

// take empties the outbox as the control plane would.
func (h *host) take() {
	h.t.Helper()
	for {
		b, err := h.engine.Outbox(7, 1<<20) // a size that cuts batches in odd places
		if err != nil {
			h.t.Fatal(err)
		}
		if len(b.Events) == 0 {
			return
		}
		for _, ev := range b.Events {
			h.heard(ev)
		}
		h.engine.Delivered(b)
	}
}

// heard keeps each number once and in order, as the contract says.
func (h *host) heard(ev *linkv1.TaskEvent) {
	key := attemptOf(ev.TaskId, ev.Attempt)
	if had := h.events[key]; len(had) > 0 && had[len(had)-1].Sequence >= ev.Sequence {
		return
	}
	h.events[key] = append(h.events[key], ev)
}

func attemptOf(task string, n uint32) string { return task + "/" + string(rune('0'+n)) }

// result waits for an attempt's end.
func (h *host) result(o *orderv1.Order) *orderv1.Result {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		h.take()
		for _, ev := range h.events[attemptOf(o.TaskId, o.Attempt)] {
			if r := ev.GetResult(); r != nil {
				return r
			}
		}
	}
	h.t.Fatalf("task %s did not end", o.TaskId)
	return nil
}

// steps is a handler of fixed steps.
func steps(s ...Step) Handler {
	return HandlerFunc(func(Order) (Plan, error) { return Plan{Steps: s}, nil })
}
