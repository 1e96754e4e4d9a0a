package api

import (
	"maps"
	"net/http"
	"testing"
)

// TestQuiet is about what a browser would do with our answers.
func TestQuiet(t *testing.T) {
	w := sqliteWorld(t)
	for _, path := range []string{"/healthz", "/api/v1/caller", "/api/v1/nothing", "/nothing", listOrganizations} {
		answer := asker{t: t, url: w.url}.ask(http.MethodGet, path, "")
		for _, name := range []string{"X-Content-Type-Options", "Content-Security-Policy", "Referrer-Policy", "Cross-Origin-Resource-Policy", "X-Request-Id"} {
			if answer.Header.Get(name) == "" {
				t.Errorf("%s: %s is missing", path, name)
			}
		}
		if got := answer.Header.Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("%s: pages of %s may read it", path, got)
		}
	}
}

// TestForeignPages sends, with somebody's rights, what a page of another origin can make a browser send.
func TestForeignPages(t *testing.T) {
	w := sqliteWorld(t)
	own := w.url
	before := w.effects(t)
	const create, body = "/api/v1/organizations", `{"name":"x","owner_email":"a@example.com"}`
	const procedure, message = "/chom.organization.v1.OrganizationService/CreateOrganization", `{"name":"x","ownerEmail":"a@example.com"}`
	for name, header := range map[string]map[string]string{
		"another site":                          {"Sec-Fetch-Site": "cross-site"},
		"another origin of the site":            {"Sec-Fetch-Site": "same-site"},
		"another origin, in an old browser":     {"Origin": "https://evil.example"},
		"no origin, as a file has":              {"Origin": "null"},
		"this host by another scheme's port":    {"Origin": "http://127.0.0.1:1"},
		"another site, with a cookie":           {"Sec-Fetch-Site": "cross-site", "Cookie": "a=b"},
		"nowhere, with a cookie":                {"Cookie": "a=b"},
		"here, but as a form, with a cookie":    {"Sec-Fetch-Site": "same-origin", "Cookie": "a=b", "Content-Type": "application/x-www-form-urlencoded"},
		"here, but as an upload, with a cookie": {"Sec-Fetch-Site": "same-origin", "Cookie": "a=b", "Content-Type": "multipart/form-data; boundary=x"},
		"here, but as text, with a cookie":      {"Origin": own, "Cookie": "a=b", "Content-Type": "text/plain"},
		"here, without a type, with a cookie":   {"Origin": own, "Cookie": "a=b", "Content-Type": ""},
	} {
		for path, text := range map[string]string{create: body, procedure: message} {
			all := map[string]string{"Content-Type": "application/json"}
			maps.Copy(all, header)
			if status, answer := w.raw(t, http.MethodPost, path, w.operator, all, text); status != http.StatusForbidden {
				t.Errorf("%s, to %s: %d %s", name, path, status, answer)
			}
		}
	}
	for _, path := range []string{procedure + "?message=%7B%7D&encoding=json&connect=v1", "/api/v1/organizations/" + w.ours.organization + "/sites/" + w.ours.site + ":suspend"} {
		if status, answer := w.raw(t, http.MethodGet, path, w.operator, map[string]string{"Sec-Fetch-Site": "cross-site", "Cookie": "a=b"}, ""); status != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d %s", path, status, answer)
		}
	}
	if after := w.effects(t); !maps.Equal(before, after) {
		t.Errorf("effects: before %v, after %v", before, after)
	}
	for name, header := range map[string]map[string]string{
		"a program":                    {},
		"the dashboard":                {"Sec-Fetch-Site": "same-origin", "Cookie": "a=b"},
		"it, in an old browser":        {"Origin": own, "Cookie": "a=b"},
		"it, behind a proxy":           {"Origin": publicURL, "Cookie": "a=b"},
		"an address that was typed":    {"Sec-Fetch-Site": "none"},
		"it, by a protocol of the API": {"Origin": own, "Cookie": "a=b", "Content-Type": "application/proto"},
	} {
		all := map[string]string{"Content-Type": "application/json"}
		maps.Copy(all, header)
		text := `{}`
		if all["Content-Type"] == "application/proto" {
			text = ""
		}
		if status, answer := w.raw(t, http.MethodPost, listOrganizations, w.operator, all, text); status != http.StatusOK {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
}

// TestShared is about pages of origins that the operator lists.
func TestShared(t *testing.T) {
	w := sqliteWorld(t)
	const listed, other = "https://app.example.com", "https://app.example.com.evil.example"
	some := asker{t: t, url: w.replica(t, func(c *Config) { c.Origins = []string{listed} })}
	all := asker{t: t, url: w.replica(t, func(c *Config) { c.Origins = []string{anyOrigin} })}
	allowed := func(answer *http.Response) string {
		if got := answer.Header.Get("Access-Control-Allow-Credentials"); got != "" {
			t.Errorf("cookies are sent along: %s", got)
		}
		return answer.Header.Get("Access-Control-Allow-Origin")
	}
	for name, test := range map[string]struct {
		door         asker
		origin, want string
	}{
		"a listed origin may read":          {some, listed, listed},
		"one that begins alike may not":     {some, other, ""},
		"one in capitals may not":           {some, "https://APP.example.com", ""},
		"one without TLS may not":           {some, "http://app.example.com", ""},
		"none, as a file has, may not":      {some, "null", ""},
		"all may, where all are listed":     {all, other, "*"},
		"without an origin nothing is said": {some, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			door := test.door.with("Origin", test.origin)
			if got := allowed(door.as(w.ours.owner).caller()); got != test.want {
				t.Errorf("an answer: %q", got)
			}
			if test.origin == "" {
				return
			}
			answer := door.with("Access-Control-Request-Method", "PATCH").with("Access-Control-Request-Headers", "authorization").ask(http.MethodOptions, "/api/v1/caller", "")
			if got := allowed(answer); got != test.want || (got != "") != (answer.StatusCode == http.StatusNoContent) {
				t.Errorf("before a call: %d %q", answer.StatusCode, got)
			}
			if test.want != "" && (answer.Header.Get("Access-Control-Allow-Headers") == "" || answer.Header.Get("Access-Control-Allow-Methods") == "") {
				t.Errorf("before a call: %v", answer.Header)
			}
		})
	}
	t.Run("a listed page may act with a token", func(t *testing.T) {
		for name, door := range map[string]asker{"some": some, "all": all} {
			answer := door.as(w.ours.owner).with("Origin", listed).with("Sec-Fetch-Site", "cross-site").ask(http.MethodPost, listOrganizations, "{}")
			if answer.StatusCode != http.StatusOK {
				t.Errorf("%s: %d", name, answer.StatusCode)
			}
		}
	})
	t.Run("where all are listed, none may act with a cookie", func(t *testing.T) {
		answer := all.with("Cookie", "a=b").with("Origin", other).with("Sec-Fetch-Site", "cross-site").ask(http.MethodPost, listOrganizations, "{}")
		if answer.StatusCode != http.StatusForbidden {
			t.Errorf("%d", answer.StatusCode)
		}
	})
}
