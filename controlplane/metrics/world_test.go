package metrics

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

// world is two organizations with a site each on a shared server, and a dedicated server of the first one's.
type world struct {
	*Metrics
	acme, other       contract.OrganizationID
	shared, dedicated contract.ServerID
	blog, shop        contract.SiteID // of acme, of other
	now               time.Time
}

func newWorld(t testing.TB, d *db.DB) *world {
	t.Helper()
	w := &world{blog: contract.NewSiteID(), shop: contract.NewSiteID(), now: time.Now().Truncate(time.Second)}
	for name, id := range map[string]*contract.OrganizationID{"acme": &w.acme, "other": &w.other} {
		made, err := organization.New(d, organization.Config{}).Create(t.Context(), name, name+"@example.com")
		if err != nil {
			t.Fatal(err)
		}
		*id = made.ID
	}
	w.shared = addServer(t, d, "shared", fleet.Shared, contract.OrganizationID{})
	w.dedicated = addServer(t, d, "dedicated", fleet.Dedicated, w.acme)
	addSite(t, d, w.acme, w.blog, w.shared, "blog")
	addSite(t, d, w.other, w.shop, w.shared, "shop")
	w.Metrics = opened(t, d, Config{Dir: t.TempDir()})
	return w
}

func addServer(t testing.TB, d *db.DB, name string, tenancy fleet.Tenancy, organization contract.OrganizationID) contract.ServerID {
	t.Helper()
	made, _, err := fleet.New(d, slog.New(slog.DiscardHandler)).Create(t.Context(), name, tenancy, organization, strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	return made.ID
}

func addSite(t testing.TB, d *db.DB, organization contract.OrganizationID, id contract.SiteID, server contract.ServerID, name string) {
	t.Helper()
	exec(t, d, `
		INSERT INTO sites (organization_id, id, handle, server_id, name, type, desired, phase, frozen, generation, observed_generation, problem, last_task_id, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $3, 'static', $5, 'active', FALSE, 1, 0, '', '', 0, 0)`,
		organization, id, name, server, []byte{})
}

func exec(t testing.TB, d *db.DB, query string, args ...any) {
	t.Helper()
	if err := db.InTx(t.Context(), d, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), query, args...); return err }); err != nil {
		t.Fatal(err)
	}
}

// opened is a history that runs until the test ends.
func opened(t testing.TB, d *db.DB, c Config) *Metrics {
	t.Helper()
	if c.Retention == 0 {
		c.Retention = DefaultRetention
	}
	c.MaxBytes, c.Log = DefaultMaxBytes, slog.New(slog.NewTextHandler(t.Output(), nil))
	m, err := New(d, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, release, err := m.use(); err == nil {
			release()
			return m
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not open")
		}
	}
}

// report appends at a moment, and fails the test if that fails.
func (w *world) report(t testing.TB, server contract.ServerID, at time.Time, samples ...Sample) {
	t.Helper()
	if err := w.Append(t.Context(), server, samples, at); err != nil {
		t.Fatal(err)
	}
}

func (w *world) ask(t testing.TB, scope Scope, query string) Answer {
	t.Helper()
	a, err := w.Query(t.Context(), scope, query, w.now)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return a
}
