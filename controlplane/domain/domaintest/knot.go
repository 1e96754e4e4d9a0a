// Package domaintest has a real name server whose records tests set and take away.
package domaintest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/domain"
)

// Knot is a name server for one zone. Records are set by dynamic updates (RFC 2136).
type Knot struct {
	// Address is where it listens, HOST:PORT.
	Address string
	// Zone is what it answers for, without the dot at its end.
	Zone string
}

// Start serves a zone until the test ends.
func Start(t testing.TB, zone string) Knot {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := listener.Addr().String()
	must(t, listener.Close())
	dir := t.TempDir()
	host, port, err := net.SplitHostPort(address)
	must(t, err)
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
			return Knot{address, zone}
		}
		if time.Now().After(deadline) {
			t.Fatalf("knot does not answer: %v", err)
		}
	}
}

// Update runs commands of nsupdate, such as "add www.example.com. 1 A 192.0.2.1".
func (k Knot) Update(t testing.TB, commands ...string) {
	t.Helper()
	host, port, err := net.SplitHostPort(k.Address)
	must(t, err)
	script := fmt.Sprintf("server %s %s\nzone %s.\n%s\nsend\nquit\n", host, port, k.Zone, strings.Join(commands, "\n"))
	update := exec.Command("/usr/bin/knsupdate")
	update.Stdin = strings.NewReader(script)
	if out, err := update.CombinedOutput(); err != nil || strings.Contains(string(out), "error") {
		t.Fatalf("knsupdate: %v: %s", err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
