package site

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/domain"
	"chom.dev/proto/contract"
)

// TestDecide holds the decision about a name to what people are told to do.
func TestDecide(t *testing.T) {
	const server, elsewhere, six, other6, cloud, cloud6 = "192.0.2.10", "198.51.100.7", "2001:db8::10", "2001:db8::bad", "104.16.1.1", "2606:4700::1"
	name := func(text string) contract.Domain {
		d, err := contract.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	plain := func(change func(*facts)) facts {
		f := facts{name: name("shop.example.com"), servers: []netip.Addr{netip.MustParseAddr(server), netip.MustParseAddr(six)}, arrived: true}
		f.public = f.servers
		change(&f)
		return f
	}
	// led is a name whose addresses answer so.
	led := func(answers ...any) func(*facts) {
		return func(f *facts) {
			for i := 0; i < len(answers); i += 2 {
				address := netip.MustParseAddr(answers[i].(string))
				f.addresses = append(f.addresses, address)
				a := answer{address: address, what: answers[i+1].(what)}
				if a.what == foreign {
					a.status = 404
				}
				f.answers = append(f.answers, a)
			}
		}
	}
	both := func(changes ...func(*facts)) func(*facts) {
		return func(f *facts) {
			for _, change := range changes {
				change(f)
			}
		}
	}
	private := func(f *facts) { f.servers, f.public = []netip.Addr{netip.MustParseAddr("10.0.0.5")}, nil }
	provider := func(f *facts) { f.provider = true }
	wildcard := func(f *facts) { f.name = name("*.example.com") }
	caa := func(records ...domain.CAA) func(*facts) {
		return func(f *facts) { f.cas, f.caaAt, f.caa = []string{"ca.example"}, "example.com", records }
	}
	issue := func(value string) domain.CAA { return domain.CAA{Tag: "issue", Value: value} }
	setA := Record{Name: "shop.example.com", Type: "A", Value: server}
	unset := func(kind, value string) Record {
		return Record{Name: "shop.example.com", Type: kind, Value: value, Remove: true}
	}
	caaRecord := Record{Name: "example.com", Type: "CAA", Value: "0 issue ca.example"}
	for title, c := range map[string]struct {
		change    func(*facts)
		challenge Challenge
		problem   string // a part of it; empty for a name that leads to its site
		records   []Record
	}{
		"it leads here": {led(server, ours), HTTP01, "", nil},
		"here by both":  {led(server, ours, six, ours), HTTP01, "", nil},
		"behind an address that the host has not": {led("203.0.113.9", ours), HTTP01, "", nil},
		"no such name":       {func(f *facts) { f.missing = true }, "", "there is no name shop.example.com", []Record{setA}},
		"no address":         {func(*facts) {}, "", "has no address", []Record{setA}},
		"the DNS is silent":  {func(f *facts) { f.silent = true }, "", "name servers of shop.example.com do not answer", nil},
		"elsewhere":          {led(elsewhere, foreign), "", "leads to 198.51.100.7 instead of 192.0.2.10, where another server answers (status 404)", []Record{unset("A", elsewhere), setA}},
		"elsewhere, silent":  {led(elsewhere, closed), "", "nothing answers", []Record{unset("A", elsewhere), setA}},
		"here and elsewhere": {led(server, ours, elsewhere, foreign), "", "leads to 198.51.100.7", []Record{unset("A", elsewhere), setA}},
		"elsewhere by both":  {led(elsewhere, foreign, other6, foreign), "", "leads to 198.51.100.7", []Record{unset("A", elsewhere), setA, unset("AAAA", other6), {Name: "shop.example.com", Type: "AAAA", Value: six}}},
		"elsewhere by IPv6 only": {
			led(server, ours, other6, foreign), "", "the AAAA record of shop.example.com leads to 2001:db8::bad",
			[]Record{unset("AAAA", other6), {Name: "shop.example.com", Type: "AAAA", Value: six}},
		},
		"an IPv6 that cannot be asked, of another":   {led(server, ours, other6, unasked), "", "the AAAA record", []Record{unset("AAAA", other6), {Name: "shop.example.com", Type: "AAAA", Value: six}}},
		"an IPv6 that cannot be asked, the server's": {led(server, ours, six, unasked), HTTP01, "", nil},
		"elsewhere by IPv6, the server has none": {
			both(func(f *facts) { f.public = f.servers[:1] }, led(server, ours, other6, closed)), "", "the AAAA record", []Record{unset("AAAA", other6)},
		},
		"port 80 is shut":                  {led(server, closed), "", "port 80 of 192.0.2.10 does not answer", nil},
		"port 80 is shut, a provider":      {both(led(server, closed), provider), DNS01, "", nil},
		"something in between":             {led(server, foreign), "", "another server answers (status 404): something stands in between", nil},
		"the host does not know yet":       {both(led(server, foreign), func(f *facts) { f.arrived = false }), "", "has not been told", nil},
		"the control plane may not ask":    {led(server, unasked), "", "--outbound-allow", nil},
		"no such name, nowhere to lead it": {both(func(f *facts) { f.missing = true }, private), "", "no public address: ask the operator", nil},
		"elsewhere, nowhere to lead it":    {both(led(elsewhere, foreign), private), "", "leads to 198.51.100.7, where another server answers (status 404); the server has named no", nil},
		"nobody knows where the server is": {both(led("203.0.113.9", ours), private), HTTP01, "", nil},
		"a private address was set":        {both(led("10.0.0.5", closed), private), "", "port 80 of 10.0.0.5 does not answer", nil},
		"behind a proxy, HTTP arrives":     {led(cloud, ours), HTTP01, "", nil},
		"behind a proxy, no IPv6 from us":  {led(cloud, ours, cloud6, unasked), HTTP01, "", nil},
		"behind one with nothing but IPv6": {led(cloud6, unasked), "", "behind Cloudflare's proxy, and the control plane cannot connect to 2606:4700::1", nil},
		"behind one, its IPv6 leads away":  {led(cloud, ours, cloud6, foreign), "", "behind Cloudflare's proxy, and by HTTP another server answers (status 404)", []Record{setA}},
		"behind a proxy, HTTP does not":    {led(cloud, foreign), "", "behind Cloudflare's proxy, and by HTTP another server answers (status 404)", []Record{setA}},
		"behind a proxy, a provider":       {both(led(cloud, foreign), provider), DNS01, "", nil},
		"elsewhere, a provider":            {both(led(elsewhere, foreign), provider), "", "leads to 198.51.100.7", []Record{unset("A", elsewhere), setA}},
		"HTTP goes before the DNS":         {both(led(server, ours), provider), HTTP01, "", nil},
		"a wildcard without a provider":    {both(wildcard, led(server, ours)), "", "connect the DNS provider of example.com, or upload a certificate", nil},
		"a wildcard with one":              {both(wildcard, led(server, ours), provider), DNS01, "", nil},
		"a wildcard that leads elsewhere":  {both(wildcard, led(elsewhere, closed), provider), "", "*.example.com leads to", []Record{{Name: "*.example.com", Type: "A", Value: elsewhere, Remove: true}, {Name: "*.example.com", Type: "A", Value: server}}},
		"a certificate was uploaded":       {both(led(server, ours), func(f *facts) { f.covered = true }), "", "", nil},
		"one was uploaded, and a wildcard": {both(wildcard, led(server, ours), func(f *facts) { f.covered = true }), "", "", nil},
		"CAA lets us":                      {both(led(server, ours), caa(issue("ca.example"))), HTTP01, "", nil},
		"CAA lets us among others":         {both(led(server, ours), caa(issue("other.example"), issue("CA.example; accounturi=x"))), HTTP01, "", nil},
		"CAA forbids":                      {both(led(server, ours), caa(issue("other.example"))), "", "the CAA records of example.com forbid ca.example", []Record{caaRecord}},
		"CAA forbids everybody":            {both(led(server, ours), caa(issue(";"))), "", "forbid", []Record{caaRecord}},
		"CAA says nothing of issuing":      {both(led(server, ours), caa(domain.CAA{Tag: "iodef", Value: "mailto:x@example.com"})), HTTP01, "", nil},
		"CAA forbids wildcards only":       {both(led(server, ours), caa(domain.CAA{Tag: "issuewild", Value: ";"})), HTTP01, "", nil},
		"CAA forbids this wildcard":        {both(wildcard, provider, led(server, ours), caa(issue("ca.example"), domain.CAA{Tag: "issuewild", Value: ";"})), "", "forbid", []Record{{Name: "example.com", Type: "CAA", Value: "0 issuewild ca.example"}}},
		"CAA lets wildcards by issue":      {both(wildcard, provider, led(server, ours), caa(issue("ca.example"))), DNS01, "", nil},
		"CAA wants the DNS":                {both(led(server, ours), caa(issue("ca.example; validationmethods=dns-01"))), "", "by http-01", []Record{caaRecord}},
		"CAA wants the DNS, a provider":    {both(led(server, ours), provider, caa(issue("ca.example; validationmethods=dns-01"))), DNS01, "", nil},
		"CAA has what nobody knows":        {both(led(server, ours), caa(issue("ca.example"), domain.CAA{Critical: true, Tag: "tbs", Value: "x"})), "", "is critical", nil},
		"CAA is silent":                    {both(led(server, ours), caa(), func(f *facts) { f.caaSilent = true }), "", "no CA will", nil},
		"CAA forbids, but nobody cares":    {both(led(server, ours), caa(issue(";")), func(f *facts) { f.cas = nil }), HTTP01, "", nil},
	} {
		t.Run(title, func(t *testing.T) {
			v := decide(plain(c.change))
			if v.challenge != c.challenge || v.leads != (c.problem == "") || !strings.Contains(v.problem, c.problem) || (v.problem == "") != (c.problem == "") {
				t.Errorf("got %q, leads %v, problem %q", v.challenge, v.leads, v.problem)
			}
			if len(v.records) != len(c.records) {
				t.Fatalf("records %+v, want %+v", v.records, c.records)
			}
			for i := range v.records {
				if v.records[i] != c.records[i] {
					t.Errorf("records %+v, want %+v", v.records, c.records)
				}
			}
		})
	}
}

// TestNameState holds the state of a name to what was measured.
func TestNameState(t *testing.T) {
	now := time.Now()
	const day = 24 * time.Hour
	outside := func(valid bool, left time.Duration) nameFacts {
		return nameFacts{held: true, ready: true, outside: &OutsideCertificate{Certificate: Certificate{Valid: valid, SHA256: []byte("a"), NotAfter: now.Add(left)}}}
	}
	for title, c := range map[string]struct {
		nameFacts
		certificate *Certificate
		want        NameState
	}{
		"not held":                        {nameFacts{}, nil, NameUnclaimed},
		"not held, whatever was measured": {nameFacts{ready: true}, &Certificate{Valid: true, NotAfter: now.Add(day)}, NameUnclaimed},
		"held":                            {nameFacts{held: true}, nil, NamePending},
		"the preview name":                {nameFacts{held: true, preview: true}, nil, NameIssuing},
		"ready":                           {nameFacts{held: true, ready: true}, nil, NameIssuing},
		"ready, none yet":                 {nameFacts{held: true, ready: true}, &Certificate{Problem: "the CA is down", Failures: 1}, NameIssuing},
		"held, none":                      {nameFacts{held: true}, &Certificate{}, NamePending},
		"served well":                     {nameFacts{held: true, ready: true}, &Certificate{Valid: true, NotAfter: now.Add(60 * day)}, NameSecure},
		"served well before it is ready":  {nameFacts{held: true}, &Certificate{Valid: true, NotAfter: now.Add(60 * day)}, NameSecure},
		"not trusted":                     {nameFacts{held: true, ready: true}, &Certificate{NotAfter: now.Add(60 * day)}, NameIssuing},
		"ends soon, the next will come":   {nameFacts{held: true, ready: true}, &Certificate{Valid: true, NotAfter: now.Add(5 * day), Source: ACME}, NameSecure},
		"ends soon, the next did not":     {nameFacts{held: true, ready: true}, &Certificate{Valid: true, NotAfter: now.Add(13 * day), Source: ACME, Failures: 1}, NameExpiring},
		"not soon, the next did not":      {nameFacts{held: true, ready: true}, &Certificate{Valid: true, NotAfter: now.Add(15 * day), Source: ACME, Failures: 1}, NameSecure},
		"uploaded and ends soon":          {nameFacts{held: true, ready: true}, &Certificate{Valid: true, NotAfter: now.Add(13 * day), Source: Uploaded}, NameExpiring},
		"over since the measurement":      {nameFacts{held: true, ready: true}, &Certificate{Valid: true, NotAfter: now.Add(-time.Minute)}, NameExpired},
		"over":                            {nameFacts{held: true, ready: true}, &Certificate{NotAfter: now.Add(-day)}, NameExpired},
		"its host is silent":              {nameFacts{held: true, ready: true, heardAt: now.Add(-25 * time.Hour)}, &Certificate{Valid: true, NotAfter: now.Add(60 * day), Source: ACME}, NameSecure},
		"ends soon, its host is silent":   {nameFacts{held: true, ready: true, heardAt: now.Add(-25 * time.Hour)}, &Certificate{Valid: true, NotAfter: now.Add(5 * day), Source: ACME}, NameExpiring},
		"good outside too":                {outside(true, 50*day), &Certificate{Valid: true, NotAfter: now.Add(60 * day)}, NameSecure},
		"wrong outside":                   {outside(false, 50*day), &Certificate{Valid: true, NotAfter: now.Add(60 * day)}, NameIssuing},
		"over outside":                    {outside(false, -day), &Certificate{Valid: true, NotAfter: now.Add(60 * day)}, NameExpired},
		"over outside since the look":     {outside(true, -time.Minute), &Certificate{Valid: true, NotAfter: now.Add(60 * day)}, NameExpired},
		"nothing was met outside":         {nameFacts{held: true, ready: true, outside: &OutsideCertificate{Certificate: Certificate{Problem: "no answer in time"}}}, &Certificate{Valid: true, NotAfter: now.Add(60 * day)}, NameSecure},
	} {
		t.Run(title, func(t *testing.T) {
			if c.heardAt.IsZero() {
				c.heardAt = now
			}
			if got := nameStateOf(c.nameFacts, c.certificate, now); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}
