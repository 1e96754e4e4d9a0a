package dns

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret"
)

// Credentials let in to a service. They print as *** wherever they are printed.
type Credentials struct {
	kind   Type
	values map[string]secret.Secret // by the names of the proto's fields
}

// field is a value that a service asks for.
type field struct {
	name     string
	optional bool
	rule     func(value string) string // says what is wrong with it, in words; nil for what only must be printable
}

// service is how one is opened, and with what.
type service struct {
	fields []field
	chosen bool // people choose its address
	zones  func(Credentials, *outbound.Dialer) zones
}

var services = map[Type]service{
	Cloudflare:   {fields: []field{{name: "api_token"}}, zones: openCloudflare},
	Hetzner:      {fields: []field{{name: "api_token"}}, zones: openHetzner},
	DigitalOcean: {fields: []field{{name: "api_token"}}, zones: openDigitalOcean},
	Route53:      {fields: []field{{name: "access_key_id"}, {name: "secret_access_key"}, {name: "region", optional: true}}, zones: openRoute53},
	OVH: {
		fields: []field{{name: "endpoint"}, {name: "application_key"}, {name: "application_secret"}, {name: "consumer_key"}},
		zones:  openOVH,
	},
	PowerDNS: {
		fields: []field{{name: "server_url", rule: serverRule}, {name: "api_key"}, {name: "server_id", optional: true}},
		chosen: true, zones: openPowerDNS,
	},
	RFC2136: {
		fields: []field{{name: "server", rule: primaryRule}, {name: "key_name"}, {name: "key_algorithm"}, {name: "key", rule: keyRule}},
		chosen: true, zones: openRFC2136,
	},
}

// NewCredentials checks the values for a service, by the names of the proto's fields. Errors are faults of kind Invalid.
func NewCredentials(kind Type, values map[string]string) (Credentials, error) {
	of, known := services[kind]
	if !known {
		return Credentials{}, fault.Invalid("credentials", "must be for one of "+strings.Join(Types(), ", "))
	}
	c := Credentials{kind, map[string]secret.Secret{}}
	for _, f := range of.fields {
		value := values[f.name]
		if value == "" && f.optional {
			continue
		}
		refuse := func(rule string) (Credentials, error) {
			return Credentials{}, fault.Invalid(fmt.Sprintf("credentials.%s.%s", kind, f.name), rule)
		}
		if value == "" {
			return refuse("must not be empty")
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return refuse("may hold only printable ASCII characters, and no spaces")
		}
		if f.rule != nil {
			if wrong := f.rule(value); wrong != "" {
				return refuse(wrong)
			}
		}
		c.values[f.name] = secret.New([]byte(value))
	}
	return c, nil
}

// Types are the names of all services, in order.
func Types() []string {
	var all []string
	for kind := range services {
		all = append(all, string(kind))
	}
	slices.Sort(all)
	return all
}

// Type is which service they let in to.
func (c Credentials) Type() Type { return c.kind }

func (c Credentials) value(name string) string { return string(c.values[name].Reveal()) }

// Encode gives all of them in clear, to be sealed.
func (c Credentials) Encode() ([]byte, error) {
	plain := map[string]string{"type": string(c.kind)}
	for name := range c.values {
		plain[name] = c.value(name)
	}
	return json.Marshal(plain)
}

// Decode reads what Encode gave.
func Decode(text []byte) (Credentials, error) {
	var plain map[string]string
	if err := json.Unmarshal(text, &plain); err != nil {
		return Credentials{}, fmt.Errorf("decode credentials: %d bytes are not as they were written", len(text)) // err may quote them
	}
	kind := Type(plain["type"])
	delete(plain, "type")
	c := Credentials{kind, map[string]secret.Secret{}}
	for name, value := range plain {
		c.values[name] = secret.New([]byte(value))
	}
	return c, nil
}

// hide takes the values out of a text, the longest first: one may be a part of another.
func (c Credentials) hide(text string) string {
	names := slices.SortedFunc(maps.Keys(c.values), func(a, b string) int { return len(c.value(b)) - len(c.value(a)) })
	for _, name := range names {
		switch name {
		case "endpoint", "region", "server_id", "key_algorithm": // not secret, and words that a text may hold
			continue
		}
		text = strings.ReplaceAll(text, c.value(name), "***")
	}
	return text
}

// serverRule is for the URL of a PowerDNS. That it leads to a public address is decided when it is called.
func serverRule(text string) string {
	const rule = "must be http(s)://HOST[:PORT], without a user, a path of its own, a query or a fragment, on port 80, 443 or one above 1023"
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || strings.ContainsAny(text, "?#") {
		return rule
	}
	if !allowedPort(u.Port(), "", "80", "443") {
		return rule
	}
	return ""
}

// primaryRule is for the address of a name server.
func primaryRule(text string) string {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" || !allowedPort(port, "53") {
		return "must be HOST:PORT, on port 53 or one above 1023"
	}
	return ""
}

// allowedPort keeps people from speaking to others' mail servers and shells in our name.
func allowedPort(port string, besides ...string) bool {
	n, err := strconv.Atoi(port)
	return slices.Contains(besides, port) || err == nil && n >= 1024 && n <= 65535
}

func keyRule(text string) string {
	if _, err := base64.StdEncoding.DecodeString(text); err != nil {
		return "must be base64"
	}
	return ""
}
