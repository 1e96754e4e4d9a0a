package account_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/account/accounttest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// TestReset is case B09.
func TestReset(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		sessions := []string{w.SignUp(t, anna).Secret, login(t, w, anna, accounttest.Password).Secret}
		bystander := w.SignUp(t, "b@example.com")
		ask := func(t *testing.T, email string) string {
			t.Helper()
			if err := w.RequestPasswordReset(ctx, email); err != nil {
				t.Fatal(err)
			}
			return w.Mails.Secret(t, email, "reset_password")
		}
		if err := w.RequestPasswordReset(ctx, "nobody@example.com"); err != nil || len(w.Mails.To("nobody@example.com", "reset_password")) != 0 {
			t.Errorf("an address that nobody has: %v", err)
		}
		secret := ask(t, anna)
		if link := w.Mails.To(anna, "reset_password")[0].Values["link"]; link != accounttest.URL+"/reset-password#"+secret {
			t.Errorf("the link is %s", link)
		}
		if err := w.ResetPassword(ctx, secret, "qwertyuiop", accounttest.Browser); field(err) != "password" {
			t.Errorf("a common password: %v", err)
		}
		if err := w.ResetPassword(ctx, secret, other, accounttest.Browser); err != nil {
			t.Fatal(err)
		}
		for _, session := range sessions {
			if !w.Over(t, session) {
				t.Error("a session goes on")
			}
		}
		if w.Over(t, bystander.Secret) {
			t.Error("somebody else's session ended")
		}
		if _, err := w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""); !errors.Is(err, account.ErrCredentials) {
			t.Errorf("the former password: %v", err)
		}
		login(t, w, anna, other)
		login(t, w, "b@example.com", accounttest.Password)
		if n := len(w.Mails.To(anna, "password_changed")); n != 1 {
			t.Errorf("%d mails say so", n)
		}
		if err := w.ResetPassword(ctx, secret, accounttest.Password, accounttest.Browser); !errors.Is(err, account.ErrLink) {
			t.Errorf("a second time: %v", err)
		}

		t.Run("works once, from however many browsers", func(t *testing.T) {
			secret := ask(t, anna)
			var wg sync.WaitGroup
			results := make(chan error, 8)
			for range 8 {
				wg.Go(func() { results <- w.ResetPassword(ctx, secret, other, accounttest.Browser) })
			}
			wg.Wait()
			won := 0
			for range 8 {
				if err := <-results; err == nil {
					won++
				} else if !errors.Is(err, account.ErrLink) && fault.KindOf(err) != fault.KindUnavailable {
					t.Error(err)
				}
			}
			if won != 1 {
				t.Errorf("%d resets", won)
			}
		})
		t.Run("works for 30 minutes", func(t *testing.T) {
			secret := ask(t, anna)
			var left int64
			if err := d.Reader().QueryRow(ctx, `SELECT MAX(expires_at) - $1 FROM password_resets`, db.Micros(time.Now())).Scan(&left); err != nil || left > 30*60e6 || left < 29*60e6 {
				t.Errorf("it is valid for %d s, %v", left/1e6, err)
			}
			run(t, d, `UPDATE password_resets SET expires_at = 1`)
			if err := w.ResetPassword(ctx, secret, other, accounttest.Browser); !errors.Is(err, account.ErrLink) {
				t.Errorf("after that: %v", err)
			}
		})
		t.Run("does not work after the address has changed", func(t *testing.T) {
			secret := ask(t, anna)
			caller := w.Caller(t, login(t, w, anna, other).Secret)
			if err := w.RequestEmailChange(ctx, caller, "anna@new.example.com"); err != nil {
				t.Fatal(err)
			}
			if err := w.ConfirmEmailChange(ctx, w.Mails.Secret(t, "anna@new.example.com", "confirm_email_change"), accounttest.Browser); err != nil {
				t.Fatal(err)
			}
			if err := w.ResetPassword(ctx, secret, accounttest.Password, accounttest.Browser); !errors.Is(err, account.ErrLink) {
				t.Errorf("got %v", err)
			}
			login(t, w, "anna@new.example.com", other)
		})
		t.Run("is not opened by the secret of another link", func(t *testing.T) {
			if err := w.Accounts.SignUp(ctx, "c@example.com", other); err != nil {
				t.Fatal(err)
			}
			verify := w.Mails.Secret(t, "c@example.com", "verify_email")
			for name, secret := range map[string]string{
				"nothing": "", "a guess": "chomreset_" + strings.Repeat("0", 49), "a sign-up": verify, "a sign-up under another prefix": "chomreset_" + strings.TrimPrefix(verify, "chomverify_"),
			} {
				if err := w.ResetPassword(ctx, secret, other, accounttest.Browser); !errors.Is(err, account.ErrLink) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		t.Run("does not do without the second factor", func(t *testing.T) {
			const email = "d@example.com"
			enrol(t, w, w.Caller(t, w.SignUp(t, email).Secret))
			if err := w.ResetPassword(ctx, ask(t, email), other, accounttest.Browser); err != nil {
				t.Fatal(err)
			}
			if result := must[account.Login](t)(w.Login(ctx, email, other, accounttest.Browser, "")); result.SignedIn != nil {
				t.Error("the password alone signs in")
			}
		})
		t.Run("gives an account that others named its first password", func(t *testing.T) {
			named, _ := contract.ParseEmail("named@example.com")
			if err := db.InTx(ctx, d, func(tx *db.Tx) error { _, err := account.Ensure(ctx, tx, named); return err }); err != nil {
				t.Fatal(err)
			}
			if err := w.ResetPassword(ctx, ask(t, named.String()), other, accounttest.Browser); err != nil {
				t.Fatal(err)
			}
			login(t, w, named.String(), other)
		})
	})
}

func TestEmailChange(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		const fresh = "anna@new.example.com"
		opened := w.SignUp(t, anna)
		caller := w.Caller(t, opened.Secret)
		w.SignUp(t, "b@example.com")
		for name, email := range map[string]string{"no address": "x", "the same": "Anna@example.com"} {
			if err := w.RequestEmailChange(ctx, caller, email); field(err) != "email" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := w.RequestEmailChange(ctx, caller, "b@example.com"); err != nil || len(w.Mails.To("b@example.com", "confirm_email_change")) != 0 {
			t.Errorf("to somebody else's: %v", err)
		}
		if err := w.RequestEmailChange(ctx, caller, fresh); err != nil {
			t.Fatal(err)
		}
		former := w.Mails.Secret(t, fresh, "confirm_email_change")
		if err := w.RequestEmailChange(ctx, caller, "Anna@New.example.com"); err != nil {
			t.Fatal(err)
		}
		secret := w.Mails.Secret(t, fresh, "confirm_email_change")
		if caller := w.Caller(t, opened.Secret); caller.Email != anna {
			t.Errorf("it has changed before it was confirmed: %s", caller.Email)
		}
		if err := w.ConfirmEmailChange(ctx, former, accounttest.Browser); !errors.Is(err, account.ErrLink) {
			t.Errorf("a former link: %v", err)
		}
		if err := w.ConfirmEmailChange(ctx, secret, accounttest.Browser); err != nil {
			t.Fatal(err)
		}
		if caller := w.Caller(t, opened.Secret); caller.Email != fresh {
			t.Errorf("it has not changed: %s", caller.Email)
		}
		if mails := w.Mails.To(anna, "email_changed"); len(mails) != 1 || mails[0].Values["email"] != fresh || mails[0].Values["address"] != accounttest.Browser.Address {
			t.Errorf("the former address was told %+v", mails)
		}
		if err := w.ConfirmEmailChange(ctx, secret, accounttest.Browser); !errors.Is(err, account.ErrLink) {
			t.Errorf("a second time: %v", err)
		}

		t.Run("an address that somebody else took meanwhile stays theirs", func(t *testing.T) {
			caller := w.Caller(t, opened.Secret)
			if err := w.RequestEmailChange(ctx, caller, "c@example.com"); err != nil {
				t.Fatal(err)
			}
			theirs := w.SignUp(t, "c@example.com")
			if err := w.ConfirmEmailChange(ctx, w.Mails.Secret(t, "c@example.com", "confirm_email_change"), accounttest.Browser); !errors.Is(err, account.ErrLink) {
				t.Errorf("got %v", err)
			}
			if w.Caller(t, theirs.Secret).Email != "c@example.com" || w.Caller(t, opened.Secret).Email != fresh {
				t.Error("an address moved")
			}
		})
		t.Run("of two who want one address, one gets it", func(t *testing.T) {
			var secrets []string
			for _, caller := range []account.Caller{w.Caller(t, opened.Secret), w.Caller(t, w.SignUp(t, "d@example.com").Secret)} {
				if err := w.RequestEmailChange(ctx, caller, "e@example.com"); err != nil {
					t.Fatal(err)
				}
				secrets = append(secrets, w.Mails.Secret(t, "e@example.com", "confirm_email_change"))
			}
			var wg sync.WaitGroup
			results := make(chan error, 2)
			for _, secret := range secrets {
				wg.Go(func() { results <- w.ConfirmEmailChange(ctx, secret, accounttest.Browser) })
			}
			wg.Wait()
			if a, b := <-results, <-results; (a == nil) == (b == nil) {
				t.Errorf("got %v and %v", a, b)
			}
		})
	})
}
