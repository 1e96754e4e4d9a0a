package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"chom.dev/proto/gen/chom/task/v1/taskv1connect"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/rest"
)

// broken is a site service in which every call ends in some unhappy way.
type broken struct {
	sitev1connect.UnimplementedSiteServiceHandler
	do func() error
}

func (b broken) GetSite(context.Context, *sitev1.GetSiteRequest) (*sitev1.GetSiteResponse, error) {
	return &sitev1.GetSiteResponse{}, b.do()
}

// TestErrors is about what a caller sees of a failure, and what the log does.
func TestErrors(t *testing.T) {
	const secret = "the-database-password"
	w := sqliteWorld(t)
	for name, test := range map[string]struct {
		do     func() error
		code   connect.Code
		text   string
		logged string
	}{
		"a bug":                   {func() error { return errors.New("scan: " + secret) }, connect.CodeInternal, "internal error", secret},
		"a panic":                 {func() error { panic(secret) }, connect.CodeInternal, "internal error", "panic: " + secret},
		"a database that is away": {func() error { return fault.Unavailable("the database does not answer", 0, errors.New(secret)) }, connect.CodeUnavailable, "the database does not answer", secret},
		"a fault of the caller":   {func() error { return fault.Conflict("the site is in the trash") }, connect.CodeFailedPrecondition, "the site is in the trash", "code=failed_precondition"},
		"a slow noun":             {func() error { return context.DeadlineExceeded }, connect.CodeDeadlineExceeded, "this took too long", "code=deadline_exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			log := &strings.Builder{}
			d := testDoor(t, w, log)
			path, handler := sitev1connect.NewSiteServiceHandler(broken{do: test.do}, d.message())
			mux := http.NewServeMux()
			mux.Handle(path, d.request(d.call(handler)))
			server := httptest.NewServer(mux)
			defer server.Close()
			client := sitev1connect.NewSiteServiceClient(http.DefaultClient, server.URL, connect.WithInterceptors(bearer(w.operator)))
			_, err := client.GetSite(t.Context(), &sitev1.GetSiteRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site})
			if connect.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.text) {
				t.Errorf("the caller sees %v", err)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the caller sees the inside: %v", err)
			}
			if !strings.Contains(log.String(), test.logged) {
				t.Errorf("the log says %s", log)
			}
			var remote *connect.Error
			if errors.As(err, &remote) && !strings.Contains(log.String(), "request="+remote.Meta().Get("X-Request-Id")) {
				t.Errorf("the log does not know request %q: %s", remote.Meta().Get("X-Request-Id"), log)
			}
			if test.code == connect.CodeInternal {
				if _, err := client.ListSites(t.Context(), &sitev1.ListSitesRequest{OrganizationId: w.ours.organization}); connect.CodeOf(err) != connect.CodeUnimplemented {
					t.Errorf("the next call: %v", err)
				}
			}
		})
	}
}

func bearer(token string) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
			request.Header().Set("Authorization", "Bearer "+token)
			return next(ctx, request)
		}
	}
}

// TestLists sends to each list what none should take.
func TestLists(t *testing.T) {
	w := sqliteWorld(t)
	router, err := rest.New(methods())
	must(t, err)
	tried := 0
	for _, procedure := range procedures() {
		if methods()[procedure].Input().Fields().ByName("page_token") == nil {
			continue
		}
		tried++
		for name, value := range map[string]any{
			"page_size -1":                int32(-1),
			"page_size 2^31":              int32(1<<31 - 1),
			"page_size 501":               int32(501),
			"page_token SQL":              "' OR 1=1; DROP TABLE sites --",
			"page_token of another query": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		} {
			request := w.valid(procedure, w.ours)
			field, _, _ := strings.Cut(name, " ")
			set(request, field, value)
			if err := w.call(t, w.operator, procedure, request); connect.CodeOf(err) != connect.CodeInvalidArgument || namedField(err) != field {
				t.Errorf("%s, %s: %v", procedure, name, err)
			}
		}
		for _, route := range router.Routes() {
			if route.Procedure != procedure {
				continue
			}
			for field, value := range map[string]string{"order_by": "x; drop", "page_size": "2147483648", "states": "'; drop --", "filter": "1=1"} {
				request := restRequest(t.Context(), t, w.url, route, w.valid(procedure, w.ours))
				query := request.URL.Query()
				query.Set(field, value)
				request.URL.RawQuery = query.Encode()
				if err := send(t, request, w.operator); connect.CodeOf(err) != connect.CodeInvalidArgument || namedField(err) != field {
					t.Errorf("%s %s, %s: %v", route.Method, route.Path, field, err)
				}
			}
		}
	}
	if tried < 4 {
		t.Errorf("only %d lists were found", tried)
	}
}

// TestStreams is about Watch: it lives while nothing happens, and ends when the process is about to.
func TestStreams(t *testing.T) {
	w := sqliteWorld(t)
	client := taskv1connect.NewTaskServiceClient(http.DefaultClient, w.url)
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Authorization", "Bearer "+w.ours.viewer)
	stream, err := client.WatchTask(ctx, &taskv1.WatchTaskRequest{OrganizationId: w.ours.organization, TaskId: w.ours.task})
	must(t, err)
	defer stream.Close()
	if !stream.Receive() || stream.Msg().GetTask().GetId() != w.ours.task {
		t.Fatalf("the first message: %v, %v", stream.Msg(), stream.Err())
	}
	began := time.Now()
	w.closing()
	if stream.Receive() {
		t.Fatal("the stream went on")
	}
	if connect.CodeOf(stream.Err()) != connect.CodeUnavailable || time.Since(began) > time.Second {
		t.Errorf("it ended after %s with %v", time.Since(began), stream.Err())
	}
}
