package site

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// siteType is what the control plane knows of a type: enough to refuse at the door what its plugin would refuse on the host.
type siteType struct {
	name     string
	settings []setting
	installs bool // an application's archive
	canLogIn bool // has administrators
}

// setting is one value that people give.
type setting struct {
	name     string
	required bool
	fallback func(siteName string) string // value when none is given; nil for none
	fixed    bool                         // cannot change once the site is made
	check    func(string) (string, error) // gives the canonical value
}

// types are the ones whose plugins every agent package carries.
var types = []siteType{
	{
		name:     "static",
		settings: []setting{title},
	},
	{
		name:     "wordpress",
		installs: true,
		canLogIn: true,
		settings: []setting{
			title,
			{name: "admin_user", fixed: true, fallback: constant("admin"), check: pattern(`^[a-z][a-z0-9_.-]{0,59}$`,
				"must be 1 to 60 lower-case letters, digits and _ . - and begin with a letter")},
			{name: "admin_email", required: true, check: func(s string) (string, error) {
				e, err := contract.ParseEmail(s)
				return e.String(), err
			}},
			{name: "locale", fallback: constant("en_US"), check: pattern(`^[a-z]{2,3}(_[A-Z]{2})?(_[a-z]{2,10})?$`,
				`must look like "en_US" or "de"`)},
		},
	},
}

var title = setting{
	name:     "title",
	fallback: func(siteName string) string { return siteName },
	check: func(s string) (string, error) {
		t, err := contract.ParseTitle(s)
		return t.String(), err
	},
}

func constant(value string) func(string) string { return func(string) string { return value } }

func pattern(expression, rule string) func(string) (string, error) {
	compiled := regexp.MustCompile(expression)
	return func(s string) (string, error) {
		if !compiled.MatchString(s) {
			return "", errors.New(rule)
		}
		return s, nil
	}
}

// parseType finds a type by the name that a caller gave.
func parseType(name string) (siteType, error) {
	i := slices.IndexFunc(types, func(t siteType) bool { return t.name == name })
	if i < 0 {
		var names []string
		for _, t := range types {
			names = append(names, t.name)
		}
		return siteType{}, fault.Invalid("type", "must be one of: "+strings.Join(names, ", "))
	}
	return types[i], nil
}

// newSettings checks the values for a new site and adds the ones that were left out.
func (t siteType) newSettings(given map[string]string, siteName string) (map[string]string, error) {
	settings, err := t.check(given)
	if err != nil {
		return nil, err
	}
	for _, s := range t.settings {
		if settings[s.name] != "" {
			continue
		}
		switch {
		case s.required:
			return nil, fault.Invalid("settings."+s.name, "is needed for a "+t.name+" site")
		case s.fallback != nil:
			settings[s.name] = s.fallback(siteName)
		}
	}
	return settings, nil
}

// mergeSettings checks the values of a change and lays them over the present ones.
func (t siteType) mergeSettings(present, given map[string]string) (map[string]string, error) {
	changed, err := t.check(given)
	if err != nil {
		return nil, err
	}
	for _, s := range t.settings {
		if value, given := changed[s.name]; s.fixed && given && value != present[s.name] {
			return nil, fault.Invalid("settings."+s.name, "cannot be changed once the site is made")
		}
	}
	merged := maps.Clone(present)
	if merged == nil {
		merged = map[string]string{}
	}
	maps.Copy(merged, changed)
	return merged, nil
}

// check gives the canonical values. Errors name the field as settings.<name>, in the order of names.
func (t siteType) check(given map[string]string) (map[string]string, error) {
	checked := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		i := slices.IndexFunc(t.settings, func(s setting) bool { return s.name == name })
		if i < 0 {
			return nil, fault.Invalid("settings", fmt.Sprintf("a %s site has no setting %q; it has: %s", t.name, printable(name), t.names()))
		}
		value, err := t.settings[i].check(given[name])
		if err != nil {
			return nil, fault.Invalid("settings."+name, contract.RuleOf(err))
		}
		checked[name] = value
	}
	return checked, nil
}

func (t siteType) names() string {
	var names []string
	for _, s := range t.settings {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// printable keeps a stranger's text out of an error unless it is a plain word.
func printable(s string) string {
	if len(s) > 63 || strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' }) {
		return "?"
	}
	return s
}

// maxDomains bounds one virtual host.
const maxDomains = 100

// parseDomains checks names that a caller gave, the primary one first.
func parseDomains(given []string) ([]contract.Domain, error) {
	if len(given) == 0 {
		return nil, fault.Invalid("domains", "must hold at least one name")
	}
	if len(given) > maxDomains {
		return nil, fault.Invalid("domains", "must hold at most 100 names")
	}
	domains := make([]contract.Domain, 0, len(given))
	for i, text := range given {
		name, rule := domain.ParsePattern(text)
		switch {
		case rule != "":
		case slices.Contains(domains, name):
			rule = "is in the list twice"
		case i == 0 && name.IsWildcard():
			rule = "must not be a wildcard: the first name is the primary one, under which the site is found"
		}
		if rule != "" {
			return nil, fault.Invalid(fmt.Sprintf("domains[%d]", i), rule)
		}
		domains = append(domains, name)
	}
	return domains, nil
}

// parseRedirects checks which of a site's names are to send visitors on to its first.
func parseRedirects(given []string, domains []contract.Domain) ([]contract.Domain, error) {
	var redirects []contract.Domain
	for i, text := range given {
		name, rule := domain.ParsePattern(text)
		switch {
		case rule != "":
		case name.IsWildcard():
			rule = "must not be a wildcard"
		case name == domains[0]:
			rule = "must not be the primary name: the others lead to it"
		case !slices.Contains(domains, name):
			rule = "must be in domains too"
		case slices.Contains(redirects, name):
			rule = "is in the list twice"
		}
		if rule != "" {
			return nil, fault.Invalid(fmt.Sprintf("redirect_domains[%d]", i), rule)
		}
		redirects = append(redirects, name)
	}
	return redirects, nil
}

// maxTags is how many words a site, or a policy, has at most.
const maxTags = 20

var tagPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)

// ParseTags checks words that a caller gave, and puts them in the order of the alphabet. Errors name the field as tags.
func ParseTags(given []string) ([]string, error) {
	if len(given) > maxTags {
		return nil, fault.Invalid("tags", "must hold at most 20 words")
	}
	for i, tag := range given {
		if !tagPattern.MatchString(tag) {
			return nil, fault.Invalid(fmt.Sprintf("tags[%d]", i), "must be 1 to 31 lower-case letters, digits and hyphens, not beginning with a hyphen")
		}
		if slices.Contains(given[:i], tag) {
			return nil, fault.Invalid(fmt.Sprintf("tags[%d]", i), "is in the list twice")
		}
	}
	return slices.Sorted(slices.Values(given)), nil
}

// maxHSTS is two years: what browsers' lists ask for at most.
const maxHSTS = 63072000

// check refuses what would bind visitors' browsers for longer than anybody means it.
func (h HTTPS) check() error {
	if h.HSTS > maxHSTS {
		return fault.Invalid("https.hsts_max_age_seconds", "must be at most 63072000, which are two years")
	}
	return nil
}

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return fault.Invalid("name", "must be 1 to 63 lower-case letters, digits and hyphens, beginning with a letter")
	}
	return nil
}

// check refuses limits beyond what an agent can set.
func (l Limits) check() error {
	switch {
	case l.CPUPercent > 6400:
		return fault.Invalid("limits.cpu_percent", "must be at most 6400")
	case l.MemoryBytes > 1<<40:
		return fault.Invalid("limits.memory_bytes", "must be at most 1099511627776")
	case l.MemoryBytes > 0 && l.MemoryBytes < minMemory:
		return fault.Invalid("limits.memory_bytes", "must be at least 67108864")
	case l.Tasks > 32768:
		return fault.Invalid("limits.tasks", "must be at most 32768")
	case l.Tasks > 0 && l.Tasks < minTasks:
		return fault.Invalid("limits.tasks", "must be at least 16")
	case l.PHPWorkers > 1024:
		return fault.Invalid("limits.php_workers", "must be at most 1024")
	}
	return nil
}

// Below these a php-fpm master and one worker do not even start.
const (
	minMemory = 64 << 20
	minTasks  = 16
)
