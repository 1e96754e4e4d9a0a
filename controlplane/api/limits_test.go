package api

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/limit"
	"chom.dev/controlplane/limit/limittest"
	"chom.dev/controlplane/rest"
)

// asker sends calls to one door.
type asker struct {
	t      *testing.T
	url    string
	header map[string]string
}

func (a asker) with(name, value string) asker {
	header := maps.Clone(a.header)
	if header == nil {
		header = map[string]string{}
	}
	header[name] = value
	return asker{a.t, a.url, header}
}

func (a asker) as(token string) asker { return a.with("Authorization", "Bearer "+token) }

func (a asker) ask(method, path, body string) *http.Response {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, strings.NewReader(body))
	must(a.t, err)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range a.header {
		request.Header.Set(name, value)
	}
	answer, err := http.DefaultClient.Do(request)
	must(a.t, err)
	answer.Body.Close()
	return answer
}

// caller is a call that everybody with a token may make.
func (a asker) caller() *http.Response { return a.ask(http.MethodGet, "/api/v1/caller", "") }

// stores are where limits can be counted: what they give is one process's limiter.
func stores(t *testing.T, rates limit.Rates, test func(t *testing.T, process func() *limit.Limiter)) {
	t.Helper()
	t.Run("in Redis", func(t *testing.T) {
		server := limittest.Start(t)
		test(t, func() *limit.Limiter {
			l, err := limit.NewRedis(rates, server.URL, slog.New(slog.NewTextHandler(t.Output(), nil)))
			must(t, err)
			t.Cleanup(func() { must(t, l.Close()) })
			return l
		})
	})
	t.Run("in memory", func(t *testing.T) {
		l := limit.New(rates)
		test(t, func() *limit.Limiter { return l }) // one process: its doors share it
	})
}

// TestRate calls through two replicas of the control plane, one of which is restarted in between.
func TestRate(t *testing.T) {
	stores(t, limit.DefaultRates(), func(t *testing.T, process func() *limit.Limiter) {
		w := sqliteWorld(t)
		open := func() asker {
			return asker{t: t, url: w.replica(t, func(c *Config) { c.Limits = process() })}.as(w.ours.owner)
		}
		doors := []asker{open(), open()}
		for i := range 60 {
			if i == 30 {
				doors[0] = open()
			}
			answer := doors[i%2].caller()
			if answer.StatusCode != http.StatusOK {
				t.Fatalf("call %d: %d", i+1, answer.StatusCode)
			}
			if got := answer.Header.Get("RateLimit-Remaining"); got != strconv.Itoa(59-i) || answer.Header.Get("RateLimit-Limit") != "60" {
				t.Fatalf("call %d: %v", i+1, answer.Header)
			}
		}
		for _, door := range doors {
			answer := door.caller()
			after, err := strconv.Atoi(answer.Header.Get("Retry-After"))
			if answer.StatusCode != http.StatusTooManyRequests || err != nil || after < 1 || after > 64 || answer.Header.Get("RateLimit-Reset") != strconv.Itoa(after) {
				t.Errorf("call 61: %d %v", answer.StatusCode, answer.Header)
			}
		}
		t.Run("for other people there is room", func(t *testing.T) {
			if answer := doors[0].as(w.theirs.owner).caller(); answer.StatusCode != http.StatusOK {
				t.Errorf("%d", answer.StatusCode)
			}
		})
		t.Run("by every protocol it is refused alike", func(t *testing.T) {
			at := *w
			at.url = doors[1].url
			for name, way := range at.transports(t) {
				const procedure = "/chom.account.v1.AccountService/GetCaller"
				if err := way(t, w.ours.owner, procedure, w.valid(procedure, w.ours)); err == nil || !strings.Contains(err.Error(), "resource_exhausted") {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		t.Run("of what is seldom, the third call", func(t *testing.T) {
			path := "/api/v1/organizations/" + w.theirs.organization + "/sites/" + w.theirs.site + ":login"
			for i, want := range []bool{true, true, false} {
				answer := doors[i%2].as(w.theirs.owner).ask(http.MethodPost, path, "{}")
				if got := answer.StatusCode != http.StatusTooManyRequests; got != want {
					t.Errorf("call %d: %d", i+1, answer.StatusCode)
				}
			}
		})
	})
}

// TestGuesses sends wrong tokens: after five, a right one is refused like them.
func TestGuesses(t *testing.T) {
	stores(t, limit.DefaultRates(), func(t *testing.T, process func() *limit.Limiter) {
		w := sqliteWorld(t)
		door := asker{t: t, url: w.replica(t, func(c *Config) { c.Limits = process() })}
		for i := range 5 {
			if answer := door.as("chomop_" + strings.Repeat(strconv.Itoa(i), 43)).caller(); answer.StatusCode != http.StatusUnauthorized || answer.Header.Get("WWW-Authenticate") == "" {
				t.Fatalf("guess %d: %d", i+1, answer.StatusCode)
			}
		}
		for name, token := range map[string]string{"a wrong token": "chomop_" + strings.Repeat("x", 43), "a right token": w.ours.owner} {
			if answer := door.as(token).caller(); answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Retry-After") == "" {
				t.Errorf("%s: %d", name, answer.StatusCode)
			}
		}
		if answer := door.caller(); answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("without a token: %d", answer.StatusCode)
		}
		const first = "/api/v1/first-operator"
		for i := range 7 {
			answer := door.ask(http.MethodPost, first, `{"setup_secret":"chomsetup_x","email":"a@example.com"}`)
			if refused := answer.StatusCode == http.StatusTooManyRequests; refused != (i >= 5) {
				t.Errorf("guess %d of the setup secret: %d", i+1, answer.StatusCode)
			}
		}
	})
}

// TestSpoofed sends another address with each call: the true one is counted.
func TestSpoofed(t *testing.T) {
	w := sqliteWorld(t)
	door := asker{t: t, url: w.replica(t, func(c *Config) { c.Limits = limit.New(limit.Rates{limit.API: 3, limit.Auth: 3}) })}
	for i := range 5 {
		spoofed := fmt.Sprintf("198.51.100.%d", i)
		answer := door.with("X-Forwarded-For", spoofed).with("CF-Connecting-IP", spoofed).with("X-Real-IP", spoofed).
			with("True-Client-IP", spoofed).with("Forwarded", "for="+spoofed).caller()
		if refused := answer.StatusCode == http.StatusTooManyRequests; refused != (i >= 3) {
			t.Errorf("call %d: %d", i+1, answer.StatusCode)
		}
	}
	if strings.Contains(w.log.String(), "198.51.100") || !strings.Contains(w.log.String(), "address=127.0.0.1") {
		t.Error("the log shows another address than the true one")
	}
}

func TestAddress(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for name, test := range map[string]struct {
		peer      string
		forwarded []string
		want      string
	}{
		"a peer that is no proxy is itself":            {"203.0.113.9:1", []string{"198.51.100.1"}, "203.0.113.9"},
		"a proxy's caller is whom it names":            {"10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"what the caller wrote does not count":         {"10.0.0.1:1", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},
		"nor does it in a header of its own":           {"10.0.0.1:1", []string{"1.1.1.1", "198.51.100.1"}, "198.51.100.1"},
		"a chain of proxies is followed":               {"10.0.0.1:1", []string{"198.51.100.1, 10.0.0.3,10.0.0.2"}, "198.51.100.1"},
		"a caller who claims to be a proxy is not one": {"203.0.113.9:1", []string{"198.51.100.1, 10.0.0.3"}, "203.0.113.9"},
		"a proxy that names nobody is itself":          {"10.0.0.1:1", nil, "10.0.0.1"},
		"a proxy that names nonsense is itself":        {"10.0.0.1:1", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		"a proxy by IPv6":                              {"[fd00::1]:1", []string{"2001:db8::1"}, "2001:db8::1"},
		"IPv4 in IPv6 is IPv4":                         {"[::ffff:10.0.0.1]:1", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		"a zone is left out":                           {"[fe80::1%eth0]:1", nil, "fe80::1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			r.RemoteAddr = test.peer
			r.Header["X-Forwarded-For"] = test.forwarded
			if got := addressOf(r, proxies); got.String() != test.want {
				t.Errorf("got %s", got)
			}
		})
	}
	t.Run("of IPv6 the /64 is counted", func(t *testing.T) {
		a, b := netip.MustParseAddr("2001:db8:0:1::1"), netip.MustParseAddr("2001:db8:0:1:ffff::2")
		if network(a) != network(b) || network(a) == network(netip.MustParseAddr("2001:db8:0:2::1")) {
			t.Errorf("%s, %s", network(a), network(b))
		}
	})
}

// TestClasses is about who is counted where.
func TestClasses(t *testing.T) {
	w := sqliteWorld(t)
	limits := limit.New(limit.Rates{limit.API: 2, limit.Operator: 4, limit.Auth: 100, limit.Sensitive: 100})
	door := asker{t: t, url: w.replica(t, func(c *Config) { c.Limits = limits; c.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })}
	count := func(a asker) (allowed int) {
		for a.caller().StatusCode == http.StatusOK {
			allowed++
		}
		return allowed
	}
	if n := count(door.as(w.operator)); n != 4 {
		t.Errorf("an operator: %d calls", n)
	}
	if n := count(door.as(w.ours.owner)); n != 2 {
		t.Errorf("an owner: %d calls", n)
	}
	if n := count(door.as(w.ours.owner).with("X-Forwarded-For", "198.51.100.1")); n != 0 {
		t.Errorf("an owner from elsewhere: %d calls more", n)
	}
	if n := count(door.as(w.ours.viewer)); n != 2 {
		t.Errorf("somebody else at the owner's address: %d calls", n)
	}
	if class := classOf(rule{}, &account.Caller{Session: "s"}); class != limit.Session {
		t.Errorf("a browser is counted as %s", class)
	}
	nobody := 0
	for door.with("X-Forwarded-For", "198.51.100.2").caller().StatusCode == http.StatusUnauthorized {
		nobody++
	}
	if nobody != 2 {
		t.Errorf("nobody: %d calls", nobody)
	}
	if status := door.with("X-Forwarded-For", "198.51.100.3").caller().StatusCode; status != http.StatusUnauthorized {
		t.Errorf("nobody from elsewhere: %d", status)
	}
}

// TestProblem is what a caller by REST reads.
func TestProblem(t *testing.T) {
	w := sqliteWorld(t)
	url := w.replica(t, func(c *Config) { c.Limits = limit.New(limit.Rates{limit.API: 1, limit.Auth: 5}) })
	get := func() (rest.Problem, *http.Response) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/api/v1/organizations/nonsense/sites?page_size=501", nil)
		must(t, err)
		request.Header.Set("Authorization", "Bearer "+w.ours.owner)
		answer, err := http.DefaultClient.Do(request)
		must(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		must(t, err)
		var p rest.Problem
		must(t, json.Unmarshal(text, &p))
		return p, answer
	}
	p, answer := get()
	if p.Type != "/api/docs#invalid_argument" || p.Status != 400 || p.Title == "" || p.RequestID != answer.Header.Get("X-Request-Id") || p.RetryAfter != 0 || len(p.Errors) != 2 {
		t.Errorf("%+v", p)
	}
	for _, e := range p.Errors {
		if (e.Field != "organization_id" && e.Field != "page_size") || e.Rule == "" {
			t.Errorf("%+v", e)
		}
	}
	p, answer = get()
	if p.Type != "/api/docs#resource_exhausted" || p.Status != 429 || strconv.Itoa(p.RetryAfter) != answer.Header.Get("Retry-After") || p.RetryAfter < 1 {
		t.Errorf("%+v", p)
	}
}
