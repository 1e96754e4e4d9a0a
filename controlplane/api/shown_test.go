package api

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestOthersAreNotShown calls each method that reads, about one's own organization, and looks for anything of another one in the
// answer.
func TestOthersAreNotShown(t *testing.T) {
	t.Parallel()
	w := sqliteWorld(t)
	read := 0
	for _, procedure := range procedures() {
		method, name := methods()[procedure], procedure[strings.LastIndexByte(procedure, '/')+1:]
		if rules[procedure].who != inOrganization || method.IsStreamingServer() || !strings.HasPrefix(name, "Get") && !strings.HasPrefix(name, "List") {
			continue
		}
		request := w.valid(procedure, w.ours)
		for _, filter := range []string{"site_id", "server_id", "account_id"} {
			if field := request.Descriptor().Fields().ByName(protoreflect.Name(filter)); field != nil && strings.HasPrefix(name, "List") && rules[procedure].sites != ofSite {
				request.Clear(field)
			}
		}
		body, err := protojson.Marshal(request)
		must(t, err)
		asked, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+procedure, bytes.NewReader(body))
		must(t, err)
		asked.Header.Set("Content-Type", "application/json")
		asked.Header.Set("Authorization", "Bearer "+w.ours.owner)
		answer, err := http.DefaultClient.Do(asked)
		must(t, err)
		text, err := io.ReadAll(answer.Body)
		must(t, err)
		must(t, answer.Body.Close())
		if answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %s", name, answer.Status, text)
		}
		read++
		theirs := []string{w.theirs.organization, w.theirs.site, w.theirs.task, w.theirs.account, w.theirs.invitation, w.theirs.token, w.theirs.webhook, w.theirs.delivery, w.theirs.certificate, "@theirs.example", "theirs.example.com"}
		if i := slices.IndexFunc(theirs, func(one string) bool { return strings.Contains(string(text), one) }); i >= 0 {
			t.Errorf("%s shows %s: %s", name, theirs[i], text)
		}
	}
	if read < 10 {
		t.Errorf("only %d methods were called", read)
	}
}
