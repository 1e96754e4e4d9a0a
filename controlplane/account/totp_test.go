package account_test

import (
	"bytes"
	"errors"
	"image/png"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/account/accounttest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
)

// enrol gives somebody an authenticator app, none of whose codes was used yet, and returns what makes them: that of now is 0,
// the next one 1.
func enrol(t *testing.T, w *accounttest.World, caller account.Caller) (code func(step int) string) {
	t.Helper()
	setup, err := w.BeginTOTP(t.Context(), caller)
	if err != nil {
		t.Fatal(err)
	}
	code = codes(t, setup.Seed)
	if _, _, err := w.ConfirmTOTP(t.Context(), caller, code(0)); err != nil {
		t.Fatal(err)
	}
	run(t, w.DB, `UPDATE totps SET last_step = 0 WHERE account_id = $1`, caller.ID)
	return code
}

// codes makes codes by the library, as an app would.
func codes(t *testing.T, seed string) func(step int) string {
	return func(step int) string {
		code, err := totp.GenerateCode(seed, time.Now().Add(time.Duration(step)*30*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
}

// early waits for the next step where this one ends within 10 seconds, so that a test whose codes depend on it is over before.
func early() {
	if gone := time.Now().Unix() % 30; gone > 20 {
		time.Sleep(time.Duration(30-gone) * time.Second)
	}
}

func TestTOTP(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		first, second := w.SignUp(t, anna), login(t, w, anna, accounttest.Password)
		caller := w.Caller(t, first.Secret)
		if _, _, err := w.ConfirmTOTP(ctx, caller, "123456"); !errors.Is(err, account.ErrNoTOTP) {
			t.Errorf("nothing to confirm: %v", err)
		}
		setup, err := w.BeginTOTP(ctx, caller)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(setup.URL)
		if err != nil || u.Scheme != "otpauth" || u.Query().Get("secret") != setup.Seed || u.Path != "/chom.example.com:"+anna {
			t.Errorf("the URL is %s", setup.URL)
		}
		if picture, err := png.Decode(bytes.NewReader(setup.QR)); err != nil || picture.Bounds().Dx() != 320 {
			t.Errorf("the picture: %v", err)
		}
		if have := must[account.Factors](t)(w.FactorsOf(ctx, caller.ID)); have.Any() {
			t.Errorf("before it is confirmed there is %+v", have)
		}
		code := codes(t, setup.Seed)
		if _, _, err := w.ConfirmTOTP(ctx, caller, "000000"); !errors.Is(err, account.ErrCode) {
			t.Errorf("a wrong code: %v", err)
		}
		confirmed := code(0)
		renewed, recovery, err := w.ConfirmTOTP(ctx, caller, confirmed)
		if err != nil {
			t.Fatal(err)
		}
		if len(recovery) != 10 {
			t.Errorf("%d recovery codes", len(recovery))
		}
		if !w.Over(t, first.Secret) || !w.Over(t, second.Secret) {
			t.Error("a secret from before works")
		}
		caller = w.Caller(t, renewed.Secret)
		if !caller.SecondFactor {
			t.Error("the session does not know of the second factor")
		}
		if n := len(w.Mails.To(anna, "second_factor_changed")); n != 1 {
			t.Errorf("%d mails", n)
		}

		t.Run("a code that confirmed it proves nothing more", func(t *testing.T) {
			if _, err := w.StepUp(ctx, caller, account.Proof{Code: confirmed}); !errors.Is(err, account.ErrCode) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("another one replaces it, and not before it is confirmed", func(t *testing.T) {
			setup := must[account.TOTPSetup](t)(w.BeginTOTP(ctx, caller))
			next := codes(t, setup.Seed)
			if _, err := w.StepUp(ctx, caller, account.Proof{Code: next(0)}); !errors.Is(err, account.ErrCode) {
				t.Errorf("the new one counts already: %v", err)
			}
			renewed, recovery, err := w.ConfirmTOTP(ctx, caller, next(0))
			if err != nil || recovery != nil {
				t.Fatalf("%v, recovery codes %v", err, recovery)
			}
			caller = w.Caller(t, renewed.Secret)
			if _, err := w.StepUp(ctx, caller, account.Proof{Code: code(1)}); !errors.Is(err, account.ErrCode) {
				t.Errorf("the former one counts still: %v", err)
			}
			renewed, err = w.StepUp(ctx, caller, account.Proof{Code: next(1)})
			if err != nil {
				t.Fatal(err)
			}
			caller = w.Caller(t, renewed.Secret)
		})
		t.Run("without it the session has no second factor, and the recovery codes are gone", func(t *testing.T) {
			renewed, err := w.RemoveTOTP(ctx, caller)
			if err != nil {
				t.Fatal(err)
			}
			if w.Caller(t, renewed.Secret).SecondFactor {
				t.Error("the session has one still")
			}
			if have := must[account.Factors](t)(w.FactorsOf(ctx, caller.ID)); have != (account.Factors{}) {
				t.Errorf("there is %+v", have)
			}
			if _, err := w.RemoveTOTP(ctx, w.Caller(t, renewed.Secret)); !errors.Is(err, account.ErrNoTOTP) {
				t.Errorf("a second time: %v", err)
			}
			if opened := login(t, w, anna, accounttest.Password); w.Caller(t, opened.Secret).SecondFactor {
				t.Error("a login with the password alone has a second factor")
			}
		})
	})
}

// TestReplay is case B02: a code works once, one after the other and in parallel, in each step of the window.
func TestReplay(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		caller := w.Caller(t, w.SignUp(t, anna).Secret)
		code := enrol(t, w, caller)
		half := func() string {
			return must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, accounttest.Browser, "")).Token
		}
		early()
		for step := -1; step <= 1; step++ {
			const tries = 8
			tokens := make([]string, tries)
			for i := range tokens {
				tokens[i] = half()
			}
			var wg sync.WaitGroup
			results := make(chan error, tries)
			for _, token := range tokens {
				wg.Go(func() {
					_, err := w.LoginWithCode(ctx, token, code(step), accounttest.Browser, "")
					results <- err
				})
			}
			wg.Wait()
			won := 0
			for range tries {
				switch err := <-results; {
				case err == nil:
					won++
				case !errors.Is(err, account.ErrCode) && fault.KindOf(err) != fault.KindUnavailable:
					t.Error(err)
				}
			}
			if won != 1 {
				t.Errorf("step %d: %d logins by one code", step, won)
			}
			if _, err := w.LoginWithCode(ctx, half(), code(step), accounttest.Browser, ""); !errors.Is(err, account.ErrCode) {
				t.Errorf("step %d, once more: %v", step, err)
			}
		}
		t.Run("a code of before one that was used is worth nothing", func(t *testing.T) {
			if _, err := w.LoginWithCode(ctx, half(), code(0), accounttest.Browser, ""); !errors.Is(err, account.ErrCode) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("a code of two steps ago is worth nothing", func(t *testing.T) {
			run(t, d, `UPDATE totps SET last_step = 0`)
			for _, step := range []int{-2, 2} {
				if _, err := w.LoginWithCode(ctx, half(), code(step), accounttest.Browser, ""); !errors.Is(err, account.ErrCode) {
					t.Errorf("%d: %v", step, err)
				}
			}
		})
		t.Run("a seed from another row opens nothing", func(t *testing.T) {
			other := w.Caller(t, w.SignUp(t, "b@example.com").Secret)
			enrol(t, w, other)
			run(t, d, `UPDATE totps SET last_step = 0, sealed_seed = (SELECT sealed_seed FROM totps WHERE account_id = $1) WHERE account_id = $2`, other.ID, caller.ID)
			if _, err := w.LoginWithCode(ctx, half(), code(0), accounttest.Browser, ""); err == nil || errors.Is(err, account.ErrCode) {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestRecoveryCodes(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		caller := w.Caller(t, w.SignUp(t, anna).Secret)
		if _, err := w.CreateRecoveryCodes(ctx, caller); !errors.Is(err, account.ErrNoFactor) {
			t.Errorf("without a second factor: %v", err)
		}
		setup := must[account.TOTPSetup](t)(w.BeginTOTP(ctx, caller))
		renewed, former, err := w.ConfirmTOTP(ctx, caller, codes(t, setup.Seed)(0))
		if err != nil {
			t.Fatal(err)
		}
		caller = w.Caller(t, renewed.Secret)
		recovery := must[[]string](t)(w.CreateRecoveryCodes(ctx, caller))
		half := func() string {
			return must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, accounttest.Browser, "")).Token
		}
		tokens := []string{half(), half(), half(), half()}
		var wg sync.WaitGroup
		results := make(chan error, len(tokens))
		for _, token := range tokens {
			wg.Go(func() {
				_, err := w.LoginWithCode(ctx, token, recovery[0], accounttest.Browser, "")
				results <- err
			})
		}
		wg.Wait()
		won := 0
		for range tokens {
			if err := <-results; err == nil {
				won++
			}
		}
		if won != 1 {
			t.Errorf("%d logins by one recovery code", won)
		}
		for name, code := range map[string]string{"a former one": former[0], "a used one": recovery[0], "none": "aaaa-aaaa-aaaa-aaaa"} {
			if _, err := w.LoginWithCode(ctx, half(), code, accounttest.Browser, ""); !errors.Is(err, account.ErrCode) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if have := must[account.Factors](t)(w.FactorsOf(ctx, caller.ID)); have.RecoveryCodes != 9 {
			t.Errorf("%d are left", have.RecoveryCodes)
		}
		mails := w.Mails.To(anna, "second_factor_changed")
		if last := mails[len(mails)-1].Values["change"]; last != "A recovery code was used; 9 are left." {
			t.Errorf("the mail says %q", last)
		}
		stranger := w.Caller(t, w.SignUp(t, "b@example.com").Secret)
		enrol(t, w, stranger)
		if _, err := w.StepUp(ctx, stranger, account.Proof{Code: recovery[1]}); !errors.Is(err, account.ErrCode) {
			t.Errorf("somebody else's: %v", err)
		}
	})
}
