package account_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/account/accounttest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
)

// register gives somebody a passkey in a new device, and their session its new secret.
func register(t *testing.T, w *accounttest.World, secret, name string) (*accounttest.Device, account.Passkey, account.SignedIn) {
	t.Helper()
	caller := w.Caller(t, secret)
	asked, err := w.BeginPasskey(t.Context(), caller)
	if err != nil {
		t.Fatal(err)
	}
	device := &accounttest.Device{Origin: accounttest.URL}
	made, renewed, _, err := w.CreatePasskey(t.Context(), caller, asked.Token, name, device.Create(t, asked.Options))
	if err != nil {
		t.Fatal(err)
	}
	return device, made, renewed
}

func TestPasskeys(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		first, second := w.SignUp(t, anna), login(t, w, anna, accounttest.Password)
		caller := w.Caller(t, first.Secret)
		asked, err := w.BeginPasskey(ctx, caller)
		if err != nil {
			t.Fatal(err)
		}
		device := &accounttest.Device{Origin: accounttest.URL}
		made, renewed, recovery, err := w.CreatePasskey(ctx, caller, asked.Token, "the laptop", device.Create(t, asked.Options))
		if err != nil {
			t.Fatal(err)
		}
		if len(recovery) != 10 || !w.Over(t, first.Secret) || !w.Over(t, second.Secret) || !w.Caller(t, renewed.Secret).SecondFactor {
			t.Error("what follows from a first second factor did not")
		}
		key, _, renewed2 := register(t, w, renewed.Secret, "the key")
		secret := renewed2.Secret
		all := must[[]account.Passkey](t)(w.ListPasskeys(ctx, caller.ID))
		if len(all) != 2 || all[0].Name != "the laptop" || all[1].Name != "the key" || !all[0].UsedAt.IsZero() {
			t.Errorf("there are %+v", all)
		}

		t.Run("signs in alone", func(t *testing.T) {
			asked := must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, ""))
			if !strings.Contains(asked.Options, `"userVerification":"required"`) || strings.Contains(asked.Options, "allowCredentials") {
				t.Errorf("the options are %s", asked.Options)
			}
			answer := device.Answer(t, asked.Options)
			opened, err := w.LoginWithPasskey(ctx, asked.Token, answer, accounttest.Browser, "")
			if err != nil {
				t.Fatal(err)
			}
			if caller := w.Caller(t, opened.Secret); caller.Email != anna || !caller.SecondFactor {
				t.Errorf("signed in as %+v", caller)
			}
			if _, err := w.LoginWithPasskey(ctx, asked.Token, answer, accounttest.Browser, ""); !errors.Is(err, account.ErrChallenge) {
				t.Errorf("the same answer again: %v", err)
			}
			again := must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, ""))
			if _, err := w.LoginWithPasskey(ctx, again.Token, answer, accounttest.Browser, ""); field(err) != "credential" {
				t.Errorf("the same answer to another question: %v", err)
			}
			if all := must[[]account.Passkey](t)(w.ListPasskeys(ctx, caller.ID)); all[0].UsedAt.IsZero() || !all[1].UsedAt.IsZero() {
				t.Errorf("it was not noted which one was used: %+v", all)
			}
		})
		t.Run("does not sign in alone when nobody checked who holds it", func(t *testing.T) {
			asked := must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, ""))
			device.Unverified = true
			defer func() { device.Unverified = false }()
			if _, err := w.LoginWithPasskey(ctx, asked.Token, device.Answer(t, asked.Options), accounttest.Browser, ""); field(err) != "credential" {
				t.Errorf("got %v", err)
			}
		})
		t.Run("is a second factor, though nobody checked who holds it", func(t *testing.T) {
			half := must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""))
			if half.SignedIn != nil || half.Factors.Passkeys != 2 || half.Factors.TOTP {
				t.Fatalf("got %+v", half)
			}
			asked := must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, half.Token))
			key.Unverified = true
			defer func() { key.Unverified = false }()
			opened, err := w.LoginWithPasskey(ctx, asked.Token, key.Answer(t, asked.Options), accounttest.Browser, "")
			if err != nil {
				t.Fatal(err)
			}
			if !w.Caller(t, opened.Secret).SecondFactor {
				t.Error("the session has no second factor")
			}
			if _, err := w.BeginPasskeyLogin(ctx, half.Token); !errors.Is(err, account.ErrLogin) {
				t.Errorf("the login goes on: %v", err)
			}
		})
		t.Run("of somebody else completes no login", func(t *testing.T) {
			stranger, _, _ := register(t, w, w.SignUp(t, "b@example.com").Secret, "b")
			half := must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""))
			asked := must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, half.Token))
			if _, err := w.LoginWithPasskey(ctx, asked.Token, stranger.Answer(t, asked.Options), accounttest.Browser, ""); field(err) != "credential" {
				t.Errorf("got %v", err)
			}
		})
		t.Run("answers only the page that it belongs to", func(t *testing.T) {
			asked := must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, ""))
			phished := device.Copy()
			phished.Origin = "https://chom.example.com.evil.example"
			if _, err := w.LoginWithPasskey(ctx, asked.Token, phished.Answer(t, asked.Options), accounttest.Browser, ""); field(err) != "credential" {
				t.Errorf("got %v", err)
			}
		})
		t.Run("makes the session fresh", func(t *testing.T) {
			run(t, d, `UPDATE sessions SET fresh_until = 0`)
			asked := must[account.Challenge](t)(w.BeginPasskeyStepUp(ctx, w.Caller(t, secret)))
			if _, err := w.LoginWithPasskey(ctx, asked.Token, device.Copy().Answer(t, asked.Options), accounttest.Browser, ""); !errors.Is(err, account.ErrChallenge) {
				t.Errorf("the answer to a step-up signs in: %v", err)
			}
			asked = must[account.Challenge](t)(w.BeginPasskeyStepUp(ctx, w.Caller(t, secret)))
			if _, err := w.StepUpWithPasskey(ctx, w.Caller(t, w.SignUp(t, "c@example.com").Secret), asked.Token, device.Copy().Answer(t, asked.Options)); !errors.Is(err, account.ErrChallenge) {
				t.Errorf("it makes another session fresh: %v", err)
			}
			asked = must[account.Challenge](t)(w.BeginPasskeyStepUp(ctx, w.Caller(t, secret)))
			renewed, err := w.StepUpWithPasskey(ctx, w.Caller(t, secret), asked.Token, device.Answer(t, asked.Options))
			if err != nil {
				t.Fatal(err)
			}
			if !w.Over(t, secret) || w.Caller(t, renewed.Secret).FreshUntil.IsZero() {
				t.Error("the former secret works, or the session is not fresh")
			}
			secret = renewed.Secret
		})
		t.Run("that was copied is refused as soon as the counts differ", func(t *testing.T) {
			copied := device.Copy()
			try := func(d *accounttest.Device) error {
				asked := must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, ""))
				_, err := w.LoginWithPasskey(ctx, asked.Token, d.Answer(t, asked.Options), accounttest.Browser, "")
				return err
			}
			if err := try(device); err != nil {
				t.Fatal(err)
			}
			if err := try(copied); field(err) != "credential" {
				t.Errorf("got %v", err)
			}
			// Both answer at once with the same count.
			copied.Count = device.Count
			var wg sync.WaitGroup
			results := make(chan error, 2)
			for _, d := range []*accounttest.Device{device, copied} {
				wg.Go(func() { results <- try(d) })
			}
			wg.Wait()
			if a, b := <-results, <-results; (a == nil) == (b == nil) {
				t.Errorf("got %v and %v", a, b)
			}
		})
		t.Run("can be renamed and deleted, and by nobody else", func(t *testing.T) {
			caller, stranger := w.Caller(t, secret), w.Caller(t, w.SignUp(t, "d@example.com").Secret)
			if _, err := w.RenamePasskey(ctx, stranger, made.ID, "mine"); !errors.Is(err, account.ErrNoPasskey) {
				t.Errorf("renamed by a stranger: %v", err)
			}
			if _, err := w.DeletePasskey(ctx, stranger, made.ID); !errors.Is(err, account.ErrNoPasskey) {
				t.Errorf("deleted by a stranger: %v", err)
			}
			if renamed, err := w.RenamePasskey(ctx, caller, made.ID, "the old laptop"); err != nil || renamed.Name != "the old laptop" || renamed.UsedAt.IsZero() {
				t.Errorf("got %+v, %v", renamed, err)
			}
			renewed, err := w.DeletePasskey(ctx, caller, made.ID)
			if err != nil {
				t.Fatal(err)
			}
			if caller := w.Caller(t, renewed.Secret); !caller.SecondFactor {
				t.Error("one passkey is left, but the session has no second factor")
			}
			asked := must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, ""))
			if _, err := w.LoginWithPasskey(ctx, asked.Token, device.Answer(t, asked.Options), accounttest.Browser, ""); field(err) != "credential" {
				t.Errorf("the deleted one: %v", err)
			}
			secret = renewed.Secret
		})
		t.Run("answers within 5 minutes", func(t *testing.T) {
			asked := must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, ""))
			run(t, d, `UPDATE passkey_challenges SET expires_at = 1`)
			if _, err := w.LoginWithPasskey(ctx, asked.Token, key.Answer(t, asked.Options), accounttest.Browser, ""); !errors.Is(err, account.ErrChallenge) {
				t.Errorf("got %v", err)
			}
		})
		for name, answer := range map[string]string{"nothing": "", "text": "{}", "null": "null", "a list": "[]", "a deep one": strings.Repeat("[", 10000)} {
			t.Run("an answer that is "+name+" is refused", func(t *testing.T) {
				asked := must[account.Challenge](t)(w.BeginPasskeyLogin(ctx, ""))
				if _, err := w.LoginWithPasskey(ctx, asked.Token, answer, accounttest.Browser, ""); field(err) != "credential" {
					t.Errorf("got %v", err)
				}
				caller := w.Caller(t, secret)
				asked = must[account.Challenge](t)(w.BeginPasskey(ctx, caller))
				if _, _, _, err := w.CreatePasskey(ctx, caller, asked.Token, "x", answer); field(err) != "credential" {
					t.Errorf("got %v", err)
				}
			})
		}
		t.Run("are at most 20", func(t *testing.T) {
			for range 19 {
				_, _, renewed := register(t, w, secret, "one more")
				secret = renewed.Secret
			}
			if _, err := w.BeginPasskey(ctx, w.Caller(t, secret)); !errors.Is(err, account.ErrManyPasskeys) {
				t.Errorf("got %v", err)
			}
		})
	})
}

// TestPasskeysNeedAName is about a control plane that is reached by an IP address.
func TestPasskeysNeedAName(t *testing.T) {
	t.Parallel()
	w := accounttest.New(t, dbtest.SQLite(t), func(c *account.Config) { c.URL = "http://127.0.0.1:8080" })
	caller := w.Caller(t, w.SignUp(t, anna).Secret)
	if _, err := w.BeginPasskey(t.Context(), caller); fault.KindOf(err) != fault.KindConflict {
		t.Errorf("got %v", err)
	}
	if _, err := w.BeginPasskeyLogin(t.Context(), ""); fault.KindOf(err) != fault.KindConflict {
		t.Errorf("got %v", err)
	}
	enrol(t, w, caller)
}
