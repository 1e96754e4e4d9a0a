package dns_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"chom.dev/controlplane/dns"
	"chom.dev/controlplane/fault"
)

// TestSignature signs what AWS publishes as examples.
func TestSignature(t *testing.T) {
	for url, want := range map[string]string{
		"https://example.amazonaws.com/":                             "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
		"https://example.amazonaws.com/?Param1=value1&Param2=value2": "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		must(t, err)
		if got := dns.SignatureOf(r); !strings.HasSuffix(got, "Signature="+want) {
			t.Errorf("%s: %s", url, got)
		}
	}
}

func TestCredentials(t *testing.T) {
	power := func(url string) map[string]string {
		return map[string]string{"server_url": url, "api_key": "canary-key"}
	}
	primary := func(server string) map[string]string {
		return map[string]string{"server": server, "key_name": "k", "key_algorithm": "hmac-sha256", "key": "Y2FuYXJ5"}
	}
	for name, test := range map[string]struct {
		kind   dns.Type
		values map[string]string
		field  string // of the fault; empty for what is right
	}{
		"cloudflare":                {dns.Cloudflare, map[string]string{"api_token": "canary-token"}, ""},
		"no token":                  {dns.Hetzner, nil, "credentials.hetzner.api_token"},
		"a token of two lines":      {dns.DigitalOcean, map[string]string{"api_token": "canary\r\nX-Evil: 1"}, "credentials.digitalocean.api_token"},
		"no service":                {"bind", map[string]string{"api_token": "x"}, "credentials"},
		"powerdns":                  {dns.PowerDNS, power("https://dns.example.com:8081/"), ""},
		"powerdns on port 25":       {dns.PowerDNS, power("http://dns.example.com:25"), "credentials.powerdns.server_url"},
		"powerdns with a user":      {dns.PowerDNS, power("http://root:x@dns.example.com"), "credentials.powerdns.server_url"},
		"powerdns with a path":      {dns.PowerDNS, power("http://dns.example.com/latest/meta-data"), "credentials.powerdns.server_url"},
		"powerdns by a file":        {dns.PowerDNS, power("file:///etc/passwd"), "credentials.powerdns.server_url"},
		"rfc2136":                   {dns.RFC2136, primary("ns.example.com:53"), ""},
		"rfc2136 on port 22":        {dns.RFC2136, primary("ns.example.com:22"), "credentials.rfc2136.server"},
		"rfc2136 without a port":    {dns.RFC2136, primary("ns.example.com"), "credentials.rfc2136.server"},
		"rfc2136 with a broken key": {dns.RFC2136, map[string]string{"server": "ns.example.com:53", "key_name": "k", "key_algorithm": "hmac-sha256", "key": "###"}, "credentials.rfc2136.key"},
	} {
		t.Run(name, func(t *testing.T) {
			made, err := dns.NewCredentials(test.kind, test.values)
			if test.field != "" {
				if f, ok := fault.Of(err); !ok || f.Kind() != fault.KindInvalid || f.Field() != test.field || strings.Contains(err.Error(), "canary") {
					t.Errorf("got %v", err)
				}
				return
			}
			must(t, err)
			text, err := made.Encode()
			must(t, err)
			again, err := dns.Decode(text)
			must(t, err)
			if other, err := again.Encode(); err != nil || string(other) != string(text) || again.Type() != test.kind {
				t.Errorf("it comes back as %s, %v", other, err)
			}
			if shown := fmt.Sprintf("%v %+v %#v", again, again, again) + fmt.Sprint(struct{ c dns.Credentials }{again}); strings.Contains(shown, "canary") || strings.Contains(shown, "Y2FuYXJ5") {
				t.Errorf("it prints as %s", shown)
			}
		})
	}
}
