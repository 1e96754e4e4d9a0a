package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/pquerna/otp/totp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"chom.dev/proto/gen/chom/account/v1/accountv1connect"

	"chom.dev/controlplane/account/accounttest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/limit"
)

// browser is what a person sits at: it keeps cookies, and says which page a request comes from.
type browser struct {
	http.Client
	accounts accountv1connect.AccountServiceClient
	sessions accountv1connect.SessionServiceClient
	factors  accountv1connect.SecondFactorServiceClient
	devices  accountv1connect.DeviceLoginServiceClient
}

type fromPage struct{}

func (fromPage) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("User-Agent", "Browser/1.0")
	return http.DefaultTransport.RoundTrip(r)
}

func (w *world) browser(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	must(t, err)
	b := &browser{Client: http.Client{Jar: jar, Transport: fromPage{}}}
	b.accounts = accountv1connect.NewAccountServiceClient(b, w.url)
	b.sessions = accountv1connect.NewSessionServiceClient(b, w.url)
	b.factors = accountv1connect.NewSecondFactorServiceClient(b, w.url)
	b.devices = accountv1connect.NewDeviceLoginServiceClient(b, w.url)
	return b
}

// cookie is the value that the browser holds; empty for none.
func (b *browser) cookie(t *testing.T, w *world, name string) string {
	t.Helper()
	u, err := url.Parse(w.url)
	must(t, err)
	for _, cookie := range b.Jar.Cookies(u) {
		if cookie.Name == name {
			return cookie.Value
		}
	}
	return ""
}

func (b *browser) signUp(t *testing.T, w *world, email string) {
	t.Helper()
	_, err := b.accounts.SignUp(t.Context(), &accountv1.SignUpRequest{Email: email, Password: accounttest.Password})
	must(t, err)
	_, err = b.accounts.VerifyEmail(t.Context(), &accountv1.VerifyEmailRequest{Token: w.accounts.Mails.Secret(t, email, "verify_email"), Password: accounttest.Password})
	must(t, err)
}

func (b *browser) caller(t *testing.T) (*accountv1.GetCallerResponse, error) {
	t.Helper()
	return b.accounts.GetCaller(t.Context(), &accountv1.GetCallerRequest{})
}

// reason is that of the ErrorInfo in an error.
func reason(err error) string {
	var remote *connect.Error
	if errors.As(err, &remote) {
		for _, detail := range remote.Details() {
			if value, err := detail.Value(); err == nil {
				if info, ok := value.(*errdetails.ErrorInfo); ok {
					return info.GetReason()
				}
			}
		}
	}
	return ""
}

// TestBrowser is a person's way through the door, from the sign-up to the logout, on both engines.
func TestBrowser(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		const email = "anna@example.com"
		b := w.browser(t)
		b.signUp(t, w, email)
		caller, err := b.caller(t)
		must(t, err)
		if caller.GetEmail() != email || caller.GetSessionId() == "" || caller.GetTokenId() != "" || caller.GetScope() != accountv1.Scope_SCOPE_MANAGE ||
			caller.GetFreshUntilTime().AsTime().Before(time.Now().Add(4*time.Minute)) || caller.GetFactors().GetTotp() {
			t.Errorf("the caller is %v", caller)
		}

		// A second factor: a passkey.
		asked, err := b.factors.BeginPasskey(ctx, &accountv1.BeginPasskeyRequest{})
		must(t, err)
		device := &accounttest.Device{Origin: publicURL}
		former := b.cookie(t, w, "chom_session")
		made, err := b.factors.CreatePasskey(ctx, &accountv1.CreatePasskeyRequest{
			ChallengeToken: asked.GetChallenge().GetToken(), Name: "Anna's laptop", Credential: device.Create(t, asked.GetChallenge().GetOptions()),
		})
		must(t, err)
		if len(made.GetRecoveryCodes()) != 10 || made.GetPasskey().GetName() != "Anna's laptop" {
			t.Errorf("got %v", made)
		}
		if b.cookie(t, w, "chom_session") == former {
			t.Error("the cookie is the former one")
		}
		if err := w.call(t, former, accountv1connect.AccountServiceGetCallerProcedure, w.valid(accountv1connect.AccountServiceGetCallerProcedure, w.ours)); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("the former cookie: %v", err)
		}

		// Another browser, with the password and the passkey.
		other := w.browser(t)
		half, err := other.sessions.Login(ctx, &accountv1.LoginRequest{Email: email, Password: accounttest.Password})
		must(t, err)
		if half.GetLoginToken() == "" || half.GetAccountId() != "" || half.GetFactors().GetPasskeys() != 1 || other.cookie(t, w, "chom_session") != "" {
			t.Errorf("got %v", half)
		}
		question, err := other.sessions.BeginPasskeyLogin(ctx, &accountv1.BeginPasskeyLoginRequest{LoginToken: half.GetLoginToken()})
		must(t, err)
		_, err = other.sessions.LoginWithPasskey(ctx, &accountv1.LoginWithPasskeyRequest{
			ChallengeToken: question.GetChallenge().GetToken(), Credential: device.Answer(t, question.GetChallenge().GetOptions()),
		})
		must(t, err)
		if caller, err := other.caller(t); err != nil || !caller.GetSecondFactor() {
			t.Errorf("got %v, %v", caller, err)
		}
		if n := len(w.accounts.Mails.To(email, "new_device")); n != 1 {
			t.Errorf("%d mails about the new browser", n)
		}
		all, err := other.sessions.ListSessions(ctx, &accountv1.ListSessionsRequest{})
		must(t, err)
		if n := len(all.GetSessions()); n != 2 {
			t.Fatalf("%d sessions", n)
		}
		for _, session := range all.GetSessions() {
			if session.GetAddress() != "127.0.0.1" || session.GetUserAgent() != "Browser/1.0" || session.GetCurrent() != (session.GetId() != caller.GetSessionId()) {
				t.Errorf("listed is %v", session)
			}
		}

		// What asks for a fresh session.
		must(t, db.InTx(ctx, d, func(tx *db.Tx) error { _, err := tx.Exec(ctx, `UPDATE sessions SET fresh_until = 0`); return err }))
		if _, err := other.accounts.ChangePassword(ctx, &accountv1.ChangePasswordRequest{Password: "another sentence to keep"}); reason(err) != StepUpRequired {
			t.Errorf("a session that is not fresh: %v", err)
		}
		ask, err := other.sessions.BeginPasskeyStepUp(ctx, &accountv1.BeginPasskeyStepUpRequest{})
		must(t, err)
		_, err = other.sessions.StepUpWithPasskey(ctx, &accountv1.StepUpWithPasskeyRequest{
			ChallengeToken: ask.GetChallenge().GetToken(), Credential: device.Answer(t, ask.GetChallenge().GetOptions()),
		})
		must(t, err)
		_, err = other.accounts.ChangePassword(ctx, &accountv1.ChangePasswordRequest{Password: "another sentence to keep"})
		must(t, err)
		if _, err := b.caller(t); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("after the password was changed elsewhere: %v", err)
		}

		// The first browser again, with the passkey alone.
		question, err = b.sessions.BeginPasskeyLogin(ctx, &accountv1.BeginPasskeyLoginRequest{})
		must(t, err)
		_, err = b.sessions.LoginWithPasskey(ctx, &accountv1.LoginWithPasskeyRequest{
			ChallengeToken: question.GetChallenge().GetToken(), Credential: device.Answer(t, question.GetChallenge().GetOptions()),
		})
		must(t, err)
		if n := len(w.accounts.Mails.To(email, "new_device")); n != 1 {
			t.Errorf("%d mails: a known browser is news", n)
		}
		kept := b.cookie(t, w, "chom_session")
		_, err = b.sessions.Logout(ctx, &accountv1.LogoutRequest{})
		must(t, err)
		if b.cookie(t, w, "chom_session") != "" || b.cookie(t, w, "chom_device") == "" {
			t.Error("the browser keeps the session, or does not remember that it is known")
		}
		if err := w.call(t, kept, accountv1connect.AccountServiceGetCallerProcedure, w.valid(accountv1connect.AccountServiceGetCallerProcedure, w.ours)); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("the cookie of before the logout: %v", err)
		}
		if strings.Contains(w.log.String(), kept) || strings.Contains(w.log.String(), half.GetLoginToken()) || strings.Contains(w.log.String(), accounttest.Password) {
			t.Error("the log holds a secret")
		}
	})
}

// TestFixation is case B06: a cookie that was there before a login is worth nothing after it.
func TestFixation(t *testing.T) {
	w := sqliteWorld(t)
	b := w.browser(t)
	u, err := url.Parse(w.url)
	must(t, err)
	attackers := w.browser(t)
	attackers.signUp(t, w, "mallory@example.com")
	preset := attackers.cookie(t, w, "chom_session")
	b.Jar.SetCookies(u, []*http.Cookie{{Name: "chom_session", Value: preset, Path: "/"}})
	_, err = b.sessions.Login(t.Context(), &accountv1.LoginRequest{Email: operatorEmail, Password: accounttest.Password})
	must(t, err)
	if now := b.cookie(t, w, "chom_session"); now == preset || !strings.HasPrefix(now, "chomses_") {
		t.Errorf("the cookie is %q", now)
	}
	if caller, err := b.caller(t); err != nil || caller.GetEmail() != operatorEmail {
		t.Errorf("signed in as %v, %v", caller, err)
	}
	if _, err := attackers.caller(t); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("the preset session: %v", err)
	}
	t.Run("a cookie that is none does not keep from signing in", func(t *testing.T) {
		for _, junk := range []string{"x", "chomses_" + strings.Repeat("0", 49), "../../etc/passwd"} {
			b := w.browser(t)
			b.Jar.SetCookies(u, []*http.Cookie{{Name: "chom_session", Value: junk, Path: "/"}})
			if _, err := b.sessions.Login(t.Context(), &accountv1.LoginRequest{Email: operatorEmail, Password: accounttest.Password}); err != nil {
				t.Errorf("%q: %v", junk, err)
			}
		}
	})
	t.Run("of two cookies none counts", func(t *testing.T) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+accountv1connect.AccountServiceGetCallerProcedure, strings.NewReader("{}"))
		must(t, err)
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Cookie", "chom_session="+w.session+"; chom_session=x")
		request.Header.Set("Sec-Fetch-Site", "same-origin")
		answer, err := http.DefaultClient.Do(request)
		must(t, err)
		answer.Body.Close()
		if answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("got %d", answer.StatusCode)
		}
	})
}

// TestHalfLogin is case B03: what a right password alone gives opens no method, in whatever way it is sent.
func TestHalfLogin(t *testing.T) {
	w := sqliteWorld(t)
	ctx := t.Context()
	b := w.browser(t)
	const email = "anna@example.com"
	b.signUp(t, w, email)
	setup, err := b.factors.BeginTotp(ctx, &accountv1.BeginTotpRequest{})
	must(t, err)
	if !strings.HasPrefix(string(setup.GetQr()), "\x89PNG") {
		t.Error("the QR code is no PNG")
	}
	code, err := totp.GenerateCode(setup.GetSeed(), time.Now())
	must(t, err)
	_, err = b.factors.ConfirmTotp(ctx, &accountv1.ConfirmTotpRequest{Code: code})
	must(t, err)
	thief := w.browser(t)
	half, err := thief.sessions.Login(ctx, &accountv1.LoginRequest{Email: email, Password: accounttest.Password})
	must(t, err)
	if half.GetLoginToken() == "" {
		t.Fatal("the password alone signs in")
	}
	before := w.effects(t)
	u, err := url.Parse(w.url)
	must(t, err)
	thief.Jar.SetCookies(u, []*http.Cookie{{Name: "chom_session", Value: half.GetLoginToken(), Path: "/"}})
	for _, procedure := range procedures() {
		if rules[procedure].who == anybody {
			continue
		}
		if err := w.call(t, half.GetLoginToken(), procedure, w.valid(procedure, w.ours)); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("%s, as a token: %v", procedure, err)
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+procedure, strings.NewReader("{}"))
		must(t, err)
		request.Header.Set("Content-Type", map[bool]string{true: "application/connect+json", false: "application/json"}[methods()[procedure].IsStreamingServer()])
		answer, err := thief.Do(request)
		must(t, err)
		body, err := io.ReadAll(answer.Body)
		must(t, err)
		answer.Body.Close()
		if answer.StatusCode != http.StatusUnauthorized && !strings.Contains(string(body), "unauthenticated") {
			t.Errorf("%s, as a cookie: %d %s", procedure, answer.StatusCode, body)
		}
	}
	if after := w.effects(t); after["tokens"] != before["tokens"] || after["accounts"] != before["accounts"] {
		t.Errorf("effects: before %v, after %v", before, after)
	}
}

// TestCookies is about what a browser is told to do with them.
func TestCookies(t *testing.T) {
	for public, want := range map[string]string{
		"https://chom.example.com": "__Host-chom_session=x; Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Strict",
		"http://127.0.0.1:8080":    "chom_session=x; Path=/; Max-Age=60; HttpOnly; SameSite=Strict",
	} {
		ctx, info := handlerContext(t)
		must(t, newCookies(public).set(ctx, sessionCookie, "x", time.Minute))
		if got := info.ResponseHeader().Get("Set-Cookie"); got != want {
			t.Errorf("%s: %s", public, got)
		}
	}
	secure, request := newCookies("https://chom.example.com"), &http.Request{Header: http.Header{"Cookie": {"chom_session=x"}}}
	if got := secure.session(request); got != "" {
		t.Errorf("a cookie without the prefix counts: %q", got)
	}
	if err := secure.set(t.Context(), sessionCookie, "x", time.Minute); err == nil {
		t.Error("a cookie was set in no answer")
	}
}

// handlerContext is a context as handlers get it.
func handlerContext(t *testing.T) (ctx context.Context, info connect.CallInfo) {
	t.Helper()
	handler := connect.NewUnaryHandlerSimple("/x", func(inner context.Context, _ *accountv1.GetCallerRequest) (*accountv1.GetCallerResponse, error) {
		ctx = inner
		return &accountv1.GetCallerResponse{}, nil
	})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/x", strings.NewReader("{}"))
	must(t, err)
	request.Header.Set("Content-Type", "application/json")
	handler.ServeHTTP(discard{}, request)
	info, ok := connect.CallInfoForHandlerContext(ctx)
	if !ok {
		t.Fatal("no call")
	}
	return ctx, info
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// TestCrossSite is case B08 for a session: another site's page makes a browser send nothing that counts.
func TestCrossSite(t *testing.T) {
	w := sqliteWorld(t)
	for name, header := range map[string]http.Header{
		"another site":           {"Sec-Fetch-Site": {"cross-site"}},
		"a sibling":              {"Sec-Fetch-Site": {"same-site"}},
		"an old browser":         {"Origin": {"https://evil.example"}},
		"a sandboxed frame":      {"Origin": {"null"}},
		"another scheme or port": {"Origin": {"http://127.0.0.1:1"}},
	} {
		before := w.count(t, `SELECT COUNT(*) FROM sessions`)
		for _, kind := range []string{"application/json", "text/plain"} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+accountv1connect.SessionServiceLogoutProcedure, strings.NewReader("{}"))
			must(t, err)
			request.Header = header.Clone()
			request.Header.Set("Content-Type", kind)
			request.Header.Set("Cookie", "chom_session="+w.session)
			answer, err := http.DefaultClient.Do(request)
			must(t, err)
			answer.Body.Close()
			if answer.StatusCode != http.StatusForbidden {
				t.Errorf("%s, %s: %d", name, kind, answer.StatusCode)
			}
		}
		if after := w.count(t, `SELECT COUNT(*) FROM sessions`); after != before {
			t.Errorf("%s signed somebody out", name)
		}
	}
}

// TestPolling is about a program that waits for its person: it asks every 5 seconds, which must not count as guessing.
func TestPolling(t *testing.T) {
	w := sqliteWorld(t)
	url := w.replica(t, func(c *Config) { c.Limits = limit.New(limit.DefaultRates()) })
	terminal := accountv1connect.NewDeviceLoginServiceClient(http.DefaultClient, url)
	for range 13 { // a minute
		if _, err := terminal.PollDeviceLogin(t.Context(), &accountv1.PollDeviceLoginRequest{DeviceCode: bearerOf("chomdevice_")}); connect.CodeOf(err) != connect.CodeNotFound {
			t.Fatalf("got %v", err)
		}
	}
}

// TestDeviceLoginAPI is the way of a program without a browser to its token.
func TestDeviceLoginAPI(t *testing.T) {
	w := sqliteWorld(t)
	ctx := t.Context()
	b, terminal := w.browser(t), accountv1connect.NewDeviceLoginServiceClient(http.DefaultClient, w.url)
	b.signUp(t, w, "anna@example.com")
	codes, err := terminal.BeginDeviceLogin(ctx, &accountv1.BeginDeviceLoginRequest{Name: "chom on build-7", Scope: accountv1.Scope_SCOPE_MANAGE})
	must(t, err)
	if !strings.HasPrefix(codes.GetVerificationUrl(), publicURL) {
		t.Errorf("it sends people to %s", codes.GetVerificationUrl())
	}
	shown, err := b.devices.GetDeviceLogin(ctx, &accountv1.GetDeviceLoginRequest{UserCode: codes.GetUserCode()})
	must(t, err)
	if shown.GetName() != "chom on build-7" || shown.GetAddress() != "127.0.0.1" || shown.GetScope() != accountv1.Scope_SCOPE_MANAGE {
		t.Errorf("shown is %v", shown)
	}
	_, err = b.devices.ApproveDeviceLogin(ctx, &accountv1.ApproveDeviceLoginRequest{UserCode: codes.GetUserCode()})
	must(t, err)
	answer, err := terminal.PollDeviceLogin(ctx, &accountv1.PollDeviceLoginRequest{DeviceCode: codes.GetDeviceCode()})
	must(t, err)
	if caller, err := w.accounts.Tokens.Authenticate(ctx, answer.GetToken(), "127.0.0.1"); err != nil || caller.Email != "anna@example.com" {
		t.Errorf("the token is of %+v, %v", caller, err)
	}
}
