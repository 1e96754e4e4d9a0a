package main

import (
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"connectrpc.com/connect"
	"github.com/cli/browser"
)

// deviceLogin has somebody who is signed in with a browser let this program act for them, and returns its token. The browser may
// be on another machine.
func (p *program) deviceLogin(ctx context.Context, c *client, scope accountv1.Scope, open bool) (string, error) {
	begun, err := c.DeviceLogins.BeginDeviceLogin(ctx, &accountv1.BeginDeviceLoginRequest{Name: programName(), Scope: scope})
	if err != nil {
		return "", stranger(err)
	}
	p.say("Your code:  %s", plain(begun.GetUserCode()))
	p.say("Enter it at %s\nor open     %s", plain(begun.GetVerificationUrl()), plain(begun.GetVerificationUrlComplete()))
	if open && p.terminal() {
		openPage(begun.GetVerificationUrlComplete())
	}
	p.note("Waiting until you have allowed it there ...")
	ctx, cancel := context.WithDeadlineCause(ctx, begun.GetExpireTime().AsTime(), errNotAllowed)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(max(time.Second, begun.GetInterval().AsDuration())):
		}
		answer, err := c.DeviceLogins.PollDeviceLogin(ctx, &accountv1.PollDeviceLoginRequest{DeviceCode: begun.GetDeviceCode()})
		switch code := connect.CodeOf(err); {
		case err == nil && answer.GetToken() != "":
			return answer.GetToken(), nil
		case err == nil || code == connect.CodeUnavailable || code == connect.CodeResourceExhausted: // ask again
		case code == connect.CodeNotFound || errors.Is(ctx.Err(), context.DeadlineExceeded):
			return "", errNotAllowed
		case code == connect.CodePermissionDenied:
			return "", &problem{code: exitDenied, text: "the login was refused in the browser", next: "begin again with: chom login"}
		default:
			return "", err
		}
	}
}

var errNotAllowed = &problem{code: exitDenied, text: "nobody allowed the login in time", next: "begin again with: chom login"}

// programName is what a person reads when they are asked to let this program in.
func programName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		return "chom"
	}
	name := "chom on " + notInName.ReplaceAllString(host, "-")
	return name[:min(len(name), 63)]
}

var notInName = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// openPage tries to show a page; where there is no browser, the person has read where to go.
func openPage(page string) {
	if u, err := url.Parse(page); err != nil || u.Scheme != "https" && u.Scheme != "http" || strings.ContainsAny(page, " \"'<>`") {
		return // what a control plane says is not for every program to open
	}
	browser.Stdout, browser.Stderr = io.Discard, io.Discard
	_ = browser.OpenURL(page) // the page's address stands on the terminal as well
}
