package domain_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/dns/dnstest"
	"chom.dev/controlplane/domain"
)

// TestRealServer proves and looks again through a real name server.
func TestRealServer(t *testing.T) {
	server := dnstest.StartKnot(t, "example.com")
	w := newWorld(t, dbtest.SQLite(t))
	w.Domains = domain.New(w.db, slog.New(slog.DiscardHandler), domain.Config{Resolver: domain.NewResolver(server.Address), InUse: nobodyUses})
	acme := w.tenant(t, "acme")
	made, err := w.Create(t.Context(), acme, "shop.example.com")
	must(t, err)
	check := func(state domain.State, problem string) {
		t.Helper()
		looked, err := w.Check(t.Context(), acme, made.ID)
		must(t, err)
		if looked.State != state || (problem == "") != (looked.Problem == "") || !strings.Contains(looked.Problem, problem) {
			t.Errorf("got %s, %q", looked.State, looked.Problem)
		}
	}
	check(domain.Pending, "there is no TXT record _chom.shop.example.com")
	server.Update(t, "add _chom.shop.example.com. 1 TXT \"something else\"")
	check(domain.Pending, "has another value")
	server.Update(t, fmt.Sprintf("add _chom.shop.example.com. 1 TXT %q", made.Record.Value))
	check(domain.Verified, "")
	server.Update(t, "del _chom.shop.example.com. TXT")
	check(domain.Verified, "there is no TXT record")
}
