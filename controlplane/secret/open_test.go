package secret_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/secret"
)

var quiet = slog.New(slog.DiscardHandler)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, d *db.DB, path string) *secret.Keyring {
	t.Helper()
	k, err := secret.Open(t.Context(), d, secret.NewFile(path), quiet)
	must(t, err)
	return k
}

func TestOpen(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		dir := t.TempDir()
		path := filepath.Join(dir, "keys", "secrets.key")
		place := secret.Place{Organization: secret.Platform, Table: "t", Column: "c", Row: "r"}
		t.Run("makes the first key, once", func(t *testing.T) {
			sealed, err := open(t, d, path).Seal(place, []byte("x"))
			must(t, err)
			info, err := os.Stat(path)
			folder, errFolder := os.Stat(filepath.Dir(path))
			if err := errors.Join(err, errFolder); err != nil || info.Mode().Perm() != 0o600 || folder.Mode().Perm() != 0o700 {
				t.Errorf("got %v in %v, %v", info, folder, err)
			}
			if plain, err := open(t, d, path).Open(place, sealed); err != nil || string(plain) != "x" {
				t.Errorf("the next start: %q, %v", plain, err)
			}
		})
		t.Run("refuses a database whose keys are gone", func(t *testing.T) {
			if _, err := secret.Open(ctx, d, secret.NewFile(filepath.Join(dir, "elsewhere", "secrets.key")), quiet); !errors.Is(err, secret.ErrNoFile) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, "elsewhere")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a key was made: %v", err)
			}
		})
		t.Run("refuses the keys of another database", func(t *testing.T) {
			other := filepath.Join(t.TempDir(), "secrets.key")
			open(t, dbtest.SQLite(t), other)
			if _, err := secret.Open(ctx, d, secret.NewFile(other), quiet); !errors.Is(err, secret.ErrOtherKeys) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("refuses a copy that lacks the newest key", func(t *testing.T) {
			former, err := os.ReadFile(path)
			must(t, err)
			old := filepath.Join(t.TempDir(), "secrets.key")
			must(t, os.WriteFile(old, former, 0o600))
			must(t, secret.Rotate(ctx, d, open(t, d, path), nil, func(string) {}))
			if _, err := secret.Open(ctx, d, secret.NewFile(old), quiet); !errors.Is(err, secret.ErrOldKeys) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("never makes a credential", func(t *testing.T) {
			if _, err := secret.Open(ctx, dbtest.SQLite(t), secret.NewCredential(filepath.Join(dir, "nowhere", "secrets.key")), quiet); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("takes a credential that systemd lets a group read", func(t *testing.T) {
			text, err := os.ReadFile(path)
			must(t, err)
			credential := filepath.Join(t.TempDir(), "secrets.key")
			must(t, os.WriteFile(credential, text, 0o600))
			must(t, os.Chmod(credential, 0o440))
			k, err := secret.Open(ctx, d, secret.NewCredential(credential), quiet)
			must(t, err)
			if _, err := k.Seal(place, []byte("x")); err != nil {
				t.Error(err)
			}
			if err := secret.Prepare(ctx, k, func(string) {}); err == nil || !strings.Contains(err.Error(), "credential") {
				t.Errorf("changed: %v", err)
			}
		})
	})
	t.Run("lets one of many first starts make the key", func(t *testing.T) {
		d, path := dbtest.Postgres(t), filepath.Join(t.TempDir(), "secrets.key")
		errs := make(chan error, 8)
		for range cap(errs) {
			go func() {
				_, err := secret.Open(context.Background(), d, secret.NewFile(path), quiet)
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestFollow is about keys that change under a process that holds them.
func TestFollow(t *testing.T) {
	d, path := dbtest.SQLite(t), filepath.Join(t.TempDir(), "secrets.key")
	running, command := open(t, d, path), open(t, d, path)
	place := secret.Place{Organization: secret.Platform, Table: "t", Column: "c", Row: "r"}
	seal := func(k *secret.Keyring) (uint32, []byte) {
		t.Helper()
		sealed, err := k.Seal(place, []byte("x"))
		must(t, err)
		version, err := secret.VersionOf(sealed)
		must(t, err)
		return version, sealed
	}
	_, old := seal(running)
	t.Run("a pending key opens but does not seal", func(t *testing.T) {
		must(t, secret.Prepare(t.Context(), command, func(string) {}))
		if version, _ := seal(running); version != 1 {
			t.Errorf("sealed with version %d", version)
		}
	})
	t.Run("a new key seals at once", func(t *testing.T) {
		must(t, secret.Rotate(t.Context(), d, command, nil, func(string) {}))
		if version, _ := seal(running); version != 2 {
			t.Errorf("sealed with version %d", version)
		}
		if _, err := running.Open(place, old); err != nil {
			t.Errorf("the former key: %v", err)
		}
	})
	t.Run("a file that became bad changes nothing", func(t *testing.T) {
		good, err := os.ReadFile(path)
		must(t, err)
		for _, bad := range []func() error{
			func() error { return os.WriteFile(path, []byte("1 x"), 0o600) },
			func() error { return os.Chmod(path, 0o644) },
			func() error { return os.Remove(path) },
		} {
			must(t, bad())
			if version, _ := seal(running); version != 2 {
				t.Errorf("sealed with version %d", version)
			}
		}
		must(t, os.WriteFile(path, good, 0o600))
	})
	t.Run("a version that never was is refused", func(t *testing.T) {
		forged := append([]byte{}, old...)
		forged[1] = 99
		if _, err := running.Open(place, forged); !errors.Is(err, secret.ErrVersion) {
			t.Errorf("got %v", err)
		}
	})
}
