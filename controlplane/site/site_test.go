package site_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
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
		made, err := organization.New(d).Create(t.Context(), name, name+"@example.com")
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
		func(context.Context, *db.Tx, contract.ServerID) (string, error) { return "", nil })
	if err != nil {
		t.Fatal(err)
	}
	return made.ID
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

func TestLife(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		if made.State != site.StateCreating || made.Wanted.Generation != 1 {
			t.Fatalf("begins as %+v", made)
		}
		expect := func(t *testing.T, state site.State, generation uint64) {
			t.Helper()
			if got := w.get(t, made.ID); got.State != state || got.Wanted.Generation != generation {
				t.Fatalf("state %d (%s), generation %d; want %d, %d", got.State, got.Problem, got.Wanted.Generation, state, generation)
			}
		}
		step := func(do func(context.Context, contract.OrganizationID, contract.SiteID) (*site.Site, task.Task, error), underway, after site.State, generation uint64) {
			t.Helper()
			if _, _, err := do(ctx, w.organization, made.ID); err != nil {
				t.Fatal(err)
			}
			expect(t, underway, generation)
			if orders := w.work(t, well); len(orders) != 1 || orders[0].GetConvergeSite().GetDesired().GetGeneration() != generation {
				t.Fatalf("the host was ordered %v", orders)
			}
			expect(t, after, generation)
		}
		w.work(t, well)
		expect(t, site.StateActive, 1)
		step(w.sites.Suspend, site.StateUpdating, site.StateSuspended, 2)
		step(w.sites.Resume, site.StateUpdating, site.StateActive, 3)
		step(w.sites.Delete, site.StateTrashed, site.StateTrashed, 4)
		if _, _, err := w.sites.Suspend(ctx, w.organization, made.ID); !errors.Is(err, site.ErrInTrash) {
			t.Errorf("suspend in the trash: %v", err)
		}
		if _, _, err := w.sites.Create(ctx, site.Request{Organization: w.organization, Name: "thief", Type: "static", Domains: []string{"blog.example.com"}}); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "blog.example.com") {
			t.Errorf("took the name of a site in the trash: %v", err)
		}
		step(w.sites.Restore, site.StateUpdating, site.StateActive, 5)
		step(w.sites.Delete, site.StateTrashed, site.StateTrashed, 6)

		if n, err := w.sites.Purge(ctx, time.Now().Add(site.DefaultTrashPeriod-time.Minute)); err != nil || n != 0 {
			t.Fatalf("purged %d too early, %v", n, err)
		}
		if n, err := w.sites.Purge(ctx, time.Now().Add(site.DefaultTrashPeriod+time.Minute)); err != nil || n != 1 {
			t.Fatalf("purged %d, %v", n, err)
		}
		expect(t, site.StateDeleting, 7)
		if _, _, err := w.sites.Restore(ctx, w.organization, made.ID); !errors.Is(err, site.ErrPurging) {
			t.Errorf("restored while it was removed: %v", err)
		}
		w.work(t, well)
		if _, err := w.sites.Get(ctx, w.organization, made.ID); !errors.Is(err, site.ErrNotFound) {
			t.Errorf("after the purge: %v", err)
		}
		again := w.create(t, w.request("blog"))
		if again.ID == made.ID || again.Handle == made.Handle {
			t.Error("a new site took over an old one's id or handle")
		}
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE object = $1`, made.ID); n != 8 {
			t.Errorf("%d audit events", n)
		}
	})
}

func TestCreate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		w.create(t, w.request("first"))

		for name, test := range map[string]struct {
			change func(*site.Request)
			field  string
		}{
			"a name with a space":          {func(r *site.Request) { r.Name = "a b" }, "name"},
			"an unknown type":              {func(r *site.Request) { r.Type = "drupal" }, "type"},
			"no domain":                    {func(r *site.Request) { r.Domains = nil }, "domains"},
			"a domain with a line break":   {func(r *site.Request) { r.Domains = []string{"a.example.com", "b.example.com\n"} }, "domains[1]"},
			"a domain twice":               {func(r *site.Request) { r.Domains = []string{"a.example.com", "A.example.com"} }, "domains[1]"},
			"an unknown setting":           {func(r *site.Request) { r.Settings = map[string]string{"theme": "x"} }, "settings"},
			"a title with a line break":    {func(r *site.Request) { r.Settings = map[string]string{"title": "a\nb"} }, "settings.title"},
			"WordPress without an address": {func(r *site.Request) { r.Type = "wordpress" }, "settings.admin_email"},
			"a strange locale": {func(r *site.Request) {
				r.Type, r.Settings = "wordpress", map[string]string{"admin_email": "a@example.com", "locale": "../x"}
			}, "settings.locale"},
			"a strange administrator": {func(r *site.Request) {
				r.Type, r.Settings = "wordpress", map[string]string{"admin_email": "a@example.com", "admin_user": "-x"}
			}, "settings.admin_user"},
			"too little memory":    {func(r *site.Request) { r.Limits.MemoryBytes = 1 }, "limits.memory_bytes"},
			"a hostile request id": {func(r *site.Request) { r.RequestID = "a;b" }, "request_id"},
		} {
			t.Run("refuses "+name, func(t *testing.T) {
				r := w.request("second")
				test.change(&r)
				var f *fault.Fault
				if _, _, err := w.sites.Create(ctx, r); !errors.As(err, &f) || f.Kind() != fault.KindInvalid || f.Field() != test.field {
					t.Errorf("got %v", err)
				}
			})
		}
		t.Run("refuses a name already taken", func(t *testing.T) {
			r := w.request("first")
			r.Domains = []string{"new.example.com"}
			if _, _, err := w.sites.Create(ctx, r); !errors.Is(err, site.ErrNameTaken) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("lets another organization use the name, but not the domain", func(t *testing.T) {
			r := w.request("first")
			r.Organization = w.stranger
			if _, _, err := w.sites.Create(ctx, r); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "first.example.com") {
				t.Errorf("got %v", err)
			}
			r.Domains = []string{"theirs.example.com"}
			if _, _, err := w.sites.Create(ctx, r); err != nil {
				t.Error(err)
			}
		})
		t.Run("refuses an organization that is not there", func(t *testing.T) {
			r := w.request("ghost")
			r.Organization = contract.NewOrganizationID()
			if _, _, err := w.sites.Create(ctx, r); !errors.Is(err, organization.ErrNotFound) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("leaves nothing of what was refused", func(t *testing.T) {
			if sites, tasks, domains := w.count(t, `SELECT COUNT(*) FROM sites`), w.count(t, `SELECT COUNT(*) FROM tasks`), w.count(t, `SELECT COUNT(*) FROM domains`); sites != 2 || tasks != 2 || domains != 2 {
				t.Errorf("%d sites, %d tasks, %d domains", sites, tasks, domains)
			}
		})
		t.Run("fills in what a WordPress site needs", func(t *testing.T) {
			r := w.request("shop")
			r.Type, r.Settings = "wordpress", map[string]string{"admin_email": "Anna@Example.com", "title": `Anna's "shop"; $(id)`}
			made := w.create(t, r)
			want := map[string]string{"title": `Anna's "shop"; $(id)`, "admin_user": "admin", "admin_email": "Anna@example.com", "locale": "en_US"}
			if fmt.Sprint(made.Wanted.Settings) != fmt.Sprint(want) || made.Wanted.Archive == nil || made.Wanted.Archive.Version != "6.8.1" {
				t.Errorf("got %+v", made.Wanted)
			}
		})
	})
}

func TestRequestID(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		r := w.request("blog")
		r.RequestID = "order-1"
		type answer struct {
			site contract.SiteID
			task string
		}
		var mu sync.Mutex
		answers := map[answer]int{}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				made, ordered, err := w.sites.Create(t.Context(), r)
				if err != nil {
					t.Errorf("a repeat: %v", err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				answers[answer{made.ID, ordered.ID}]++
			})
		}
		wg.Wait()
		if len(answers) != 1 {
			t.Errorf("%d different answers: %v", len(answers), answers)
		}
		if sites, tasks := w.count(t, `SELECT COUNT(*) FROM sites`), w.count(t, `SELECT COUNT(*) FROM tasks`); sites != 1 || tasks != 1 {
			t.Errorf("%d sites, %d tasks", sites, tasks)
		}
		r.Domains = append(r.Domains, "www.blog.example.com")
		if _, _, err := w.sites.Create(t.Context(), r); !errors.Is(err, site.ErrRequestID) {
			t.Errorf("the same id with other content: %v", err)
		}
		r.Organization = w.stranger
		r.Domains = []string{"elsewhere.example.com"}
		if made, _, err := w.sites.Create(t.Context(), r); err != nil || made.Organization != w.stranger {
			t.Errorf("the same id of another organization: %v", err)
		}
	})
}

func TestUpdate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		r := w.request("shop")
		r.Type, r.Settings = "wordpress", map[string]string{"admin_email": "a@example.com", "title": "Old"}
		made := w.create(t, r)
		w.create(t, w.request("other"))
		w.work(t, well)

		t.Run("changes what is named and leaves the rest", func(t *testing.T) {
			_, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{
				Domains: []string{"new.example.com", "shop.example.com"}, Settings: map[string]string{"title": "New"},
			})
			if err != nil {
				t.Fatal(err)
			}
			got := w.get(t, made.ID)
			if got.Wanted.Domains[0].String() != "new.example.com" || got.Wanted.Settings["title"] != "New" || got.Wanted.Settings["admin_email"] != "a@example.com" {
				t.Errorf("got %+v", got.Wanted)
			}
			if orders := w.work(t, well); len(orders) != 1 || orders[0].GetConvergeSite().GetDesired().GetSettings()["title"] != "New" {
				t.Errorf("the host was ordered %v", orders)
			}
		})
		t.Run("frees the domains that are not wanted any more", func(t *testing.T) {
			if _, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{Domains: []string{"new.example.com"}}); err != nil {
				t.Fatal(err)
			}
			next := w.request("next")
			next.Domains = []string{"shop.example.com"}
			w.create(t, next)
			w.work(t, well)
		})
		before := w.get(t, made.ID)
		for name, change := range map[string]site.Change{
			"another site's domain":      {Domains: []string{"other.example.com"}, Settings: map[string]string{"title": "Newer"}},
			"a fixed setting":            {Settings: map[string]string{"admin_user": "root"}},
			"no domain at all":           {Domains: []string{}},
			"nothing":                    {},
			"limits that nobody can set": {Limits: &site.Limits{CPUPercent: 1 << 20}},
		} {
			t.Run("refuses "+name+", with no effect", func(t *testing.T) {
				if _, _, err := w.sites.Update(ctx, w.organization, made.ID, change); fault.KindOf(err) != fault.KindInvalid && fault.KindOf(err) != fault.KindConflict {
					t.Errorf("got %v", err)
				}
				if after := w.get(t, made.ID); !reflect.DeepEqual(after.Wanted, before.Wanted) {
					t.Errorf("became %+v", after.Wanted)
				}
			})
		}
	})
}

func TestFailure(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		w.work(t, badly)
		if got := w.get(t, made.ID); got.State != site.StateFailed || got.Problem != "the disk is full" {
			t.Errorf("after a failure: %d %q", got.State, got.Problem)
		}
		if _, _, err := w.sites.Resume(ctx, w.organization, made.ID); err != nil {
			t.Fatal(err)
		}
		w.work(t, well)
		if got := w.get(t, made.ID); got.State != site.StateActive || got.Problem != "" {
			t.Errorf("after the next try: %d %q", got.State, got.Problem)
		}
		// The removal fails; it is tried again, but not in a loop.
		if _, _, err := w.sites.Delete(ctx, w.organization, made.ID); err != nil {
			t.Fatal(err)
		}
		w.work(t, well)
		later := time.Now().Add(8 * 24 * time.Hour)
		if _, err := w.sites.Purge(ctx, later); err != nil {
			t.Fatal(err)
		}
		w.work(t, badly)
		if n, err := w.sites.Purge(ctx, time.Now().Add(time.Minute)); err != nil || n != 0 {
			t.Errorf("tried again at once: %d, %v", n, err)
		}
		if n, err := w.sites.Purge(ctx, time.Now().Add(time.Hour)); err != nil || n != 1 {
			t.Errorf("did not try again: %d, %v", n, err)
		}
		w.work(t, well)
		if n := w.count(t, `SELECT COUNT(*) FROM sites`); n != 0 {
			t.Errorf("%d sites left", n)
		}
	})
}

func TestObserve(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		w.work(t, well)
		id := made.ID.String()

		t.Run("takes in what the site's own server measured", func(t *testing.T) {
			down := holding(id, 1, sitev1.Phase_PHASE_ACTIVE)
			down.HttpStatus = 0
			if err := w.sites.Observe(ctx, w.server, []*sitev1.ObservedState{down}); err != nil {
				t.Fatal(err)
			}
			if got := w.get(t, made.ID); got.State != site.StateFailed || got.Problem != "the home page did not answer" {
				t.Errorf("got %d %q", got.State, got.Problem)
			}
			if err := w.sites.Observe(ctx, w.server, []*sitev1.ObservedState{holding(id, 1, sitev1.Phase_PHASE_ACTIVE)}); err != nil {
				t.Fatal(err)
			}
		})
		liar := addServer(t, d, "liar")
		t.Run("ignores another server", func(t *testing.T) {
			if err := w.sites.Observe(ctx, liar, []*sitev1.ObservedState{holding(id, 9, sitev1.Phase_PHASE_ABSENT)}); err != nil {
				t.Fatal(err)
			}
			if got := w.get(t, made.ID); got.State != site.StateActive || got.Observed.Generation != 1 {
				t.Errorf("got %d, %+v", got.State, got.Observed)
			}
		})
		t.Run("ignores a generation that no counting gives", func(t *testing.T) {
			if err := w.sites.Observe(ctx, w.server, []*sitev1.ObservedState{holding(id, 1<<63, sitev1.Phase_PHASE_ACTIVE)}); err != nil {
				t.Fatal(err)
			}
			if got := w.get(t, made.ID); got.Observed.Generation != 1 {
				t.Errorf("got %+v", got.Observed)
			}
		})
		t.Run("ignores a site that is not there", func(t *testing.T) {
			if err := w.sites.Observe(ctx, w.server, []*sitev1.ObservedState{holding(contract.NewSiteID().String(), 1, sitev1.Phase_PHASE_ACTIVE)}); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestHold(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		hold := func(holdings ...*sitev1.ObservedState) []contract.SiteID {
			t.Helper()
			ordered, err := w.sites.Hold(ctx, w.server, holdings)
			if err != nil {
				t.Fatal(err)
			}
			return ordered
		}
		if ordered := hold(); len(ordered) != 0 {
			t.Errorf("ordered again although a task is open: %v", ordered)
		}
		w.work(t, well)
		id := made.ID.String()
		if ordered := hold(holding(id, 1, sitev1.Phase_PHASE_ACTIVE)); len(ordered) != 0 {
			t.Errorf("ordered again although the host holds it: %v", ordered)
		}
		if ordered := hold(); len(ordered) != 1 {
			t.Errorf("the host lost the site, and was ordered %v", ordered)
		}
		if ordered := hold(); len(ordered) != 0 {
			t.Errorf("ordered twice: %v", ordered)
		}
		w.work(t, well)

		// The database was restored from before generation 7.
		if ordered := hold(holding(id, 7, sitev1.Phase_PHASE_SUSPENDED)); len(ordered) != 0 {
			t.Errorf("a host that knows more was ordered %v", ordered)
		}
		got := w.get(t, made.ID)
		if got.State != site.StateFailed || !strings.HasPrefix(got.Problem, "the host holds generation 7, newer than 1") {
			t.Errorf("got %d %q", got.State, got.Problem)
		}
		changed, _, err := w.sites.Resume(ctx, w.organization, made.ID)
		if err != nil || changed.Wanted.Generation != 8 {
			t.Fatalf("the next generation is %d, %v", changed.Wanted.Generation, err)
		}
		w.work(t, well)
		if got := w.get(t, made.ID); got.State != site.StateActive {
			t.Errorf("got %d %q", got.State, got.Problem)
		}
	})
}

func TestLogin(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		r := w.request("shop")
		r.Type, r.Settings = "wordpress", map[string]string{"admin_email": "a@example.com"}
		shop := w.create(t, r)
		if _, err := w.sites.CreateLogin(ctx, w.organization, shop.ID); !errors.Is(err, site.ErrNotActive) {
			t.Errorf("before it is active: %v", err)
		}
		brochure := w.create(t, w.request("brochure"))
		w.work(t, well)
		if _, err := w.sites.CreateLogin(ctx, w.organization, brochure.ID); !errors.Is(err, site.ErrNoLogin) {
			t.Errorf("a static site: %v", err)
		}

		answer := func(do func(*orderv1.Order) *orderv1.Result) (site.Login, *orderv1.Order, error) {
			t.Helper()
			type outcome struct {
				site.Login
				error
			}
			done := make(chan outcome)
			go func() {
				login, err := w.sites.CreateLogin(ctx, w.organization, shop.ID)
				done <- outcome{login, err}
			}()
			var ordered *orderv1.Order
			for {
				for _, order := range w.work(t, do) {
					ordered = order
				}
				select {
				case o := <-done:
					return o.Login, ordered, o.error
				case <-time.After(10 * time.Millisecond):
				}
			}
		}
		login, order, err := answer(well)
		if err != nil {
			t.Fatal(err)
		}
		prefix := "http://shop.example.com/?chom_login="
		token := strings.TrimPrefix(login.URL, prefix)
		if token == login.URL || len(token) != 43 {
			t.Errorf("the link is %s", login.URL)
		}
		if left := time.Until(login.ExpiresAt); left > time.Minute || left < 30*time.Second {
			t.Errorf("it works for %s", left)
		}
		if got := order.GetSiteLogin(); got.GetHandle() != shop.Handle.String() || len(got.GetTokenSha256()) != 32 {
			t.Errorf("the host was ordered %v", order)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'site.login'`); n != 1 {
			t.Errorf("%d audit events", n)
		}
		if _, _, err := answer(badly); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "the disk is full") {
			t.Errorf("when the host fails: %v", err)
		}
	})
}

func TestList(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		for i := range 5 {
			w.create(t, w.request(fmt.Sprintf("s%d", i)))
		}
		trashed := w.create(t, w.request("trashed"))
		if _, _, err := w.sites.Delete(ctx, w.organization, trashed.ID); err != nil {
			t.Fatal(err)
		}
		read := func(organization contract.OrganizationID, all bool) (names []string) {
			t.Helper()
			for token := ""; ; {
				found, next, err := w.sites.List(ctx, organization, 2, token, all)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range found {
					names = append(names, s.Name)
				}
				if token = next; token == "" {
					return names
				}
			}
		}
		for _, test := range []struct {
			organization contract.OrganizationID
			all          bool
			want         string
		}{
			{w.organization, false, "[s0 s1 s2 s3 s4]"},
			{w.organization, true, "[s0 s1 s2 s3 s4 trashed]"},
			{w.stranger, true, "[]"},
		} {
			if got := fmt.Sprint(read(test.organization, test.all)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		}
		_, next, err := w.sites.List(ctx, w.organization, 2, "", false)
		if err != nil {
			t.Fatal(err)
		}
		for name, read := range map[string]func() error{
			"another organization's": func() error { _, _, err := w.sites.List(ctx, w.stranger, 2, next, false); return err },
			"another query's":        func() error { _, _, err := w.sites.List(ctx, w.organization, 2, next, true); return err },
		} {
			if err := read(); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("%s page token: %v", name, err)
			}
		}
	})
}

func TestForeign(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		made := w.create(t, w.request("blog"))
		w.work(t, well)
		for name, do := range map[string]func(contract.OrganizationID, contract.SiteID) error{
			"get": func(o contract.OrganizationID, id contract.SiteID) error {
				_, err := w.sites.Get(ctx, o, id)
				return err
			},
			"suspend": func(o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := w.sites.Suspend(ctx, o, id)
				return err
			},
			"delete": func(o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := w.sites.Delete(ctx, o, id)
				return err
			},
			"login": func(o contract.OrganizationID, id contract.SiteID) error {
				_, err := w.sites.CreateLogin(ctx, o, id)
				return err
			},
			"update": func(o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := w.sites.Update(ctx, o, id, site.Change{Domains: []string{"stolen.example.com"}})
				return err
			},
		} {
			if err := do(w.stranger, made.ID); !errors.Is(err, site.ErrNotFound) {
				t.Errorf("%s of another organization's site: %v", name, err)
			}
		}
		if got := w.get(t, made.ID); got.Wanted.Generation != 1 {
			t.Errorf("it became %+v", got.Wanted)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM tasks`); n != 1 {
			t.Errorf("%d tasks", n)
		}
	})
}
