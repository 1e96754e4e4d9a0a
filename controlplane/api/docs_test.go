package api

import (
	"bytes"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"

	"chom.dev/controlplane/rest"
)

func TestDocs(t *testing.T) {
	w := sqliteWorld(t)
	for path, kind := range map[string]string{
		"/api/docs": "text/html", "/api/docs/page.js": "text/javascript", "/api/docs/page.css": "text/css", "/api/v1/openapi.json": "application/json",
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

// TestContract calls each method by REST, and holds requests and answers to the document.
func TestContract(t *testing.T) {
	w := sqliteWorld(t)
	text, err := docs.ReadFile("openapi.json")
	must(t, err)
	document, err := libopenapi.NewDocument(text)
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
			check := contract.ValidateHttpResponse
			if answer.StatusCode == http.StatusOK {
				well++
				check = contract.ValidateHttpRequestResponse
			}
			if ok, wrong := check(request, answer); !ok {
				for _, e := range wrong {
					t.Errorf("%s %s as %s: %d: %s: %s", route.Method, route.Path, who, answer.StatusCode, e.Error(), e.Reason)
					for _, s := range e.SchemaValidationErrors {
						t.Errorf("  %s at %s", s.Reason, s.Location)
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
