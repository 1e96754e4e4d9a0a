package site

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"chom.dev/controlplane/domain"
	"chom.dev/proto/contract"
)

// facts are what was found of a name.
type facts struct {
	name      contract.Domain
	servers   []netip.Addr // of the site's server; empty when its agent named none
	public    []netip.Addr // those of them that names may be led to, the one to set first
	addresses []netip.Addr // that the DNS gives
	missing   bool         // the DNS does not have the name
	silent    bool         // the DNS did not answer
	answers   []answer     // of the addresses
	cas       []string     // that hosts order from; empty when nobody's CAA records matter
	caaAt     string       // where the CAA records are that count; empty where nothing restricts who may issue
	caa       []domain.CAA
	caaSilent bool // the DNS did not answer who may issue
	provider  bool // the name is in a zone of a connected DNS provider
	covered   bool // by a certificate that was uploaded
	arrived   bool // the host was told of everything that is wanted
}

// answer is what came of asking one address by HTTP.
type answer struct {
	address netip.Addr
	what    what
	status  int // of a foreign answer
}

type what uint8

const (
	unasked what = iota // it could not be asked from here, which says nothing of it
	ours                // the site's host answered
	foreign             // somebody else did
	closed              // nobody did
)

// verdict is what follows.
type verdict struct {
	// leads says that the name leads to its site, and that nothing keeps it from having a certificate.
	leads bool
	// challenge is how to get one; empty when none is to be got, or can.
	challenge Challenge
	problem   string
	records   []Record
}

// decide says whether a name leads to its site, by which challenge it gets a certificate, and otherwise what to do about it.
func decide(f facts) verdict {
	way, problem, records := f.way()
	if way == astray {
		return verdict{problem: problem, records: records}
	}
	if f.covered {
		if way == direct {
			problem = ""
		}
		return verdict{leads: way == direct, problem: problem, records: records}
	}
	var open []Challenge
	if way == direct && !f.name.IsWildcard() {
		open = append(open, HTTP01)
	}
	if f.provider {
		open = append(open, DNS01)
	}
	if len(open) == 0 && f.name.IsWildcard() {
		return verdict{problem: fmt.Sprintf("the certificate of a wildcard needs the DNS: connect the DNS provider of %s, or upload a certificate", f.name.Base()), records: records}
	}
	refused := verdict{problem: problem, records: records}
	for _, challenge := range open {
		if problem, records := f.forbidden(challenge); problem != "" {
			refused = verdict{problem: problem, records: records}
			continue
		}
		return verdict{leads: true, challenge: challenge}
	}
	return refused
}

// way is how a name leads to its site.
type way uint8

const (
	astray   way = iota // to somewhere else, or nowhere
	indirect            // the DNS is right, but HTTP does not arrive: enough for a challenge in the DNS
	direct              // HTTP arrives
)

// way looks where a name leads, and says what is wrong with that unless it is direct. What counts is who answers: the address that a
// host knows of itself is not the one that it has outside when it stands behind another one's.
func (f facts) way() (way, string, []Record) {
	switch {
	case f.silent:
		return astray, fmt.Sprintf("the name servers of %s do not answer", f.name), nil
	case f.missing:
		return astray, fmt.Sprintf("there is no name %s in the DNS", f.name) + f.whereTo(), f.toSet("A", nil)
	case len(f.addresses) == 0:
		return astray, fmt.Sprintf("%s has no address in the DNS", f.name) + f.whereTo(), f.toSet("A", nil)
	}
	var wrong4, wrong6, deaf, others []answer
	arrives := false
	for _, address := range f.addresses {
		a := f.answerOf(address)
		right := slices.Contains(f.servers, address)
		switch {
		case a.what == ours:
			arrives = true
		case a.what == unasked && (right || proxied(address)):
			others = append(others, a)
		case right:
			deaf = append(deaf, a)
		case address.Is4():
			wrong4 = append(wrong4, a)
		default:
			wrong6 = append(wrong6, a)
		}
	}
	wrong := append(slices.Clone(wrong4), wrong6...)
	switch {
	case arrives && len(wrong)+len(deaf) == 0:
		return direct, "", nil
	case len(wrong) > 0 && !slices.ContainsFunc(wrong, func(a answer) bool { return !proxied(a.address) }):
		return indirect, fmt.Sprintf("%s is behind Cloudflare's proxy, and by HTTP %s: have the proxy lead to the server and let %s through, or switch it off",
			f.name, wrong[0].saying(), probePath), f.toSet("A", nil)
	case len(wrong4) > 0:
		return astray, fmt.Sprintf("%s leads to %s%s, where %s", f.name, wrong4[0].address, f.insteadOf(), wrong4[0].saying()) + f.whereTo(),
			append(f.toSet("A", wrong4), f.toSet("AAAA", wrong6)...)
	case len(wrong6) > 0:
		return astray, fmt.Sprintf("the AAAA record of %s leads to %s, where %s: certificate authorities and many visitors go there first", f.name, wrong6[0].address, wrong6[0].saying()),
			f.toSet("AAAA", wrong6)
	case len(deaf) > 0 && !f.arrived:
		return astray, fmt.Sprintf("%s leads to the server, which has not been told of it yet", f.name), nil
	case len(deaf) > 0 && deaf[0].what == closed:
		return indirect, fmt.Sprintf("%s leads to the server, but port 80 of %s does not answer: open it in the firewall", f.name, deaf[0].address), nil
	case len(deaf) > 0:
		return indirect, fmt.Sprintf("%s leads to the server, but at %s %s: something stands in between", f.name, deaf[0].address, deaf[0].saying()), nil
	}
	if proxied(others[0].address) {
		return indirect, fmt.Sprintf("%s is behind Cloudflare's proxy, and the control plane cannot connect to %s: switch the proxy off, or connect the DNS provider", f.name, others[0].address), nil
	}
	return indirect, fmt.Sprintf("%s leads to the server, but the control plane may not connect to %s: an operator allows it with --outbound-allow", f.name, others[0].address), nil
}

func (f facts) answerOf(address netip.Addr) answer {
	for _, a := range f.answers {
		if a.address == address {
			return a
		}
	}
	return answer{address: address}
}

func (f facts) insteadOf() string {
	if len(f.public) == 0 {
		return ""
	}
	return " instead of " + f.public[0].String()
}

// whereTo says what to do where nobody can be told where to lead a name.
func (f facts) whereTo() string {
	if len(f.public) > 0 {
		return ""
	}
	return "; the server has named no public address: ask the operator for it and lead the name there (in a closed network an operator has its addresses count with --outbound-allow)"
}

// toSet is how to lead a name to the server by records of a type, A or AAAA, in the place of others; nothing where it is not known
// to what to lead it.
func (f facts) toSet(kind string, others []answer) []Record {
	if len(f.public) == 0 {
		return nil
	}
	var records []Record
	for _, other := range others {
		records = append(records, Record{Name: f.name.String(), Type: kind, Value: other.address.String(), Remove: true})
	}
	for _, server := range f.public {
		is := "AAAA"
		if server.Is4() {
			is = "A"
		}
		switch {
		case is == kind && (kind == "A" || len(others) > 0):
			return append(records, Record{Name: f.name.String(), Type: kind, Value: server.String()})
		case kind == "A" && is == "AAAA" && server == f.public[0]: // it has no other
			return append(records, Record{Name: f.name.String(), Type: is, Value: server.String()})
		}
	}
	return records
}

// saying is what an address answered, in words.
func (a answer) saying() string {
	switch a.what {
	case ours:
		return "the server answers"
	case foreign:
		return fmt.Sprintf("another server answers (status %d)", a.status)
	case closed:
		return "nothing answers at port 80"
	case unasked:
	}
	return "nothing can be asked from here"
}

// forbidden says why the CAs that hosts order from may not issue for a name, and the record that lets them (RFC 8659, RFC 8657);
// empty when one of them may.
func (f facts) forbidden(by Challenge) (string, []Record) {
	switch {
	case len(f.cas) == 0:
		return "", nil
	case f.caaSilent:
		return fmt.Sprintf("the name servers of %s do not say which CAs may issue (CAA): no CA will", f.name), nil
	}
	tag := "issue"
	if f.name.IsWildcard() && slices.ContainsFunc(f.caa, func(c domain.CAA) bool { return c.Tag == "issuewild" }) {
		tag = "issuewild"
	}
	for _, c := range f.caa {
		if c.Critical && !slices.Contains([]string{"issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone"}, c.Tag) {
			return fmt.Sprintf("the CAA record %q of %s is critical, and no CA knows it", printable(c.Tag), f.caaAt), nil
		}
	}
	restricted := false
	for _, c := range f.caa {
		if c.Tag != tag {
			continue
		}
		restricted = true
		if permits(c.Value, f.cas, by) {
			return "", nil
		}
	}
	if !restricted {
		return "", nil
	}
	return fmt.Sprintf("the CAA records of %s forbid %s to issue by %s", f.caaAt, strings.Join(f.cas, " and "), by),
		[]Record{{Name: f.caaAt, Type: "CAA", Value: "0 " + tag + " " + f.cas[0]}}
}

// permits says whether the value of an issue property lets one of some CAs issue by a challenge.
func permits(value string, cas []string, by Challenge) bool {
	issuer, parameters, _ := strings.Cut(value, ";")
	issuer = strings.TrimSpace(issuer)
	if !slices.ContainsFunc(cas, func(ca string) bool { return strings.EqualFold(ca, issuer) }) {
		return false
	}
	for _, parameter := range strings.FieldsFunc(parameters, func(r rune) bool { return r == ';' || r == ' ' || r == '\t' }) {
		if methods, is := strings.CutPrefix(parameter, "validationmethods="); is {
			return slices.Contains(strings.Split(methods, ","), string(by))
		}
	}
	return true
}

// proxied says whether an address is one of Cloudflare's, behind which the server's own cannot be seen.
func proxied(address netip.Addr) bool {
	return slices.ContainsFunc(cloudflare, func(p netip.Prefix) bool { return p.Contains(address) })
}

// cloudflare is what https://www.cloudflare.com/ips lists; it has not changed in years.
var cloudflare = prefixes(
	"103.21.244.0/22", "103.22.200.0/22", "103.31.4.0/22", "104.16.0.0/13", "104.24.0.0/14", "108.162.192.0/18", "131.0.72.0/22",
	"141.101.64.0/18", "162.158.0.0/15", "172.64.0.0/13", "173.245.48.0/20", "188.114.96.0/20", "190.93.240.0/20", "197.234.240.0/22",
	"198.41.128.0/17",
	"2400:cb00::/32", "2405:8100::/32", "2405:b500::/32", "2606:4700::/32", "2803:f800::/32", "2a06:98c0::/29", "2c0f:f248::/32",
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}
