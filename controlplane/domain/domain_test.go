package domain_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// zones is a DNS in memory. The real one is asked in TestRealServer.
type zones struct {
	mu    sync.Mutex
	texts map[string][]string
	down  bool
}

func (z *zones) LookupTXT(_ context.Context, name string) ([]string, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.down {
		return nil, &net.DNSError{Err: "timeout", Name: name, IsTimeout: true}
	}
	found, ok := z.texts[strings.TrimSuffix(name, ".")]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return found, nil
}

func (z *zones) set(r domain.Record) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.texts[r.Name] = append(z.texts[r.Name], r.Value)
}

func nobodyUses(context.Context, *db.Tx, contract.OrganizationID, contract.Domain) (string, error) {
	return "", nil
}

type world struct {
	*domain.Domains
	zones
	db    *db.DB
	inUse string
}

func newWorld(t testing.TB, d *db.DB) *world {
	w := &world{db: d, zones: zones{texts: map[string][]string{}}}
	w.Domains = domain.New(d, slog.New(slog.DiscardHandler), domain.Config{
		Resolver: &w.zones,
		InUse: func(context.Context, *db.Tx, contract.OrganizationID, contract.Domain) (string, error) {
			return w.inUse, nil
		},
	})
	return w
}

// tenant makes an organization.
func (w *world) tenant(t testing.TB, name string) contract.OrganizationID {
	t.Helper()
	id := contract.NewOrganizationID()
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), `
			INSERT INTO organizations (id, name, state, require_second_factor, created_at)
			VALUES ($1, $2, 'active', FALSE, 1)`, id, name)
		return err
	}))
	return id
}

func (w *world) holds(t testing.TB, who contract.OrganizationID, name string) (holds bool) {
	t.Helper()
	parsed, err := contract.ParseDomain(name)
	must(t, err)
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) (err error) {
		holds, err = domain.Holds(t.Context(), tx, who, parsed)
		return err
	}))
	return holds
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestClaim(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		acme, other := w.tenant(t, "acme"), w.tenant(t, "other")
		made, err := w.Create(ctx, acme, "Example.COM.")
		must(t, err)
		if made.State != domain.Pending || made.Name.String() != "example.com" || made.Record.Name != "_chom.example.com" {
			t.Fatalf("got %+v", made)
		}
		if w.holds(t, acme, "example.com") {
			t.Error("a pending claim counts")
		}
		twice, err := w.Create(ctx, acme, "example.com")
		must(t, err)
		if twice.ID != made.ID || twice.Record != made.Record {
			t.Errorf("again it is %+v", twice)
		}
		t.Run("says what is missing", func(t *testing.T) {
			looked, err := w.Check(ctx, acme, made.ID)
			must(t, err)
			if looked.State != domain.Pending || !strings.Contains(looked.Problem, "there is no TXT record _chom.example.com") || looked.NextLookAt.Before(time.Now()) {
				t.Errorf("got %+v", looked)
			}
			w.set(domain.Record{Name: "_chom.example.com", Value: "chom-claim=WRONG"})
			if looked, err = w.Check(ctx, acme, made.ID); err != nil || !strings.Contains(looked.Problem, `"chom-claim=WRONG"`) {
				t.Errorf("got %+v, %v", looked, err)
			}
			w.down = true
			if looked, err = w.Check(ctx, acme, made.ID); err != nil || !strings.Contains(looked.Problem, "do not answer") {
				t.Errorf("got %+v, %v", looked, err)
			}
			w.down = false
		})
		t.Run("another's record proves nothing", func(t *testing.T) {
			theirs, err := w.Create(ctx, other, "example.com")
			must(t, err)
			if theirs.Record.Value == made.Record.Value {
				t.Fatal("they have the same token")
			}
			w.set(theirs.Record)
			if looked, err := w.Check(ctx, acme, made.ID); err != nil || looked.State != domain.Pending {
				t.Errorf("got %+v, %v", looked, err)
			}
		})
		t.Run("is verified by its record, with all names below", func(t *testing.T) {
			w.set(made.Record)
			looked, err := w.Check(ctx, acme, made.ID)
			must(t, err)
			if looked.State != domain.Verified || looked.Proof != domain.DNS || looked.Problem != "" {
				t.Errorf("got %+v", looked)
			}
			for name, want := range map[string]bool{"example.com": true, "www.example.com": true, "a.b.example.com": true, "example.org": false, "notexample.com": false} {
				if w.holds(t, acme, name) != want || w.holds(t, other, name) {
					t.Errorf("%s: held %v", name, !want)
				}
			}
		})
		t.Run("keeps others from the name, those above and those below, whatever they prove", func(t *testing.T) {
			for _, name := range []string{"example.com", "www.example.com", "a.b.example.com"} {
				theirs, err := w.Create(ctx, other, name)
				must(t, err)
				w.set(theirs.Record)
				looked, err := w.Check(ctx, other, theirs.ID)
				must(t, err)
				if looked.State != domain.Pending || !strings.Contains(looked.Problem, "another organization") || w.holds(t, other, name) {
					t.Errorf("%s: %+v", name, looked)
				}
				if _, err := w.Attest(ctx, other, name); !errors.Is(err, domain.ErrHeld) {
					t.Errorf("%s by an operator: %v", name, err)
				}
			}
			below, err := w.Attest(ctx, acme, "deep.inside.example.net")
			must(t, err)
			if _, err := w.Attest(ctx, other, "example.net"); !errors.Is(err, domain.ErrHeld) {
				t.Errorf("a name above: %v", err)
			}
			if _, err := w.Attest(ctx, other, "beside.example.net"); err != nil {
				t.Errorf("a name beside: %v", err)
			}
			_, err = w.Release(ctx, acme, below.ID)
			must(t, err)
		})
		t.Run("a proof that is gone is shown, and changes nothing", func(t *testing.T) {
			w.mu.Lock()
			delete(w.texts, "_chom.example.com")
			w.mu.Unlock()
			looked, err := w.Check(ctx, acme, made.ID)
			must(t, err)
			if looked.State != domain.Verified || looked.Problem == "" || !w.holds(t, acme, "example.com") {
				t.Errorf("got %+v", looked)
			}
		})
		t.Run("is not released while a site answers to it", func(t *testing.T) {
			w.inUse = "blog"
			if _, err := w.Release(ctx, acme, made.ID); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "blog") {
				t.Errorf("got %v", err)
			}
			w.inUse = ""
		})
		t.Run("a released one is held a while, and can be taken back", func(t *testing.T) {
			gone, err := w.Release(ctx, acme, made.ID)
			must(t, err)
			if gone.State != domain.Released || gone.HeldUntil.Before(time.Now().Add(domain.HeldFor-time.Minute)) || w.holds(t, acme, "example.com") {
				t.Errorf("got %+v", gone)
			}
			if _, err := w.Attest(ctx, other, "example.com"); !errors.Is(err, domain.ErrHeld) {
				t.Errorf("others: %v", err)
			}
			back, err := w.Create(ctx, acme, "example.com")
			must(t, err)
			if back.State != domain.Verified || !w.holds(t, acme, "example.com") {
				t.Errorf("back: %+v", back)
			}
		})
		t.Run("of others is none", func(t *testing.T) {
			for name, do := range map[string]func(context.Context, contract.OrganizationID, string) (domain.Claim, error){"get": w.Get, "check": w.Check, "release": w.Release} {
				if _, err := do(ctx, other, made.ID); !errors.Is(err, domain.ErrNotFound) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	})
}

func TestNames(t *testing.T) {
	for text, want := range map[string]string{
		"example.com": "example.com", "EXAMPLE.com.": "example.com", "münchen.example": "xn--mnchen-3ya.example", "faß.example": "xn--fa-hia.example",
		"www.example.co.uk": "www.example.co.uk", "mine.github.io": "mine.github.io",
	} {
		if name, err := domain.ParseName(text); err != nil || name.String() != want {
			t.Errorf("%s: %s, %v", text, name, err)
		}
	}
	for _, text := range []string{
		"", ".", "com", "co.uk", "github.io", "*.example.com", "example..com", "exa mple.com", "-a.example.com", "192.0.2.1", "a.192.0.2.1", "[::1]",
		"xn--a.example.com", strings.Repeat("a", 64) + ".example.com", "example.com/", "example.com:80", "a\x00.example.com", "_dmarc.example.com",
	} {
		if name, err := domain.ParseName(text); fault.KindOf(err) != fault.KindInvalid {
			t.Errorf("%q passed as %s: %v", text, name, err)
		}
	}
}

// TestRun has the worker find what people set.
func TestRun(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		acme := w.tenant(t, "acme")
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		made, err := w.Create(ctx, acme, "example.com")
		must(t, err)
		w.set(made.Record)
		deadline := time.Now().Add(20 * time.Second)
		for made.State != domain.Verified && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
			made, err = w.Get(ctx, acme, made.ID)
			must(t, err)
		}
		if made.State != domain.Verified {
			t.Errorf("got %+v", made)
		}
		stop()
		must(t, <-ended)
	})
}
