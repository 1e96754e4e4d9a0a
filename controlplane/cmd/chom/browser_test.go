package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"chom.dev/proto/gen/chom/account/v1/accountv1connect"
)

// page is a browser that shows the control plane's page: it has a session.
type page struct {
	origin  string
	devices accountv1connect.DeviceLoginServiceClient
}

// RoundTrip says which page a request comes from, as browsers do.
func (p *page) RoundTrip(request *http.Request) (*http.Response, error) {
	request.Header.Set("Origin", p.origin)
	return http.DefaultTransport.RoundTrip(request)
}

// signIn EMAIL PASSWORD opens a session.
func signIn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signin EMAIL PASSWORD")
	}
	jar, err := cookiejar.New(nil)
	ts.Check(err)
	p := &page{origin: ts.Getenv("URL")}
	client := &http.Client{Jar: jar, Transport: p}
	p.devices = accountv1connect.NewDeviceLoginServiceClient(client, p.origin)
	_, err = accountv1connect.NewSessionServiceClient(client, p.origin).Login(context.Background(), &accountv1.LoginRequest{Email: args[0], Password: args[1]})
	ts.Check(err)
	*ts.Value("page").(**page) = p
}

// browse allow|deny SCOPE N PROGRAM ARGS... runs a program that must end with exit code N, and answers the code that it shows, once the
// page says that the program asks for that scope. What it printed is in the files "out" and "err".
func browse(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: browse allow|deny SCOPE N program args...")
	}
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	program := exec.CommandContext(ctx, args[3], args[4:]...)
	program.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOME", "PATH", "CHOM_CONFIG"} {
		program.Env = append(program.Env, name+"="+ts.Getenv(name))
	}
	var out, shown strings.Builder
	program.Stdout = &out
	from, err := program.StderrPipe()
	ts.Check(err)
	ts.Check(program.Start())
	p, code := *ts.Value("page").(**page), ""
	for part := make([]byte, 4096); code == ""; {
		n, err := from.Read(part)
		shown.Write(part[:n])
		code = regexp.MustCompile(`\b[B-Z]{4}-[B-Z]{4}\b`).FindString(shown.String())
		if err != nil {
			ts.Fatalf("no code is shown: %s", shown.String())
		}
	}
	if args[0] == "allow" { // the other way the page is not asked: it may be 5 times a minute
		asks, err := p.devices.GetDeviceLogin(ctx, &accountv1.GetDeviceLoginRequest{UserCode: code})
		ts.Check(err)
		if short(asks.GetScope(), "SCOPE_") != args[1] || !strings.HasPrefix(asks.GetName(), "chom") {
			ts.Fatalf("the page shows %v", asks)
		}
		_, err = p.devices.ApproveDeviceLogin(ctx, &accountv1.ApproveDeviceLoginRequest{UserCode: code})
		ts.Check(err)
	} else {
		_, err = p.devices.DenyDeviceLogin(ctx, &accountv1.DenyDeviceLoginRequest{UserCode: code})
		ts.Check(err)
	}
	rest, err := io.ReadAll(from)
	ts.Check(err)
	var exit *exec.ExitError
	if err := program.Wait(); err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	ts.Check(os.WriteFile(ts.MkAbs("out"), []byte(out.String()), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("err"), append([]byte(shown.String()), rest...), 0o600))
	if got := program.ProcessState.ExitCode(); got != want {
		ts.Fatalf("exit code %d, want %d: %s%s", got, want, shown.String(), rest)
	}
}
