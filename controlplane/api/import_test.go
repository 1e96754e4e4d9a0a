package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestUpload sends the bytes themselves: the way is that of every call, whatever the body is.
func TestUpload(t *testing.T) {
	t.Parallel()
	w := sqliteWorld(t)
	put := func(token, organization, site, upload, query, kind string, body io.Reader) (int, map[string]any) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("%s/api/v1/organizations/%s/sites/%s/imports/%s%s", w.url, organization, site, upload, query), body)
		must(t, err)
		request.Header.Set("Content-Type", kind)
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := http.DefaultClient.Do(request)
		must(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		must(t, err)
		var said map[string]any
		if err := json.Unmarshal(text, &said); err != nil {
			t.Fatalf("%s: %q", answer.Status, text)
		}
		return answer.StatusCode, said
	}
	const raw, archive = "application/octet-stream", "?part=PART_ARCHIVE&offset=0"
	o := w.ours
	for name, c := range map[string]struct {
		token, organization, site, upload, query, kind string
		want                                           int
	}{
		"nobody":                  {"", o.organization, o.site, o.upload, archive, raw, http.StatusUnauthorized},
		"a viewer":                {o.viewer, o.organization, o.site, o.upload, archive, raw, http.StatusForbidden},
		"a member":                {o.member, o.organization, o.site, o.upload, archive, raw, http.StatusForbidden},
		"another organization":    {w.theirs.owner, o.organization, o.site, o.upload, archive, raw, http.StatusNotFound},
		"their things in ours":    {o.owner, o.organization, w.theirs.site, w.theirs.upload, archive, raw, http.StatusNotFound},
		"their upload of ours":    {o.owner, o.organization, o.site, w.theirs.upload, archive, raw, http.StatusNotFound},
		"no id":                   {o.owner, o.organization, o.site, "x", archive, raw, http.StatusBadRequest},
		"no part":                 {o.owner, o.organization, o.site, o.upload, "", raw, http.StatusBadRequest},
		"no number":               {o.owner, o.organization, o.site, o.upload, "?part=PART_ARCHIVE&offset=-1", raw, http.StatusBadRequest},
		"behind what has come":    {o.owner, o.organization, o.site, o.upload, "?part=PART_ARCHIVE&offset=50", raw, http.StatusBadRequest},
		"a part that has no size": {o.owner, o.organization, o.site, o.upload, "?part=PART_DATABASE", raw, http.StatusBadRequest},
		"another kind of body":    {o.owner, o.organization, o.site, o.upload, archive, "application/x-tar", http.StatusUnsupportedMediaType},
	} {
		if got, said := put(c.token, c.organization, c.site, c.upload, c.query, c.kind, strings.NewReader("bytes")); got != c.want || said["title"] == "" || said["request_id"] == nil {
			t.Errorf("%s: %d %v", name, got, said)
		}
	}
	if got, said := put(o.admin, o.organization, o.site, o.upload, archive, raw, strings.NewReader(strings.Repeat("a", 60))); got != http.StatusOK || received(said) != "60" {
		t.Errorf("an admin: %d %v", got, said)
	}
	if got, said := put(o.owner, o.organization, o.site, o.upload, "?part=PART_ARCHIVE&offset=60", raw, strings.NewReader(strings.Repeat("b", 41))); got != http.StatusBadRequest {
		t.Errorf("more than was announced: %d %v", got, said)
	}
	body := `{"part": "PART_ARCHIVE", "offset": "60", "data": "YmJiYg=="}`
	if got, said := put(o.owner, o.organization, o.site, o.upload, "", "application/json", strings.NewReader(body)); got != http.StatusOK || received(said) != "64" {
		t.Errorf("as a message: %d %v", got, said)
	}
	t.Run("what came before a connection broke is kept", func(t *testing.T) {
		from, to := io.Pipe()
		go func() {
			_, _ = io.WriteString(to, strings.Repeat("c", 20))
			_ = to.CloseWithError(errors.New("the cable"))
		}()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("%s/api/v1/organizations/%s/sites/%s/imports/%s?part=PART_ARCHIVE&offset=64", w.url, o.organization, o.site, o.upload), from)
		must(t, err)
		request.Header.Set("Content-Type", raw)
		request.Header.Set("Authorization", "Bearer "+o.owner)
		if answer, err := http.DefaultClient.Do(request); err == nil {
			answer.Body.Close()
			t.Errorf("it answered %s", answer.Status)
		}
		// The door may still be about to notice.
		for {
			got, said := put(o.owner, o.organization, o.site, o.upload, "?part=PART_ARCHIVE&offset=84", raw, strings.NewReader(strings.Repeat("d", 16)))
			if got == http.StatusOK && received(said) == "100" {
				break
			}
			if t.Context().Err() != nil || got != http.StatusConflict && got != http.StatusBadRequest {
				t.Fatalf("%d %v", got, said)
			}
		}
	})
}

func received(said map[string]any) any {
	upload, _ := said["import"].(map[string]any)
	archive, _ := upload["archive"].(map[string]any)
	return archive["received_bytes"]
}
