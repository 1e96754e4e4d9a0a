package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/rest"
)

// transport sends a request to a method, as somebody with a token (empty for nobody), and returns the error.
type transport func(t *testing.T, token, procedure string, request *dynamicpb.Message) error

// transports are all ways in.
func (w *world) transports(t *testing.T) map[string]transport {
	t.Helper()
	return map[string]transport{
		"Connect, binary": w.by(),
		"Connect, JSON":   w.by(connect.WithProtoJSON()),
		"gRPC":            w.by(connect.WithGRPC()),
		"gRPC-Web":        w.by(connect.WithGRPCWeb()),
		"REST":            w.byREST(t),
	}
}

// http2 speaks it in clear, which gRPC needs.
var http2 = func() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}()

func (w *world) by(options ...connect.ClientOption) transport {
	return func(t *testing.T, token, procedure string, request *dynamicpb.Message) error {
		t.Helper()
		method := methods()[procedure]
		client := connect.NewClient[dynamicpb.Message, dynamicpb.Message](http2, w.url+procedure, append(options,
			connect.WithSchema(method), connect.WithResponseInitializer(func(_ connect.Spec, message any) error {
				if m, ok := message.(*dynamicpb.Message); ok {
					*m = *dynamicpb.NewMessage(method.Output())
				}
				return nil
			}))...)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		message := connect.NewRequest(request)
		prove(message.Header(), token)
		if method.IsStreamingServer() {
			stream, err := client.CallServerStream(ctx, message)
			if err != nil {
				return err
			}
			defer stream.Close()
			if stream.Receive() {
				return nil // admitted
			}
			return stream.Err()
		}
		_, err := client.CallUnary(ctx, message)
		return err
	}
}

// prove adds the proof of who calls: a token, or a session as the dashboard's page sends it.
func prove(header http.Header, token string) {
	switch {
	case strings.HasPrefix(token, "chomses_"):
		header.Set("Cookie", "chom_session="+token)
		header.Set("Sec-Fetch-Site", "same-origin")
	case token != "":
		header.Set("Authorization", "Bearer "+token)
	}
}

// call is by Connect.
func (w *world) call(t *testing.T, token, procedure string, request *dynamicpb.Message) error {
	t.Helper()
	return w.by()(t, token, procedure, request)
}

func (w *world) byREST(t *testing.T) transport {
	t.Helper()
	router, err := rest.New(methods())
	must(t, err)
	return func(t *testing.T, token, procedure string, request *dynamicpb.Message) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var ended []error
		for _, route := range router.Routes() {
			if route.Procedure == procedure {
				ended = append(ended, send(t, restRequest(ctx, t, w.url, route, request), token))
			}
		}
		for _, err := range ended[1:] {
			if connect.CodeOf(err) != connect.CodeOf(ended[0]) {
				t.Errorf("%s: one path ends with %v, another with %v", procedure, ended[0], err)
			}
		}
		return ended[0]
	}
}

// restRequest is a message as a caller by REST would write it.
func restRequest(ctx context.Context, t *testing.T, base string, route *rest.Route, message *dynamicpb.Message) *http.Request {
	t.Helper()
	path, _, _ := strings.Cut(strings.TrimPrefix(route.Path, "/"), ":")
	_, verb, isVerb := strings.Cut(route.Path, ":")
	left := dynamicpb.NewMessage(message.Descriptor())
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if !slices.Contains(route.Fields(), field) {
			left.Set(field, value)
		}
		return true
	})
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			value := message.Get(message.Descriptor().Fields().ByName(protoreflect.Name(strings.TrimSuffix(name, "}")))).String()
			parts[i] = strings.ReplaceAll(url.PathEscape(value), ":", "%3A")
		}
	}
	target := base + "/" + strings.Join(parts, "/")
	if isVerb {
		target += ":" + verb
	}
	var mask []string // protojson writes no hostile one
	if field := left.Descriptor().Fields().ByName("update_mask"); field != nil {
		paths := left.Get(field).Message()
		list := paths.Get(paths.Descriptor().Fields().ByName("paths")).List()
		for i := range list.Len() {
			mask = append(mask, list.Get(i).String())
		}
		left.Clear(field)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(left)
	must(t, err)
	var fields map[string]any
	must(t, json.Unmarshal(text, &fields))
	if mask != nil {
		fields["update_mask"] = strings.Join(mask, ",")
	}
	var body io.Reader = http.NoBody
	if route.HasBody {
		body = strings.NewReader(string(mustJSON(t, fields)))
	} else {
		query := url.Values{}
		for name, value := range fields {
			many, isList := value.([]any)
			if !isList {
				many = []any{value}
			}
			for _, one := range many {
				query.Add(name, strings.Trim(string(mustJSON(t, one)), `"`))
			}
		}
		for name := range query { // texts as they are, without JSON's escapes
			if text, ok := fields[name].(string); ok {
				query.Set(name, text)
			}
		}
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, route.Method, target, body)
	must(t, err)
	if route.HasBody {
		request.Header.Set("Content-Type", "application/json")
	}
	return request
}

func mustJSON(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	return text
}

// send gives what a call by REST ended with, as a call by Connect would have.
func send(t *testing.T, request *http.Request, token string) error {
	t.Helper()
	prove(request.Header, token)
	answer, err := http2.Do(request)
	must(t, err)
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	var p rest.Problem
	if err := json.Unmarshal(text, &p); err != nil || answer.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %d %s %s", request.URL, answer.StatusCode, answer.Header.Get("Content-Type"), text)
	}
	if p.RequestID == "" || p.RequestID != answer.Header.Get("X-Request-Id") {
		t.Errorf("%s: the request's id is %q and %q", request.URL, p.RequestID, answer.Header.Get("X-Request-Id"))
	}
	name := strings.TrimPrefix(p.Type, rest.TypePrefix)
	code, known := map[string]connect.Code{
		"step_up_required": connect.CodePermissionDenied, "body_too_large": connect.CodeResourceExhausted,
	}[name]
	if !known && code.UnmarshalText([]byte(name)) != nil {
		t.Errorf("%s: %d %s", request.URL, answer.StatusCode, text)
	}
	shown := connect.NewError(code, errors.New(p.Detail))
	for _, e := range p.Errors {
		detail, err := connect.NewErrorDetail(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: e.Field, Description: e.Rule}}})
		must(t, err)
		shown.AddDetail(detail)
	}
	return shown
}

// TestTransports has several people call each method in each way that there is: the way decides nothing.
func TestTransports(t *testing.T) {
	t.Parallel()
	w := sqliteWorld(t)
	before := w.effects(t)
	ways := w.transports(t)
	for _, procedure := range procedures() {
		rule := rules[procedure]
		// What everybody may do would have its effect in each way; how it is refused is seen with those who are not known.
		anyone := !rest.ReadOnly(methods()[procedure]) && (rule.who == signedIn && !rule.session || rule.role == organization.Viewer)
		for who, token := range map[string]string{
			"nobody": "", "somebody with a wrong token": "chomop_" + strings.Repeat("A", 43),
			"a viewer": w.ours.viewer, "another organization's owner": w.theirs.owner,
		} {
			if anyone && strings.HasPrefix(who, "a") {
				continue
			}
			want := connect.CodeOf(w.call(t, token, procedure, w.valid(procedure, w.ours)))
			for name, way := range ways {
				if err := way(t, token, procedure, w.valid(procedure, w.ours)); connect.CodeOf(err) != want {
					t.Errorf("%s as %s by %s: %v, not %v", procedure, who, name, err, want)
				}
			}
		}
	}
	if after := w.effects(t); !maps.Equal(before, after) {
		t.Errorf("effects: before %v, after %v", before, after)
	}
}

// raw sends what no client of ours would.
func (w *world) raw(t *testing.T, method, path, token string, header map[string]string, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	must(t, err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	answer, err := http.DefaultClient.Do(request)
	must(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	return answer.StatusCode, string(text) + answer.Header.Get("Grpc-Status")
}

var asJSON = map[string]string{"Content-Type": "application/json"}

// TestOddities sends a forbidden request in ways that some door might take for an allowed one.
func TestOddities(t *testing.T) {
	w := sqliteWorld(t)
	const create = "/chom.organization.v1.OrganizationService/CreateOrganization"
	before := w.effects(t)
	for name, way := range map[string]struct {
		method, path string
		header       map[string]string
		body         string
	}{
		"JSON":                        {http.MethodPost, create, asJSON, `{"name":"x","ownerEmail":"a@example.com"}`},
		"REST":                        {http.MethodPost, "/api/v1/organizations", asJSON, `{"name":"x","owner_email":"a@example.com"}`},
		"GET":                         {http.MethodGet, create + "?message=%7B%7D&encoding=json&connect=v1", nil, ""},
		"HEAD":                        {http.MethodHead, create, nil, ""},
		"OPTIONS":                     {http.MethodOptions, create, nil, ""},
		"PUT":                         {http.MethodPut, create, asJSON, `{}`},
		"PUT by REST":                 {http.MethodPut, "/api/v1/organizations", asJSON, `{}`},
		"OPTIONS by REST":             {http.MethodOptions, "/api/v1/organizations", nil, ""},
		"a method override":           {http.MethodGet, create, map[string]string{"X-HTTP-Method-Override": "POST", "Content-Type": "application/json"}, ""},
		"a method override by REST":   {http.MethodPut, "/api/v1/organizations", map[string]string{"X-HTTP-Method-Override": "POST", "Content-Type": "application/json"}, `{"name":"x","owner_email":"a@example.com"}`},
		"a form":                      {http.MethodPost, "/api/v1/organizations", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, `name=x&owner_email=a@example.com`},
		"gRPC":                        {http.MethodPost, create, map[string]string{"Content-Type": "application/grpc", "Te": "trailers"}, "\x00\x00\x00\x00\x00"},
		"gRPC-Web":                    {http.MethodPost, create, map[string]string{"Content-Type": "application/grpc-web"}, "\x00\x00\x00\x00\x00"},
		"REST's own codec":            {http.MethodPost, create, map[string]string{"Content-Type": "application/chom-rest"}, "\n\x01x\x12\x0da@example.com"},
		"an unknown method":           {http.MethodPost, "/chom.site.v1.SiteService/Gone", asJSON, `{}`},
		"a path with a dot":           {http.MethodPost, "/chom.site.v1.SiteService/./CreateSite", asJSON, `{}`},
		"a path with a dot by REST":   {http.MethodPost, "/api/v1/./organizations", asJSON, `{"name":"x","owner_email":"a@example.com"}`},
		"a path in upper case":        {http.MethodPost, strings.ToUpper(create), asJSON, `{}`},
		"a path that is escaped":      {http.MethodPost, strings.ReplaceAll(create, "C", "%43"), asJSON, `{"name":"x","ownerEmail":"a@example.com"}`},
		"a path that hides a service": {http.MethodPost, "/api/v1/..%2f..%2f" + create[1:], asJSON, `{"name":"x","ownerEmail":"a@example.com"}`},
	} {
		for who, token := range map[string]string{"nobody": "", "a viewer": w.ours.viewer} {
			if status, body := w.raw(t, way.method, way.path, token, way.header, way.body); status == http.StatusOK && !strings.HasPrefix(way.header["Content-Type"], "application/grpc") ||
				strings.Contains(body, `"organization"`) {
				t.Errorf("%s as %s: %d %s", name, who, status, body)
			}
		}
	}
	if after := w.effects(t); !maps.Equal(before, after) {
		t.Errorf("effects: before %v, after %v", before, after)
	}
	if status, body := w.raw(t, http.MethodPost, listOrganizations, w.ours.viewer, asJSON, `{}`); status != http.StatusOK || !strings.Contains(body, w.ours.organization) || strings.Contains(body, w.theirs.organization) {
		t.Errorf("JSON: %d %s", status, body)
	}
	if status, _ := w.raw(t, http.MethodGet, listOrganizations, w.operator, nil, ""); status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", status)
	}
}

const listOrganizations = "/chom.organization.v1.OrganizationService/ListOrganizations"

// TestMassAssignment sends fields that an update does not have.
func TestMassAssignment(t *testing.T) {
	w := sqliteWorld(t)
	const more = `"serverId":"x","handle":"aaaaaaaaaa","generation":"99","phase":"PHASE_ABSENT","role":"owner","operator":true,"tenantId":"x","planId":"x","verifiedAt":1`
	unchanged := func(t *testing.T, generation int) {
		t.Helper()
		if n := w.count(t, `SELECT COUNT(*) FROM sites WHERE id = $1 AND organization_id = $2 AND server_id = $3 AND generation = $4 AND phase = 'active' AND handle <> 'aaaaaaaaaa'`,
			w.ours.site, w.ours.organization, w.server, generation); n != 1 {
			t.Error("the row changed in more than its limits")
		}
		if n := w.count(t, `SELECT COUNT(*) FROM accounts WHERE operator`); n != 1 {
			t.Errorf("%d operators", n)
		}
	}
	t.Run("are ignored by Connect", func(t *testing.T) {
		body := `{"organizationId":"` + w.ours.organization + `","siteId":"` + w.ours.site + `","updateMask":"limits","limits":{"cpuPercent":50},` + more + `}`
		if status, text := w.raw(t, http.MethodPost, "/chom.site.v1.SiteService/UpdateSite", w.ours.owner, asJSON, body); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		unchanged(t, 2)
	})
	t.Run("are refused by REST", func(t *testing.T) {
		path := "/api/v1/organizations/" + w.ours.organization + "/sites/" + w.ours.site
		for field := range strings.SplitSeq(more, ",") {
			body := `{"update_mask":"limits","limits":{"cpu_percent":60},` + field + `}`
			if status, text := w.raw(t, http.MethodPatch, path, w.ours.owner, asJSON, body); status != http.StatusBadRequest {
				t.Errorf("%s: %d %s", field, status, text)
			}
		}
		body := `{"limits":{"cpu_percent":60}}`
		if status, text := w.raw(t, http.MethodPatch, path, w.ours.owner, asJSON, body); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		unchanged(t, 3)
	})
}

// TestETag reads a site and changes it twice with what was read.
func TestETag(t *testing.T) {
	w := sqliteWorld(t)
	path := "/api/v1/organizations/" + w.ours.organization + "/sites/" + w.ours.site
	door := asker{t: t, url: w.url}.as(w.ours.owner)
	seen := door.ask(http.MethodGet, path, "").Header.Get("ETag")
	if seen == "" {
		t.Fatal("a site has none")
	}
	first := door.with("If-Match", seen).ask(http.MethodPatch, path, `{"limits":{"cpu_percent":50}}`)
	if first.StatusCode != http.StatusOK || first.Header.Get("ETag") == seen || first.Header.Get("ETag") == "" {
		t.Errorf("the first change: %d, ETag %s", first.StatusCode, first.Header.Get("ETag"))
	}
	if late := door.with("If-Match", seen).ask(http.MethodPatch, path, `{"limits":{"cpu_percent":60}}`); late.StatusCode != http.StatusPreconditionFailed {
		t.Errorf("the second change: %d", late.StatusCode)
	}
	if n := w.count(t, `SELECT generation FROM sites WHERE id = $1`, w.ours.site); n != 2 {
		t.Errorf("generation %d", n)
	}
	if again := door.with("If-Match", first.Header.Get("ETag")).ask(http.MethodPatch, path, `{"limits":{"cpu_percent":60}}`); again.StatusCode != http.StatusOK {
		t.Errorf("after another look: %d", again.StatusCode)
	}
}
