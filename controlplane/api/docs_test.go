package api

import (
	"bytes"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"

	"chom.dev/controlplane/rest"
)

func TestDocs(t *testing.T) {
	w := sqliteWorld(t)
	for path, kind := range map[string]string{
		"/api/docs": "text/html", "/api/docs/authorization": "text/html", "/api/docs/page.js": "text/javascript", "/api/docs/page.css": "text/css",
		"/api/v1/openapi.json": "application/json",
	} {
		answer, err := http.Get(w.url + path)
		must(t, err)
		text, err := io.ReadAll(answer.Body)
		must(t, err)
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK || !strings.HasPrefix(answer.Header.Get("Content-Type"), kind) || len(text) == 0 {
			t.Errorf("%s: %d %s", path, answer.StatusCode, answer.Header.Get("Content-Type"))
		}
		policy := answer.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
			t.Errorf("%s may load %s", path, policy)
		}
		if foreign := regexp.MustCompile(`(src|href|url)\s*[=(]\s*["']?(https?:)?//`).Find(text); foreign != nil {
			t.Errorf("%s has an asset from elsewhere: %s", path, foreign)
		}
		for _, raw := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "<script>", "<style>", "style=\""} {
			if path != "/api/v1/openapi.json" && strings.Contains(string(text), raw) {
				t.Errorf("%s has %s", path, raw)
			}
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, nil)
		must(t, err)
		request.Header.Set("If-None-Match", answer.Header.Get("ETag"))
		again, err := http.DefaultClient.Do(request)
		must(t, err)
		again.Body.Close()
		if again.StatusCode != http.StatusNotModified {
			t.Errorf("%s again: %d", path, again.StatusCode)
		}
	}
}

// TestDashboard shows the dashboard at each address that nothing else has, and finds the others as they were.
func TestDashboard(t *testing.T) {
	w := sqliteWorld(t)
	for path, want := range map[string]int{
		"/": http.StatusOK, "/login": http.StatusOK, "/device": http.StatusOK, "/o/" + w.ours.organization + "/sites": http.StatusOK,
		"/assets/gone.js": http.StatusNotFound, listOrganizations: http.StatusUnauthorized, "/api/v1/nothing": http.StatusNotFound, "/chom.site.v1.SiteService/Nothing": http.StatusForbidden,
	} {
		answer := asker{t: t, url: w.url}.ask(http.MethodGet, path, "")
		policy := answer.Header.Get("Content-Security-Policy")
		if answer.StatusCode != want || !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: %d, %s", path, answer.StatusCode, policy)
		}
		if html := strings.HasPrefix(answer.Header.Get("Content-Type"), "text/html"); html != (want == http.StatusOK) {
			t.Errorf("%s is %s", path, answer.Header.Get("Content-Type"))
		}
	}
}

// TestAuthorizationPage finds each method on the page of the table, with what its rule says.
func TestAuthorizationPage(t *testing.T) {
	page, err := authorizationPage()
	must(t, err)
	rows := map[string][]string{}
	cell := regexp.MustCompile(`<td>([^<]*)</td>`)
	for _, row := range regexp.MustCompile(`(?m)^<tr id="(\w+)">(.*)</tr>$`).FindAllStringSubmatch(string(page), -1) {
		for _, found := range cell.FindAllStringSubmatch(row[2], -1) {
			rows[row[1]] = append(rows[row[1]], found[1])
		}
	}
	if len(rows) != len(methods()) {
		t.Errorf("%d rows for %d methods", len(rows), len(methods()))
	}
	yes := map[bool]string{true: "yes"}
	for procedure, method := range methods() {
		row, rule := rows[string(method.Name())], rules[procedure]
		if len(row) != 9 {
			t.Errorf("%s has the cells %q", procedure, row)
			continue
		}
		if got, want := row[4:7], []string{yes[rule.fresh], yes[rule.session], yes[rule.inPerson]}; !slices.Equal(got, want) || row[8] != yes[rule.secret] {
			t.Errorf("%s: %q", procedure, row)
		}
		if (row[0] == "anybody") != (rule.who == anybody) || (row[1] != "") != (rule.who == inOrganization) || row[7] != AccessOf(procedure).Class {
			t.Errorf("%s: %q", procedure, row)
		}
		if scope := row[2]; scope != "" && scope != rule.scope.String() || (scope == "") != (rule.who == anybody || rule.session) {
			t.Errorf("%s needs the scope %q", procedure, scope)
		}
	}
	if got, want := rows["DeleteSite"], []string{"members", "admin", "manage", "the one named", "yes", "", "", "sensitive", ""}; !slices.Equal(got, want) {
		t.Errorf("DeleteSite: %q", got)
	}
}

// TestPage looks at the page in a browser: what it shows of a call, a schema and a problem comes from its script.
func TestPage(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("there is no chromium: packaging/setup/deps.sh installs one")
	}
	w := sqliteWorld(t)
	for place, want := range map[string][]string{
		"":                  {"If-Match", `id="not_found"`, `href="#ListSites"`, `href="#site.Site"`, "/api/docs/authorization"},
		"#DeleteSite":       {"/api/v1/organizations/{organization_id}/sites/{site_id}", "admins and owners of the organization", "curl --request DELETE", `href="#site.Site"`},
		"#site.Site":        {"<h1>site.Site</h1>", "last_task_id", "Used by", `href="#ListSites"`},
		"#step_up_required": {`id="step_up_required"`},
	} {
		shown, err := exec.CommandContext(t.Context(), browser, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+t.TempDir(),
			"--virtual-time-budget=5000", "--dump-dom", w.url+"/api/docs"+place).Output()
		must(t, err)
		for _, text := range want {
			if !strings.Contains(string(shown), text) {
				t.Errorf("at %q it does not show %q", place, text)
			}
		}
		if t.Failed() {
			t.Fatalf("%s", shown)
		}
	}
}

// verbInPath is a verb that shares its segment with a parameter, where the validator does not find it: it gets one of its own,
// in the document as in requests.
var verbInPath = regexp.MustCompile(`\}:(\w+": \{)`)

// TestContract calls each method by REST, and holds requests and answers to the document.
func TestContract(t *testing.T) {
	w := sqliteWorld(t)
	text, err := docs.ReadFile("openapi.json")
	must(t, err)
	document, err := libopenapi.NewDocument(verbInPath.ReplaceAll(text, []byte("}/:$1")))
	must(t, err)
	contract, errs := validator.NewValidator(document)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	router, err := rest.New(methods())
	must(t, err)
	well := 0
	for _, route := range router.Routes() {
		if route.Streams() {
			continue // lines of JSON are no JSON
		}
		for who, token := range map[string]string{"nobody": "", "an owner": w.ours.owner, "an operator": w.operatorFor(route.Procedure)} {
			request := restRequest(t.Context(), t, w.url, route, w.valid(route.Procedure, w.ours))
			var body []byte
			if request.Body != nil {
				body, err = io.ReadAll(request.Body)
				must(t, err)
				request.Body = io.NopCloser(bytes.NewReader(body))
			}
			prove(request.Header, token)
			answer, err := http.DefaultClient.Do(request)
			must(t, err)
			content, err := io.ReadAll(answer.Body)
			must(t, err)
			answer.Body.Close()
			answer.Body = io.NopCloser(bytes.NewReader(content))
			request.Body = io.NopCloser(bytes.NewReader(body))
			if verb := strings.LastIndex(request.URL.Path, ":"); strings.Contains(route.Path, "}:") {
				request.URL.Path = request.URL.Path[:verb] + "/" + request.URL.Path[verb:]
			}
			if _, err := request.Cookie(sessionCookie); err == nil {
				request.AddCookie(&http.Cookie{Name: "__Host-" + sessionCookie, Value: token}) // its name with HTTPS, which the document knows
			}
			check := contract.ValidateHttpResponse
			if answer.StatusCode == http.StatusOK {
				well++
				check = contract.ValidateHttpRequestResponse
			}
			if ok, wrong := check(request, answer); !ok {
				for _, e := range wrong {
					t.Errorf("%s %s as %s: %d: %s: %s", route.Method, route.Path, who, answer.StatusCode, e.Error(), e.Reason)
					for _, s := range e.SchemaValidationErrors {
						t.Errorf("  %s at %s", s.Reason, s.FieldPath)
					}
				}
				t.Logf("%s", content)
			}
		}
	}
	if well < 20 {
		t.Errorf("only %d calls went well", well)
	}
}
