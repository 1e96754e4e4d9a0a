package dns_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"chom.dev/controlplane/dns"
	"chom.dev/controlplane/dns/dnstest"
	"chom.dev/controlplane/outbound"
)

var loopback = outbound.New(outbound.Allow(netip.MustParsePrefix("127.0.0.0/8")))

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, kind dns.Type, values map[string]string, dialer *outbound.Dialer) *dns.Service {
	t.Helper()
	credentials, err := dns.NewCredentials(kind, values)
	must(t, err)
	service, err := dns.Open(credentials, dialer)
	must(t, err)
	return service
}

// TestRealServers has the services that can be had here do what all must do.
func TestRealServers(t *testing.T) {
	knot := dnstest.StartKnot(t, "example.com")
	power := dnstest.StartPowerDNS(t, "example.com", "example.net")
	for name, test := range map[string]struct {
		service, wrong *dns.Service
		ask            func(t testing.TB, name string, kind uint16) []string
		foreign        func() // adds the text "theirs" to _acme-challenge.www
	}{
		"rfc2136 with knot": {
			open(t, dns.RFC2136, map[string]string{"server": knot.Address, "key_name": knot.KeyName, "key_algorithm": "hmac-sha256", "key": knot.Key}, loopback),
			open(t, dns.RFC2136, map[string]string{"server": knot.Address, "key_name": knot.KeyName, "key_algorithm": "hmac-sha256", "key": "Y2FuYXJ5LXdyb25n"}, loopback),
			knot.Ask,
			func() { knot.Update(t, `add _acme-challenge.www.example.com. 60 TXT "theirs"`) },
		},
		"powerdns": {
			open(t, dns.PowerDNS, map[string]string{"server_url": power.URL, "api_key": power.Key}, loopback),
			open(t, dns.PowerDNS, map[string]string{"server_url": power.URL, "api_key": "canary-wrong"}, loopback),
			power.Ask,
			func() { power.Set(t, "example.com", "_acme-challenge.www.example.com", "TXT", `"theirs"`) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, zone := t.Context(), "example.com"
			test.foreign()
			ours := []dns.Record{
				{Name: "example.com", Type: "A", Value: "192.0.2.1"}, {Name: "www.example.com", Type: "A", Value: "192.0.2.1"},
				{Name: "www.example.com", Type: "A", Value: "192.0.2.2"}, {Name: "www.example.com", Type: "AAAA", Value: "2001:db8::1"},
				{Name: "*.example.com", Type: "A", Value: "192.0.2.1"}, {Name: "_acme-challenge.www.example.com", Type: "TXT", Value: "one"},
				{Name: "_acme-challenge.www.example.com", Type: "TXT", Value: "two"},
			}
			for _, r := range ours {
				r.TTL = time.Minute
				must(t, test.service.Append(ctx, zone, r))
			}
			have, err := test.service.Records(ctx, zone)
			must(t, err)
			for _, r := range ours {
				if !slices.ContainsFunc(have, r.Same) {
					t.Errorf("%+v is not there", r)
				}
			}
			if got := test.ask(t, "anything.example.com", wire.TypeA); !slices.Equal(got, []string{"192.0.2.1"}) {
				t.Errorf("the wildcard answers %v", got)
			}
			if got := test.ask(t, "_acme-challenge.www.example.com", wire.TypeTXT); len(got) != 3 || !slices.Contains(got, `"theirs"`) {
				t.Errorf("the texts are %v", got)
			}
			for _, r := range have {
				if r.Same(dns.Record{Name: "www.example.com", Type: "A", Value: "192.0.2.1"}) || r.Value == "one" || r.Name == "*.example.com" {
					must(t, test.service.Delete(ctx, zone, r))
				}
			}
			if got := test.ask(t, "www.example.com", wire.TypeA); !slices.Equal(got, []string{"192.0.2.2"}) {
				t.Errorf("the addresses are %v", got)
			}
			if got := test.ask(t, "_acme-challenge.www.example.com", wire.TypeTXT); len(got) != 2 || !slices.Contains(got, `"theirs"`) || !slices.Contains(got, `"two"`) {
				t.Errorf("the texts are %v", got)
			}
			if got := test.ask(t, "anything.example.com", wire.TypeA); len(got) != 0 {
				t.Errorf("the wildcard answers %v", got)
			}
			for _, what := range []struct {
				service *dns.Service
				zone    string
			}{{test.wrong, zone}, {test.service, "example.org"}} {
				_, err := what.service.Records(ctx, what.zone)
				if err == nil || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "Y2FuYXJ5") || !strings.HasPrefix(err.Error(), "it answered") {
					t.Errorf("%s: %v", what.zone, err)
				}
				if err := what.service.Append(ctx, what.zone, dns.Record{Name: "x." + what.zone, Type: "TXT", Value: "x"}); err == nil {
					t.Errorf("%s: it was written", what.zone)
				}
			}
			if err := test.service.Delete(ctx, zone, dns.Record{Name: "www.example.com", Type: "A", Value: "192.0.2.2"}); err == nil {
				t.Error("a record that was not looked up was deleted")
			}
		})
	}
	t.Run("are reached at public addresses only", func(t *testing.T) { // case A17
		for kind, values := range map[dns.Type]map[string]string{
			dns.RFC2136:  {"server": knot.Address, "key_name": knot.KeyName, "key_algorithm": "hmac-sha256", "key": knot.Key},
			dns.PowerDNS: {"server_url": power.URL, "api_key": power.Key},
		} {
			service := open(t, kind, values, outbound.New())
			if _, err := service.Records(t.Context(), "example.com"); err == nil || err.Error() != "it cannot be reached: the name has no public address" {
				t.Errorf("%s: %v", kind, err)
			}
			if err := service.Append(t.Context(), "example.com", dns.Record{Name: "x.example.com", Type: "TXT", Value: "x"}); err == nil {
				t.Errorf("%s: it was written", kind)
			}
		}
	})
}
