package domain_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/dns/dnstest"
	"chom.dev/controlplane/domain"
	"chom.dev/proto/contract"
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

// TestNameServer asks a real name server what certificate authorities ask.
func TestNameServer(t *testing.T) {
	server := dnstest.StartKnot(t, "example.com")
	asker := domain.NewNameServer(server.Address)
	name := func(text string) contract.Domain {
		parsed, err := contract.ParsePattern(text)
		must(t, err)
		return parsed
	}
	server.Update(t, "add both.example.com. 1 A 192.0.2.1", "add both.example.com. 1 AAAA 2001:db8::1", "add text.example.com. 1 TXT \"x\"",
		"add alias.example.com. 1 CNAME both.example.com.", "add *.wild.example.com. 1 A 192.0.2.2",
		"add example.com. 1 CAA 0 issue \"above.example\"", "add own.example.com. 1 CAA 128 issue \"own.example\"", "add below.own.example.com. 1 A 192.0.2.3")
	// More than fits into one packet.
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("add many.example.com. 1 A 198.51.100.%d", i))
	}
	server.Update(t, many...)
	for text, want := range map[string]string{
		"both.example.com":   "[192.0.2.1 2001:db8::1]",
		"alias.example.com":  "[192.0.2.1 2001:db8::1]",
		"text.example.com":   "[]",
		"*.wild.example.com": "[192.0.2.2]",
		"none.example.com":   "no such name",
	} {
		got, err := asker.Addresses(t.Context(), name(text))
		if text == "none.example.com" {
			if !errors.Is(err, domain.ErrNoName) {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		must(t, err)
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", text, got, want)
		}
	}
	if got, err := asker.Addresses(t.Context(), name("many.example.com")); err != nil || len(got) != 200 {
		t.Errorf("%d addresses of 200: %v", len(got), err)
	}
	for text, want := range map[string]string{
		"both.example.com":      "example.com [{false issue above.example}]",
		"none.example.com":      "example.com [{false issue above.example}]",
		"below.own.example.com": "own.example.com [{true issue own.example}]",
		"*.own.example.com":     "own.example.com [{true issue own.example}]",
	} {
		at, records, err := asker.CAA(t.Context(), name(text))
		if got := fmt.Sprint(at, " ", records); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
	}
	if _, err := asker.Addresses(t.Context(), name("www.example.org")); err == nil || errors.Is(err, domain.ErrNoName) {
		t.Errorf("a zone that it does not know: %v", err) // REFUSED is no answer
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := asker.Addresses(ended, name("both.example.com")); err == nil {
		t.Error("asked after the end")
	}
}
