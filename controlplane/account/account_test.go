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

func TestFirstOperator(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		accounts := accounttest.New(t, d)

		if _, _, err := accounts.CreateFirstOperator(ctx, "chomsetup_"+strings.Repeat("A", 43), "a@example.com", ""); !errors.Is(err, account.ErrSetUp) {
			t.Fatalf("before a secret was made: %v", err)
		}
		former, err := accounts.PrepareFirstOperator(ctx)
		if err != nil || !strings.HasPrefix(former, "chomsetup_") {
			t.Fatalf("got secret %q, %v", former, err)
		}
		secret, err := accounts.PrepareFirstOperator(ctx)
		if err != nil || secret == former {
			t.Fatalf("got the same secret twice, %v", err)
		}
		for name, wrong := range map[string]string{"a former secret": former, "a guess": "chomsetup_" + strings.Repeat("A", 43)} {
			if _, _, err := accounts.CreateFirstOperator(ctx, wrong, "a@example.com", ""); !errors.Is(err, account.ErrSetupSecret) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for field, request := range map[string][3]string{"email": {secret, "no address", ""}, "setup_secret": {"", "a@example.com", ""}, "password": {secret, "a@example.com", "1234567890"}} {
			var f *fault.Fault
			if _, _, err := accounts.CreateFirstOperator(ctx, request[0], request[1], request[2]); !errors.As(err, &f) || f.Field() != field {
				t.Errorf("a bad %s: %v", field, err)
			}
		}

		var wg sync.WaitGroup
		var mu sync.Mutex
		var tokens []string
		for range 10 {
			wg.Go(func() {
				_, token, err := accounts.CreateFirstOperator(ctx, secret, "Anna@Example.com", accounttest.Password)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					tokens = append(tokens, token)
				} else if !errors.Is(err, account.ErrSetUp) {
					t.Errorf("a second one: %v", err)
				}
			})
		}
		wg.Wait()
		if len(tokens) != 1 {
			t.Fatalf("%d first operators", len(tokens))
		}
		if _, _, err := accounts.CreateFirstOperator(ctx, secret, "b@example.com", ""); !errors.Is(err, account.ErrSetUp) {
			t.Errorf("the door is still there: %v", err)
		}
		if again, err := accounts.PrepareFirstOperator(ctx); err != nil || again != "" {
			t.Errorf("a later start printed %q, %v", again, err)
		}
		caller, err := accounts.Tokens.Authenticate(ctx, tokens[0], "127.0.0.1")
		if err != nil || !caller.Operator || caller.Email != "anna@example.com" {
			t.Errorf("the token belongs to %+v, %v", caller, err)
		}
		if caller := accounts.Caller(t, login(t, accounts, "anna@example.com", accounttest.Password).Secret); !caller.Operator {
			t.Errorf("the password belongs to %+v", caller)
		}

		var events, secrets int
		if err := d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM audit_events WHERE actor_id = $1 AND action = 'account.create_first_operator'`, caller.ID).Scan(&events); err != nil || events != 1 {
			t.Errorf("%d audit events, %v", events, err)
		}
		if err := d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM settings WHERE value = $1 OR value = $2`, secret, tokens[0]).Scan(&secrets); err != nil || secrets != 0 {
			t.Errorf("%d secrets stored, %v", secrets, err)
		}
	})
}

// TestOperatorWhoSignedUp is about a first operator who has an account already.
func TestOperatorWhoSignedUp(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		accounts := accounttest.New(t, d)
		accounts.SignUp(t, "a@example.com")
		secret, err := accounts.PrepareFirstOperator(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := accounts.CreateFirstOperator(t.Context(), secret, "a@example.com", ""); err != nil {
			t.Fatal(err)
		}
		if opened := login(t, accounts, "a@example.com", accounttest.Password); !accounts.Caller(t, opened.Secret).Operator {
			t.Error("the account is no operator's")
		}
	})
}

// TestSecondFactorOfToken is the account's part of case B04: a token has a second factor while its person has one.
func TestSecondFactorOfToken(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		accounts := accounttest.New(t, d)
		secret, err := accounts.PrepareFirstOperator(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, token, err := accounts.CreateFirstOperator(ctx, secret, "a@example.com", accounttest.Password)
		if err != nil {
			t.Fatal(err)
		}
		has := func() bool {
			caller, err := accounts.Tokens.Authenticate(ctx, token, "127.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			return caller.SecondFactor
		}
		if has() {
			t.Error("there is one before it was made")
		}
		caller := accounts.Caller(t, login(t, accounts, "a@example.com", accounttest.Password).Secret)
		enrol(t, accounts, caller)
		if !has() {
			t.Error("an authenticator app is none")
		}
		if _, err := accounts.RemoveTOTP(ctx, caller); err != nil {
			t.Fatal(err)
		}
		if has() {
			t.Error("there is one after it was removed")
		}
		register(t, accounts, login(t, accounts, "a@example.com", accounttest.Password).Secret, "a key")
		if !has() {
			t.Error("a passkey is none")
		}
	})
}
