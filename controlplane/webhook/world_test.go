package webhook

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/outbound/outboundtest"
	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/proto/contract"
)

// receiver is a real HTTPS server, at hooks.example.com, that keeps what it is told.
type receiver struct {
	*httptest.Server
	url string

	mu     sync.Mutex
	calls  []received
	answer func(n int, w http.ResponseWriter, r *http.Request) // nil: 204
}

type received struct {
	header http.Header
	body   string
	at     time.Time
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewUnstartedServer(r)
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.StartTLS()
	t.Cleanup(r.Close)
	_, port, err := net.SplitHostPort(r.Listener.Addr().String())
	must(t, err)
	r.url = "https://hooks.example.com:" + port + "/hook"
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(io.LimitReader(request.Body, 1<<20))
	if err != nil {
		return
	}
	r.mu.Lock()
	r.calls = append(r.calls, received{request.Header, string(body), time.Now()})
	n, answer := len(r.calls), r.answer
	r.mu.Unlock()
	if answer != nil {
		answer(n, w, request)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) got() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.calls...)
}

func (r *receiver) roots() *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(r.Certificate())
	return roots
}

// dialer reaches the receiver by its name; the loopback plays the internet.
func (r *receiver) dialer(t *testing.T) *outbound.Dialer {
	t.Helper()
	_, resolver := outboundtest.Names(t, map[string][]string{"hooks.example.com": {"127.0.0.1"}})
	return outbound.New(outbound.WithResolver(resolver), outbound.WithRoots(r.roots()), outbound.Allow(netip.MustParsePrefix("127.0.0.0/8")))
}

// world is a control plane with an organization.
type world struct {
	*Webhooks
	db   *db.DB
	ours contract.OrganizationID
}

// contacts stands for package organization, which imports this one.
type contacts struct{}

func (contacts) Contacts(_ context.Context, _ *db.Tx, _ contract.OrganizationID) (string, []contract.Email, error) {
	owner, err := contract.ParseEmail("owner@acme.example")
	return "acme", []contract.Email{owner}, err
}

const publicURL = "https://chom.example.com"

func newWorld(t *testing.T, d *db.DB, dialer *outbound.Dialer) *world {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	keys := secrettest.New()
	mails, err := notify.New(d, keys, log, prometheus.NewRegistry(), notify.Config{PublicURL: publicURL})
	must(t, err)
	w := &world{db: d, Webhooks: New(d, log, Config{Keys: keys, Mails: mails, Organizations: contacts{}, Dialer: dialer, PublicURL: publicURL})}
	w.ours = w.organization(t, "acme")
	return w
}

// organization makes one.
func (w *world) organization(t *testing.T, name string) contract.OrganizationID {
	t.Helper()
	id := contract.NewOrganizationID()
	w.change(t, `INSERT INTO organizations (id, name, state, require_second_factor, created_at) VALUES ($1, $2, 'active', FALSE, 1)`, id, name)
	return id
}

// run carries deliveries until the test ends, and tries again what failed without a pause.
func (w *world) run(t *testing.T) (stop func()) {
	t.Helper()
	o, err := outbox.Open(w.db, slog.New(slog.NewTextHandler(t.Output(), nil)), prometheus.NewRegistry())
	must(t, err)
	q := w.Queue()
	q.Backoff = outbox.Backoff{First: time.Millisecond, Most: time.Millisecond}
	o.Add(q)
	ctx, cancel := context.WithCancel(t.Context())
	var loop sync.WaitGroup
	loop.Go(func() { _ = o.Run(ctx) })
	stop = func() {
		cancel()
		loop.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func (w *world) create(t *testing.T, url string, events ...string) (Webhook, string) {
	t.Helper()
	made, secret, err := w.Create(t.Context(), Wanted{Organization: w.ours, URL: url, Events: events})
	must(t, err)
	return made, secret
}

func (w *world) publish(t *testing.T, kind Type, name string) {
	t.Helper()
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
		return Publish(t.Context(), tx, Event{Organization: w.ours, Type: kind, Object: Object{Kind: "site", ID: contract.NewSiteID().String(), Name: name}})
	}))
}

func (w *world) deliveries(t *testing.T, webhook string) []Delivery {
	t.Helper()
	all, _, err := w.ListDeliveries(t.Context(), w.ours, webhook, 500, "", Filter{})
	must(t, err)
	return all
}

// ends waits until the newest delivery of a webhook is as wanted.
func (w *world) ends(t *testing.T, webhook string, want outbox.State) Delivery {
	t.Helper()
	var have Delivery
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if all := w.deliveries(t, webhook); len(all) > 0 && all[0].State == want {
			found, err := w.GetDelivery(t.Context(), w.ours, webhook, all[0].ID)
			must(t, err)
			if found.State == want { // one that waits is looked at now and then, and waits again
				return found
			}
		} else if len(all) > 0 {
			have = all[0]
		}
	}
	t.Fatalf("the delivery is %+v", have)
	return have
}

func (w *world) change(t *testing.T, query string, args ...any) {
	t.Helper()
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), query, args...); return err }))
}

func (w *world) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	must(t, w.db.Reader().QueryRow(t.Context(), query, args...).Scan(&n))
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var errUndone = errors.New("undone")
