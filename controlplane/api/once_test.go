package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
)

// keyedCall sends a call by REST with a key.
func (w *world) keyedCall(t *testing.T, token, key, method, path, body string) (status int, text string, replayed bool) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	must(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", key)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return 0, "", false
	}
	defer answer.Body.Close()
	all, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	return answer.StatusCode, string(all), answer.Header.Get("Idempotency-Replayed") == "true"
}

// TestOnce sends calls again with the same key.
func TestOnce(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		sites := "/api/v1/organizations/" + w.ours.organization + "/sites"
		for name, test := range map[string]struct{ token, path, body, other, table string }{
			"whose key the door keeps": {w.operator, "/api/v1/organizations", `{"name":"%s","owner_email":"a@example.com"}`, `{"name":"%s","owner_email":"b@example.com"}`, "organizations"},
			"whose key the noun keeps": {w.ours.owner, sites, `{"name":"%s","type":"static","domains":["%[1]s.example.com"]}`, `{"name":"%s","type":"static","domains":["other.example.com"]}`, "sites"},
		} {
			t.Run("a crowd of one call "+name, func(t *testing.T) {
				before := w.count(t, `SELECT COUNT(*) FROM `+test.table)
				key := "crowd-" + test.table
				body, other := fmt.Sprintf(test.body, key), fmt.Sprintf(test.other, key)
				var mu sync.Mutex
				answers := map[string]int{}
				var all sync.WaitGroup
				for range 50 {
					all.Go(func() {
						status, text, _ := w.keyedCall(t, test.token, key, http.MethodPost, test.path, body)
						mu.Lock()
						defer mu.Unlock()
						answers[fmt.Sprint(status, " ", strings.ReplaceAll(text, " ", ""))]++
					})
				}
				all.Wait()
				if len(answers) != 1 {
					t.Errorf("%d different answers: %v", len(answers), answers)
				}
				for answer := range answers {
					if !strings.HasPrefix(answer, "200 ") {
						t.Errorf("got %s", answer)
					}
				}
				if n := w.count(t, `SELECT COUNT(*) FROM `+test.table) - before; n != 1 {
					t.Errorf("%d were made", n)
				}
				if status, text, _ := w.keyedCall(t, test.token, key, http.MethodPost, test.path, other); status != http.StatusConflict {
					t.Errorf("with another body: %d %s", status, text)
				}
				if n := w.count(t, `SELECT COUNT(*) FROM `+test.table) - before; n != 1 {
					t.Errorf("%d were made", n)
				}
			})
		}
		t.Run("a repeat says that it is one", func(t *testing.T) {
			const body = `{"name":"twice","owner_email":"a@example.com"}`
			_, first, replayed := w.keyedCall(t, w.operator, "twice", http.MethodPost, "/api/v1/organizations", body)
			if replayed {
				t.Error("the first call says so, too")
			}
			_, second, replayed := w.keyedCall(t, w.operator, "twice", http.MethodPost, "/api/v1/organizations", body)
			if !replayed || strings.ReplaceAll(first, " ", "") != strings.ReplaceAll(second, " ", "") {
				t.Errorf("%v: %s, then %s", replayed, first, second)
			}
		})
		t.Run("a call that failed without an effect may be tried again", func(t *testing.T) {
			path := sites + "/" + w.ours.site + ":restore"
			if status, text, _ := w.keyedCall(t, w.ours.owner, "restore", http.MethodPost, path, "{}"); status != http.StatusConflict || !strings.Contains(text, "trash") {
				t.Fatalf("%d %s", status, text)
			}
			if status, text, _ := w.keyedCall(t, w.ours.owner, "delete", http.MethodDelete, sites+"/"+w.ours.site, ""); status != http.StatusOK {
				t.Fatalf("%d %s", status, text)
			}
			if status, text, replayed := w.keyedCall(t, w.ours.owner, "restore", http.MethodPost, path, "{}"); status != http.StatusOK || replayed {
				t.Errorf("%d %s", status, text)
			}
		})
		t.Run("what is shown once is not shown again", func(t *testing.T) {
			before := w.count(t, `SELECT COUNT(*) FROM join_tokens`)
			status, text, _ := w.keyedCall(t, w.operator, "server", http.MethodPost, "/api/v1/servers", `{"name":"secret"}`)
			if status != http.StatusOK || !strings.Contains(text, "chom1.") {
				t.Fatalf("%d %s", status, text)
			}
			if status, text, _ := w.keyedCall(t, w.operator, "server", http.MethodPost, "/api/v1/servers", `{"name":"secret"}`); status != http.StatusConflict || strings.Contains(text, "chom1.") || !strings.Contains(text, "took effect") {
				t.Errorf("%d %s", status, text)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM join_tokens`) - before; n != 1 {
				t.Errorf("%d tokens were made", n)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM repeats WHERE key = 'server' AND answer IS NOT NULL`); n != 0 {
				t.Error("the answer was kept")
			}
		})
		t.Run("keys are their callers' own", func(t *testing.T) {
			body := `{"name":"twice","owner_email":"a@example.com"}`
			if status, text, replayed := w.keyedCall(t, w.ours.owner, "twice", http.MethodPost, "/api/v1/organizations", body); status != http.StatusForbidden || replayed {
				t.Errorf("%d %s", status, text)
			}
		})
		t.Run("who has lost the right does not get the answer", func(t *testing.T) {
			path := sites + "/" + w.ours.site + ":suspend"
			if status, text, _ := w.keyedCall(t, w.ours.owner, "right", http.MethodPost, path, "{}"); status != http.StatusOK {
				t.Fatalf("%d %s", status, text)
			}
			must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE members SET role = 'viewer' WHERE organization_id = $1 AND role = 'owner'`, w.ours.organization)
				return err
			}))
			if status, text, _ := w.keyedCall(t, w.ours.owner, "right", http.MethodPost, path, "{}"); status != http.StatusForbidden {
				t.Errorf("%d %s", status, text)
			}
		})
	})
}

// crashing is a site service whose only call changes something and then ends in some unhappy way.
type crashing struct {
	sitev1connect.UnimplementedSiteServiceHandler
	w   *world
	end func() error
}

func (c crashing) SuspendSite(ctx context.Context, r *sitev1.SuspendSiteRequest) (*sitev1.SuspendSiteResponse, error) {
	err := db.InTx(ctx, c.w.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO settings (name, value) VALUES ('effect', '1')`)
		return err
	})
	if err != nil {
		return nil, err
	}
	return nil, c.end()
}

// TestLostAnswer is about calls that end between their effect and their answer.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func() error
		text string
	}{
		"by a panic":             {func() error { panic("at the disco") }, "answer was lost"},
		"by a bug":               {func() error { return errors.New("bug") }, "answer was lost"},
		"by a lost database":     {func() error { return fault.Unavailable("the database does not answer", 0, nil) }, "answer was lost"},
		"by a fault":             {func() error { return fault.Invalid("site_id", "must be nicer") }, "must be nicer"},
		"by a fault of a second": {func() error { return fault.Conflict("the second half cannot be done") }, "the second half"},
	} {
		t.Run(name, func(t *testing.T) {
			w := sqliteWorld(t)
			d := testDoor(t, w, &strings.Builder{})
			path, handler := sitev1connect.NewSiteServiceHandler(crashing{w: w, end: test.end}, d.message())
			mux := http.NewServeMux()
			mux.Handle(path, d.request(d.call(handler)))
			server := httptest.NewServer(mux)
			defer server.Close()
			at := *w
			at.url = server.URL
			body := `{"organizationId":"` + w.ours.organization + `","siteId":"` + w.ours.site + `"}`
			at.keyedCall(t, w.ours.owner, "a", http.MethodPost, path+"SuspendSite", body)
			must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error { // it was a while ago
				_, err := tx.Exec(t.Context(), `UPDATE repeats SET began_at = began_at - $1`, unaryTimeout.Microseconds())
				return err
			}))
			for range 2 {
				if status, text, _ := at.keyedCall(t, w.ours.owner, "a", http.MethodPost, path+"SuspendSite", body); status == http.StatusOK || !strings.Contains(text, test.text) {
					t.Errorf("%d %s", status, text)
				}
			}
			if n := w.count(t, `SELECT COUNT(*) FROM settings WHERE name = 'effect'`); n != 1 {
				t.Errorf("%d effects", n)
			}
		})
	}
}

// TestKeys is about what is no key.
func TestKeys(t *testing.T) {
	t.Parallel()
	w := sqliteWorld(t)
	for name, test := range map[string]struct {
		token, key, method, path, body string
		status                         int
	}{
		"a long key":             {w.operator, strings.Repeat("a", 65), http.MethodPost, "/api/v1/organizations", `{"name":"x","owner_email":"a@example.com"}`, 400},
		"a key with a space":     {w.operator, "a b", http.MethodPost, "/api/v1/organizations", `{"name":"x","owner_email":"a@example.com"}`, 400},
		"a key of nobody":        {"", "a", http.MethodPost, "/api/v1/first-operator", `{"setup_secret":"x","email":"a@example.com"}`, 400},
		"two keys":               {w.ours.owner, "a", http.MethodPost, "/api/v1/organizations/" + w.ours.organization + "/sites", `{"name":"x","type":"static","domains":["x.example.com"],"request_id":"b"}`, 400},
		"a key in quotes":        {w.operator, `"q"`, http.MethodPost, "/api/v1/organizations", `{"name":"quoted","owner_email":"a@example.com"}`, 200},
		"a key of a mere reader": {w.ours.viewer, "a", http.MethodGet, "/api/v1/caller", "", 200},
	} {
		if status, text, _ := w.keyedCall(t, test.token, test.key, test.method, test.path, test.body); status != test.status {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if n := w.count(t, `SELECT COUNT(*) FROM repeats`); n != 1 {
		t.Errorf("%d keys were kept", n)
	}
	for name, token := range map[string]string{"first": w.ours.owner, "second": w.theirs.owner} {
		if status, text, replayed := w.keyedCall(t, token, "same", http.MethodPost, "/api/v1/organizations", `{"name":"`+name+`"}`); status != 200 || replayed {
			t.Errorf("the %s person's own key: %d %s", name, status, text)
		}
	}
}

// TestSecrets finds answers that look as if they showed a secret, and are kept for repeats nevertheless. Calls of somebody who
// is not known have no key.
func TestSecrets(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var shows func(m protoreflect.MessageDescriptor) string
	shows = func(m protoreflect.MessageDescriptor) string {
		if seen[m.FullName()] {
			return ""
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			field := m.Fields().Get(i)
			name := string(field.Name())
			for _, word := range []string{"token", "secret", "password", "private_key", "recovery_code", "install_command", "seed", "link"} {
				if strings.Contains(name, word) && name != "next_page_token" && name != "unkept_links" && field.Kind() == protoreflect.StringKind && !strings.HasSuffix(name, "_id") {
					return string(field.FullName())
				}
			}
			if field.Message() != nil {
				if found := shows(field.Message()); found != "" {
					return found
				}
			}
		}
		return ""
	}
	marked := 0
	for _, procedure := range procedures() {
		clear(seen)
		found := shows(methods()[procedure].Output())
		if rules[procedure].secret {
			marked++
		} else if rules[procedure].who != anybody && found != "" {
			t.Errorf("%s shows %s: its row needs showsSecret", procedure, found)
		}
	}
	if marked < 4 {
		t.Errorf("only %d methods are marked", marked)
	}
}
