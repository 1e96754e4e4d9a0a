package link_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/agent/clock"
	"chom.dev/agent/identity"
	"chom.dev/agent/journal"
	"chom.dev/agent/link"
	"chom.dev/agent/link/linktest"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// agent is a real one but for its host: identity, journal, engine and link.
type agent struct {
	t      *testing.T
	dir    string
	server *linktest.Server
	id     string // of the server that it is
	log    *slog.Logger
	dial   func(context.Context, string, string) (net.Conn, error)
	logs   link.Logs

	clock   *clock.Clock
	store   *identity.Store
	journal *journal.Journal
	engine  *task.Engine
	link    *link.Link
	stop    context.CancelFunc
	ended   chan error
}

func facts(context.Context) *fleetv1.Facts { return &fleetv1.Facts{Hostname: "h"} }

// enrolled makes an agent that has its identity and doesn't run yet.
func enrolled(t *testing.T, s *linktest.Server) *agent {
	t.Helper()
	text, id := s.Token()
	a := &agent{t: t, dir: t.TempDir(), server: s, id: id, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if err := a.enrol(text); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *agent) enrol(text string) error {
	a.t.Helper()
	token, err := identity.ParseToken(text)
	if err != nil {
		return err
	}
	if a.store, err = identity.NewStore(filepath.Join(a.dir, "identity")); err != nil {
		return err
	}
	_, err = link.Enroll(a.t.Context(), a.store, a.server.Address, token, facts(a.t.Context()), a.log)
	return err
}

// start runs the agent, as a new process would.
func (a *agent) start() *agent {
	a.t.Helper()
	var err error
	if a.store, err = identity.NewStore(filepath.Join(a.dir, "identity")); err != nil {
		a.t.Fatal(err)
	}
	id, err := a.store.Current()
	if err != nil {
		a.t.Fatal(err)
	}
	if a.journal, err = journal.Open(filepath.Join(a.dir, "journal.db"), id.Server.String(), a.log); err != nil {
		a.t.Fatal(err)
	}
	a.clock = &clock.Clock{}
	a.engine, err = task.New(task.Config{
		Server: id.Server, Journal: a.journal, Handlers: map[task.Kind]task.Handler{task.Noop: task.NoopHandler()},
		Signers: id.Signers, Clock: a.clock, Log: a.log, Pause: time.Millisecond,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.link = link.New(link.Config{
		Address: a.server.Address, Identity: a.store, Tasks: a.engine, Clock: a.clock, Log: a.log, Facts: facts, Dial: a.dial, Logs: a.logs,
		Samples: func(context.Context) []*linkv1.Sample { return []*linkv1.Sample{{Series: "node_load1", Value: 1}} },
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	a.stop, a.ended = stop, ended
	go func() { ended <- a.engine.Run(ctx) }()
	go func() { ended <- a.link.Run(ctx) }()
	a.t.Cleanup(a.kill)
	return a
}

// kill ends the process without a word.
func (a *agent) kill() {
	if a.stop == nil {
		return
	}
	a.journal.Abandon()
	a.stop()
	<-a.ended
	<-a.ended
	a.stop = nil
}

// hole is a connection that can turn black: what is sent is swallowed, what
// comes is never read, and nothing is said of it.
type hole struct {
	net.Conn
	black *atomic.Bool
}

func (h hole) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	for err == nil && h.black.Load() {
		n, err = h.Conn.Read(p) // until it is closed
	}
	return n, err
}

func (h hole) Write(p []byte) (int, error) {
	if h.black.Load() {
		return len(p), nil
	}
	return h.Conn.Write(p)
}

// until waits for something to become true.
func (a *agent) until(what string, ok func() bool) {
	a.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			a.t.Fatalf("it never happened: %s; the link is %+v", what, a.link.State())
		}
	}
}

// saw waits for the control plane's record to become as wanted.
func (a *agent) saw(what string, ok func(*linktest.Agent) bool) {
	a.t.Helper()
	a.until(what, func() (is bool) {
		a.server.Look(a.id, func(rec *linktest.Agent) { is = ok(rec) })
		return is
	})
}

func (a *agent) connected() *agent {
	a.t.Helper()
	a.until("connected", func() bool { return a.link.State().Phase == link.Connected })
	return a
}

// does has the agent do a noop and checks that it can.
func (a *agent) does(what string) *orderv1.Order {
	a.t.Helper()
	o := &orderv1.Order{TaskId: contract.NewTaskID().String(), Attempt: 1}
	a.server.Offer(a.id, o)
	a.until("the order given "+what+" succeeds", func() bool {
		r := a.server.Result(a.id, o.TaskId, 1)
		return r != nil && r.Outcome == orderv1.Outcome_OUTCOME_SUCCEEDED
	})
	return o
}

func (a *agent) serial() string {
	a.t.Helper()
	id, err := a.store.Current()
	if err != nil {
		a.t.Fatal(err)
	}
	return id.Certificate.SerialNumber.String()
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}
