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
	refuse := func(rule string) (contract.Domain, error) { return contract.Domain{}, fault.Invalid("name", rule) }
	if below, is := strings.CutPrefix(text, "*."); is {
		return refuse(fmt.Sprintf("must not be a wildcard: a claim of %s covers every name below it", below))
	}
	ascii, err := toASCII.ToASCII(strings.TrimSuffix(text, "."))
	if err != nil {
		return refuse("must be a domain name: " + strings.TrimPrefix(err.Error(), "idna: "))
	}
	name, err := contract.ParseDomain(ascii)
	if err != nil {
		return refuse(contract.RuleOf(err))
	}
	if suffix, _ := publicsuffix.PublicSuffix(name.String()); suffix == name.String() {
		return refuse("must not be a public suffix: names below it belong to many")
	}
	return name, nil
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
