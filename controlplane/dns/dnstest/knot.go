// Package dnstest starts real name servers for tests, on loopback: knot, whose zones change by dynamic updates, and PowerDNS, whose
// zones change by its HTTP API. They end with the test.
package dnstest

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Knot is a real name server with one zone. Anybody on loopback may update it; to read it as a whole takes the key.
type Knot struct {
	Address string // HOST:PORT, UDP and TCP
	Zone    string
	// KeyName and Key are of a TSIG key, hmac-sha256, that may read and update the zone.
	KeyName, Key string
}

// StartKnot serves a zone that has nothing but its SOA and NS.
func StartKnot(t testing.TB, zone string) Knot {
	t.Helper()
	k := Knot{Address: freeAddress(t), Zone: zone, KeyName: "chom.key", Key: base64.StdEncoding.EncodeToString([]byte("canary-of-knot-" + zone))}
	dir := t.TempDir()
	host, port, _ := net.SplitHostPort(k.Address)
	write(t, dir, zone+".zone", fmt.Sprintf("%[1]s. 1 SOA ns.%[1]s. root.%[1]s. 1 60 60 60 1\n%[1]s. 1 NS ns.%[1]s.\nns.%[1]s. 1 A 127.0.0.1\n", zone))
	write(t, dir, "knot.conf", fmt.Sprintf(`
server:
    listen: %[1]s@%[2]s
    rundir: %[3]q
database:
    storage: %[3]q
key:
  - id: %[5]s
    algorithm: hmac-sha256
    secret: %[6]s
acl:
  - id: key
    key: %[5]s
    action: [update, transfer]
  - id: all
    address: 127.0.0.1
    action: update
zone:
  - domain: %[4]s
    storage: %[3]q
    file: %[4]s.zone
    acl: [key, all]
`, host, port, dir, zone, k.KeyName, k.Key))
	run(t, "/usr/sbin/knotd", "--config", filepath.Join(dir, "knot.conf"))
	wait(t, "knot", func() bool { return len(k.Ask(t, zone, dns.TypeNS)) == 1 })
	return k
}

// Ask gives the values that the server has for a name and a type, as a zone file has them.
func (k Knot) Ask(t testing.TB, name string, kind uint16) []string {
	return ask(t, k.Address, name, kind)
}

// Update runs commands of nsupdate without a key: what somebody else does to the zone.
func (k Knot) Update(t testing.TB, commands ...string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(k.Address)
	script := fmt.Sprintf("server %s %s\nzone %s.\n%s\nsend\nquit\n", host, port, k.Zone, strings.Join(commands, "\n"))
	update := exec.Command("/usr/bin/knsupdate")
	update.Stdin = strings.NewReader(script)
	if out, err := update.CombinedOutput(); err != nil || strings.Contains(string(out), "error") {
		t.Fatalf("knsupdate: %v: %s", err, out)
	}
}

func ask(t testing.TB, address, name string, kind uint16) []string {
	t.Helper()
	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(name), kind)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Second)
	defer cancel()
	answer, _, err := (&dns.Client{Net: "tcp"}).ExchangeContext(ctx, question, address)
	if err != nil {
		return nil
	}
	var values []string
	for _, rr := range answer.Answer {
		if rr.Header().Rrtype == kind {
			values = append(values, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
	}
	return values
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a server until the test ends.
func run(t testing.TB, program string, args ...string) {
	t.Helper()
	server := exec.Command(program, args...)
	server.Stderr = t.Output()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill() // it keeps nothing
		_ = server.Wait()
	})
}

func wait(t testing.TB, server string, answers func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !answers(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer", server)
		}
	}
}
