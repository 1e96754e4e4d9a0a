package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"chom.dev/controlplane/account"
)

// cookies are what a browser holds: the secret of its session, and that by which it is known as one in which somebody signed in
// before.
//
// Both are HttpOnly and SameSite=Strict. Strict costs nothing here: the dashboard is a page without data, and each of its calls
// comes from that page, so that links from mails and elsewhere work all the same; and no other site can make a browser send
// them, not even by a link. The prefix __Host- has browsers refuse them from a sibling domain and without HTTPS. A control
// plane on plain HTTP, which is for loopback only, does without it and without Secure.
type cookies struct{ secure bool }

// newCookies are those of a control plane that people reach under a URL.
func newCookies(public string) cookies { return cookies{secure: strings.HasPrefix(public, "https://")} }

const (
	sessionCookie = "chom_session"
	deviceCookie  = "chom_device"
)

// deviceFor is the most that browsers keep a cookie for.
const deviceFor = 400 * 24 * time.Hour

func (c cookies) name(of string) string {
	if c.secure {
		return "__Host-" + of
	}
	return of
}

func (c cookies) session(r *http.Request) string { return c.read(r, sessionCookie) }
func (c cookies) device(r *http.Request) string  { return c.read(r, deviceCookie) }

// read gives the value of a cookie; empty where there is none, or more than one, of which nobody knows who set which.
func (c cookies) read(r *http.Request, of string) string {
	if all := r.CookiesNamed(c.name(of)); len(all) == 1 {
		return all[0].Value
	}
	return ""
}

// keep gives the browser what belongs to a session that was opened or renewed.
func (c cookies) keep(ctx context.Context, of account.SignedIn) error {
	err := c.set(ctx, sessionCookie, of.Secret, time.Until(of.ExpiresAt))
	if of.Device != "" {
		err = errors.Join(err, c.set(ctx, deviceCookie, of.Device, deviceFor))
	}
	return err
}

// forget takes the session from the browser.
func (c cookies) forget(ctx context.Context) error {
	return c.set(ctx, sessionCookie, "", -time.Second)
}

var errNoAnswer = errors.New("set a cookie: there is no answer to set it in")

// set writes a cookie into the answer of the call.
func (c cookies) set(ctx context.Context, of, value string, age time.Duration) error {
	info, ok := connect.CallInfoForHandlerContext(ctx)
	if !ok {
		return errNoAnswer
	}
	cookie := &http.Cookie{
		Name: c.name(of), Value: value, Path: "/", MaxAge: int(age.Seconds()), HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteStrictMode,
	}
	info.ResponseHeader().Add("Set-Cookie", cookie.String())
	return nil
}
