package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"chom.dev/proto/gen/chom/account/v1/accountv1connect"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

func TestVerifyAudit(t *testing.T) {
	for engine, url := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "chom.db") },
		"postgres": func(t *testing.T) string { return dbtest.PostgresURL(t) },
	} {
		t.Run(engine, func(t *testing.T) {
			dir, url := filepath.Join(t.TempDir(), "data"), url(t)
			verify := func() (int, string) {
				var out bytes.Buffer
				code := run(t.Context(), []string{"audit", "verify", "--data-dir", dir, "--database", url}, &out, &out)
				return code, out.String()
			}
			if code, text := verify(); code != exitFailed || !strings.Contains(text, "is this the data directory") {
				t.Errorf("before there was anything: %d, %s", code, text)
			}
			r := start(t, "--data-dir", dir, "--database", url)
			signUp(t, r)
			if code, text := verify(); code != exitOK || !strings.Contains(text, "2 events in 1 histories are as they were recorded") {
				t.Errorf("while it runs: %d, %s", code, text)
			}
			if code := r.stop(); code != exitOK {
				t.Errorf("it ended with %d", code)
			}
			heads, err := os.ReadFile(filepath.Join(dir, "audit-heads"))
			if err != nil || bytes.Count(heads, []byte("\n")) != 1 {
				t.Errorf("the heads that its end wrote down: %s, %v", heads, err)
			}
			d, err := db.Open(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			for _, statement := range []string{`DELETE FROM audit_events`, `DELETE FROM audit_heads`} {
				if err := db.InTx(t.Context(), d, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), statement); return err }); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if code, text := verify(); code != exitFailed || !strings.Contains(text, "the platform: event 1 is missing, with all that followed: the head written down at ") {
				t.Errorf("after all was deleted: %d, %s", code, text)
			}
		})
	}
}

// signUp makes the first operator with the secret that was printed, which is an event.
func signUp(t *testing.T, r *running) {
	t.Helper()
	secret := regexp.MustCompile(`chomsetup_\S+`).FindString(r.console.String())
	accounts := accountv1connect.NewAccountServiceClient(http.DefaultClient, r.url)
	if _, err := accounts.CreateFirstOperator(t.Context(), &accountv1.CreateFirstOperatorRequest{SetupSecret: secret, Email: "operator@example.com"}); err != nil {
		t.Fatal(err)
	}
}
