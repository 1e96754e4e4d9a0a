package site_test

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// world is a control plane with one server and two organizations, and the hand of that server's agent.
type world struct {
	db           *db.DB
	tasks        *task.Tasks
	sites        *site.Sites
	server       contract.ServerID
	organization contract.OrganizationID
	stranger     contract.OrganizationID
}

func newWorld(t *testing.T, d *db.DB) *world {
	t.Helper()
	_, signer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := task.NewTasks(d, signer, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), task.OnEnd(task.ConvergeSite, site.Ended))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{db: d, tasks: tasks, sites: site.New(d, tasks, slog.New(slog.DiscardHandler), site.Config{
		WordPress: &site.Archive{Version: "6.8.1", URL: "http://mirror.example/wp.tar.gz"},
	})}
	w.server = addServer(t, d, "web1")
	for name, id := range map[string]*contract.OrganizationID{"acme": &w.organization, "other": &w.stranger} {
		made, err := organization.New(d, organization.Config{}).Create(t.Context(), name, name+"@example.com")
		if err != nil {
			t.Fatal(err)
		}
		*id = made.ID
	}
	return w
}

// addServer enrols a server whose host is ready for sites.
func addServer(t *testing.T, d *db.DB, name string) contract.ServerID {
	t.Helper()
	servers := fleet.New(d, slog.New(slog.DiscardHandler))
	made, token, err := servers.Create(t.Context(), name, fleet.Shared, contract.OrganizationID{}, strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	_, err = servers.Enroll(t.Context(), fleet.Enrollment{Token: token.Text, ID: name, KeyHash: []byte(name), Facts: fleet.Facts{Prepared: true}}, time.Now(),
		func(contract.ServerID) (pki.Certificate, error) {
			return pki.Certificate{DER: []byte(name), Serial: name, KeyHash: []byte(name), Expires: time.Now().Add(time.Hour)}, nil
		},
		func(context.Context, *db.Tx, contract.ServerID) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	exec(t, d, `DELETE FROM tasks WHERE server_id = $1`, made.ID) // that prepared it
	return made.ID
}

func exec(t *testing.T, d *db.DB, query string, args ...any) {
	t.Helper()
	if err := db.InTx(t.Context(), d, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), query, args...); return err }); err != nil {
		t.Fatal(err)
	}
}

func (w *world) request(name string) site.Request {
	return site.Request{Organization: w.organization, Name: name, Type: "static", Domains: []string{name + ".example.com"}}
}

func (w *world) create(t *testing.T, r site.Request) *site.Site {
	t.Helper()
	made, _, err := w.sites.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (w *world) get(t *testing.T, id contract.SiteID) *site.Site {
	t.Helper()
	found, err := w.sites.Get(t.Context(), w.organization, id)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// work does what the server's agent would: it takes all orders and reports how they ended.
func (w *world) work(t *testing.T, do func(*orderv1.Order) *orderv1.Result) (orders []*orderv1.Order) {
	t.Helper()
	for {
		server, err := fleet.New(w.db, slog.New(slog.DiscardHandler)).Get(t.Context(), w.server)
		if err != nil {
			t.Fatal(err)
		}
		out, err := w.tasks.Offer(t.Context(), w.server.String(), int64(server.Epoch), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Offers) == 0 {
			return orders
		}
		for _, s := range out.Offers {
			var order orderv1.Order
			if err := proto.Unmarshal(s.GetOrder(), &order); err != nil {
				t.Fatal(err)
			}
			orders = append(orders, &order)
			event := func(n uint64) *linkv1.TaskEvent {
				return &linkv1.TaskEvent{TaskId: order.TaskId, Attempt: order.Attempt, Fence: order.Fence, Sequence: n, Time: timestamppb.Now()}
			}
			accepted, ended := event(1), event(2)
			accepted.Event = &linkv1.TaskEvent_Accepted{Accepted: &linkv1.Accepted{}}
			ended.Event = &linkv1.TaskEvent_Result{Result: do(&order)}
			err := db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
				applied, err := w.tasks.Apply(t.Context(), tx, w.server.String(), []*linkv1.TaskEvent{accepted, ended}, time.Now())
				if len(applied.Refused) > 0 {
					t.Errorf("refused: %v", applied.Refused)
				}
				return err
			}, db.ReadCommitted())
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// well is how a host answers that does what it is asked.
func well(o *orderv1.Order) *orderv1.Result {
	result := &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_SUCCEEDED}
	if desired := o.GetConvergeSite().GetDesired(); desired != nil {
		result.Observed = holding(desired.SiteId, desired.Generation, desired.Phase)
	}
	return result
}

func holding(id string, generation uint64, phase sitev1.Phase) *sitev1.ObservedState {
	status := uint32(200)
	if phase != sitev1.Phase_PHASE_ACTIVE {
		status = 503
	}
	return &sitev1.ObservedState{SiteId: id, Generation: generation, Phase: phase, HttpStatus: status, ObserveTime: timestamppb.Now()}
}

func badly(*orderv1.Order) *orderv1.Result {
	return &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_FAILED, Error: "the disk is full"}
}

func (w *world) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	if err := w.db.Reader().QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// all are the organization's sites, those in the trash too.
func (w *world) all(t *testing.T) []*site.Site {
	t.Helper()
	found, _, err := w.sites.List(t.Context(), w.organization, 0, "", site.Filter{Trashed: true})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
