package secret_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/secret/secrettest"
)

func TestValues(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		values := secret.NewValues(secrettest.New())
		in := func(fn func(tx *db.Tx) error) error { return db.InTx(ctx, d, fn) }
		put := func(organization, name, value string) error {
			return in(func(tx *db.Tx) error { return values.Put(ctx, tx, organization, name, secret.New([]byte(value))) })
		}
		get := func(organization, name string) (string, error) {
			value, err := values.Get(ctx, d.Reader(), organization, name)
			return string(value.Reveal()), err
		}
		ours, theirs := uuid.NewString(), uuid.NewString()
		t.Run("gives back what was put", func(t *testing.T) {
			must(t, put(ours, "ssh-key:1", canary))
			must(t, put(ours, "s3", "another"))
			must(t, put(theirs, "ssh-key:1", "theirs"))
			must(t, put(secret.Platform, "ssh-key:1", "the platform's"))
			for organization, want := range map[string]string{ours: canary, theirs: "theirs", secret.Platform: "the platform's"} {
				if value, err := get(organization, "ssh-key:1"); err != nil || value != want {
					t.Errorf("got %q, %v", value, err)
				}
			}
			must(t, in(func(tx *db.Tx) error {
				if err := values.Put(ctx, tx, ours, "s3", secret.New([]byte("a third"))); err != nil {
					return err
				}
				value, err := values.Get(ctx, tx, ours, "s3")
				if string(value.Reveal()) != "a third" {
					t.Errorf("in the same transaction: %q", value.Reveal())
				}
				return err
			}))
		})
		t.Run("knows nothing of others' names", func(t *testing.T) {
			for _, place := range [][2]string{{theirs, "s3"}, {ours, "s4"}, {uuid.NewString(), "ssh-key:1"}} {
				if value, err := get(place[0], place[1]); !errors.Is(err, secret.ErrNoValue) {
					t.Errorf("got %q, %v", value, err)
				}
				if err := in(func(tx *db.Tx) error { return values.Delete(ctx, tx, place[0], place[1]) }); !errors.Is(err, secret.ErrNoValue) {
					t.Errorf("delete: %v", err)
				}
			}
		})
		t.Run("does not open what was moved to another organization", func(t *testing.T) {
			must(t, in(func(tx *db.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE secret_values SET sealed = (SELECT sealed FROM secret_values WHERE organization_id = $1 AND name = 'ssh-key:1') WHERE organization_id = $2`, ours, theirs)
				return err
			}))
			if value, err := get(theirs, "ssh-key:1"); !errors.Is(err, secret.ErrTampered) || strings.Contains(fmt.Sprint(value, err), canary) {
				t.Errorf("got %q, %v", value, err)
			}
		})
		t.Run("keeps nothing but ciphertext", func(t *testing.T) { // case B10
			var found int
			must(t, d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM secret_values WHERE sealed = $1`, []byte(canary)).Scan(&found))
			for batch, err := range secret.ValuesColumn.Sealed(ctx, d.Reader()) {
				must(t, err)
				for _, sealed := range batch {
					if strings.Contains(string(sealed), canary) {
						found++
					}
				}
			}
			if found != 0 {
				t.Errorf("%d values are there in clear", found)
			}
		})
		t.Run("forgets", func(t *testing.T) {
			must(t, in(func(tx *db.Tx) error { return values.Delete(ctx, tx, ours, "ssh-key:1") }))
			if value, err := get(ours, "ssh-key:1"); !errors.Is(err, secret.ErrNoValue) {
				t.Errorf("got %q, %v", value, err)
			}
		})
		for name, bad := range map[string][2]string{
			"a name with a space":   {"a b", "x"},
			"no name":               {"", "x"},
			"a name in capitals":    {"SSH", "x"},
			"a name without end":    {strings.Repeat("a", 129), "x"},
			"a value of a megabyte": {"big", strings.Repeat("x", 1<<20)},
		} {
			t.Run("refuses "+name, func(t *testing.T) {
				if err := put(ours, bad[0], bad[1]); err == nil || len(err.Error()) > 300 {
					t.Errorf("got %v", err)
				}
			})
		}
	})
}
