package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"

	"github.com/spf13/pflag"

	"chom.dev/controlplane/limit"
)

// people is what an operator decides about the people's door beside where it listens.
type people struct {
	TrustedProxies string `koanf:"trusted-proxies"`
	CORSOrigins    string `koanf:"cors-origins"`

	Redis          string `koanf:"redis"`
	LimitAPI       int    `koanf:"limit-api"`
	LimitSession   int    `koanf:"limit-session"`
	LimitOperator  int    `koanf:"limit-operator"`
	LimitAuth      int    `koanf:"limit-auth"`
	LimitSensitive int    `koanf:"limit-sensitive"`
}

func peopleFlags(f *pflag.FlagSet) {
	rates := limit.DefaultRates()
	f.String("trusted-proxies", "", "networks (10.0.0.0/8,...) of proxies in front of people-listen whose X-Forwarded-For is believed; without it nobody's is")
	f.String("cors-origins", "", "origins (https://app.example.com,...) whose pages may read answers, with a token and never with cookies; * for all")
	f.String("redis", "", "redis://..., rediss://... or unix://...: counts limits over all replicas and restarts; a URL with a password belongs into the file, not here (default in the process)")
	f.Int("limit-api", rates[limit.API], "calls that a person, token or unknown address may make in a minute")
	f.Int("limit-session", rates[limit.Session], "calls that a person may make from browsers in a minute: their pages ask by themselves")
	f.Int("limit-operator", rates[limit.Operator], "calls that an operator may make in a minute")
	f.Int("limit-auth", rates[limit.Auth], "tries at passwords, codes and tokens in a minute")
	f.Int("limit-sensitive", rates[limit.Sensitive], "calls in a minute that destroy, show secrets or send mail")
}

// maxRate is more than any of this can serve.
const maxRate = 100_000_000

// check names every key that breaks a rule.
func (p *people) check(rule func(ok bool, key, rule string)) {
	if _, err := p.proxies(); err != nil {
		rule(false, "trusted-proxies", err.Error())
	}
	if _, err := p.origins(); err != nil {
		rule(false, "cors-origins", err.Error())
	}
	if p.Redis != "" {
		l, err := limit.NewRedis(p.rates(), p.Redis, slog.New(slog.DiscardHandler))
		if err == nil {
			err = l.Close()
		}
		rule(err == nil, "redis", "must be redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix://PATH")
	}
	for key, rate := range map[string]int{
		"limit-api": p.LimitAPI, "limit-session": p.LimitSession, "limit-operator": p.LimitOperator, "limit-auth": p.LimitAuth, "limit-sensitive": p.LimitSensitive,
	} {
		rule(rate >= 1 && rate <= maxRate, key, "must be 1 to 100000000")
	}
}

func list(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func (p *people) proxies() ([]netip.Prefix, error) { return networks(p.TrustedProxies) }

// networks reads a list of networks and addresses.
func networks(text string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, item := range list(text) {
		network, err := netip.ParsePrefix(item)
		if address, notNetwork := netip.ParseAddr(item); notNetwork == nil {
			network, err = netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen()), nil
		}
		if err != nil || network.Masked() != network || network.Addr().Is4In6() {
			return nil, errors.New("must be networks or addresses with commas between them, for example 10.0.0.0/8,fd00::1")
		}
		all = append(all, network)
	}
	return all, nil
}

func (p *people) origins() ([]string, error) {
	origins := list(p.CORSOrigins)
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if origin != "*" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != origin || strings.ToLower(origin) != origin) {
			return nil, errors.New("must be origins with commas between them, for example https://app.example.com, or *")
		}
	}
	return origins, nil
}

func (p *people) rates() limit.Rates {
	return limit.Rates{limit.API: p.LimitAPI, limit.Session: p.LimitSession, limit.Operator: p.LimitOperator, limit.Auth: p.LimitAuth, limit.Sensitive: p.LimitSensitive}
}

// limiter counts where the configuration says. Close it at the end.
func (p *people) limiter(log *slog.Logger) (*limit.Limiter, error) {
	if p.Redis == "" {
		return limit.New(p.rates()), nil
	}
	l, err := limit.NewRedis(p.rates(), p.Redis, log)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return l, nil
}
