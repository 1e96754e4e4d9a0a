package link_test

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

func (w *world) metric(name string) float64 {
	w.t.Helper()
	all, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, family := range all {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			sum += value(m)
		}
	}
	return sum
}

func value(m *dto.Metric) float64 {
	return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
}

func TestReport(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		a, b := w.enroll("a"), w.enroll("b")
		a.hello()
		b.hello()
		// ran gives a task of b that has come to a state.
		ran := func(t *testing.T, events ...func(*orderv1.Order) *linkv1.TaskEvent) *orderv1.Order {
			t.Helper()
			b.hello()
			s := b.watch().opened(t)
			defer s.stop()
			w.noop(b.id)
			o := b.order(s.next(t, 2*time.Second))
			for _, e := range events {
				if res := b.mustReport(e(o)); len(res.GetRefused()) > 0 {
					t.Fatalf("refused: %v", res)
				}
			}
			return o
		}
		ended := func(o *orderv1.Order) *linkv1.TaskEvent { return result(o, 2, succeeded) }

		t.Run("A speaks of B's tasks: refused as for a task that never was, and A is flagged", func(t *testing.T) {
			o := ran(t, accepted)
			before := w.task(o.GetTaskId())
			unknown := proto.CloneOf(o)
			unknown.TaskId = uuid.NewString()
			never := a.mustReport(result(unknown, 2, succeeded)).GetRefused()
			for range 3 {
				res := a.mustReport(result(o, 2, succeeded))
				if len(res.GetRefused()) != 1 || len(never) != 1 || res.GetRefused()[0].GetReason() != never[0].GetReason() {
					t.Errorf("got %v and %v", res.GetRefused(), never)
				}
			}
			if got := w.task(o.GetTaskId()); got.State != before.State || got.StepCount != before.StepCount {
				t.Errorf("it became %s", got.State)
			}
			if n := w.count(`SELECT COUNT(*) FROM audit_events WHERE action = 'server.foreign_events' AND object = $1`, a.id); n != 1 {
				t.Errorf("A was flagged %d times", n)
			}
			if got := w.metric("chom_link_flagged_agents_total"); got != 1 {
				t.Errorf("the metric says %v", got)
			}
			b.mustReport(result(o, 2, succeeded))
		})
		t.Run("how far a step of B's is, B says and A does not", func(t *testing.T) {
			o := ran(t, accepted, func(o *orderv1.Order) *linkv1.TaskEvent {
				return &linkv1.TaskEvent{
					TaskId: o.GetTaskId(), Attempt: o.GetAttempt(), Fence: o.GetFence(), Sequence: 2,
					Event: &linkv1.TaskEvent_StepStarted{StepStarted: &linkv1.StepStarted{Name: "copy"}},
				}
			})
			for by, agent := range map[uint64]*host{7: b, 9: a} {
				_, err := agent.client.Report(t.Context(), &linkv1.ReportRequest{Epoch: agent.epoch, Progress: []*linkv1.TaskProgress{{
					TaskId: o.GetTaskId(), Attempt: o.GetAttempt(), Step: "copy", Progress: &taskv1.Progress{Doing: "files", DoneBytes: by},
				}}})
				if err != nil {
					t.Fatal(err)
				}
			}
			if got := w.task(o.GetTaskId()).Progress; got != (task.Progress{Doing: "files", Done: 7}) {
				t.Errorf("it is %+v", got)
			}
			_, err := b.client.Report(t.Context(), &linkv1.ReportRequest{Epoch: b.epoch, Progress: []*linkv1.TaskProgress{{
				TaskId: o.GetTaskId(), Attempt: o.GetAttempt(), Step: "copy", Progress: &taskv1.Progress{Doing: strings.Repeat("x", 65), DoneBytes: 8},
			}}})
			if connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Errorf("a text without end: %v", err)
			}
			b.mustReport(result(o, 3, succeeded))
		})
		t.Run("A renews no lease of B's task and asks for no result of it", func(t *testing.T) {
			o := ran(t)
			_, err := a.client.Report(t.Context(), &linkv1.ReportRequest{
				Epoch: a.epoch, Running: []*linkv1.JournalEntry{{TaskId: o.GetTaskId(), Attempt: o.GetAttempt()}},
			})
			if err != nil {
				t.Fatal(err)
			}
			res := a.hello(&linkv1.JournalEntry{TaskId: o.GetTaskId(), Attempt: o.GetAttempt(), Ended: true})
			if len(res.GetResend()) != 0 {
				t.Errorf("A is asked for %v", res.GetResend())
			}
			if got := w.task(o.GetTaskId()).State; got != task.Offered {
				t.Errorf("it became %s", got)
			}
			b.mustReport(accepted(o), result(o, 2, succeeded))
		})
		t.Run("results that nobody waits for are refused, and nothing moves back", func(t *testing.T) {
			queued := func(t *testing.T) *orderv1.Order {
				b.hello() // nobody is there to be offered anything
				made := w.noop(b.id)
				return &orderv1.Order{TaskId: made.ID, Attempt: 1, Fence: 1}
			}
			for name, c := range map[string]struct {
				of    func(t *testing.T) *orderv1.Order
				event func(*orderv1.Order) *linkv1.TaskEvent
				want  task.State
			}{
				"of a task that was never sent": {queued, ended, task.Queued},
				"of one that has succeeded": {
					func(t *testing.T) *orderv1.Order { return ran(t, accepted, ended) },
					func(o *orderv1.Order) *linkv1.TaskEvent { return result(o, 9, orderv1.Outcome_OUTCOME_FAILED) }, task.Succeeded,
				},
				"acceptance of one that has succeeded": {
					func(t *testing.T) *orderv1.Order { return ran(t, accepted, ended) },
					func(o *orderv1.Order) *linkv1.TaskEvent { e := accepted(o); e.Sequence = 9; return e }, task.Succeeded,
				},
				"of an attempt that was never offered": {
					func(t *testing.T) *orderv1.Order { return ran(t, accepted) },
					func(o *orderv1.Order) *linkv1.TaskEvent { e := result(o, 9, succeeded); e.Attempt++; return e }, task.Running,
				},
				"with another offer's fence": {
					func(t *testing.T) *orderv1.Order { return ran(t, accepted) },
					func(o *orderv1.Order) *linkv1.TaskEvent { e := result(o, 9, succeeded); e.Fence++; return e }, task.Running,
				},
			} {
				t.Run(name, func(t *testing.T) {
					o := c.of(t)
					res := b.mustReport(c.event(o))
					if len(res.GetRefused()) != 1 || res.GetRefused()[0].GetReason() == "" {
						t.Errorf("got %v", res.GetRefused())
					}
					if got := w.task(o.GetTaskId()).State; got != c.want {
						t.Errorf("it is %s", got)
					}
				})
			}
		})
		t.Run("an event that comes twice counts once", func(t *testing.T) {
			o := ran(t, accepted)
			line := &linkv1.TaskEvent{
				TaskId: o.GetTaskId(), Attempt: o.GetAttempt(), Fence: o.GetFence(), Sequence: 2, Time: timestamppb.Now(),
				Event: &linkv1.TaskEvent_Log{Log: &linkv1.LogText{Text: "hello"}},
			}
			for range 3 {
				if res := b.mustReport(line); len(res.GetRefused()) > 0 {
					t.Errorf("got %v", res.GetRefused())
				}
			}
			if n := w.count(`SELECT COUNT(*) FROM task_logs WHERE task_id = $1`, o.GetTaskId()); n != 1 {
				t.Errorf("%d lines", n)
			}
		})
		t.Run("a heartbeat makes the server online, and says nothing else", func(t *testing.T) {
			b.mustReport()
			deadline := time.Now().Add(5 * time.Second)
			for {
				s, err := w.fleet.Get(t.Context(), must(contract.ParseServerID(b.id)))
				if err != nil {
					t.Fatal(err)
				}
				if s.Online && time.Since(s.LastSeenAt) < 10*time.Second {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("last seen at %s", s.LastSeenAt)
				}
				time.Sleep(50 * time.Millisecond)
			}
		})
		t.Run("facts, samples and measurements of foreign sites do no harm", func(t *testing.T) {
			_, err := b.client.Report(t.Context(), &linkv1.ReportRequest{
				Epoch: b.epoch,
				Facts: &fleetv1.Facts{Hostname: "\x1b[2Jroot\u202e<script>", MemoryBytes: math.MaxUint64, DiskFreeBytes: math.MaxUint64, Findings: []string{"line\nline\x00"}},
				Sites: []*sitev1.ObservedState{{SiteId: contract.NewSiteID().String(), Generation: math.MaxUint64, Phase: sitev1.Phase_PHASE_ACTIVE}},
				Samples: []*linkv1.Sample{
					{Series: "a", Value: math.NaN()},
					{Series: "b", Value: math.Inf(1)},
					{Series: "c\x1b", Value: 1},
					{Series: "d", Value: 1e300},
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			s, err := w.fleet.Get(t.Context(), must(contract.ParseServerID(b.id)))
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range append(s.Facts.Findings, s.Facts.Hostname) {
				if strings.ContainsAny(text, "\x1b\n\x00\u202e") {
					t.Errorf("%q is not harmless", text)
				}
			}
		})
		t.Run("a log line holds no escape codes and no second line", func(t *testing.T) {
			o := ran(t, accepted)
			b.mustReport(&linkv1.TaskEvent{
				TaskId: o.GetTaskId(), Attempt: o.GetAttempt(), Fence: o.GetFence(), Sequence: 2, Time: &timestamppb.Timestamp{Seconds: math.MaxInt64},
				Event: &linkv1.TaskEvent_Log{Log: &linkv1.LogText{Text: "\x1b]0;x\x07a\r\nb\u2028c\u202ed"}},
			})
			var text string
			var at int64
			if err := w.d.Reader().QueryRow(t.Context(), `SELECT text, logged_at FROM task_logs WHERE task_id = $1`, o.GetTaskId()).Scan(&text, &at); err != nil {
				t.Fatal(err)
			}
			if strings.ContainsAny(text, "\x1b\x07\r\n\u2028\u202e") || time.Since(db.Time(at)).Abs() > time.Minute {
				t.Errorf("got %q at %s", text, db.Time(at))
			}
		})
		t.Run("what breaks the rules of the proto names its field", func(t *testing.T) {
			for field, req := range map[string]*linkv1.ReportRequest{
				"events[0].task_id": {Events: []*linkv1.TaskEvent{{TaskId: "x", Attempt: 1, Sequence: 1, Event: &linkv1.TaskEvent_Log{}}}},
				"events[0].event":   {Events: []*linkv1.TaskEvent{{TaskId: uuid.NewString(), Attempt: 1, Sequence: 1}}},
				"samples":           {Samples: make([]*linkv1.Sample, 2001)},
				"facts.hostname":    {Facts: &fleetv1.Facts{Hostname: strings.Repeat("x", 254)}},
				"events[0].step_started.name": {Events: []*linkv1.TaskEvent{{
					TaskId: uuid.NewString(), Attempt: 1, Sequence: 1,
					Event: &linkv1.TaskEvent_StepStarted{StepStarted: &linkv1.StepStarted{Name: "../x"}},
				}}},
			} {
				for i := range req.Samples {
					req.Samples[i] = &linkv1.Sample{Series: "x"}
				}
				req.Epoch = b.epoch
				_, err := b.client.Report(t.Context(), req)
				wantCode(t, err, connect.CodeInvalidArgument)
				if err != nil && !strings.Contains(err.Error(), field+":") {
					t.Errorf("%v does not name %s", err, field)
				}
			}
		})
	})
}

func TestPanic(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t), withoutSites)
	h := w.enroll("web1")
	_, err := h.tryHello() // meets a nil pointer
	wantCode(t, err, connect.CodeInternal)
	if err != nil && strings.Contains(err.Error(), "nil") {
		t.Errorf("%v tells of our inside", err)
	}
	client, end := w.stranger()
	defer end()
	_, err = client.Enroll(context.Background(), &linkv1.EnrollRequest{})
	wantCode(t, err, connect.CodeInvalidArgument) // the others do not notice
}
