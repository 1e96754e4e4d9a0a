// Package dnstest starts real name servers for tests, on loopback: knot, whose zones change by dynamic updates, and PowerDNS, whose
// zones change by its HTTP API. They end with the test.
package dnstest

import (
	"context"
	"strings"
	"testing"
	"time"

	"chom.dev/servers/knot"
	"github.com/miekg/dns"
)

// Knot is a real name server with one zone, on loopback. Anybody there may update it; to read it as a whole takes the key.
type Knot struct {
	*knot.Server
	Zone string
}

// StartKnot serves a zone that has nothing but its SOA and NS.
func StartKnot(t testing.TB, zone string) Knot {
	t.Helper()
	server, err := knot.Start(t.Context(), knot.Options{Dir: t.TempDir(), Zones: []string{zone}, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return Knot{server, zone}
}

// Ask gives the values that the server has for a name and a type, as a zone file has them.
func (k Knot) Ask(t testing.TB, name string, kind uint16) []string {
	return ask(t, k.Address, name, kind)
}

// Update runs commands of knsupdate without a key: what somebody else does to the zone.
func (k Knot) Update(t testing.TB, commands ...string) {
	t.Helper()
	if err := k.Server.Update(context.WithoutCancel(t.Context()), k.Zone, commands...); err != nil {
		t.Fatal(err)
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
