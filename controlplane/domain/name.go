package domain

import (
	"fmt"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// toASCII holds names to what registries allow (UTS 46, non-transitional, with the rules for lookup): the form in which
// browsers send them.
var toASCII = idna.New(idna.MapForLookup(), idna.StrictDomainName(true), idna.ValidateLabels(true), idna.CheckHyphens(true), idna.CheckJoiners(true), idna.BidiRule(), idna.Transitional(false))

// ParseName accepts a name as people write it: in any case, international, with a dot at its end. It refuses what nobody can
// hold: public suffixes such as com or co.uk, below which strangers' names stand, and wildcards, which a claim covers.
func ParseName(text string) (contract.Domain, error) {
	if below, is := strings.CutPrefix(text, wildcard); is {
		return contract.Domain{}, fault.Invalid("name", fmt.Sprintf("must not be a wildcard: a claim of %s covers every name below it", below))
	}
	name, rule := parse(text)
	if rule == "" && isSuffix(name) {
		rule = "must not be a public suffix: names below it belong to many"
	}
	if rule != "" {
		return contract.Domain{}, fault.Invalid("name", rule)
	}
	return name, nil
}

// ParsePattern accepts a name of a site as people write it, as ParseName does, and wildcards too. It refuses a wildcard below a
// public suffix. The rule that was broken is said without the field, which the caller knows; it is empty for a name that is right.
func ParsePattern(text string) (name contract.Domain, rule string) {
	below, isWildcard := strings.CutPrefix(text, wildcard)
	name, rule = parse(below)
	switch {
	case rule != "" || !isWildcard:
		return name, rule
	case isSuffix(name):
		return contract.Domain{}, "must not be a wildcard below a public suffix: names there belong to many"
	}
	name, err := contract.ParsePattern(wildcard + name.String())
	if err != nil {
		return contract.Domain{}, contract.RuleOf(err)
	}
	return name, ""
}

const wildcard = "*."

// parse gives a name in the form in which browsers send it, or the rule that it breaks.
func parse(text string) (contract.Domain, string) {
	ascii, err := toASCII.ToASCII(strings.TrimSuffix(text, "."))
	if err != nil {
		return contract.Domain{}, "must be a domain name: " + strings.TrimPrefix(err.Error(), "idna: ")
	}
	name, err := contract.ParseDomain(ascii)
	if err != nil {
		return contract.Domain{}, contract.RuleOf(err)
	}
	return name, ""
}

func isSuffix(name contract.Domain) bool {
	suffix, _ := publicsuffix.PublicSuffix(name.String())
	return suffix == name.String()
}

// above are the names above one that somebody could hold, the nearest first.
func above(name contract.Domain) []string {
	var names []string
	for rest := name.String(); ; {
		_, parent, found := strings.Cut(rest, ".")
		if !found || !strings.Contains(parent, ".") {
			return names
		}
		if suffix, _ := publicsuffix.PublicSuffix(parent); suffix == parent {
			return names
		}
		names = append(names, parent)
		rest = parent
	}
}

func recordOf(name contract.Domain, token string) Record {
	return Record{Name: recordLabel + "." + name.String(), Type: "TXT", Value: recordValue + token}
}
