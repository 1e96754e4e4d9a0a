package account_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/account/accounttest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/password"
)

// login signs in with a password alone.
func login(t *testing.T, w *accounttest.World, email, secret string) account.SignedIn {
	t.Helper()
	result, err := w.Login(t.Context(), email, secret, accounttest.Browser, "")
	if err != nil {
		t.Fatal(err)
	}
	if result.SignedIn == nil {
		t.Fatal("a second factor is missing")
	}
	return *result.SignedIn
}

func TestLogin(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		w.SignUp(t, anna)

		opened := login(t, w, "Anna@EXAMPLE.com", accounttest.Password)
		caller := w.Caller(t, opened.Secret)
		if caller.Email != anna || caller.Scope != account.Manage || caller.Session == "" || caller.Token != "" {
			t.Errorf("signed in as %+v", caller)
		}
		if !caller.Fresh(time.Now()) || caller.Fresh(time.Now().Add(5*time.Minute)) {
			t.Errorf("fresh until %s", caller.FreshUntil)
		}
		wrong := map[string][2]string{"a wrong password": {anna, other}, "an unknown address": {"nobody@example.com", accounttest.Password}}
		texts := map[string]bool{}
		for name, try := range wrong {
			_, err := w.Login(ctx, try[0], try[1], accounttest.Browser, "")
			if !errors.Is(err, account.ErrCredentials) {
				t.Errorf("%s: %v", name, err)
			}
			texts[fmt.Sprint(err)] = true
		}
		if len(texts) != 1 {
			t.Errorf("the answers differ: %v", texts)
		}
		if n := count(t, d, `SELECT COUNT(*) FROM audit_events WHERE action = 'account.refuse'`); n != len(wrong) {
			t.Errorf("%d refusals are recorded", n)
		}

		t.Run("ends the session that the browser had", func(t *testing.T) {
			result, err := w.Login(ctx, anna, accounttest.Password, accounttest.Browser, caller.Session)
			if err != nil {
				t.Fatal(err)
			}
			if !w.Over(t, opened.Secret) || w.Over(t, result.SignedIn.Secret) {
				t.Error("the former session goes on, or the new one does not")
			}
		})
		t.Run("makes a hash anew whose parameters are yesterday's", func(t *testing.T) {
			hash, err := password.NewHasher(password.Parameters{MemoryKiB: 32, Passes: 1}).Hash(ctx, accounttest.Password)
			if err != nil {
				t.Fatal(err)
			}
			run(t, d, `UPDATE accounts SET password_hash = $1`, hash)
			login(t, w, anna, accounttest.Password)
			if n := count(t, d, `SELECT COUNT(*) FROM accounts WHERE password_hash LIKE '$argon2id$v=19$m=64,t=1,p=1$%'`); n != 1 {
				t.Error("the hash is the former one")
			}
			login(t, w, anna, accounttest.Password)
		})
		t.Run("lets nobody in without a password", func(t *testing.T) {
			run(t, d, `UPDATE accounts SET password_hash = NULL`)
			for _, secret := range []string{"", accounttest.Password} {
				if _, err := w.Login(ctx, anna, secret, accounttest.Browser, ""); !errors.Is(err, account.ErrCredentials) {
					t.Errorf("%q: %v", secret, err)
				}
			}
		})
	})
}

// TestGuessing is the account's half of case B01: of six tries within a minute the last is refused, even if it is right.
func TestGuessing(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		caller := w.Caller(t, w.SignUp(t, anna).Secret)
		code := enrol(t, w, caller)
		half := must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""))
		stranger := "nobody@example.com"
		for name, try := range map[string]func(right bool) error{
			"a password": func(right bool) error {
				_, err := w.Login(ctx, anna, map[bool]string{true: accounttest.Password, false: other}[right], accounttest.Browser, "")
				return err
			},
			"the password of an address that nobody has": func(bool) error {
				_, err := w.Login(ctx, stranger, other, accounttest.Browser, "")
				return err
			},
			"a code of a login": func(right bool) error {
				_, err := w.LoginWithCode(ctx, half.Token, map[bool]string{true: code(1), false: "000000"}[right], accounttest.Browser, "")
				return err
			},
			"a code of a step-up": func(right bool) error {
				_, err := w.StepUp(ctx, caller, account.Proof{Code: map[bool]string{true: code(1), false: "000000"}[right]})
				return err
			},
			"a reset":                   func(bool) error { return w.RequestPasswordReset(ctx, anna) },
			"a reset of nobody":         func(bool) error { return w.RequestPasswordReset(ctx, stranger) },
			"a code of a waiting login": func(bool) error { _, err := w.GetDeviceLogin(ctx, caller, "BCDF-GHJK"); return err },
		} {
			t.Run(name, func(t *testing.T) {
				w.Limits.Most(5)
				defer w.Limits.Most(0)
				for i := range 5 {
					if err := try(false); errors.Is(err, accounttest.ErrLimited) {
						t.Fatalf("try %d: %v", i+1, err)
					}
				}
				if err := try(true); !errors.Is(err, accounttest.ErrLimited) {
					t.Errorf("try 6: %v", err)
				}
			})
		}
	})
}

// TestTiming is the other half of case B01: how long an answer takes does not tell whether somebody is known.
func TestTiming(t *testing.T) {
	tries := map[string]int{"login": 1000, "sign-up": 200, "reset": 200} // guessing goes by way of the login
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		w.SignUp(t, anna)
		for name, try := range map[string]func(email string) error{
			"login": func(email string) error {
				_, err := w.Login(ctx, email, other, accounttest.Browser, "")
				if errors.Is(err, account.ErrCredentials) {
					return nil
				}
				return fmt.Errorf("a wrong password: %w", err)
			},
			"sign-up": func(email string) error { return w.Accounts.SignUp(ctx, email, other) },
			"reset":   func(email string) error { return w.RequestPasswordReset(ctx, email) },
		} {
			took := map[bool][]time.Duration{}
			for i := range tries[name] {
				known := i%2 == 0
				email := map[bool]string{true: anna, false: "nobody@example.com"}[known]
				began := time.Now()
				if err := try(email); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				took[known] = append(took[known], time.Since(began))
			}
			difference := (median(took[true]) - median(took[false])).Abs()
			t.Logf("%s: known %s, unknown %s", name, median(took[true]), median(took[false]))
			if difference >= 5*time.Millisecond {
				t.Errorf("%s: the medians differ by %s", name, difference)
			}
		}
	})
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// TestHalfSession is case B03: what a right password alone opens is no session.
func TestHalfSession(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		caller := w.Caller(t, w.SignUp(t, anna).Secret)
		code := enrol(t, w, caller)
		half, err := w.Login(ctx, anna, accounttest.Password, accounttest.Browser, "")
		if err != nil {
			t.Fatal(err)
		}
		if half.SignedIn != nil || !half.Factors.TOTP || !strings.HasPrefix(half.Token, "chomlogin_") {
			t.Fatalf("got %+v", half)
		}
		if !w.Over(t, half.Token) {
			t.Error("the login's token is a session")
		}
		if _, err := w.Tokens.Authenticate(ctx, half.Token, "192.0.2.7"); fault.KindOf(err) != fault.KindUnauthenticated {
			t.Errorf("the login's token is an API token: %v", err)
		}
		for name, token := range map[string]string{"nothing": "", "a guess": "chomlogin_" + strings.Repeat("0", 49), "a session": w.SignUp(t, "b@example.com").Secret} {
			if _, err := w.LoginWithCode(ctx, token, code(1), accounttest.Browser, ""); !errors.Is(err, account.ErrLogin) {
				t.Errorf("%s completes a login: %v", name, err)
			}
		}
		if _, err := w.LoginWithCode(ctx, half.Token, "000000", accounttest.Browser, ""); !errors.Is(err, account.ErrCode) {
			t.Errorf("a wrong code: %v", err)
		}
		opened, err := w.LoginWithCode(ctx, half.Token, code(1), accounttest.Browser, "")
		if err != nil {
			t.Fatal(err)
		}
		if caller := w.Caller(t, opened.Secret); !caller.SecondFactor || caller.Email != anna {
			t.Errorf("signed in as %+v", caller)
		}
		if _, err := w.LoginWithCode(ctx, half.Token, code(1), accounttest.Browser, ""); !errors.Is(err, account.ErrLogin) {
			t.Errorf("a second time: %v", err)
		}

		t.Run("is over after 10 minutes", func(t *testing.T) {
			half := must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""))
			run(t, d, `UPDATE logins SET expires_at = 1`)
			if _, err := w.LoginWithCode(ctx, half.Token, code(1), accounttest.Browser, ""); !errors.Is(err, account.ErrLogin) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("is over when the password is reset", func(t *testing.T) {
			half := must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""))
			if err := w.RequestPasswordReset(ctx, anna); err != nil {
				t.Fatal(err)
			}
			if err := w.ResetPassword(ctx, w.Mails.Secret(t, anna, "reset_password"), other, accounttest.Browser); err != nil {
				t.Fatal(err)
			}
			if _, err := w.LoginWithCode(ctx, half.Token, code(1), accounttest.Browser, ""); !errors.Is(err, account.ErrLogin) {
				t.Errorf("got %v", err)
			}
		})
	})
}
