package organization_test

import (
	"errors"
	"testing"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

func TestSetQuota(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.Organizations = organization.New(d, organization.Config{Quota: organization.Quota{BackupBytes: 5}})
		id, people := w.acme(t)
		operator := w.operator(t)
		quota := func(t *testing.T) uint64 {
			t.Helper()
			found, err := w.Get(t.Context(), id)
			must(t, err)
			return found.Quota.BackupBytes
		}
		if quota(t) != 5 {
			t.Errorf("at first it is %d", quota(t))
		}
		t.Run("is for operators, whatever role somebody has", func(t *testing.T) {
			for role, who := range people {
				if _, err := w.SetQuota(t.Context(), who, id, &organization.Quota{BackupBytes: 100}); !denied(err) {
					t.Errorf("%s: %v", role, err)
				}
			}
			if _, err := w.SetQuota(t.Context(), account.Caller{Organization: id.String(), Role: "owner", Scope: account.Manage}, id, nil); !denied(err) {
				t.Errorf("a token of its own: %v", err)
			}
			if quota(t) != 5 {
				t.Errorf("it became %d", quota(t))
			}
		})
		t.Run("holds until another one is set, and is told of", func(t *testing.T) {
			for _, set := range []*organization.Quota{{BackupBytes: 100}, {BackupBytes: 0}, nil} {
				want := uint64(5)
				if set != nil {
					want = set.BackupBytes
				}
				changed, err := w.SetQuota(t.Context(), operator, id, set)
				must(t, err)
				if changed.Quota.BackupBytes != want || quota(t) != want {
					t.Errorf("set to %v it is %d, and later %d", set, changed.Quota.BackupBytes, quota(t))
				}
			}
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'organization.set_quota' AND object = $1`, id); n != 3 {
				t.Errorf("%d of 3 are in the audit trail", n)
			}
		})
		t.Run("is refused where it makes no sense", func(t *testing.T) {
			if _, err := w.SetQuota(t.Context(), operator, id, &organization.Quota{BackupBytes: organization.MaxQuota + 1}); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("too much: %v", err)
			}
			if _, err := w.SetQuota(t.Context(), operator, contract.NewOrganizationID(), nil); !errors.Is(err, organization.ErrNotFound) {
				t.Errorf("an organization that there is not: %v", err)
			}
		})
		t.Run("what is used is that of its own repositories", func(t *testing.T) {
			other, err := w.Found(t.Context(), people[organization.Admin], "other")
			must(t, err)
			for owner, bytes := range map[contract.OrganizationID]int{id: 1000, other.ID: 7} {
				w.exec(t, `
					INSERT INTO repositories (organization_id, site_id, sealed_key, sequence, bytes, remove_at, tries, created_at, put_bytes, measured_put_bytes)
					VALUES ($1, $2, $3, 0, $4, 0, 0, 1, 50, 20)`, owner, contract.NewSiteID(), []byte{0}, bytes)
			}
			found, err := w.Get(t.Context(), id)
			must(t, err)
			if found.BackupBytes != 1030 {
				t.Errorf("%d bytes are used", found.BackupBytes)
			}
		})
	})
}
