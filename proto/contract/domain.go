package contract

import "strings"

// Domain is a fully qualified host name in lower case, as a browser sends it:
// letters, digits and hyphens, at least two labels, no trailing dot, never an
// IP address. International names appear in their punycode form (xn--...).
//
// One that comes from ParsePattern, from JSON or from a database may also be a
// wildcard: "*." and such a name. It stands for all names with one label more.
type Domain struct{ name[domainRule] }

// ParseDomain lower-cases ASCII letters and checks the rest. It refuses wildcards.
func ParseDomain(s string) (Domain, error) {
	var d Domain
	if strings.HasPrefix(s, wildcard) {
		return d, invalid(domainKind, "must not be a wildcard")
	}
	return d, d.set(s)
}

// ParsePattern is ParseDomain that takes wildcards too.
func ParsePattern(s string) (Domain, error) {
	var d Domain
	return d, d.set(s)
}

// IsWildcard reports whether it stands for many names.
func (d Domain) IsWildcard() bool { return strings.HasPrefix(d.text, wildcard) }

// Base is the name below which a wildcard stands, and any other name itself.
func (d Domain) Base() Domain {
	d.text = strings.TrimPrefix(d.text, wildcard)
	return d
}

// Covers reports whether a certificate or a server block for d is for a name: the
// same one or, of a wildcard, one with exactly one label more (RFC 6125, section 6.4.3).
func (d Domain) Covers(name Domain) bool {
	if d == name {
		return true
	}
	_, above, _ := strings.Cut(name.text, ".")
	return d.IsWildcard() && !name.IsWildcard() && above == d.Base().text
}

// ProbeFile is below /.well-known/acme-challenge/ of every name of a site, by
// HTTP; it holds the site's handle, so that whoever asks from outside sees where
// the name leads.
const ProbeFile = "chom-probe"

const (
	domainKind = "domain"
	wildcard   = "*."
)

const (
	maxDomain = 253 // RFC 1035, without the trailing dot
	maxLabel  = 63  // RFC 1035
)

type domainRule struct{}

func (domainRule) parse(s string) (string, error) {
	const kind = domainKind
	s, star := strings.CutPrefix(s, wildcard)
	if star {
		base, err := domainRule{}.parse(s)
		switch {
		case err != nil:
			return "", err
		case strings.HasPrefix(base, wildcard):
			return "", invalid(kind, "may hold one asterisk, as the first label")
		case len(base)+len(wildcard) > maxDomain:
			return "", invalid(kind, "must be at most 253 characters")
		}
		return wildcard + base, nil
	}
	if s == "" {
		return "", invalid(kind, "must not be empty")
	}
	if len(s) > maxDomain {
		return "", invalid(kind, "must be at most 253 characters")
	}
	if !only(s, func(c byte) bool {
		return isLower(c) || isDigit(c) || c == '-' || c == '.' || c >= 'A' && c <= 'Z'
	}) {
		return "", invalid(kind, "may hold only letters, digits, hyphens and dots")
	}
	s = strings.ToLower(s)
	labels := strings.Split(s, ".")
	if len(labels) < 2 {
		return "", invalid(kind, "must hold at least one dot")
	}
	for _, l := range labels {
		switch {
		case l == "":
			return "", invalid(kind, "must not hold an empty label or end with a dot")
		case len(l) > maxLabel:
			return "", invalid(kind, "labels must be at most 63 characters")
		case l[0] == '-' || l[len(l)-1] == '-':
			return "", invalid(kind, "labels must not start or end with a hyphen")
		case len(l) >= 4 && l[2:4] == "--" && !strings.HasPrefix(l, "xn--"):
			return "", invalid(kind, "labels must not hold hyphens in places three and four unless they are punycode")
		case l == "xn--":
			return "", invalid(kind, "a punycode label must not be empty")
		}
	}
	// No top-level domain is all digits (RFC 3696), and every spelling of an
	// IPv4 address ends in a numeric or 0x label.
	last := labels[len(labels)-1]
	if isDigit(last[0]) {
		return "", invalid(kind, "must not be an IP address; the last label must start with a letter")
	}
	return s, nil
}
