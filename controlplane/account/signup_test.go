package account_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/account/accounttest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

const (
	anna  = "anna@example.com"
	other = "another sentence to keep in mind"
)

// run changes the database behind the back of what is tested.
func run(t *testing.T, d *db.DB, statement string, args ...any) {
	t.Helper()
	if err := db.InTx(t.Context(), d, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), statement, args...); return err }); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, d *db.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := d.Reader().QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// field is that of a fault.Invalid.
func field(err error) string {
	f, ok := fault.Of(err)
	if !ok || f.Kind() != fault.KindInvalid {
		return ""
	}
	return f.Field()
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func TestSignUp(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		if err := w.Accounts.SignUp(ctx, "Anna@Example.com", accounttest.Password); err != nil {
			t.Fatal(err)
		}
		if n := count(t, d, `SELECT COUNT(*) FROM accounts`); n != 0 {
			t.Errorf("there are %d accounts before the address was confirmed", n)
		}
		if _, err := w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""); !errors.Is(err, account.ErrCredentials) {
			t.Errorf("before the address was confirmed, a login says %v", err)
		}
		if link := w.Mails.To(anna, "verify_email")[0].Values["link"]; !strings.HasPrefix(link, accounttest.URL+"/verify-email#chomverify_") {
			t.Errorf("the link is %s", link)
		}
		secret := w.Mails.Secret(t, anna, "verify_email")
		if _, err := w.VerifyEmail(ctx, secret, other, accounttest.Browser, ""); field(err) != "password" {
			t.Errorf("with another password: %v", err)
		}
		opened, err := w.VerifyEmail(ctx, secret, accounttest.Password, accounttest.Browser, "")
		if err != nil {
			t.Fatal(err)
		}
		if caller := w.Caller(t, opened.Secret); caller.Email != anna || caller.Operator || caller.SecondFactor {
			t.Errorf("signed in as %+v", caller)
		}
		if _, err := w.VerifyEmail(ctx, secret, accounttest.Password, accounttest.Browser, ""); !errors.Is(err, account.ErrLink) {
			t.Errorf("a second time: %v", err)
		}

		t.Run("answers the same where there is an account, and tells its owner", func(t *testing.T) {
			if err := w.Accounts.SignUp(ctx, anna, other); err != nil {
				t.Error(err)
			}
			if n := len(w.Mails.To(anna, "verify_email")); n != 1 {
				t.Errorf("%d mails to verify", n)
			}
			if n := len(w.Mails.To(anna, "sign_up_exists")); n != 1 {
				t.Errorf("%d mails that say so", n)
			}
			if _, err := w.Login(ctx, anna, other, accounttest.Browser, ""); !errors.Is(err, account.ErrCredentials) {
				t.Errorf("the other password: %v", err)
			}
		})
		t.Run("gives who used the address of somebody else nothing", func(t *testing.T) {
			const victim = "victim@example.com"
			for range 2 { // the attacker before, and the victim
				must[any](t)(nil, w.Accounts.SignUp(ctx, victim, map[bool]string{true: other, false: accounttest.Password}[len(w.Mails.To(victim, "verify_email")) == 0]))
			}
			mails := w.Mails.To(victim, "verify_email")
			_, attackers, _ := strings.Cut(mails[0].Values["link"], "#")
			_, own, _ := strings.Cut(mails[1].Values["link"], "#")
			if _, err := w.VerifyEmail(ctx, attackers, accounttest.Password, accounttest.Browser, ""); field(err) != "password" {
				t.Errorf("the victim clicks the attacker's link: %v", err)
			}
			if _, err := w.VerifyEmail(ctx, own, accounttest.Password, accounttest.Browser, ""); err != nil {
				t.Errorf("the victim clicks their own: %v", err)
			}
			if _, err := w.VerifyEmail(ctx, attackers, other, accounttest.Browser, ""); !errors.Is(err, account.ErrLink) {
				t.Errorf("the attacker's link works after that: %v", err)
			}
			if _, err := w.Login(ctx, victim, other, accounttest.Browser, ""); !errors.Is(err, account.ErrCredentials) {
				t.Errorf("the attacker's password: %v", err)
			}
		})
		t.Run("gives an account that others named to its person", func(t *testing.T) {
			email, _ := contract.ParseEmail("named@example.com")
			var id string
			if err := db.InTx(ctx, d, func(tx *db.Tx) (err error) { id, err = account.Ensure(ctx, tx, email); return err }); err != nil {
				t.Fatal(err)
			}
			if opened := w.SignUp(t, email.String()); opened.ID != id {
				t.Errorf("signed in as %s, want %s", opened.ID, id)
			}
		})
		t.Run("makes one account of many clicks at once", func(t *testing.T) {
			const email = "fast@example.com"
			if err := w.Accounts.SignUp(ctx, email, accounttest.Password); err != nil {
				t.Fatal(err)
			}
			secret := w.Mails.Secret(t, email, "verify_email")
			var wg sync.WaitGroup
			results := make(chan error, 10)
			for range 10 {
				wg.Go(func() {
					_, err := w.VerifyEmail(ctx, secret, accounttest.Password, accounttest.Browser, "")
					results <- err
				})
			}
			wg.Wait()
			won := 0
			for range 10 {
				if err := <-results; err == nil {
					won++
				} else if !errors.Is(err, account.ErrLink) && fault.KindOf(err) != fault.KindUnavailable {
					t.Error(err)
				}
			}
			if won != 1 {
				t.Errorf("%d clicks signed in", won)
			}
		})
		t.Run("refuses a link that is over", func(t *testing.T) {
			const email = "slow@example.com"
			if err := w.Accounts.SignUp(ctx, email, accounttest.Password); err != nil {
				t.Fatal(err)
			}
			run(t, d, `UPDATE sign_ups SET expires_at = 1 WHERE email = $1`, email)
			if _, err := w.VerifyEmail(ctx, w.Mails.Secret(t, email, "verify_email"), accounttest.Password, accounttest.Browser, ""); !errors.Is(err, account.ErrLink) {
				t.Errorf("got %v", err)
			}
		})
		for name, test := range map[string]struct{ email, password, field string }{
			"no address":          {"anna", accounttest.Password, "email"},
			"CRLF in the address": {"anna@example.com\r\nBcc: x@example.com", accounttest.Password, "email"},
			"a common password":   {"b@example.com", "qwertyuiop", "password"},
			"the address":         {"bernadette@example.com", "bernadette@example.com", "password"},
		} {
			t.Run("refuses "+name, func(t *testing.T) {
				if err := w.Accounts.SignUp(ctx, test.email, test.password); field(err) != test.field {
					t.Errorf("got %v", err)
				}
			})
		}
	})
}

// TestInvited closes the sign-up.
func TestInvited(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d, func(c *account.Config) {
			c.Invited = func(_ context.Context, _ *db.Tx, email string) (bool, error) {
				return email == "guest@example.com", nil
			}
		})
		named, _ := contract.ParseEmail("named@example.com")
		if err := db.InTx(ctx, d, func(tx *db.Tx) error { _, err := account.Ensure(ctx, tx, named); return err }); err != nil {
			t.Fatal(err)
		}
		for email, mails := range map[string]int{"guest@example.com": 1, "named@example.com": 1, "stranger@example.com": 0} {
			if err := w.Accounts.SignUp(ctx, email, accounttest.Password); err != nil {
				t.Errorf("%s: %v", email, err)
			}
			if n := len(w.Mails.To(email, "verify_email")); n != mails {
				t.Errorf("%d mails to %s, want %d", n, email, mails)
			}
		}
	})
}
