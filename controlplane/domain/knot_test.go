package domain_test

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/domain"
)

// knot is a real name server for one zone, whose records can be set by dynamic updates (RFC 2136).
type knot struct{ address, zone string }

func startKnot(t *testing.T, zone string) knot {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := listener.Addr().String()
	must(t, listener.Close())
	dir := t.TempDir()
	host, port, _ := net.SplitHostPort(address)
	write := func(name, text string) {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write(zone+".zone", fmt.Sprintf("%[1]s. 1 SOA ns.%[1]s. root.%[1]s. 1 60 60 60 1\n%[1]s. 1 NS ns.%[1]s.\nns.%[1]s. 1 A 127.0.0.1\n", zone))
	write("knot.conf", fmt.Sprintf(`
server:
    listen: %[1]s@%[2]s
    rundir: %[3]q
database:
    storage: %[3]q
acl:
  - id: all
    address: 127.0.0.1
    action: update
zone:
  - domain: %[4]s
    storage: %[3]q
    file: %[4]s.zone
    acl: all
`, host, port, dir, zone))
	server := exec.Command("/usr/sbin/knotd", "--config", filepath.Join(dir, "knot.conf"))
	server.Stderr = t.Output()
	must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill() // it keeps nothing
		_ = server.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		names, err := domain.NewResolver(address).LookupNS(t.Context(), zone+".")
		if err == nil && len(names) == 1 {
			return knot{address, zone}
		}
		if time.Now().After(deadline) {
			t.Fatalf("knot does not answer: %v", err)
		}
	}
}

// update runs commands of nsupdate.
func (k knot) update(t *testing.T, commands ...string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(k.address)
	script := fmt.Sprintf("server %s %s\nzone %s.\n%s\nsend\nquit\n", host, port, k.zone, strings.Join(commands, "\n"))
	update := exec.Command("/usr/bin/knsupdate")
	update.Stdin = strings.NewReader(script)
	if out, err := update.CombinedOutput(); err != nil || strings.Contains(string(out), "error") {
		t.Fatalf("knsupdate: %v: %s", err, out)
	}
}

// TestRealServer proves and looks again through a real name server.
func TestRealServer(t *testing.T) {
	server := startKnot(t, "example.com")
	w := newWorld(t, dbtest.SQLite(t))
	w.Domains = domain.New(w.db, slog.New(slog.DiscardHandler), domain.Config{Resolver: domain.NewResolver(server.address), InUse: nobodyUses})
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
	server.update(t, "add _chom.shop.example.com. 1 TXT \"something else\"")
	check(domain.Pending, "has another value")
	server.update(t, fmt.Sprintf("add _chom.shop.example.com. 1 TXT %q", made.Record.Value))
	check(domain.Verified, "")
	server.update(t, "del _chom.shop.example.com. TXT")
	check(domain.Verified, "there is no TXT record")
}
