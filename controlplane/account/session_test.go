package account_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/account/accounttest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

func TestSessions(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		first, second := w.SignUp(t, anna), login(t, w, anna, accounttest.Password)
		stranger := w.SignUp(t, "b@example.com")
		caller := w.Caller(t, second.Secret)

		t.Run("are listed, the one used last first", func(t *testing.T) {
			time.Sleep(time.Millisecond)
			w.Caller(t, first.Secret)
			if err := w.WriteUsed(ctx); err != nil {
				t.Fatal(err)
			}
			all := must[[]account.Session](t)(w.ListSessions(ctx, caller.ID))
			if len(all) != 2 || all[0].ID == caller.Session || all[1].ID != caller.Session {
				t.Fatalf("got %+v", all)
			}
			if s := all[0]; s.Address != accounttest.Browser.Address || s.UserAgent != accounttest.Browser.UserAgent || !s.UsedAt.After(s.CreatedAt) || s.ExpiresAt.Sub(s.CreatedAt) != 14*24*time.Hour {
				t.Errorf("got %+v", s)
			}
		})
		t.Run("are nobody else's to end", func(t *testing.T) {
			if err := w.RevokeSession(ctx, w.Caller(t, stranger.Secret), caller.Session); !errors.Is(err, account.ErrNoSession) {
				t.Errorf("got %v", err)
			}
			if w.Over(t, second.Secret) {
				t.Error("it ended")
			}
		})
		t.Run("end when they are revoked", func(t *testing.T) {
			if err := w.RevokeSession(ctx, caller, w.Caller(t, first.Secret).Session); err != nil || !w.Over(t, first.Secret) {
				t.Errorf("it goes on: %v", err)
			}
			third := login(t, w, anna, accounttest.Password)
			if n, err := w.RevokeOtherSessions(ctx, caller); err != nil || n != 1 || !w.Over(t, third.Secret) || w.Over(t, second.Secret) || w.Over(t, stranger.Secret) {
				t.Errorf("%d ended, %v", n, err)
			}
		})
		t.Run("end by logout", func(t *testing.T) {
			opened := login(t, w, anna, accounttest.Password)
			caller := w.Caller(t, opened.Secret)
			if err := w.Logout(ctx, caller); err != nil || !w.Over(t, opened.Secret) {
				t.Errorf("it goes on: %v", err)
			}
			if err := w.Logout(ctx, caller); err == nil {
				t.Error("a second time worked")
			}
		})
		t.Run("end after a day unused, however young", func(t *testing.T) {
			opened := login(t, w, anna, accounttest.Password)
			run(t, d, `UPDATE sessions SET used_at = $1 WHERE id = $2`, db.Micros(time.Now().Add(-23*time.Hour)), w.Caller(t, opened.Secret).Session)
			if w.Over(t, opened.Secret) {
				t.Error("it is over after 23 hours")
			}
			session := w.Caller(t, opened.Secret).Session
			if err := w.WriteUsed(ctx); err != nil {
				t.Fatal(err)
			}
			if n := count(t, d, `SELECT COUNT(*) FROM sessions WHERE id = $1 AND used_at > $2`, session, db.Micros(time.Now().Add(-time.Minute))); n != 1 {
				t.Error("the use was not written down")
			}
			run(t, d, `UPDATE sessions SET used_at = $1 WHERE id = $2`, db.Micros(time.Now().Add(-24*time.Hour)), session)
			if !w.Over(t, opened.Secret) {
				t.Error("it goes on")
			}
		})
		t.Run("end after 14 days, however busy", func(t *testing.T) {
			opened := login(t, w, anna, accounttest.Password)
			run(t, d, `UPDATE sessions SET expires_at = $1 WHERE id = $2`, db.Micros(time.Now()), w.Caller(t, opened.Secret).Session)
			if !w.Over(t, opened.Secret) {
				t.Error("it goes on")
			}
		})
		t.Run("are at most 50, and the one unused for longest makes room", func(t *testing.T) {
			first := login(t, w, anna, accounttest.Password)
			run(t, d, `UPDATE sessions SET used_at = used_at - 1000000 WHERE id = $1`, w.Caller(t, first.Secret).Session)
			var last account.SignedIn
			for range 50 {
				last = login(t, w, anna, accounttest.Password)
			}
			if n := count(t, d, `SELECT COUNT(*) FROM sessions WHERE account_id = $1`, caller.ID); n != 50 || !w.Over(t, first.Secret) || w.Over(t, last.Secret) {
				t.Errorf("there are %d", n)
			}
		})
		t.Run("are not what a guess, another secret or a piece of one finds", func(t *testing.T) {
			for name, secret := range map[string]string{
				"nothing": "", "a guess": "chomses_" + strings.Repeat("0", 49), "an API token": "chomop_" + strings.Repeat("A", 43),
				"a piece": stranger.Secret[:len(stranger.Secret)-1], "more behind": stranger.Secret + "0", "a device": stranger.Device,
			} {
				if !w.Over(t, secret) {
					t.Errorf("%s is a session", name)
				}
			}
		})
	})
}

// TestRotation is case B06, for the noun: what a session allows grows only together with its secret.
func TestRotation(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		secret := w.SignUp(t, anna).Secret
		beside := func() string { return login(t, w, anna, accounttest.Password).Secret }
		t.Run("a step-up", func(t *testing.T) {
			run(t, d, `UPDATE sessions SET fresh_until = 0`)
			caller := w.Caller(t, secret)
			if caller.Fresh(time.Now()) {
				t.Fatal("it is fresh")
			}
			if _, err := w.StepUp(ctx, caller, account.Proof{Password: other}); field(err) != "password" {
				t.Errorf("a wrong password: %v", err)
			}
			renewed, err := w.StepUp(ctx, caller, account.Proof{Password: accounttest.Password})
			if err != nil {
				t.Fatal(err)
			}
			if !w.Over(t, secret) {
				t.Error("the former secret works")
			}
			after := w.Caller(t, renewed.Secret)
			if after.Session != caller.Session || !after.Fresh(time.Now().Add(4*time.Minute)) || after.Fresh(time.Now().Add(5*time.Minute)) {
				t.Errorf("got %+v", after)
			}
			secret = renewed.Secret
		})
		t.Run("a change of the password", func(t *testing.T) {
			another := beside()
			if err := w.RequestPasswordReset(ctx, anna); err != nil {
				t.Fatal(err)
			}
			caller := w.Caller(t, secret)
			for _, weak := range []string{"short", "qwertyuiop", anna} {
				if _, err := w.ChangePassword(ctx, caller, weak); field(err) != "password" {
					t.Errorf("%q: %v", weak, err)
				}
			}
			renewed, err := w.ChangePassword(ctx, caller, other)
			if err != nil {
				t.Fatal(err)
			}
			if !w.Over(t, secret) || !w.Over(t, another) || w.Over(t, renewed.Secret) {
				t.Error("a session from before goes on, or this one does not")
			}
			if _, err := w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""); !errors.Is(err, account.ErrCredentials) {
				t.Errorf("the former password: %v", err)
			}
			if err := w.ResetPassword(ctx, w.Mails.Secret(t, anna, "reset_password"), accounttest.Password, accounttest.Browser); !errors.Is(err, account.ErrLink) {
				t.Errorf("a link from before: %v", err)
			}
			if n := len(w.Mails.To(anna, "password_changed")); n != 1 {
				t.Errorf("%d mails", n)
			}
			login(t, w, anna, other)
			secret = renewed.Secret
		})
		t.Run("a session that ended meanwhile does not come back", func(t *testing.T) {
			caller := w.Caller(t, secret)
			if err := w.Logout(ctx, caller); err != nil {
				t.Fatal(err)
			}
			if _, err := w.StepUp(ctx, caller, account.Proof{Password: other}); err == nil {
				t.Error("a step-up worked")
			}
			if _, err := w.ChangePassword(ctx, caller, accounttest.Password); err == nil {
				t.Error("a change of the password worked")
			}
			login(t, w, anna, other)
		})
		t.Run("somebody with a second factor does not step up by the password", func(t *testing.T) {
			caller := w.Caller(t, login(t, w, anna, other).Secret)
			enrol(t, w, caller)
			if _, err := w.StepUp(ctx, caller, account.Proof{Password: other}); field(err) != "code" {
				t.Errorf("got %v", err)
			}
		})
	})
}

// TestNewDevice is about the mail that tells of a login in a browser that was not seen before.
func TestNewDevice(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		first := w.SignUp(t, anna)
		if n := len(w.Mails.To(anna, "new_device")); n != 0 || first.Device == "" {
			t.Errorf("%d mails about the first one", n)
		}
		known := accounttest.Browser
		known.Device = first.Device
		if again := must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, known, "")); again.SignedIn.Device != "" || len(w.Mails.To(anna, "new_device")) != 0 {
			t.Error("a known one is news")
		}
		strange := account.Client{Address: "198.51.100.9", UserAgent: "Other/2.0", Device: "chomdev_" + strings.Repeat("0", 49)}
		if result := must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, strange, "")); result.SignedIn.Device == "" {
			t.Error("a guess is a known one")
		}
		mails := w.Mails.To(anna, "new_device")
		if len(mails) != 1 || mails[0].Values["address"] != "198.51.100.9" || mails[0].Values["device"] != "Other/2.0" {
			t.Errorf("got %+v", mails)
		}
		// The browser of one person, in which another one signs in.
		w.SignUp(t, "b@example.com")
		if result := must[account.Login](t)(w.Login(ctx, "b@example.com", accounttest.Password, known, "")); result.SignedIn.Device != "" || len(w.Mails.To("b@example.com", "new_device")) != 1 {
			t.Error("it has another secret for each, or is no news to the other")
		}
		for range 25 {
			must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""))
		}
		if n := count(t, d, `SELECT COUNT(*) FROM known_devices WHERE account_id = $1`, first.ID); n != 20 {
			t.Errorf("%d are remembered", n)
		}
	})
}

// TestStrangersText is case B12: a user agent or an address is one opaque value, whatever is in it.
func TestStrangersText(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		w.SignUp(t, anna)
		for text, want := range map[string]string{
			"a\r\nuser=root":               "auser=root",
			"a\x00b":                       "ab",
			`{"operator":true}`:            `{"operator":true}`,
			"a\u2028b\u202ec":              "abc",
			"a\xff\xfeb":                   "ab",
			strings.Repeat("é", 200):       strings.Repeat("é", 128),
			strings.Repeat("a", 255) + "é": strings.Repeat("a", 255),
			"'; DROP TABLE sessions; --":   "'; DROP TABLE sessions; --",
		} {
			result := must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, account.Client{Address: text, UserAgent: text}, ""))
			caller := w.Caller(t, result.SignedIn.Secret)
			if caller.Operator {
				t.Error("an operator")
			}
			for _, s := range must[[]account.Session](t)(w.ListSessions(ctx, caller.ID)) {
				if s.ID == caller.Session && (s.UserAgent != want || s.Address != want) {
					t.Errorf("%q became %q and %q", text, s.UserAgent, s.Address)
				}
			}
		}
	})
}

func TestRun(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		caller := w.Caller(t, w.SignUp(t, anna).Secret)
		enrol(t, w, caller)
		fill := func() {
			must[account.TOTPSetup](t)(w.BeginTOTP(ctx, caller))
			must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""))
			must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, ""))
			must[account.DeviceCodes](t)(w.BeginDeviceLogin(ctx, "chom", account.Manage, accounttest.Browser))
			for _, err := range []error{
				w.Accounts.SignUp(ctx, "b@example.com", other), w.RequestPasswordReset(ctx, anna), w.RequestEmailChange(ctx, caller, "c@example.com"),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		fill()
		tables := []string{"sign_ups", "password_resets", "email_changes", "logins", "sessions", "known_devices", "passkey_challenges", "device_logins"}
		for _, stay := range []bool{true, false} {
			now := time.Now()
			if !stay {
				now = now.Add(401 * 24 * time.Hour)
			}
			if err := w.Sweep(ctx, now); err != nil {
				t.Fatal(err)
			}
			for _, table := range tables {
				if n := count(t, d, `SELECT COUNT(*) FROM `+table); (n > 0) != stay {
					t.Errorf("%d rows in %s at %s", n, table, now)
				}
			}
		}
		if n := count(t, d, `SELECT COUNT(*) FROM totps WHERE confirmed_at IS NOT NULL`); n != 1 {
			t.Errorf("%d authenticator apps are left", n)
		}
		done, cancel := context.WithCancel(ctx)
		cancel()
		if err := w.Run(done); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}
