package site_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

func TestHeld(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		strict := site.New(d, w.tasks, slog.New(slog.DiscardHandler), site.Config{PreviewDomain: "preview.example.net"})
		request := w.request("shop")
		request.Domains = []string{"shop.example.com", "example.org", "www.example.org"}
		made, _, err := strict.Create(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		held := func(organization contract.OrganizationID) (text string, err error) {
			err = db.InTx(t.Context(), d, func(tx *db.Tx) error {
				names, err := strict.Held(t.Context(), tx, organization, made.ID)
				text = ""
				for _, name := range names {
					text += name.String() + " "
				}
				return err
			}, db.ReadCommitted())
			return strings.TrimSpace(text), err
		}
		if got, err := held(w.organization); got != "" || err != nil {
			t.Errorf("before a claim: %q, %v", got, err)
		}
		domains := domain.New(d, slog.New(slog.DiscardHandler), domain.Config{InUse: site.InUse})
		if _, err := domains.Attest(t.Context(), w.organization, "example.org"); err != nil {
			t.Fatal(err)
		}
		if got, err := held(w.organization); got != "example.org www.example.org" || err != nil {
			t.Errorf("after it: %q, %v", got, err)
		}
		if _, err := held(w.stranger); !errors.Is(err, site.ErrNotFound) {
			t.Errorf("another organization: %v", err)
		}

		recertify := func(organization contract.OrganizationID) error {
			return db.InTx(t.Context(), d, func(tx *db.Tx) error { return strict.Recertify(t.Context(), tx, organization, made.ID) }, db.ReadCommitted())
		}
		before := w.get(t, made.ID)
		if err := recertify(w.organization); err != nil {
			t.Fatal(err)
		}
		after := w.get(t, made.ID)
		if after.Wanted.Generation != before.Wanted.Generation+1 || after.LastTask == before.LastTask {
			t.Errorf("generation %d, task %s", after.Wanted.Generation, after.LastTask)
		}
		if err := recertify(w.stranger); !errors.Is(err, site.ErrNotFound) {
			t.Errorf("another organization: %v", err)
		}

		if _, _, err := strict.Delete(t.Context(), w.organization, made.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := held(w.organization); !errors.Is(err, site.ErrInTrash) {
			t.Errorf("in the trash: %v", err)
		}
		trashed := w.get(t, made.ID)
		if err := recertify(w.organization); err != nil || w.get(t, made.ID).Wanted.Generation != trashed.Wanted.Generation {
			t.Errorf("in the trash: %v, generation %d", err, w.get(t, made.ID).Wanted.Generation)
		}
	})
}
