package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

// command runs chomd to its end.
func command(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := command(t, args...)
	if code != exitOK {
		t.Fatalf("chomd %s: %d, %s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// operate gives a control plane its first account.
func operate(t *testing.T, url string) {
	t.Helper()
	d := dbtest.Open(t, url)
	err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO accounts (id, email, operator, created_at) VALUES ('a1', 'first@example.com', true, 1)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOwnBackup(t *testing.T) {
	engines := map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "chom.db") },
		"postgres": func(t *testing.T) string { return dbtest.PostgresURL(t) },
	}
	for from, url := range engines {
		t.Run("of "+from, func(t *testing.T) {
			home := t.TempDir()
			key := filepath.Join(home, "backup.key")
			recipient := regexp.MustCompile(`age1\w+`).FindString(must(t, "backup-key", key))
			if code, _, _ := command(t, "backup-key", key); code != exitFailed {
				t.Error("a key is overwritten")
			}
			here := []string{"--data-dir", filepath.Join(home, "data"), "--database", url(t)}
			to := filepath.Join(home, "backups")
			if err := os.Mkdir(to, 0o700); err != nil {
				t.Fatal(err)
			}
			first := start(t, here...)
			setup := regexp.MustCompile(`chomsetup_\S+`).FindString(first.console.String())
			if code := first.stop(); code != exitOK {
				t.Fatalf("serve ended with %d", code)
			}
			if setup == "" {
				t.Error("no one-time secret is shown at first")
			}
			operate(t, here[3])
			r := start(t, here...)
			out := must(t, append([]string{"backup", "--own-backup-to", to, "--own-backup-recipient", recipient}, here...)...)
			if code := r.stop(); code != exitOK {
				t.Fatalf("serve ended with %d", code)
			}
			made, _ := filepath.Glob(filepath.Join(to, "*"))
			if len(made) != 1 || !strings.Contains(out, made[0]) {
				t.Fatalf("made %v, said %q", made, out)
			}
			whole, err := os.ReadFile(made[0])
			if err != nil {
				t.Fatal(err)
			}
			for _, plain := range []string{"PRIVATE KEY", "pki/", "settings"} {
				if bytes.Contains(whole, []byte(plain)) {
					t.Errorf("%q can be read in it", plain)
				}
			}

			for into, url := range engines {
				t.Run("into "+into, func(t *testing.T) {
					data := filepath.Join(t.TempDir(), "data")
					there := []string{"--data-dir", data, "--database", url(t)}
					back := func(backup, key string) (int, string) {
						code, _, errs := command(t, append([]string{"restore", backup, key}, there...)...)
						return code, errs
					}
					// Whatever is wrong with it, nothing comes of it that keeps the right one from being restored.
					other := filepath.Join(t.TempDir(), "other.key")
					must(t, "backup-key", other)
					if code, errs := back(made[0], other); code != exitFailed || !strings.Contains(errs, "another key") {
						t.Errorf("with another key: %d %s", code, errs)
					}
					for at := 0; at < len(whole); at += 1 + len(whole)/25 {
						for what, bad := range map[string][]byte{"changed": append([]byte{}, whole...), "cut": whole[:at]} {
							if what == "changed" {
								bad[at] ^= 4
							}
							file := filepath.Join(t.TempDir(), "bad.age")
							if err := os.WriteFile(file, bad, 0o600); err != nil {
								t.Fatal(err)
							}
							if code, _ := back(file, key); code != exitFailed {
								t.Fatalf("%s at byte %d it is restored", what, at)
							}
						}
					}
					if code, errs := back(made[0], key); code != exitOK {
						t.Fatalf("restore: %s", errs)
					}
					if code, errs := back(made[0], key); code != exitFailed || !strings.Contains(errs, "not empty") {
						t.Errorf("again: %d %s", code, errs)
					}
					for _, name := range []string{"pki/roots.pem", "pki/signer.pem", "keys/secrets.key"} {
						before, err1 := os.ReadFile(filepath.Join(home, "data", name))
						after, err2 := os.ReadFile(filepath.Join(data, name))
						if err1 != nil || err2 != nil || !bytes.Equal(before, after) {
							t.Errorf("%s is not what it was: %v %v", name, err1, err2)
						}
					}
					must(t, append([]string{"audit", "verify"}, there...)...)
					must(t, append([]string{"secrets", "check"}, there...)...)
					r := start(t, there...)
					if strings.Contains(r.console.String(), "chomsetup_") {
						t.Error("it has an operator, and asks for the first one")
					}
					if code := r.stop(); code != exitOK {
						t.Errorf("the restored one ends with %d", code)
					}
				})
			}
		})
	}
	t.Run("says what is missing", func(t *testing.T) {
		dir := t.TempDir()
		for _, args := range [][]string{
			{"backup", "--data-dir", dir},
			{"backup", "--data-dir", dir, "--own-backup-to", dir},
			{"backup", "--data-dir", dir, "--own-backup-to", "relative", "--own-backup-recipient", "age1"},
			{"restore", "--data-dir", dir, "one"},
			{"backup-key"},
		} {
			if code, _, errs := command(t, args...); code != exitUsage || errs == "" {
				t.Errorf("%v: %d %s", args, code, errs)
			}
		}
	})
}
