package web

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

var files = fstest.MapFS{
	".gitkeep":            {},
	"index.html":          {Data: []byte(`<meta property="csp-nonce" nonce="%NONCE%"><script type="module" src="/assets/main-a1b2.js"></script>`)},
	"icon.svg":            {Data: []byte("<svg/>")},
	"assets/main-a1b2.js": {Data: []byte("plain")}, "assets/main-a1b2.js.br": {Data: []byte("brotli")}, "assets/main-a1b2.js.gz": {Data: []byte("gzip")},
	"assets/main-a1b2.css": {Data: []byte("style")},
}

func ask(t *testing.T, of fstest.MapFS, method, path string, header map[string]string) (*http.Response, string) {
	t.Helper()
	d, err := New(of)
	if err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequest(method, path, nil)
	for name, value := range header {
		request.Header.Set(name, value)
	}
	recorder := httptest.NewRecorder()
	d.ServeHTTP(recorder, request)
	answer := recorder.Result()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

func TestPage(t *testing.T) {
	t.Run("is shown wherever its script may be", func(t *testing.T) {
		for _, path := range []string{"/", "/login", "/o/0190b1c2-0000-7000-8000-000000000001/sites", "/a/b/../c"} {
			answer, text := ask(t, files, http.MethodGet, path, nil)
			if answer.StatusCode != http.StatusOK || !strings.Contains(text, "/assets/main-a1b2.js") || answer.Header.Get("Cache-Control") != "no-cache" {
				t.Errorf("%s: %d %v %s", path, answer.StatusCode, answer.Header, text)
			}
		}
	})
	t.Run("may load its own scripts and styles only", func(t *testing.T) {
		answer, text := ask(t, files, http.MethodGet, "/", nil)
		got := answer.Header.Get("Content-Security-Policy")
		nonce := regexp.MustCompile(`'nonce-([A-Z0-9]{26})'`).FindStringSubmatch(got)
		if nonce == nil || !strings.Contains(text, `nonce="`+nonce[1]+`"`) {
			t.Fatalf("the nonce of %s is not the page's: %s", got, text)
		}
		want := "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-" + nonce[1] + "'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
			"manifest-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		other, _ := ask(t, files, http.MethodGet, "/", nil)
		if other.Header.Get("Content-Security-Policy") == got {
			t.Error("two answers have one nonce")
		}
	})
	t.Run("is refused without a place for the nonce", func(t *testing.T) {
		if _, err := New(fstest.MapFS{"index.html": {Data: []byte("<p>")}}); err == nil {
			t.Error("it was taken")
		}
	})
	t.Run("is not shown for what is no page", func(t *testing.T) {
		for path, method := range map[string]string{
			"/assets/gone-a1b2.js": http.MethodGet, "/favicon.ico": http.MethodGet, "/chom.site.v1.SiteService/ListSites": http.MethodGet,
			"/.gitkeep": http.MethodGet, "/assets/main-a1b2.js.map": http.MethodGet, "/login": http.MethodPost, "/": http.MethodDelete,
		} {
			if answer, _ := ask(t, files, method, path, nil); answer.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s: %d", method, path, answer.StatusCode)
			}
		}
	})
	t.Run("says so where it was not built", func(t *testing.T) {
		answer, text := ask(t, fstest.MapFS{".gitkeep": {}}, http.MethodGet, "/o/x/sites", nil)
		if answer.StatusCode != http.StatusOK || !strings.Contains(text, "make build") {
			t.Errorf("%d %s", answer.StatusCode, text)
		}
	})
}

func TestAssets(t *testing.T) {
	t.Run("are kept for ever if their name has a hash", func(t *testing.T) {
		for path, want := range map[string]string{"/assets/main-a1b2.js": "public, max-age=31536000, immutable", "/assets/main-a1b2.css": "public, max-age=31536000, immutable", "/icon.svg": "no-cache"} {
			if answer, _ := ask(t, files, http.MethodGet, path, nil); answer.StatusCode != http.StatusOK || answer.Header.Get("Cache-Control") != want {
				t.Errorf("%s: %d %v", path, answer.StatusCode, answer.Header)
			}
		}
	})
	t.Run("have their type", func(t *testing.T) {
		for path, want := range map[string]string{"/assets/main-a1b2.js": "text/javascript", "/assets/main-a1b2.css": "text/css", "/icon.svg": "image/svg+xml"} {
			if answer, _ := ask(t, files, http.MethodGet, path, nil); !strings.HasPrefix(answer.Header.Get("Content-Type"), want) {
				t.Errorf("%s: %v", path, answer.Header)
			}
		}
	})
	t.Run("come in the best encoding that the browser takes", func(t *testing.T) {
		for accepted, want := range map[string]string{"gzip, deflate, br, zstd": "brotli", "gzip": "gzip", "br;q=0, gzip;q=0.5": "gzip", "": "plain", "identity": "plain", "br;q=x": "plain"} {
			answer, text := ask(t, files, http.MethodGet, "/assets/main-a1b2.js", map[string]string{"Accept-Encoding": accepted})
			coding := map[string]string{"brotli": "br", "gzip": "gzip", "plain": ""}[want]
			if text != want || answer.Header.Get("Content-Encoding") != coding || answer.Header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("%q: %s %v", accepted, text, answer.Header)
			}
		}
	})
	t.Run("are not sent again", func(t *testing.T) {
		answer, _ := ask(t, files, http.MethodGet, "/icon.svg", nil)
		again, text := ask(t, files, http.MethodGet, "/icon.svg", map[string]string{"If-None-Match": answer.Header.Get("ETag")})
		if again.StatusCode != http.StatusNotModified || text != "" {
			t.Errorf("%d %s", again.StatusCode, text)
		}
	})
}

// TestBuilt is about what this very program holds: either nothing, or a whole dashboard.
func TestBuilt(t *testing.T) {
	handler, err := New(Built())
	if err != nil {
		t.Fatal(err)
	}
	d, ok := handler.(*dashboard)
	if !ok {
		t.Fatalf("a %T", handler)
	}
	if d.page == nil {
		if len(d.files) > 0 {
			t.Errorf("there is no page, but there are %v", slices.Sorted(maps.Keys(d.files)))
		}
		return
	}
	for _, asset := range regexp.MustCompile(`(?:src|href)="/([^"]+)"`).FindAllStringSubmatch(string(d.page), -1) {
		if f, ok := d.files[asset[1]]; !ok || len(f.encoded[""]) == 0 || f.kind == "" {
			t.Errorf("the page names %s, which is not there", asset[1])
		}
	}
	if raw := regexp.MustCompile(`<script>|<style|style="| on[a-z]+="|https?://`).Find(d.page); raw != nil {
		t.Errorf("the page has %s", raw)
	}
}
