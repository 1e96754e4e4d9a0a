package token_test

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/token"
	"chom.dev/proto/contract"
)

func TestPersonal(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		site := w.site(t, w.acme)
		made, text := w.create(t, w.owner, token.Request{Name: "laptop", Scope: account.Deploy})
		t.Run("stands for its person within its scope", func(t *testing.T) {
			if !regexp.MustCompile(`^chompat_[0-9A-Za-z]{49}$`).MatchString(text) {
				t.Errorf("its text is %s", text)
			}
			got := w.caller(t, text)
			if got == nil || got.Account != w.owner.Account || got.Token != made.ID || got.Session != "" || got.Scope != account.Deploy ||
				got.Organization != "" || got.Role != "" || got.Sites != nil || got.Impersonator != "" || got.SecondFactor || got.Fresh(time.Now()) {
				t.Errorf("stands for %+v", got)
			}
			if life := time.Until(made.ExpiresAt); life > token.DefaultLife || life < token.DefaultLife-time.Minute {
				t.Errorf("it lives for %s", life)
			}
		})
		t.Run("only with scope manage stands for a fresh proof", func(t *testing.T) {
			for scope, want := range map[account.Scope]bool{account.Read: false, account.Deploy: false, account.Manage: true} {
				if _, text := w.create(t, w.owner, token.Request{Scope: scope}); w.caller(t, text).Fresh(time.Now()) != want {
					t.Errorf("%s: fresh is %t", scope, !want)
				}
			}
		})
		t.Run("is bound to an organization and to sites", func(t *testing.T) {
			_, text := w.create(t, w.owner, token.Request{Scope: account.Read, Organization: w.acme, Sites: []string{site}})
			if got := w.caller(t, text); got.Organization != w.acme.String() || !slices.Equal(got.Sites, []string{site}) {
				t.Errorf("stands for %+v", got)
			}
			w.exec(t, `DELETE FROM sites WHERE id = $1`, site)
			if got := w.caller(t, text); got.Sites == nil || len(got.Sites) != 0 {
				t.Errorf("reaches %v when its only site is gone", got.Sites)
			}
		})
		t.Run("says whether its person has a second factor now", func(t *testing.T) {
			w.exec(t, `INSERT INTO totps (id, account_id, sealed_seed, created_at, last_step) VALUES ('x', $1, $2, 1, 0)`, w.owner.ID, []byte{})
			if w.caller(t, text).SecondFactor {
				t.Error("one that is not confirmed counts")
			}
			w.exec(t, `UPDATE totps SET confirmed_at = 1`)
			if !w.caller(t, text).SecondFactor {
				t.Error("an app does not count")
			}
			w.exec(t, `DELETE FROM totps`)
			w.exec(t, `
				INSERT INTO passkeys (id, account_id, name, credential_id, public_key, sign_count, flags, transports, created_at)
				VALUES ('x', $1, 'key', $2, $2, 0, 0, '', 1)`, w.owner.ID, []byte{1})
			if !w.caller(t, text).SecondFactor {
				t.Error("a passkey does not count")
			}
			w.exec(t, `DELETE FROM passkeys`)
			if w.caller(t, text).SecondFactor {
				t.Error("one that is gone counts")
			}
		})
		t.Run("is stored as a hash, and kept out of the audit", func(t *testing.T) {
			if n := w.count(t, `SELECT COUNT(*) FROM tokens WHERE secret_hash = $1`, []byte(text)); n != 0 {
				t.Error("its text is stored")
			}
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE detail LIKE '%chompat_%' OR object LIKE '%chompat_%'`); n != 0 {
				t.Error("its text is in the audit")
			}
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'token.create' AND object = $1`, made.ID); n != 1 {
				t.Errorf("%d events", n)
			}
		})
		t.Run("that is made with a token ends with it", func(t *testing.T) {
			parent, text := w.create(t, w.owner, token.Request{Scope: account.Manage, Life: 2 * time.Hour})
			by := w.caller(t, text)
			for life, want := range map[time.Duration]bool{0: true, token.MaxLife: true, time.Hour: false} {
				if child, _ := w.create(t, *by, token.Request{Scope: account.Read, Life: life}); child.ExpiresAt.Equal(parent.ExpiresAt) != want || child.ExpiresAt.After(parent.ExpiresAt) {
					t.Errorf("a child of %s ends at %s, its parent at %s", life, child.ExpiresAt, parent.ExpiresAt)
				}
			}
		})
		t.Run("is not made of what breaks a rule", func(t *testing.T) {
			for name, test := range map[string]struct {
				r     token.Request
				field string
			}{
				"no name":       {token.Request{Scope: account.Read}, "name"},
				"a hostile one": {token.Request{Name: "<img onerror=x>", Scope: account.Read}, "name"},
				"a line break":  {token.Request{Name: "a\nb", Scope: account.Read}, "name"},
				"no scope":      {token.Request{Name: "x"}, "scope"},
				"a later scope": {token.Request{Name: "x", Scope: account.Manage + 1}, "scope"},
				"a minute":      {token.Request{Name: "x", Scope: account.Read, Life: time.Minute}, "lifetime"},
				"two years":     {token.Request{Name: "x", Scope: account.Read, Life: 2 * 366 * 24 * time.Hour}, "lifetime"},
				"sites alone":   {token.Request{Name: "x", Scope: account.Read, Sites: []string{site}}, "site_ids"},
			} {
				var f *fault.Fault
				if _, _, err := w.Create(ctx, w.owner, test.r); !errors.As(err, &f) || f.Field() != test.field {
					t.Errorf("%s: %v", name, err)
				}
			}
			foreign := token.Request{Name: "x", Scope: account.Read, Organization: w.acme}
			if _, _, err := w.Create(ctx, w.person(t, "stranger@example.com"), foreign); !errors.Is(err, organization.ErrNotFound) {
				t.Errorf("bound to another's organization: %v", err)
			}
			foreign.Sites = []string{contract.NewSiteID().String()}
			if _, _, err := w.Create(ctx, w.owner, foreign); fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("bound to no site: %v", err)
			}
		})
	})
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		made, text := w.create(t, w.owner, token.Request{Scope: account.Read})
		unknown, _ := bearer.New("chompat_")
		for name, wrong := range map[string]string{
			"nothing": "", "a prefix": "chompat_", "another kind": strings.Replace(text, "chompat_", "chomorg_", 1), "more behind": text + "A",
			"an unknown one": unknown, "NUL": "chompat_" + strings.Repeat("\x00", 49), "an old one": "chomop_" + strings.Repeat("A", 43),
		} {
			if _, err := w.Authenticate(ctx, wrong, "192.0.2.1"); fault.KindOf(err) != fault.KindUnauthenticated {
				t.Errorf("%s: %v", name, err)
			}
		}
		t.Run("refuses one that is over", func(t *testing.T) {
			w.exec(t, `UPDATE tokens SET expires_at = $2 WHERE id = $1`, made.ID, db.Micros(time.Now()))
			if got := w.caller(t, text); got != nil {
				t.Errorf("stands for %+v", got)
			}
			w.exec(t, `UPDATE tokens SET expires_at = $2 WHERE id = $1`, made.ID, db.Micros(time.Now().Add(time.Hour)))
		})
		t.Run("refuses one that is revoked, from the next call on", func(t *testing.T) {
			if w.caller(t, text) == nil {
				t.Fatal("refused before")
			}
			stranger := w.person(t, "stranger@example.com")
			if err := w.Revoke(ctx, stranger, made.ID); !errors.Is(err, token.ErrNotFound) {
				t.Errorf("revoked by a stranger: %v", err)
			}
			if err := w.RevokeOfOrganization(ctx, w.acme, made.ID); !errors.Is(err, token.ErrNotFound) {
				t.Errorf("revoked by an organization: %v", err)
			}
			if err := w.EndImpersonation(ctx, made.ID); !errors.Is(err, token.ErrNotFound) {
				t.Errorf("revoked as an impersonation: %v", err)
			}
			if w.caller(t, text) == nil {
				t.Error("was revoked by them all the same")
			}
			must(t, w.Revoke(ctx, w.owner, made.ID))
			if got := w.caller(t, text); got != nil {
				t.Errorf("stands for %+v", got)
			}
			if err := w.Revoke(ctx, w.owner, made.ID); !errors.Is(err, token.ErrNotFound) {
				t.Errorf("revoked twice: %v", err)
			}
		})
		t.Run("is right on another process too", func(t *testing.T) {
			made, text := w.create(t, w.owner, token.Request{Scope: account.Read})
			there := newTokens(d)
			if _, err := there.Authenticate(ctx, text, "192.0.2.1"); err != nil {
				t.Error(err)
			}
			must(t, w.Revoke(ctx, w.owner, made.ID))
			if _, err := there.Authenticate(ctx, text, "192.0.2.1"); fault.KindOf(err) != fault.KindUnauthenticated {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestOfOrganization(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		people := map[organization.Role]account.Caller{organization.Owner: w.owner}
		for _, role := range []organization.Role{organization.Admin, organization.Member, organization.Viewer} {
			people[role] = w.member(t, string(role)+"@acme.example", role)
		}
		request := token.Request{Name: "ci", Organization: w.acme, Role: organization.Member, Scope: account.Manage}
		t.Run("has at most its maker's role, and is never an owner", func(t *testing.T) {
			for has, who := range people {
				for _, role := range []organization.Role{organization.Owner, organization.Admin, organization.Member, organization.Viewer, ""} {
					r := request
					r.Role = role
					_, _, err := w.CreateForOrganization(ctx, who, r)
					may := has.AtLeast(organization.Admin) && has.AtLeast(role) && role != organization.Owner && role != ""
					if may != (err == nil) {
						t.Errorf("%s makes one that is %q: %v", has, role, err)
					}
				}
			}
			if _, _, err := w.CreateForOrganization(ctx, w.person(t, "stranger@example.com"), request); !errors.Is(err, organization.ErrNotFound) {
				t.Errorf("a stranger: %v", err)
			}
		})
		admin := people[organization.Admin]
		made, text, err := w.CreateForOrganization(ctx, admin, request)
		must(t, err)
		t.Run("stands for the organization", func(t *testing.T) {
			got := w.caller(t, text)
			if got == nil || got.ID != "" || got.Email != "" || got.Operator || got.Organization != w.acme.String() || got.Role != "member" || got.Scope != account.Manage || got.Token != made.ID {
				t.Errorf("stands for %+v", got)
			}
		})
		t.Run("goes on without its maker, and says who that was", func(t *testing.T) {
			must(t, w.organizations.RemoveMember(ctx, w.owner, w.acme, admin.ID))
			if got := w.caller(t, text); got == nil || got.Role != "member" {
				t.Errorf("stands for %+v", got)
			}
			listed, _, err := w.OfOrganization(ctx, w.acme, 0, "")
			must(t, err)
			if i := slices.IndexFunc(listed, func(one token.Token) bool { return one.ID == made.ID }); i < 0 || listed[i].CreatorEmail != admin.Email {
				t.Errorf("listed %+v", listed)
			}
		})
		t.Run("is its organization's to revoke", func(t *testing.T) {
			if err := w.Revoke(ctx, admin, made.ID); !errors.Is(err, token.ErrNotFound) {
				t.Errorf("revoked by its maker: %v", err)
			}
			if err := w.RevokeOfOrganization(ctx, contract.NewOrganizationID(), made.ID); !errors.Is(err, token.ErrNotFound) {
				t.Errorf("revoked by another organization: %v", err)
			}
			must(t, w.RevokeOfOrganization(ctx, w.acme, made.ID))
			if got := w.caller(t, text); got != nil {
				t.Errorf("stands for %+v", got)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE organization_id = $1 AND object = $2`, w.acme, made.ID); n != 2 {
				t.Errorf("%d events", n)
			}
		})
		t.Run("is not made while the organization closes, and ends with it", func(t *testing.T) {
			_, text, err := w.CreateForOrganization(ctx, w.owner, request)
			must(t, err)
			if _, err := w.organizations.Close(ctx, w.owner, w.acme, "acme"); err != nil {
				t.Fatal(err)
			}
			if _, _, err := w.CreateForOrganization(ctx, w.owner, request); !errors.Is(err, organization.ErrClosing) {
				t.Errorf("made while it closes: %v", err)
			}
			if w.caller(t, text) == nil {
				t.Error("cannot look any more while it closes")
			}
			must(t, w.organizations.End(ctx, time.Now().Add(organization.DefaultClosePeriod+time.Minute)))
			if got := w.caller(t, text); got != nil {
				t.Errorf("stands for %+v of a closed organization", got)
			}
		})
	})
}

func TestImpersonation(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		anna := w.member(t, "anna@acme.example", organization.Viewer)
		const reason = "ticket 4711: she cannot see her site"
		for name, test := range map[string]struct {
			who     account.Caller
			account string
			reason  string
			want    fault.Kind
		}{
			"by an owner":    {w.owner, anna.ID, reason, fault.KindDenied},
			"of an operator": {w.operator, w.member(t, "second@example.com", organization.Admin).ID, reason, fault.KindDenied},
			"of a stranger":  {w.operator, w.person(t, "stranger@example.com").ID, reason, fault.KindNotFound},
			"for no reason":  {w.operator, anna.ID, "", fault.KindInvalid},
			"in two lines":   {w.operator, anna.ID, "a good reason\nforged: line", fault.KindInvalid},
		} {
			if name == "of an operator" {
				w.exec(t, `UPDATE accounts SET operator = TRUE WHERE id = $1`, test.account)
			}
			if _, _, err := w.Impersonate(ctx, test.who, w.acme, test.account, test.reason); fault.KindOf(err) != test.want {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(w.mails) != 0 {
			t.Errorf("mailed %+v", w.mails)
		}
		made, text, err := w.Impersonate(ctx, w.operator, w.acme, anna.ID, reason)
		must(t, err)
		t.Run("stands for the member in one organization for an hour", func(t *testing.T) {
			got := w.caller(t, text)
			if got == nil || got.Account != anna.Account || got.Impersonator != w.operator.ID || got.Organization != w.acme.String() || got.Operator {
				t.Errorf("stands for %+v", got)
			}
			if life := time.Until(made.ExpiresAt); life > time.Hour || life < time.Hour-time.Minute {
				t.Errorf("it lives for %s", life)
			}
		})
		t.Run("is told to the owners, and recorded with both", func(t *testing.T) {
			if len(w.mails) != 1 || w.mails[0].Template != "impersonation_started" || w.mails[0].To.String() != w.owner.Email ||
				w.mails[0].Values["reason"] != reason || w.mails[0].Values["operator"] != w.operator.Email || w.mails[0].Values["member"] != anna.Email {
				t.Errorf("mailed %+v", w.mails)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE organization_id = $1 AND action = 'impersonation.start' AND object = $2 AND detail LIKE $3 AND detail LIKE $4`,
				w.acme, anna.ID, "%"+w.operator.Email+"%", "%"+reason+"%"); n != 1 {
				t.Errorf("%d events", n)
			}
		})
		t.Run("ends when the operator is none any more", func(t *testing.T) {
			w.exec(t, `UPDATE accounts SET operator = FALSE WHERE id = $1`, w.operator.ID)
			if got := w.caller(t, text); got != nil {
				t.Errorf("stands for %+v", got)
			}
			w.exec(t, `UPDATE accounts SET operator = TRUE WHERE id = $1`, w.operator.ID)
		})
		t.Run("ends when the member becomes an operator", func(t *testing.T) {
			w.exec(t, `UPDATE accounts SET operator = TRUE WHERE id = $1`, anna.ID)
			if got := w.caller(t, text); got != nil {
				t.Errorf("stands for %+v", got)
			}
			w.exec(t, `UPDATE accounts SET operator = FALSE WHERE id = $1`, anna.ID)
		})
		t.Run("can be ended", func(t *testing.T) {
			if w.caller(t, text) == nil {
				t.Fatal("it ended before")
			}
			must(t, w.EndImpersonation(ctx, made.ID))
			if got := w.caller(t, text); got != nil {
				t.Errorf("stands for %+v", got)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE organization_id = $1 AND action = 'impersonation.end' AND object = $2`, w.acme, made.ID); n != 1 {
				t.Errorf("%d events", n)
			}
		})
		t.Run("lives as long as the platform says, and ends by itself", func(t *testing.T) {
			short := token.New(d, slog.New(slog.DiscardHandler), w.organizations, token.ImpersonateFor(time.Second))
			made, text, err := short.Impersonate(ctx, w.operator, w.acme, anna.ID, reason)
			must(t, err)
			if life := time.Until(made.ExpiresAt); life > time.Second || w.caller(t, text) == nil {
				t.Errorf("it lives for %s", life)
			}
			time.Sleep(time.Until(made.ExpiresAt) + 10*time.Millisecond)
			if got := w.caller(t, text); got != nil {
				t.Errorf("stands for %+v", got)
			}
		})
		t.Run("is in nobody's list", func(t *testing.T) {
			_, _, err := w.Impersonate(ctx, w.operator, w.acme, anna.ID, reason)
			must(t, err)
			for _, who := range []account.Caller{anna, w.operator} {
				if found, _, err := w.Of(ctx, who, 0, ""); err != nil || len(found) != 0 {
					t.Errorf("listed %+v, %v", found, err)
				}
			}
		})
	})
}

// TestBounds has a person and an organization make tokens on two processes at once.
func TestBounds(t *testing.T) {
	t.Parallel()
	for engine, open := range map[string]func(testing.TB) string{"sqlite": dbtest.SQLiteURL, "postgres": dbtest.PostgresURL} {
		t.Run(engine, func(t *testing.T) {
			ctx := t.Context()
			url := open(t)
			d := dbtest.Open(t, url)
			w := newWorld(t, d)
			processes := []*token.Tokens{w.Tokens, w.Tokens}
			if engine == "postgres" {
				processes[1] = newTokens(dbtest.Open(t, url))
			}
			for name, create := range map[string]func(on *token.Tokens) error{
				"a person": func(on *token.Tokens) error {
					_, _, err := on.Create(ctx, w.owner, token.Request{Name: "x", Scope: account.Read})
					return err
				},
				"an organization": func(on *token.Tokens) error {
					_, _, err := on.CreateForOrganization(ctx, w.owner, token.Request{Name: "x", Scope: account.Read, Organization: w.acme, Role: organization.Viewer})
					return err
				},
			} {
				for range 95 {
					must(t, create(w.Tokens))
				}
				var wg sync.WaitGroup
				var mu sync.Mutex
				won := 0
				for i := range 50 {
					wg.Go(func() {
						err := create(processes[i%2])
						mu.Lock()
						defer mu.Unlock()
						if err == nil {
							won++
						} else if !errors.Is(err, token.ErrTokens) {
							t.Errorf("%s: %v", name, err)
						}
					})
				}
				wg.Wait()
				if won != 5 {
					t.Errorf("%s made %d of a crowd", name, won)
				}
			}
			if n := w.count(t, `SELECT COUNT(*) FROM tokens`); n != 200 {
				t.Errorf("%d tokens in all", n)
			}
			w.exec(t, `UPDATE tokens SET revoked_at = 1 WHERE kind = 'personal'`)
			w.create(t, w.owner, token.Request{Scope: account.Read}) // what is revoked does not count
		})
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		site := w.site(t, w.acme)
		for range 3 {
			w.create(t, w.owner, token.Request{Scope: account.Read, Organization: w.acme, Sites: []string{site}, Life: time.Hour})
		}
		revoked, _ := w.create(t, w.owner, token.Request{Scope: account.Read})
		must(t, w.Revoke(ctx, w.owner, revoked.ID))
		_, text := w.create(t, w.owner, token.Request{Scope: account.Read})
		if n, err := w.Prune(ctx, time.Now().Add(30*24*time.Hour-time.Minute)); err != nil || n != 0 {
			t.Errorf("pruned %d too early, %v", n, err)
		}
		if n, err := w.Prune(ctx, time.Now().Add(30*24*time.Hour+2*time.Hour)); err != nil || n != 4 {
			t.Errorf("pruned %d, %v", n, err)
		}
		if w.caller(t, text) == nil {
			t.Error("one that works is gone")
		}
		if n := w.count(t, `SELECT COUNT(*) FROM token_sites`); n != 0 {
			t.Errorf("%d bounds are left", n)
		}
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		for i := range 5 {
			made, _ := w.create(t, w.owner, token.Request{Name: fmt.Sprint("t", i), Scope: account.Read, Organization: w.acme})
			if i == 3 {
				must(t, w.Revoke(ctx, w.owner, made.ID))
			}
		}
		w.create(t, w.operator, token.Request{Name: "anothers", Scope: account.Read})
		var names []string
		for page := ""; ; {
			found, next, err := w.Of(ctx, w.owner, 2, page)
			must(t, err)
			for _, one := range found {
				names = append(names, one.Name)
			}
			if page = next; page == "" {
				break
			}
			if _, _, err := w.Of(ctx, w.operator, 2, page); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("another's page token: %v", err)
			}
		}
		if fmt.Sprint(names) != "[t0 t1 t2 t4]" {
			t.Errorf("got %v", names)
		}
		if found, _, err := w.OfOrganization(ctx, w.acme, 0, ""); err != nil || len(found) != 0 {
			t.Errorf("an organization lists its members' own: %v, %v", found, err)
		}
	})
}
