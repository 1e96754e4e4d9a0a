package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"chom.dev/proto/gen/chom/task/v1/taskv1connect"
)

// echo answers with what it was asked for, and keeps the request.
type echo struct {
	sitev1connect.UnimplementedSiteServiceHandler
	taskv1connect.UnimplementedTaskServiceHandler
	got  proto.Message
	fail error
}

func (e *echo) GetSite(_ context.Context, r *sitev1.GetSiteRequest) (*sitev1.GetSiteResponse, error) {
	e.got = r
	return &sitev1.GetSiteResponse{Site: &sitev1.Site{Id: r.GetSiteId(), State: sitev1.State_STATE_ACTIVE}}, e.fail
}

func (e *echo) ListSites(_ context.Context, r *sitev1.ListSitesRequest) (*sitev1.ListSitesResponse, error) {
	e.got = r
	return &sitev1.ListSitesResponse{}, e.fail
}

func (e *echo) UpdateSite(_ context.Context, r *sitev1.UpdateSiteRequest) (*sitev1.UpdateSiteResponse, error) {
	e.got = r
	return &sitev1.UpdateSiteResponse{}, e.fail
}

func (e *echo) SuspendSite(_ context.Context, r *sitev1.SuspendSiteRequest) (*sitev1.SuspendSiteResponse, error) {
	e.got = r
	return &sitev1.SuspendSiteResponse{}, e.fail
}

func (e *echo) WatchTask(_ context.Context, r *taskv1.WatchTaskRequest, to *connect.ServerStream[taskv1.WatchTaskResponse]) error {
	e.got = r
	for i := range r.GetAfterLogSequence() {
		if err := to.Send(&taskv1.WatchTaskResponse{Task: &taskv1.Task{Id: r.GetTaskId(), Attempt: uint32(i)}}); err != nil {
			return err
		}
	}
	return e.fail
}

func methodsOf(files ...protoreflect.FileDescriptor) map[string]protoreflect.MethodDescriptor {
	all := map[string]protoreflect.MethodDescriptor{}
	for _, file := range files {
		service := file.Services().Get(0)
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			all["/"+string(service.FullName())+"/"+string(method.Name())] = method
		}
	}
	return all
}

var all = methodsOf(sitev1.File_chom_site_v1_site_service_proto, taskv1.File_chom_task_v1_task_service_proto)

// serve is the services behind their REST.
func serve(t *testing.T, e *echo) string {
	t.Helper()
	router, err := New(all)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(sitev1connect.NewSiteServiceHandler(e, connect.WithCodec(Codec{})))
	mux.Handle(taskv1connect.NewTaskServiceHandler(e, connect.WithCodec(Codec{})))
	server := httptest.NewServer(router.Handler(mux))
	t.Cleanup(server.Close)
	return server.URL
}

type reply struct {
	status int
	header http.Header
	body   string
}

func send(t *testing.T, method, url, body string, header ...string) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{answer.StatusCode, answer.Header, string(text)}
}

func problemIn(t *testing.T, r reply) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("%d %s: %v", r.status, r.body, err)
	}
	if kind := r.header.Get("Content-Type"); kind != contentProblem || p.Status != r.status || p.Title == "" || !strings.HasPrefix(p.Type, TypePrefix) {
		t.Errorf("status %d, Content-Type %q, %+v", r.status, kind, p)
	}
	return p
}

// TestRequests sends requests that mean something, and looks at the message that arrives.
func TestRequests(t *testing.T) {
	e := &echo{}
	url := serve(t, e) + "/api/v1"
	for name, test := range map[string]struct {
		method, path, body, want string
	}{
		"the path names fields":                    {"GET", "/organizations/o/sites/s", "", `{"organizationId":"o","siteId":"s"}`},
		"a value may hold a slash and a colon":     {"GET", "/organizations/o%2F1/sites/s%3Asuspend", "", `{"organizationId":"o/1","siteId":"s:suspend"}`},
		"a verb":                                   {"POST", "/organizations/o/sites/s:suspend", "", `{"organizationId":"o","siteId":"s"}`},
		"a verb with an empty object":              {"POST", "/organizations/o/sites/s:suspend", `{}`, `{"organizationId":"o","siteId":"s"}`},
		"the query names fields":                   {"GET", "/sites?organization_id=o&page_size=7&show_trashed=true", "", `{"organizationId":"o","pageSize":7,"showTrashed":true}`},
		"in JSON's spelling, too":                  {"GET", "/sites?organizationId=o&pageSize=7", "", `{"organizationId":"o","pageSize":7}`},
		"the body, snake_case":                     {"PATCH", "/organizations/o/sites/s", `{"update_mask":"limits","limits":{"cpu_percent":50}}`, `{"organizationId":"o","siteId":"s","updateMask":"limits","limits":{"cpuPercent":50}}`},
		"an update without a mask is of its body":  {"PATCH", "/organizations/o/sites/s", `{"settings":{"title":"x"},"domains":["a.example"]}`, `{"organizationId":"o","siteId":"s","updateMask":"domains,settings","domains":["a.example"],"settings":{"title":"x"}}`},
		"a mask in JSON's spelling":                {"PATCH", "/organizations/o/sites/s", `{"updateMask":"domains,limits"}`, `{"organizationId":"o","siteId":"s","updateMask":"domains,limits"}`},
		"a mask says more than the body":           {"PATCH", "/organizations/o/sites/s", `{"update_mask":"domains"}`, `{"organizationId":"o","siteId":"s","updateMask":"domains"}`},
		"a stream, with a large number in a query": {"GET", "/organizations/o/tasks/t:watch?after_log_sequence=2", "", `{"organizationId":"o","taskId":"t","afterLogSequence":"2"}`},
	} {
		t.Run(name, func(t *testing.T) {
			e.got = nil
			if r := send(t, test.method, url+test.path, test.body); r.status != http.StatusOK {
				t.Fatalf("%d %s", r.status, r.body)
			}
			want := e.got.ProtoReflect().New().Interface()
			if err := protojson.Unmarshal([]byte(test.want), want); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(e.got, want) {
				t.Errorf("got %v", e.got)
			}
		})
	}
}

// TestRefusals sends requests that mean nothing: none arrives, and the problem says why without repeating a value.
func TestRefusals(t *testing.T) {
	e := &echo{}
	url := serve(t, e) + "/api/v1"
	const secret = "hunter2"
	for name, test := range map[string]struct {
		method, path, body string
		header             []string
		status             int
		field              string
	}{
		"an unknown path":                  {"GET", "/nothing", "", nil, 404, ""},
		"a path that goes on":              {"GET", "/sites/", "", nil, 404, ""},
		"an empty value":                   {"GET", "/organizations//sites/s", "", nil, 404, ""},
		"an unknown verb":                  {"POST", "/organizations/o/sites/s:explode", "", nil, 404, ""},
		"an empty verb":                    {"GET", "/organizations/o/sites/s:", "", nil, 404, ""},
		"another method":                   {"PUT", "/organizations/o/sites/s", "{}", nil, 405, ""},
		"an effect by GET":                 {"GET", "/organizations/o/sites/s:suspend", "", nil, 405, ""},
		"an effect by an override":         {"GET", "/organizations/o/sites/s:suspend", "", []string{"X-HTTP-Method-Override", "POST"}, 405, ""},
		"a stream by HEAD":                 {"HEAD", "/organizations/o/tasks/t:watch", "", nil, 405, ""},
		"a form":                           {"POST", "/organizations/o/sites/s:suspend", "a=b", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, ""},
		"JSON as text":                     {"POST", "/organizations/o/sites/s:suspend", "{}", []string{"Content-Type", "text/plain"}, 415, ""},
		"JSON in another charset":          {"POST", "/organizations/o/sites/s:suspend", "{}", []string{"Content-Type", "application/json; charset=utf-16"}, 415, ""},
		"a compressed body":                {"POST", "/organizations/o/sites/s:suspend", "{}", []string{"Content-Encoding", "gzip"}, 415, ""},
		"no JSON":                          {"PATCH", "/organizations/o/sites/s", secret, nil, 400, ""},
		"a list":                           {"PATCH", "/organizations/o/sites/s", "[]", nil, 400, ""},
		"an unknown field":                 {"PATCH", "/organizations/o/sites/s", `{"doman":["hunter2"]}`, nil, 400, "doman"},
		"a field of another type":          {"PATCH", "/organizations/o/sites/s", `{"domains":"hunter2"}`, nil, 400, ""},
		"a number that is none":            {"PATCH", "/organizations/o/sites/s", `{"limits":{"cpu_percent":"hunter2"}}`, nil, 400, "cpu_percent"},
		"a mask that is none":              {"PATCH", "/organizations/o/sites/s", `{"update_mask":["hunter2"]}`, nil, 400, "update_mask"},
		"a mask of no names":               {"PATCH", "/organizations/o/sites/s", `{"update_mask":"a b,hunter2"}`, nil, 400, "update_mask"},
		"two masks":                        {"PATCH", "/organizations/o/sites/s", `{"update_mask":"a","updateMask":"hunter2"}`, nil, 400, "update_mask"},
		"the path's field in the body":     {"PATCH", "/organizations/o/sites/s", `{"organization_id":"hunter2"}`, nil, 400, "organization_id"},
		"the path's field in the query":    {"GET", "/organizations/o/sites?organization_id=hunter2", "", nil, 400, "organization_id"},
		"an unknown parameter":             {"GET", "/sites?order_by=x;%20drop", "", nil, 400, ""},
		"a parameter that is unknown":      {"GET", "/sites?order_by=hunter2", "", nil, 400, "order_by"},
		"a parameter twice":                {"GET", "/sites?page_size=1&page_size=2", "", nil, 400, "page_size"},
		"a parameter of another type":      {"GET", "/sites?page_size=hunter2", "", nil, 400, "page_size"},
		"a number that is too large":       {"GET", "/sites?page_size=4294967296", "", nil, 400, "page_size"},
		"a bool that is none":              {"GET", "/sites?show_trashed=1", "", nil, 400, "show_trashed"},
		"a parameter beside a body":        {"POST", "/organizations/o/sites/s:suspend?site_id=hunter2", "{}", nil, 400, "site_id"},
		"a body where none belongs":        {"DELETE", "/organizations/o/sites/s", "{}", nil, 400, ""},
		"a body that is too large":         {"PATCH", "/organizations/o/sites/s", `{"domains":["` + strings.Repeat("a", MaxBody) + `"]}`, nil, 413, ""},
		"an ETag for what has none":        {"POST", "/organizations/o/sites/s:suspend", "", []string{"If-Match", `"1"`}, 400, "If-Match"},
		"text that is not UTF-8 in a path": {"GET", "/organizations/%FF/sites/s", "", nil, 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e.got = nil
			r := send(t, test.method, url+test.path, test.body, test.header...)
			if r.status != test.status {
				t.Fatalf("%d %s", r.status, r.body)
			}
			if e.got != nil {
				t.Errorf("the service saw %v", e.got)
			}
			if test.method == "HEAD" {
				return
			}
			p := problemIn(t, r)
			if test.field != "" && (len(p.Errors) != 1 || p.Errors[0].Field != test.field || p.Errors[0].Rule == "") {
				t.Errorf("errors: %+v", p.Errors)
			}
			if strings.Contains(r.body, secret) {
				t.Errorf("it repeats a value: %s", r.body)
			}
			if test.status == http.StatusMethodNotAllowed && r.header.Get("Allow") == "" {
				t.Error("Allow is missing")
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	e := &echo{}
	url := serve(t, e) + "/api/v1"
	t.Run("hold every field", func(t *testing.T) {
		r := send(t, "GET", url+"/sites", "")
		if r.header.Get("Content-Type") != contentJSON || strings.ReplaceAll(r.body, " ", "") != `{"sites":[],"next_page_token":""}` {
			t.Errorf("%v %s", r.header, r.body)
		}
	})
	t.Run("have no body for HEAD", func(t *testing.T) {
		if r := send(t, "HEAD", url+"/sites", ""); r.status != http.StatusOK || r.body != "" || e.got == nil {
			t.Errorf("%d %q", r.status, r.body)
		}
	})
	t.Run("do not speak of Connect", func(t *testing.T) {
		r := send(t, "GET", url+"/sites", "", "Accept-Encoding", "gzip")
		for name := range r.header {
			if strings.Contains(name, "Connect") || strings.Contains(name, "Accept") {
				t.Errorf("header %s", name)
			}
		}
	})
	t.Run("of a stream are a line for each message", func(t *testing.T) {
		r := send(t, "GET", url+"/organizations/o/tasks/t:watch?after_log_sequence=3", "")
		if r.header.Get("Content-Type") != contentLines {
			t.Errorf("Content-Type %q", r.header.Get("Content-Type"))
		}
		lines := 0
		for scanner := bufio.NewScanner(strings.NewReader(r.body)); scanner.Scan(); lines++ {
			var message struct {
				Task struct {
					Attempt int `json:"attempt"`
				} `json:"task"`
			}
			if err := json.Unmarshal(scanner.Bytes(), &message); err != nil || message.Task.Attempt != lines {
				t.Errorf("line %d is %s: %v", lines, scanner.Text(), err)
			}
		}
		if lines != 3 {
			t.Errorf("%d lines", lines)
		}
	})
	e.fail = connect.NewError(connect.CodeUnavailable, errors.New("the database does not answer"))
	t.Run("are problems when they fail", func(t *testing.T) {
		if p := problemIn(t, send(t, "GET", url+"/sites", "")); p.Detail != "the database does not answer" || p.Status != http.StatusServiceUnavailable {
			t.Errorf("%+v", p)
		}
	})
	t.Run("of a stream that fails at once are a problem", func(t *testing.T) {
		if p := problemIn(t, send(t, "GET", url+"/organizations/o/tasks/t:watch", "")); p.Status != http.StatusServiceUnavailable {
			t.Errorf("%+v", p)
		}
	})
	t.Run("of a stream that fails later end with it", func(t *testing.T) {
		r := send(t, "GET", url+"/organizations/o/tasks/t:watch?after_log_sequence=1", "")
		lines := strings.Split(strings.TrimSpace(r.body), "\n")
		var last struct{ Error Problem }
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || len(lines) != 2 || last.Error.Status != http.StatusServiceUnavailable {
			t.Errorf("%q", lines)
		}
	})
}

// TestDecision stands where the door's decision stands: it turns everything away, and no body may have been read then.
func TestDecision(t *testing.T) {
	router, err := New(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range router.Routes() {
		read := false
		body := readerFunc(func([]byte) (int, error) { read = true; return 0, io.EOF })
		path := strings.NewReplacer("{", "", "}", "").Replace(route.Path)
		request := httptest.NewRequestWithContext(t.Context(), route.Method, path, body)
		request.Header.Set("Content-Type", contentJSON)
		recorder := httptest.NewRecorder()
		var saw string
		router.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			saw = r.Method + " " + r.URL.Path
			_ = connect.NewErrorWriter(connect.WithCodec(Codec{})).Write(w, r, connect.NewError(connect.CodePermissionDenied, errors.New("no")))
		})).ServeHTTP(recorder, request)
		if recorder.Code != http.StatusForbidden || recorder.Header().Get("Content-Type") != contentProblem {
			t.Errorf("%s %s: %d %s", route.Method, route.Path, recorder.Code, recorder.Body)
		}
		if saw != "POST "+route.Procedure {
			t.Errorf("%s %s: the decision was about %s", route.Method, route.Path, saw)
		}
		if read {
			t.Errorf("%s %s: the body was read before the decision", route.Method, route.Path)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestBytes is about answers that are files.
func TestBytes(t *testing.T) {
	part := func(text string) []byte {
		b, err := proto.Marshal(&httpbody.HttpBody{ContentType: "text/csv", Data: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{0, 0, 0, 0, byte(len(b))}, b...)
	}
	end := func(text string) []byte { return append([]byte{flagEnd, 0, 0, 0, byte(len(text))}, text...) }
	t.Run("are sent as they are", func(t *testing.T) {
		recorder := httptest.NewRecorder()
		s := &stream{ResponseWriter: recorder, raw: true}
		for _, b := range [][]byte{part("a,b\n")[:3], part("a,b\n")[3:], part("1,2\n"), end("{}")} {
			if _, err := s.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		s.close()
		if recorder.Body.String() != "a,b\n1,2\n" || recorder.Header().Get("Content-Type") != "text/csv" {
			t.Errorf("%v %q", recorder.Header(), recorder.Body)
		}
	})
	for name, last := range map[string][]byte{"that fail": end(`{"error":{"code":"internal"}}`), "that break off": nil} {
		t.Run(name+" are not taken for whole", func(t *testing.T) {
			defer func() {
				if recover() != http.ErrAbortHandler { //nolint:errorlint // it is panicked with as it is
					t.Error("the connection was not cut")
				}
			}()
			s := &stream{ResponseWriter: httptest.NewRecorder(), raw: true}
			_, _ = s.Write(part("a,b\n"))
			_, _ = s.Write(last)
			s.close()
		})
	}
}

// TestAnnotations refuses what a route cannot express.
func TestAnnotations(t *testing.T) {
	const procedure = "/chom.site.v1.SiteService/GetSite"
	for name, rule := range map[string]*annotations.HttpRule{
		"a body of one field":   {Pattern: &annotations.HttpRule_Post{Post: "/a"}, Body: "site_id"},
		"a GET with a body":     {Pattern: &annotations.HttpRule_Get{Get: "/a"}, Body: "*"},
		"a POST without one":    {Pattern: &annotations.HttpRule_Post{Post: "/a"}},
		"an unknown field":      {Pattern: &annotations.HttpRule_Get{Get: "/a/{nothing}"}},
		"a pattern in a field":  {Pattern: &annotations.HttpRule_Get{Get: "/a/{site_id=x/*}"}},
		"a star":                {Pattern: &annotations.HttpRule_Get{Get: "/a/*"}},
		"an empty verb":         {Pattern: &annotations.HttpRule_Get{Get: "/a:"}},
		"a path without /":      {Pattern: &annotations.HttpRule_Get{Get: "a"}},
		"a double slash":        {Pattern: &annotations.HttpRule_Get{Get: "/a//b"}},
		"a method of one's own": {Pattern: &annotations.HttpRule_Custom{Custom: &annotations.CustomHttpPattern{Kind: "X", Path: "/a"}}},
	} {
		if route, err := routeOf(procedure, all[procedure], rule); err == nil {
			t.Errorf("%s became %+v", name, route)
		}
	}
	t.Run("notices two methods of one path", func(t *testing.T) {
		twice := maps.Clone(all)
		twice["/other"] = all[procedure]
		if _, err := New(twice); err == nil {
			t.Error("got nil")
		}
	})
}

// TestETag sends an update with the header.
func TestETag(t *testing.T) {
	e := &echo{}
	url := serve(t, e) + "/api/v1/organizations/o/sites/s"
	for header, want := range map[string]string{`"7"`: "7", ` "7" `: "7", "*": "", "": ""} {
		if r := send(t, "PATCH", url, `{"update_mask":"limits"}`, "If-Match", header); r.status != http.StatusOK {
			t.Errorf("%s: %d %s", header, r.status, r.body)
		} else if got := e.got.(*sitev1.UpdateSiteRequest).GetEtag(); got != want {
			t.Errorf("%s became %q", header, got)
		}
	}
	for _, header := range []string{`7`, `W/"7"`, `"7", "8"`, `""`, `"7`} {
		if p := problemIn(t, send(t, "PATCH", url, `{"update_mask":"limits"}`, "If-Match", header)); p.Status != http.StatusBadRequest || len(p.Errors) != 1 || p.Errors[0].Field != "If-Match" {
			t.Errorf("%s: %+v", header, p)
		}
	}
	if p := problemIn(t, send(t, "PATCH", url, `{"update_mask":"limits","etag":"8"}`, "If-Match", `"7"`)); p.Status != http.StatusBadRequest {
		t.Errorf("%+v", p)
	}
	t.Run("of an answer is that of the thing in it", func(t *testing.T) {
		for want, answer := range map[string]proto.Message{
			``:    &sitev1.GetSiteResponse{Site: &sitev1.Site{}},
			`"7"`: &sitev1.UpdateSiteResponse{Site: &sitev1.Site{Etag: "7"}, Task: &taskv1.Task{}},
		} {
			if got := ETagOf(answer.ProtoReflect()); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		if got := ETagOf((&sitev1.ListSitesResponse{Sites: []*sitev1.Site{{Etag: "7"}}}).ProtoReflect()); got != "" {
			t.Errorf("of a list: %s", got)
		}
	})
}
