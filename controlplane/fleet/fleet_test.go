package fleet

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
)

var pin = strings.Repeat("ab", 32)

// authority counts what it issues; its certificates are as long-lived as ours.
type authority struct{ issued atomic.Int64 }

func (a *authority) issue(now time.Time) Issue {
	return func(server contract.ServerID) (pki.Certificate, error) {
		n := a.issued.Add(1)
		serial := fmt.Sprintf("%s-%d", server, n)
		return pki.Certificate{DER: []byte("certificate " + serial), Serial: serial, Expires: now.Add(7 * 24 * time.Hour)}, nil
	}
}

func serialOf(der []byte) string { return strings.TrimPrefix(string(der), "certificate ") }

func keyHash(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:]
}

func replaced(context.Context, *db.Tx, contract.ServerID) error { return nil }

func opened(context.Context, *db.Tx, bool) error { return nil }

// world is a fleet with its clock.
type world struct {
	*Fleet
	authority
	now time.Time
}

func newWorld(t testing.TB, d *db.DB) *world {
	return &world{Fleet: New(d, slog.New(slog.NewTextHandler(t.Output(), nil))), now: db.Time(db.Micros(time.Now()))}
}

func (w *world) create(t testing.TB, name string) (Server, JoinToken) {
	t.Helper()
	s, token, err := w.Create(t.Context(), name, Shared, contract.OrganizationID{}, pin)
	if err != nil {
		t.Fatal(err)
	}
	return s, token
}

func (w *world) enroll(ctx context.Context, token JoinToken, id, key string) (Enrolled, error) {
	return w.Enroll(ctx, Enrollment{Token: token.Text, ID: id, KeyHash: keyHash(key), Facts: Facts{Hostname: "h", Prepared: true}},
		w.now, w.issue(w.now), replaced)
}

// host makes a server that has enrolled with a key, and gives who it is.
func (w *world) host(t testing.TB, name, key string) (contract.ServerID, pki.Peer) {
	t.Helper()
	_, token := w.create(t, name)
	e, err := w.enroll(t.Context(), token, "e1", key)
	if err != nil {
		t.Fatal(err)
	}
	return e.Server, pki.Peer{Server: e.Server.String(), Serial: serialOf(e.Certificate), KeyHash: keyHash(key)}
}

func (w *world) hello(ctx context.Context, who pki.Peer, instance string) (uint64, error) {
	return w.Hello(ctx, who, Greeting{Instance: instance, Facts: Facts{Prepared: true}}, w.now, opened)
}

func (w *world) mustHello(t testing.TB, who pki.Peer, instance string) uint64 {
	t.Helper()
	epoch, err := w.hello(t.Context(), who, instance)
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}

func (w *world) get(t testing.TB, id contract.ServerID) Server {
	t.Helper()
	s, err := w.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func exec(t testing.TB, d *db.DB, query string, args ...any) {
	t.Helper()
	if err := db.InTx(t.Context(), d, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), query, args...); return err }); err != nil {
		t.Fatal(err)
	}
}

func organization(t testing.TB, d *db.DB, name string) contract.OrganizationID {
	t.Helper()
	id := contract.NewOrganizationID()
	exec(t, d, `INSERT INTO organizations (id, name, state, require_second_factor, created_at) VALUES ($1, $2, 'active', FALSE, 1)`, id, name)
	return id
}

func addSite(t testing.TB, d *db.DB, org contract.OrganizationID, server contract.ServerID) {
	t.Helper()
	id := uuid.NewString()
	exec(t, d, `
		INSERT INTO sites (organization_id, id, handle, server_id, name, type, desired, phase, frozen, generation, observed_generation,
			problem, last_task_id, created_at, updated_at)
		VALUES ($1, $2, $2, $3, $2, 'static', $4, 'trashed', FALSE, 1, 0, '', '', 1, 1)`,
		org, id, server, []byte{1})
}

func wantKind(t testing.TB, err error, want fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != want {
		t.Errorf("got %v, want a %s fault", err, want)
	}
}

func TestCreate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		org := organization(t, d, "acme")
		t.Run("makes a server that waits for its host", func(t *testing.T) {
			s, token := w.create(t, "web1")
			if s.State != Pending || s.Online || s.Facts != nil || s.Tenancy != Shared || !s.CertificateExpiresAt.IsZero() || s.Problem != "" {
				t.Errorf("got %+v", s)
			}
			if got := w.get(t, s.ID); got != s {
				t.Errorf("got %+v, want %+v", got, s)
			}
			if _, _, err := parseToken(token.Text); err != nil {
				t.Errorf("own token %s: %v", token.Text, err)
			}
			if life := time.Until(token.ExpiresAt); life < 29*time.Minute || life > 30*time.Minute {
				t.Errorf("the token lives %s", life)
			}
			if found, err := w.ByName(ctx, "web1"); err != nil || found.ID != s.ID {
				t.Errorf("by name: %v, %v", found.ID, err)
			}
		})
		t.Run("keeps no secret", func(t *testing.T) {
			_, token := w.create(t, "secret")
			_, secret, err := parseToken(token.Text)
			if err != nil {
				t.Fatal(err)
			}
			var n int
			if err := d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM join_tokens WHERE secret_hash = $1`, []byte(secret)).Scan(&n); err != nil || n != 0 {
				t.Errorf("%d, %v", n, err)
			}
			if err := d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM join_tokens WHERE secret_hash = $1`, hashSecret(secret)).Scan(&n); err != nil || n != 1 {
				t.Errorf("%d, %v", n, err)
			}
		})
		t.Run("refuses a name already taken", func(t *testing.T) {
			w.create(t, "taken")
			if _, _, err := w.Create(ctx, "taken", Shared, contract.OrganizationID{}, pin); !errors.Is(err, ErrNameTaken) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("gives the name of a removed server again", func(t *testing.T) {
			s, _ := w.create(t, "again")
			if _, err := w.Remove(ctx, s.ID); err != nil {
				t.Fatal(err)
			}
			second, _ := w.create(t, "again")
			if found, err := w.ByName(ctx, "again"); err != nil || found.ID != second.ID {
				t.Errorf("by name: %v, %v", found.ID, err)
			}
		})
		t.Run("makes a server for one organization", func(t *testing.T) {
			s, _, err := w.Create(ctx, "own", Dedicated, org, pin)
			if err != nil || s.Organization != org || s.Tenancy != Dedicated {
				t.Errorf("got %+v, %v", s, err)
			}
		})
		for name, test := range map[string]struct {
			name    string
			tenancy Tenancy
			org     contract.OrganizationID
			field   string
		}{
			"a name for a shell":            {"web;id", Shared, contract.OrganizationID{}, "name"},
			"no name":                       {"", Shared, contract.OrganizationID{}, "name"},
			"no such tenancy":               {"x1", "mine", contract.OrganizationID{}, "tenancy"},
			"dedicated to nobody":           {"x2", Dedicated, contract.OrganizationID{}, "organization_id"},
			"shared with one only":          {"x3", Shared, org, "organization_id"},
			"an organization that is not":   {"x4", Dedicated, contract.NewOrganizationID(), "organization_id"},
			"a name that begins with digit": {"1x", Shared, contract.OrganizationID{}, "name"},
		} {
			t.Run("refuses "+name, func(t *testing.T) {
				_, _, err := w.Create(ctx, test.name, test.tenancy, test.org, pin)
				if f, ok := fault.Of(err); !ok || f.Field() != test.field {
					t.Errorf("got %v", err)
				}
			})
		}
		t.Run("writes who did it in the same transaction", func(t *testing.T) {
			exec(t, d, `ALTER TABLE audit_events RENAME TO gone`)
			if _, _, err := w.Create(ctx, "unseen", Shared, contract.OrganizationID{}, pin); err == nil {
				t.Error("was made without a trace")
			}
			if _, err := w.ByName(ctx, "unseen"); !errors.Is(err, ErrNotFound) {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestList(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		org := organization(t, d, "acme")
		var first Server
		for i := range 5 {
			s, _ := w.create(t, fmt.Sprintf("s%d", i))
			if i == 0 {
				first = s
			}
			if i == 3 {
				if _, err := w.Remove(t.Context(), s.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		addSite(t, d, org, first.ID)
		addSite(t, d, org, first.ID)
		t.Run("gives pages, the oldest first, without those removed", func(t *testing.T) {
			var names []string
			for token := ""; ; {
				found, next, err := w.List(t.Context(), 2, token)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range found {
					names = append(names, fmt.Sprintf("%s:%d", s.Name, s.Sites))
				}
				if token = next; token == "" {
					break
				}
			}
			if got := fmt.Sprint(names); got != "[s0:2 s1:0 s2:0 s4:0]" {
				t.Errorf("got %s", got)
			}
		})
		t.Run("gives those in some states", func(t *testing.T) {
			for want, states := range map[string][]State{"[s3]": {Removed}, "[s0 s1 s2 s3 s4]": {Removed, Pending}, "[]": {Active, Quarantined}} {
				var names []string
				found, _, err := w.List(t.Context(), 0, "", states...)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range found {
					names = append(names, s.Name)
				}
				if got := fmt.Sprint(names); got != want {
					t.Errorf("%v gave %s, want %s", states, got, want)
				}
			}
		})
		t.Run("refuses a token of another filter", func(t *testing.T) {
			_, next, err := w.List(t.Context(), 2, "", Pending)
			if err != nil || next == "" {
				t.Fatalf("got %q, %v", next, err)
			}
			_, _, err = w.List(t.Context(), 2, next)
			wantKind(t, err, fault.KindInvalid)
		})
		t.Run("refuses a token of nobody's", func(t *testing.T) {
			_, _, err := w.List(t.Context(), 2, "xyz")
			wantKind(t, err, fault.KindInvalid)
		})
		t.Run("says of an unknown server that it does not exist", func(t *testing.T) {
			if _, err := w.Get(t.Context(), contract.NewServerID()); !errors.Is(err, ErrNotFound) {
				t.Errorf("got %v", err)
			}
			if _, err := w.ByName(t.Context(), "s3"); !errors.Is(err, ErrNotFound) {
				t.Errorf("got %v", err)
			}
		})
	})
}
