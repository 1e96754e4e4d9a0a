package dns_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"chom.dev/controlplane/dns"
)

// TestLarge meets servers that give more than a zone of people's has: no server can be had here that does. What cannot be ours or in
// our way does not count.
func TestLarge(t *testing.T) {
	const most = 50_000
	set := func(kind string, records int) string {
		return fmt.Sprintf(`{"name":"www.example.com.","type":"%s","ttl":60,"records":[%s]}`, kind, strings.TrimSuffix(strings.Repeat(`{"content":"192.0.2.1"},`, records), ","))
	}
	sets := func(all ...string) string { return `{"rrsets":[` + strings.Join(all, ",") + `]}` }
	for title, c := range map[string]struct {
		zone string
		want int // records; -1 where there are too many
	}{
		"as many as may be":    {sets(set("A", most)), most},
		"one more in a set":    {sets(set("A", most+1)), -1},
		"one more in another":  {sets(set("A", most), set("AAAA", 1)), -1},
		"many sets of nothing": {sets(strings.TrimSuffix(strings.Repeat(`{"type":"A"},`, most+1), ",")), -1},
		"many of other types":  {sets(strings.TrimSuffix(strings.Repeat(set("NS", 1)+",", most+1), ","), set("A", 1)), 1},
	} {
		t.Run("powerdns: "+title, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, c.zone) }))
			defer server.Close()
			check(t, open(t, dns.PowerDNS, map[string]string{"server_url": server.URL, "api_key": "k"}, loopback), c.want)
		})
	}
	const key = "Y2FuYXJ5LXdyb25n"
	for title, c := range map[string]struct {
		record string
		n      int
		want   int
	}{
		"as many as may be":   {"w.example.com. 60 IN A 192.0.2.1", most, most},
		"one more":            {"w.example.com. 60 IN A 192.0.2.1", most + 1, -1},
		"many of other types": {"w.example.com. 60 IN NS a.example.", most + 1, 0},
	} {
		t.Run("rfc2136: "+title, func(t *testing.T) {
			soa, err := wire.NewRR("example.com. 60 IN SOA a.example. b.example. 1 60 60 60 60")
			must(t, err)
			one, err := wire.NewRR(c.record)
			must(t, err)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			server := &wire.Server{Listener: listener, TsigSecret: map[string]string{"k.": key}, Handler: wire.HandlerFunc(func(w wire.ResponseWriter, ask *wire.Msg) {
				defer w.Close()
				envelopes := make(chan *wire.Envelope)
				go func() {
					defer close(envelopes)
					envelopes <- &wire.Envelope{RR: []wire.RR{soa}}
					for left := c.n; left > 0; left -= 500 {
						var some []wire.RR
						for range min(left, 500) {
							some = append(some, one)
						}
						envelopes <- &wire.Envelope{RR: some}
					}
					envelopes <- &wire.Envelope{RR: []wire.RR{soa}}
				}()
				transfer := &wire.Transfer{TsigSecret: map[string]string{"k.": key}}
				if err := transfer.Out(w, ask, envelopes); err != nil {
					t.Error(err)
				}
				time.Sleep(100 * time.Millisecond) // the end must not overtake what was sent
			})}
			go func() { _ = server.ActivateAndServe() }()
			defer server.Shutdown() //nolint:errcheck // the test is over
			check(t, open(t, dns.RFC2136, map[string]string{"server": listener.Addr().String(), "key_name": "k", "key_algorithm": "hmac-sha256", "key": key}, loopback), c.want)
		})
	}
}

func check(t *testing.T, service *dns.Service, want int) {
	t.Helper()
	have, err := service.Records(t.Context(), "example.com")
	if want < 0 {
		if err == nil || !strings.Contains(err.Error(), "more than 50000 records") {
			t.Errorf("got %d records, %v", len(have), err)
		}
		return
	}
	if err != nil || len(have) != want {
		t.Errorf("got %d records, %v; want %d", len(have), err, want)
	}
}
