package account_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/account/accounttest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

// TestTheft is case B10 for the tables of accounts: who steals the database finds no secret in it.
func TestTheft(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := accounttest.New(t, d)
		opened := w.SignUp(t, anna)
		caller := w.Caller(t, opened.Secret)
		setup := must[account.TOTPSetup](t)(w.BeginTOTP(ctx, caller))
		renewed, recovery, err := w.ConfirmTOTP(ctx, caller, codes(t, setup.Seed)(0))
		if err != nil {
			t.Fatal(err)
		}
		caller = w.Caller(t, renewed.Secret)
		pending := must[account.TOTPSetup](t)(w.BeginTOTP(ctx, caller))
		half := must[account.Login](t)(w.Login(ctx, anna, accounttest.Password, accounttest.Browser, ""))
		asked := must[account.Challenge](t)(w.BeginPasskey(ctx, caller))
		device := must[account.DeviceCodes](t)(w.BeginDeviceLogin(ctx, "chom", account.Manage, accounttest.Browser))
		for _, err := range []error{
			w.Accounts.SignUp(ctx, "b@example.com", other), w.RequestPasswordReset(ctx, anna), w.RequestEmailChange(ctx, caller, "c@example.com"),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		first, err := w.PrepareFirstOperator(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, token, err := w.CreateFirstOperator(ctx, first, "op@example.com", other)
		if err != nil {
			t.Fatal(err)
		}
		secrets := map[string]string{
			"a session": renewed.Secret, "a browser": opened.Device, "a seed": setup.Seed, "a seed that waits": pending.Seed, "a recovery code": recovery[0],
			"a login": half.Token, "a challenge": asked.Token, "a device code": device.Device, "a user code": device.User, "a token": token, "a setup secret": first,
			"a password": accounttest.Password, "another password": other,
			"a sign-up": w.Mails.Secret(t, "b@example.com", "verify_email"), "a reset": w.Mails.Secret(t, anna, "reset_password"),
			"a new address": w.Mails.Secret(t, "c@example.com", "confirm_email_change"),
		}
		dump := dump(t, d)
		if !strings.Contains(dump, anna) || !strings.Contains(dump, "$argon2id$") {
			t.Fatal("the dump misses what is in the database")
		}
		for name, secret := range secrets {
			if secret == "" {
				t.Fatalf("%s is empty", name)
			}
			_, bare, _ := strings.Cut(secret, "_")
			for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), bare} {
				if form != "" && strings.Contains(dump, form) {
					t.Errorf("%s is in the database", name)
				}
			}
		}
		if n := count(t, d, `SELECT COUNT(*) FROM accounts WHERE password_hash NOT LIKE '$argon2id$%'`); n != 0 {
			t.Errorf("%d passwords have another hash", n)
		}
	})
}

// dump is everything in the database, bytes in hex.
func dump(t *testing.T, d *db.DB) string {
	t.Helper()
	query := `SELECT name FROM sqlite_master WHERE type = 'table'`
	if d.Engine() == "postgres" {
		query = `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'`
	}
	var text strings.Builder
	for _, table := range column(t, d, query) {
		rows, err := d.Reader().Query(t.Context(), `SELECT * FROM `+table)
		if err != nil {
			t.Fatal(err)
		}
		names, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values := make([]any, len(names))
			for i := range values {
				values[i] = new(any)
			}
			if err := rows.Scan(values...); err != nil {
				t.Fatal(err)
			}
			for _, value := range values {
				switch v := (*value.(*any)).(type) {
				case []byte:
					fmt.Fprintf(&text, "%x %s ", v, v)
				default:
					fmt.Fprintf(&text, "%v ", v)
				}
			}
			text.WriteByte('\n')
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
	return text.String()
}

func column(t *testing.T, d *db.DB, query string) (all []string) {
	t.Helper()
	rows, err := d.Reader().Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	return all
}
