package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"chom.dev/proto/gen/chom/account/v1/accountv1connect"
)

func quiet(string, ...any) {}

// limited is a refusal that asks to wait.
func limited(code connect.Code, wait time.Duration) error {
	err := connect.NewError(code, errors.New("later"))
	if d, broken := connect.NewErrorDetail(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}); broken == nil {
		err.AddDetail(d)
	}
	return err
}

func TestPause(t *testing.T) {
	known, stranger := &caller{token: "x"}, &caller{}
	for name, test := range map[string]struct {
		caller *caller
		err    error
		want   time.Duration
		again  bool
	}{
		"no answer":                           {known, connect.NewError(connect.CodeUnavailable, errors.New("refused")), time.Second, true},
		"an answer that it cannot now":        {known, connect.NewWireError(connect.CodeUnavailable, errors.New("busy")), 0, false},
		"no answer to a call without a key":   {stranger, connect.NewError(connect.CodeUnavailable, errors.New("refused")), time.Second, false},
		"a certificate of nobody's":           {known, connect.NewError(connect.CodeUnavailable, fmt.Errorf("dial: %w", x509.UnknownAuthorityError{})), time.Second, false},
		"too many calls":                      {stranger, limited(connect.CodeResourceExhausted, 5*time.Second), 5 * time.Second, true},
		"too much of something":               {known, connect.NewError(connect.CodeResourceExhausted, errors.New("message larger than max")), 0, false},
		"a refusal":                           {known, connect.NewError(connect.CodePermissionDenied, errors.New("no")), 0, false},
		"an answer that needs no second call": {known, nil, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, again := test.caller.pause(test.err, time.Second)
			if again != test.again || again && got != test.want {
				t.Errorf("waits %s, again %t", got, again)
			}
		})
	}
}

// TestRepeat: a change that had no effect, or perhaps had one, is sent again with the key that it had.
func TestRepeat(t *testing.T) {
	for name, refuse := range map[string]http.HandlerFunc{
		"a proxy that misses its control plane": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "bad gateway", http.StatusBadGateway)
		},
		"too many calls": func(w http.ResponseWriter, r *http.Request) {
			if err := connect.NewErrorWriter().Write(w, r, limited(connect.CodeResourceExhausted, 10*time.Millisecond)); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var keys []string
			_, handler := accountv1connect.NewAccountServiceHandler(accounts{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				keys = append(keys, r.Header.Get(keyHeader))
				if len(keys) == 1 {
					refuse(w, r)
					return
				}
				handler.ServeHTTP(w, r)
			}))
			defer server.Close()
			c, err := newClient(target{URL: server.URL, Token: "x"}, quiet)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Accounts.GetCaller(t.Context(), &accountv1.GetCallerRequest{}); err != nil {
				t.Fatal(err)
			}
			if len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] {
				t.Errorf("keys %q", keys)
			}
		})
	}
}

type accounts struct {
	accountv1connect.UnimplementedAccountServiceHandler
}

func (accounts) GetCaller(context.Context, *accountv1.GetCallerRequest) (*accountv1.GetCallerResponse, error) {
	return &accountv1.GetCallerResponse{Email: "ops@example.com"}, nil
}

// TestCertificate: a control plane whose authority nobody knows is refused at once, with what to do; with its authority it is not.
func TestCertificate(t *testing.T) {
	_, handler := accountv1connect.NewAccountServiceHandler(accounts{})
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it hears that its certificate was refused
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(t target) error {
		c, err := newClient(t, quiet)
		if err == nil {
			_, err = c.Accounts.GetCaller(context.Background(), &accountv1.GetCallerRequest{})
		}
		return err
	}
	if err := ask(target{URL: server.URL, Token: "x", CA: ca}); err != nil {
		t.Error(err)
	}
	began := time.Now()
	err := ask(target{URL: server.URL, Token: "x"})
	if p := explain(err); p.code != exitUnavailable || !strings.Contains(p.next, "--ca FILE") {
		t.Errorf("%v: %+v", err, p)
	}
	if took := time.Since(began); took > 900*time.Millisecond {
		t.Errorf("it was tried again, for %s", took)
	}
}

// TestExplain: what a failure leads to.
func TestExplain(t *testing.T) {
	stepUp := connect.NewError(connect.CodePermissionDenied, errors.New("confirm that it is you"))
	if d, err := connect.NewErrorDetail(&errdetails.ErrorInfo{Reason: stepUpRequired}); err == nil {
		stepUp.AddDetail(d)
	}
	for name, test := range map[string]struct {
		err  error
		code int
		next string
	}{
		"step-up":         {stepUp, exitDenied, "control plane's page"},
		"too small":       {connect.NewError(connect.CodePermissionDenied, errors.New("no")), exitDenied, "chom login --scope manage"},
		"too often":       {limited(connect.CodeResourceExhausted, 41500*time.Millisecond), exitUnavailable, "try again in 42 s"},
		"changed":         {connect.NewError(connect.CodeAborted, errors.New("changed")), exitFailed, "look at it"},
		"not signed in":   {connect.NewError(connect.CodeUnauthenticated, errors.New("who?")), exitDenied, "chom login"},
		"nobody answers":  {connect.NewError(connect.CodeUnavailable, errors.New("refused")), exitUnavailable, "chomd runs"},
		"it cannot now":   {connect.NewWireError(connect.CodeUnavailable, errors.New("busy")), exitUnavailable, "in a while"},
		"interrupted":     {fmt.Errorf("wait: %w", context.Canceled), exitFailed, "chom task list"},
		"an older server": {connect.NewError(connect.CodeUnimplemented, errors.New("404")), exitFailed, "older"},
	} {
		t.Run(name, func(t *testing.T) {
			if p := explain(test.err); p.code != test.code || !strings.Contains(p.next, test.next) {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestNested(t *testing.T) {
	fields, err := fieldsOf([]string{"name=blog", "limits.cpu_percent=50", "settings.title=a=b"}, []string{`domains=["a","b"]`, "limits.tasks=7"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := marshal(nested(fields))
	want := `{"domains":["a","b"],"limits":{"cpu_percent":"50","tasks":7},"name":"blog","settings":{"title":"a=b"}}`
	if err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
	if got, err := withQuery("/api/v1/sites?x=1", fields[:1]); err != nil || got != "/api/v1/sites?name=blog&x=1" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestCodeOf(t *testing.T) {
	for name, test := range map[string]struct {
		kind   string
		status int
		want   connect.Code
	}{
		"a kind of ours":     {"/api/docs#failed_precondition", http.StatusConflict, connect.CodeFailedPrecondition},
		"step-up":            {"/api/docs#step_up_required", http.StatusForbidden, connect.CodePermissionDenied},
		"no such method":     {"/api/docs#method_not_allowed", http.StatusMethodNotAllowed, connect.CodeInvalidArgument},
		"a proxy's page":     {"", http.StatusBadGateway, connect.CodeUnavailable},
		"another's 404":      {"", http.StatusNotFound, connect.CodeNotFound},
		"something unheard:": {"about:blank", 599, connect.CodeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			if got := codeOf(test.kind, test.status); got != test.want {
				t.Errorf("%s", got)
			}
		})
	}
}

func TestNear(t *testing.T) {
	for typed, want := range map[string]string{"shpo": "did you mean shop? else ", "blo": "did you mean blog or blogs? else ", "zebra": ""} {
		if got := near(typed, []string{"blog", "blogs", "shop"}); got != want {
			t.Errorf("%s: %q", typed, got)
		}
	}
}
