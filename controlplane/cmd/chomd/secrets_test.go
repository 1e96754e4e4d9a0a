package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/secret"
)

// TestBadKeys is case B17: with a key that is weak, or that others can read or replace, nothing starts.
func TestBadKeys(t *testing.T) {
	good := func() []byte {
		key := make([]byte, 32)
		rand.Read(key)
		return fmt.Appendf(nil, "1 2026-11-25T12:00:00Z %s\n", base64.StdEncoding.EncodeToString(key))
	}
	weak := func(key []byte) func(path string) error {
		return func(path string) error {
			return os.WriteFile(path, fmt.Appendf(nil, "1 2026-11-25T12:00:00Z %s\n", base64.StdEncoding.EncodeToString(key)), 0o600)
		}
	}
	mode := func(mode os.FileMode) func(path string) error {
		return func(path string) error { return errors.Join(os.WriteFile(path, good(), 0o600), os.Chmod(path, mode)) }
	}
	for name, test := range map[string]struct {
		make func(path string) error
		want string
	}{
		"an empty file":       {func(path string) error { return os.WriteFile(path, nil, 0o600) }, "no key in it"},
		"a short key":         {weak([]byte("short")), "must be 32 bytes"},
		"zeros":               {weak(make([]byte, 32)), "not random"},
		"a text":              {weak([]byte("0123456789abcdefghijklmnopqrstuv")), "not random"},
		"readable by all":     {mode(0o644), "open to others"},
		"readable by others":  {mode(0o604), "open to others"},
		"readable by a group": {mode(0o640), "open to others"},
		"a symbolic link": {func(path string) error {
			return errors.Join(os.WriteFile(path+".real", good(), 0o600), os.Symlink(path+".real", path))
		}, "symbolic link"},
		"in a folder of others": {func(path string) error {
			return errors.Join(os.WriteFile(path, good(), 0o600), os.Chmod(filepath.Dir(path), 0o777))
		}, "others can replace"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secrets.key")
			if err := test.make(path); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			code := run(t.Context(), []string{"serve", "--data-dir", filepath.Join(t.TempDir(), "data"), "--secrets-key", path, "--people-listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0", "--metrics-listen", ""}, &out, &out)
			if code != exitFailed || !strings.Contains(out.String(), test.want) || strings.Contains(out.String(), "chomsetup_") {
				t.Errorf("exit code %d: %s", code, out.String())
			}
		})
	}
}

func TestCredential(t *testing.T) {
	dir := t.TempDir()
	c, err := load(t, "", []string{"CREDENTIALS_DIRECTORY=" + dir})
	if err != nil || c.SecretsKey != "/var/lib/chomd/keys/secrets.key" || c.credential {
		t.Errorf("without one: %q, %v", c.SecretsKey, err)
	}
	path := filepath.Join(dir, "secrets.key")
	if err := os.WriteFile(path, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if c, err = load(t, "", []string{"CREDENTIALS_DIRECTORY=" + dir}); err != nil || c.SecretsKey != path || !c.credential {
		t.Errorf("with one: %q, %v", c.SecretsKey, err)
	}
	if c, err = load(t, "", []string{"CREDENTIALS_DIRECTORY=" + dir}, "--secrets-key", "/k"); err != nil || c.SecretsKey != "/k" || c.credential {
		t.Errorf("with another file: %q, %v", c.SecretsKey, err)
	}
}

// TestSecrets goes through the commands, beside a chomd that runs.
func TestSecrets(t *testing.T) {
	for engine, url := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "chom.db") },
		"postgres": func(t *testing.T) string { return dbtest.PostgresURL(t) },
	} {
		t.Run(engine, func(t *testing.T) {
			dir, url := filepath.Join(t.TempDir(), "data"), url(t)
			command := func(want int, words ...string) string {
				t.Helper()
				var out bytes.Buffer
				if code := run(t.Context(), append(append([]string{"secrets"}, words...), "--data-dir", dir, "--database", url), &out, &out); code != want {
					t.Errorf("%v exits with %d: %s", words, code, out.String())
				}
				return out.String()
			}
			r := start(t, "--data-dir", dir, "--database", url)
			defer r.stop()
			path := filepath.Join(dir, "keys", "secrets.key")
			put(t, url, path)
			if text := command(exitOK, "check"); text != "key version 1: 1 secrets\n" {
				t.Errorf("check: %s", text)
			}
			if text := command(exitOK, "prepare-key"); !strings.Contains(text, "version 2 is in the file") {
				t.Errorf("prepare-key: %s", text)
			}
			if text := command(exitOK, "rotate"); !strings.Contains(text, "secret_values.sealed: 1 sealed anew") || strings.Contains(text, "version 3") {
				t.Errorf("rotate: %s", text)
			}
			if text := command(exitOK, "check"); text != "key version 1: 0 secrets\nkey version 2: 1 secrets\n" {
				t.Errorf("check: %s", text)
			}
			if text := command(exitFailed, "prune-keys"); !strings.Contains(text, "ten minutes") {
				t.Errorf("prune-keys: %s", text)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(text), "\n")
			for i, line := range lines {
				if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "2" {
					lines[i] = "2 2020-01-01T00:00:00Z " + fields[2]
				}
			}
			if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
			if text := command(exitOK, "prune-keys"); !strings.Contains(text, "[1]") {
				t.Errorf("prune-keys: %s", text)
			}
			if text := command(exitOK, "check"); text != "key version 2: 1 secrets\n" {
				t.Errorf("check: %s", text)
			}
			t.Run("which are recorded", func(t *testing.T) {
				d := dbtest.Open(t, url)
				rows, err := d.Reader().Query(t.Context(), `SELECT action FROM audit_events WHERE actor = 'console' ORDER BY sequence`)
				if err != nil {
					t.Fatal(err)
				}
				defer rows.Close()
				var actions []string
				for rows.Next() {
					var action string
					if err := rows.Scan(&action); err != nil {
						t.Fatal(err)
					}
					actions = append(actions, action)
				}
				if err := rows.Err(); err != nil || !slices.Equal(actions, []string{"secrets.rotate", "secrets.prune"}) {
					t.Errorf("got %v, %v", actions, err)
				}
			})
			t.Run("and say which secret does not open", func(t *testing.T) {
				d := dbtest.Open(t, url)
				if err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
					_, err := tx.Exec(t.Context(), `UPDATE secret_values SET name = 'moved'`)
					return err
				}); err != nil {
					t.Fatal(err)
				}
				if text := command(exitFailed, "check"); !strings.Contains(text, "secret_values.sealed of row moved of organization") || !strings.Contains(text, "1 secrets do not open") {
					t.Errorf("check: %s", text)
				}
				if text := command(exitFailed, "rotate"); !strings.Contains(text, "row moved") {
					t.Errorf("rotate: %s", text)
				}
			})
		})
	}
}

// put stores a secret, as a chomd that runs would.
func put(t *testing.T, url, path string) {
	t.Helper()
	d := dbtest.Open(t, url)
	keys, err := secret.Load(t.Context(), secret.NewFile(path), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
		return secret.NewValues(keys).Put(t.Context(), tx, uuid.NewString(), "ssh-key:1", secret.New([]byte("x")))
	}); err != nil {
		t.Fatal(err)
	}
}

// TestSealedColumns finds columns of the schema that look sealed and that a rotation would not know of.
func TestSealedColumns(t *testing.T) {
	d := dbtest.SQLite(t)
	rows, err := d.Reader().Query(t.Context(), `
		SELECT m.name, c.name
		FROM sqlite_master m
		JOIN pragma_table_info(m.name) c
		WHERE m.type = 'table'
		AND (c.name = 'sealed' OR c.name LIKE 'sealed\_%' ESCAPE '\' OR c.name LIKE '%\_sealed' ESCAPE '\')`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := 0
	for rows.Next() {
		var table, column string
		if err := rows.Scan(&table, &column); err != nil {
			t.Fatal(err)
		}
		found++
		if !slices.ContainsFunc(sealedColumns, func(c secret.Column) bool { return c.Table == table && c.Column == column }) {
			t.Errorf("%s.%s is not in sealedColumns", table, column)
		}
	}
	if err := rows.Err(); err != nil || found == 0 {
		t.Errorf("found %d, %v", found, err)
	}
}
