package certificate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func TestExplainOrder(t *testing.T) {
	byDNS := &sitev1.Https{Acme: []*sitev1.AcmeDomain{{Name: "*.example.com", Challenge: sitev1.Challenge_CHALLENGE_DNS_01}}}
	http := wants(newSite(t, 1, byHTTP("a.example.com"), "a.example.com"))[0]
	dns := wants(newSite(t, 1, byDNS, "*.example.com"))[0]
	authz := acme.Authorization{}
	for _, c := range []struct {
		problem  string
		want     want
		resource any
		kind     kind
		says     string
	}{
		{"caa", http, authz, ofName, "CAA records forbid le to issue for a.example.com: SEEN. Allow it in the DNS"},
		{"caa", http, nil, ofName, "CAA records forbid le"},
		{"dns", http, authz, ofName, "no good answer from the DNS for a.example.com: SEEN. Check the name's records"},
		{"connection", http, authz, ofName, "could not connect to a.example.com: SEEN. All A and AAAA records"},
		{"unauthorized", http, authz, ofName, "a wrong answer from a.example.com: SEEN. All A and AAAA records of the name must lead to this server"},
		{"unauthorized", dns, authz, ofName, "did not find its TXT record at _acme-challenge.example.com: SEEN"},
		{"unauthorized", http, nil, ofIssuer, "refuses this platform's account"},
		{"rejectedIdentifier", http, nil, refused, "does not issue for a.example.com: SEEN. Upload"},
		{"rateLimited", http, nil, limited, "asked for too much lately: SEEN"},
		{"externalAccountRequired", http, nil, ofIssuer, "refuses this platform's account"},
		{"serverInternal", http, authz, ofIssuer, "le did not issue: SEEN"},
		{"serverInternal", http, nil, ofIssuer, "le did not issue: SEEN"},
		{"neverHeardOf", http, authz, ofName, "could not validate a.example.com: SEEN"},
		{"neverHeardOf", http, nil, ofIssuer, "le did not issue: SEEN"},
	} {
		t.Run(fmt.Sprint(c.problem, c.want.name, c.resource != nil), func(t *testing.T) {
			p := acme.Problem{Type: acme.ProblemTypeNamespace + c.problem, Detail: "SEEN", Resource: c.resource}
			for _, err := range []error{fmt.Errorf("order: %w", p), fmt.Errorf("order: %w", &p)} { // acmez returns both
				f := explainOrder("le", c.want, err, retryHint{}, issued)
				if f.kind != c.kind || !strings.Contains(f.Error(), c.says) {
					t.Errorf("kind %d: %s", f.kind, f)
				}
			}
		})
	}
	t.Run("a stranger's text is cleaned and cut", func(t *testing.T) {
		p := acme.Problem{Type: acme.ProblemTypeConnection, Detail: "evil\r\nlevel=ERROR \x1b[31m\u202e" + strings.Repeat("x", 5000)}
		text := explainOrder("le", http, p, retryHint{}, issued).Error()
		if strings.ContainsAny(text, "\r\n\x1b\u202e") || len(text) > maxProblem || !strings.HasSuffix(text, "port 80 must be open.") {
			t.Errorf("%d bytes: %q", len(text), text)
		}
	})
	t.Run("a validation that does not end is the name's fault, an order that does not end the CA's", func(t *testing.T) {
		c := acme.Client{PollTimeout: -1} // over before it asks
		_, late := c.PollAuthorization(t.Context(), acme.Account{}, acme.Authorization{Status: acme.StatusPending})
		stuck := errors.New("order took too long") // acmez's words
		if f := explainOrder("le", http, fmt.Errorf("[a.example.com] %w", late), retryHint{}, issued); f.kind != ofName || !strings.Contains(f.Error(), "did not get to validate a.example.com in time") {
			t.Errorf("kind %d: %s", f.kind, f)
		}
		if f := explainOrder("le", http, stuck, retryHint{}, issued); f.kind != ofIssuer {
			t.Errorf("kind %d: %s", f.kind, f)
		}
	})
	t.Run("an answer that is no problem document is the CA's fault", func(t *testing.T) {
		var none *acme.Problem
		for _, err := range []error{errors.New("connection refused"), fmt.Errorf("final order is invalid: %w", none)} {
			if f := explainOrder("le", http, err, retryHint{}, issued); f.kind != ofIssuer || !strings.Contains(f.Error(), "le could not be asked") {
				t.Errorf("kind %d: %s", f.kind, f)
			}
		}
	})
}

func TestRest(t *testing.T) {
	w := newWorld(t, nil)
	must(t, w.SetIssuance(authority))
	c := w.authorities()[0]
	down := &failure{kind: ofIssuer, text: "it is down"}
	for range 3 {
		c.ended(issued, "www.a.example", down)
	}
	if until, _ := c.resting(issued); !until.IsZero() {
		t.Error("it rests for all since it fails one name")
	}
	for i := range atOnce {
		c.ended(issued, fmt.Sprintf("www%d.b.example", i), down)
	}
	if until, _ := c.resting(issued); until.IsZero() || until.After(issued.Add(time.Minute)) {
		t.Errorf("orders that fail in one outage have it rest until %s", until.Sub(issued))
	}
	c.ended(issued, "www.c.example", nil) // begun before, too
	if until, _ := c.resting(issued); until.IsZero() {
		t.Error("it does not rest any more")
	}
	later := issued.Add(2 * time.Minute)
	c.ended(later, "www.b.example", down)
	if until, _ := c.resting(later); !until.After(later.Add(time.Minute)) {
		t.Errorf("the next outage has it rest for %s only", until.Sub(later))
	}
	c.ended(later.Add(-3650*day), "www.b.example", nil) // a clock that was wrong by years
	if until, _ := c.resting(later); !until.IsZero() {
		t.Error("a wrong clock has it rest for years")
	}
}
