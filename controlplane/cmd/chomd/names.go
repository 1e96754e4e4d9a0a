package main

import (
	"github.com/spf13/pflag"

	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/site"
)

// namesConfig is how names of sites are proved and made.
type namesConfig struct {
	DomainProof   string `koanf:"domain-proof"`
	PreviewDomain string `koanf:"preview-domain"`
	Resolver      string `koanf:"resolver"`
	Budget        int    `koanf:"certificate-budget"`
}

func namesFlags(f *pflag.FlagSet) {
	f.String("domain-proof", "dns", "whether a site answers to a name only once its organization has proved by the DNS that it is its own: dns, or none for a platform whose customers trust each other")
	f.String("preview-domain", "", "domain of the platform's own, below which each site has a name from its first second; a wildcard record in the DNS must lead from it to the servers (default SERVER-ADDRESS.sslip.io, which needs no record)")
	f.String("resolver", "", "HOST:PORT of the name server that is asked for customers' records (default that of this machine)")
	f.Int("certificate-budget", site.DefaultBudget, "names of one organization that may begin to get certificates in 7 days")
}

func (n namesConfig) checkNames(rule func(ok bool, key, rule string)) {
	rule(n.DomainProof == "dns" || n.DomainProof == "none", "domain-proof", "must be dns or none")
	if n.PreviewDomain != "" {
		_, err := domain.ParseName(n.PreviewDomain)
		rule(err == nil, "preview-domain", "must be a domain name that is no public suffix")
	}
	rule(n.Budget > 0, "certificate-budget", "must be above 0")
	rule(n.Resolver == "" || isAddress(n.Resolver), "resolver", "must be HOST:PORT")
}

// preview is the platform's own domain, as sites take it; empty for none.
func (n namesConfig) preview() string {
	if n.PreviewDomain == "" {
		return ""
	}
	name, err := domain.ParseName(n.PreviewDomain)
	if err != nil { // it was checked
		return ""
	}
	return name.String()
}
