package audit_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
)

func TestList(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, trail := t.Context(), audit.New(d)
		ours, theirs := uuid.NewString(), uuid.NewString()
		anna := person()
		record(t, ctx, d, theirs, "site.create", "site.delete")
		record(t, ctx, d, ours, "site.create")
		record(t, audit.As(ctx, anna), d, ours, "site.update", "site_login.create")
		time.Sleep(2 * time.Millisecond)
		middle := time.Now()
		time.Sleep(2 * time.Millisecond)
		record(t, audit.As(ctx, anna), d, ours, "organization.rename")
		must(t, db.InTx(ctx, d, func(tx *db.Tx) error {
			return audit.Record(ctx, tx, audit.Event{Organization: ours, Action: "access.refuse", Refused: true})
		}))
		all := []string{"access.refuse", "organization.rename", "site_login.create", "site.update", "site.create"}
		for name, test := range map[string]struct {
			query audit.Query
			want  []string
		}{
			"everything":                 {audit.Query{}, all},
			"one actor":                  {audit.Query{Actor: anna.ID}, all[1:4]},
			"an action":                  {audit.Query{Action: "site.create"}, all[4:]},
			"what begins like an action": {audit.Query{Action: "site."}, all[3:]},
			"no wildcard":                {audit.Query{Action: "site_."}, nil},
			"an object":                  {audit.Query{Object: "object of site.update"}, all[3:4]},
			"what was refused":           {audit.Query{Outcome: audit.Refused}, all[:1]},
			"what was done":              {audit.Query{Outcome: audit.Done}, all[1:]},
			"since a time":               {audit.Query{From: middle}, all[:2]},
			"before a time":              {audit.Query{To: middle}, all[2:]},
			"several things at once":     {audit.Query{Actor: anna.ID, Action: "site", Outcome: audit.Done, To: middle}, all[2:4]},
		} {
			t.Run("gives "+name+" of one organization, the newest first, in pages", func(t *testing.T) {
				test.query.Organization = ours
				for _, size := range []int32{1, 2, 0} {
					var got []string
					for token := ""; ; {
						found, next, err := trail.List(ctx, test.query, size, token)
						if err != nil {
							t.Fatal(err)
						}
						for _, e := range found {
							got = append(got, e.Action)
							if e.Organization != ours {
								t.Errorf("an event of %s", e.Organization)
							}
						}
						if token = next; token == "" {
							break
						}
					}
					if !slices.Equal(got, test.want) {
						t.Errorf("in pages of %d: %v", size, got)
					}
				}
			})
		}
		t.Run("refuses the token of another query", func(t *testing.T) {
			_, token, err := trail.List(ctx, audit.Query{Organization: ours}, 1, "")
			must(t, err)
			for _, query := range []audit.Query{{Organization: theirs}, {Organization: ours, Outcome: audit.Done}, {Organization: ours, To: middle}} {
				if _, _, err := trail.List(ctx, query, 1, token); fault.KindOf(err) != fault.KindInvalid {
					t.Errorf("got %v", err)
				}
			}
		})
	})
}

func TestMine(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, trail := t.Context(), audit.New(d)
		anna, ben := person(), person()
		about := func(actor audit.Actor, organization, action, object string) {
			t.Helper()
			must(t, db.InTx(ctx, d, func(tx *db.Tx) error {
				return audit.Record(audit.As(ctx, actor), tx, audit.Event{Organization: organization, Action: action, Object: object})
			}))
		}
		about(audit.Actor{Kind: audit.Stranger}, audit.Platform, "session.refuse", anna.ID)
		about(anna, audit.Platform, "session.create", anna.ID)
		about(anna, audit.Platform, "server.create", uuid.NewString())
		about(anna, uuid.NewString(), "site.create", uuid.NewString())
		about(ben, audit.Platform, "session.create", ben.ID)
		about(ben, audit.Platform, "account.impersonate", anna.ID)
		want := []string{"account.impersonate", "server.create", "session.create", "session.refuse"}
		for _, size := range []int32{1, 3, 0} {
			var got []string
			for token := ""; ; {
				found, next, err := trail.Mine(ctx, anna.ID, size, token)
				must(t, err)
				for _, e := range found {
					got = append(got, e.Action)
				}
				if token = next; token == "" {
					break
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("in pages of %d: %v", size, got)
			}
		}
		if found, _, err := trail.Mine(ctx, ben.ID, 0, ""); err != nil || len(found) != 2 {
			t.Errorf("the other one sees %v, %v", found, err)
		}
	})
}

// BenchmarkList looks for rare things among a million events of one organization.
func BenchmarkList(b *testing.B) {
	for engine, open := range map[string]func(testing.TB) *db.DB{"sqlite": dbtest.SQLite, "postgres": dbtest.Postgres} {
		d := open(b)
		organization, actor := fill(b, d, 1_000_000), person()
		record(b, audit.As(b.Context(), actor), d, organization, "organization.transfer")
		for name, query := range map[string]audit.Query{
			"newest": {}, "actor": {Actor: actor.ID}, "object": {Object: "object of organization.transfer"}, "rare action": {Action: "organization."},
			"nothing": {Action: "nothing."}, "an hour of long ago": {From: time.UnixMicro(1e6), To: time.UnixMicro(1e6).Add(time.Hour)},
		} {
			query.Organization = organization
			b.Run(fmt.Sprintf("%s/%s", engine, name), func(b *testing.B) {
				for b.Loop() {
					if _, _, err := audit.New(d).List(b.Context(), query, 50, ""); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
