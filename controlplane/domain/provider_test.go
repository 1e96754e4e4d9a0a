package domain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/dns"
	"chom.dev/controlplane/dns/dnstest"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/proto/contract"
)

var loopback = outbound.New(outbound.Allow(netip.MustParsePrefix("127.0.0.0/8")))

// keeping is a world with providers whose services run here.
type keeping struct {
	*world
	providers *domain.Providers
	log       bytes.Buffer

	// appended is called after each record that a service took.
	appended func()
}

// newKeeping has claims proved, and records seen, by the name server at an address.
func newKeeping(t testing.TB, d *db.DB, address string) *keeping {
	t.Helper()
	k := &keeping{world: newWorld(t, d), appended: func() {}}
	k.Domains = domain.New(d, slog.New(slog.DiscardHandler), domain.Config{Resolver: domain.NewResolver(address), InUse: nobodyUses})
	k.providers = domain.NewProviders(d, slog.New(slog.NewTextHandler(&k.log, nil)), k.config(address))
	return k
}

func (k *keeping) config(address string) domain.ProvidersConfig {
	return domain.ProvidersConfig{
		Keys: secrettest.New(), Dialer: loopback,
		Open: func(c dns.Credentials) (domain.Service, error) {
			service, err := dns.Open(c, loopback)
			return &watched{service, k}, err
		},
		NameServers: func(context.Context, string) ([]string, error) { return []string{address}, nil },
	}
}

// watched is a real service that tells what was done.
type watched struct {
	domain.Service
	k *keeping
}

func (w *watched) Append(ctx context.Context, zone string, r dns.Record) error {
	err := w.Service.Append(ctx, zone, r)
	w.k.appended()
	return err
}

// run runs the workers until stop, or the test's end.
func (k *keeping) run(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	loops.Go(func() { must(t, k.providers.Run(ctx)) })
	loops.Go(func() { must(t, k.Domains.Run(ctx)) })
	stop = sync.OnceFunc(func() { cancel(); loops.Wait() })
	t.Cleanup(stop)
	return stop
}

func (k *keeping) want(t testing.TB, who contract.OrganizationID, site contract.SiteID, addresses []string, names ...string) {
	t.Helper()
	var parsed []contract.Domain
	for _, text := range names {
		name, err := contract.ParsePattern(text)
		must(t, err)
		parsed = append(parsed, name)
	}
	var to []netip.Addr
	for _, text := range addresses {
		to = append(to, netip.MustParseAddr(text))
	}
	must(t, db.InTx(t.Context(), k.db, func(tx *db.Tx) error {
		return domain.WantAddresses(t.Context(), tx, who, site, parsed, to)
	}))
}

// records are those of a provider, as "TYPE NAME VALUE STATE".
func (k *keeping) records(t testing.TB, who contract.OrganizationID, provider string) (all []string, problems string) {
	t.Helper()
	found, _, err := k.providers.ListRecords(t.Context(), who, provider, 0, "")
	must(t, err)
	for _, r := range found {
		all = append(all, fmt.Sprintf("%s %s %s %s", r.Type, r.Name, r.Value, r.State))
		problems += r.Problem
	}
	slices.Sort(all)
	return all, problems
}

func (k *keeping) until(t testing.TB, who contract.OrganizationID, provider string, want ...string) {
	t.Helper()
	slices.Sort(want)
	eventually(t, func() (bool, string) {
		have, problems := k.records(t, who, provider)
		return slices.Equal(have, want), fmt.Sprintf("it has %q (%s)", have, problems)
	})
}

// later has the records of a name due, as they are in time.
func (k *keeping) later(t testing.TB, name string) {
	t.Helper()
	must(t, db.InTx(t.Context(), k.db, func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE dns_records SET due_at = $1 WHERE name = $2`, db.Micros(time.Now()), name)
		tx.Notify("dns_due", "") // Run would see it with its next sweep
		return err
	}))
}

func eventually(t testing.TB, holds func() (bool, string)) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ok, state := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(state)
		}
	}
}

func credentials(t testing.TB, kind dns.Type, values map[string]string) dns.Credentials {
	t.Helper()
	made, err := dns.NewCredentials(kind, values)
	must(t, err)
	return made
}

func ofKnot(t testing.TB, k dnstest.Knot) dns.Credentials {
	return credentials(t, dns.RFC2136, map[string]string{"server": k.Address, "key_name": k.KeyName, "key_algorithm": "hmac-sha256", "key": k.Key})
}

func ofPower(t testing.TB, p dnstest.PowerDNS) dns.Credentials {
	return credentials(t, dns.PowerDNS, map[string]string{"server_url": p.URL, "api_key": p.Key})
}

// server is a real name server with a zone example.com.
type server struct {
	address     string
	credentials func(testing.TB) dns.Credentials
	ask         func(t testing.TB, name string, kind uint16) []string
	foreign     func(t testing.TB, name, kind, value string) // what somebody else adds
	gone        func(t testing.TB, name, kind string)        // what somebody else removes
}

// eachServer runs a test with both name servers and both engines.
func eachServer(t *testing.T, test func(t *testing.T, d *db.DB, s server)) {
	t.Run("knot", func(t *testing.T) {
		dbtest.Each(t, func(t *testing.T, d *db.DB) {
			k := dnstest.StartKnot(t, "example.com")
			test(t, d, server{
				k.Address, func(t testing.TB) dns.Credentials { return ofKnot(t, k) }, k.Ask,
				func(t testing.TB, name, kind, value string) {
					k.Update(t, fmt.Sprintf("add %s. 60 %s %s", name, kind, value))
				},
				func(t testing.TB, name, kind string) { k.Update(t, fmt.Sprintf("del %s. %s", name, kind)) },
			})
		})
	})
	t.Run("powerdns", func(t *testing.T) {
		dbtest.Each(t, func(t *testing.T, d *db.DB) {
			p := dnstest.StartPowerDNS(t, "example.com")
			test(t, d, server{
				p.Address, func(t testing.TB) dns.Credentials { return ofPower(t, p) }, p.Ask,
				func(t testing.TB, name, kind, value string) { p.Set(t, "example.com", name, kind, value) },
				func(t testing.TB, name, kind string) { p.Set(t, "example.com", name, kind) },
			})
		})
	})
}

func TestAddresses(t *testing.T) {
	eachServer(t, func(t *testing.T, d *db.DB, s server) {
		whole, k := t, newKeeping(t, d, s.address)
		acme := k.tenant(t, "acme")
		made, err := k.providers.Create(t.Context(), acme, "main", []string{"Example.COM."}, s.credentials(t))
		must(t, err)
		if made.Type == "" || !slices.Equal(made.Zones, []string{"example.com"}) || made.Problem != "" || made.CalledAt.IsZero() {
			t.Errorf("made is %+v", made)
		}
		heard := make(chan string, 100)
		listening, stopListening := context.WithCancel(t.Context())
		defer stopListening()
		go func() {
			_ = d.Listen(listening, func(topic, payload string) {
				if topic == domain.RecordsTopic {
					heard <- payload
				}
			})
		}()
		stop := k.run(t)
		blog, shop := contract.NewSiteID(), contract.NewSiteID()
		t.Run("are made with the site", func(t *testing.T) {
			k.want(t, acme, blog, []string{"192.0.2.1", "2001:db8::1"}, "example.com", "blog.example.com", "*.blog.example.com", "elsewhere.example.org")
			k.until(t, acme, made.ID,
				"A example.com 192.0.2.1 made", "AAAA example.com 2001:db8::1 made", "A blog.example.com 192.0.2.1 made", "AAAA blog.example.com 2001:db8::1 made",
				"A *.blog.example.com 192.0.2.1 made", "AAAA *.blog.example.com 2001:db8::1 made")
			for name, want := range map[string]string{"example.com": "192.0.2.1", "blog.example.com": "192.0.2.1", "any.blog.example.com": "192.0.2.1"} {
				if got := s.ask(t, name, wire.TypeA); !slices.Equal(got, []string{want}) {
					t.Errorf("%s is %v", name, got)
				}
			}
			if got := s.ask(t, "any.blog.example.com", wire.TypeAAAA); !slices.Equal(got, []string{"2001:db8::1"}) {
				t.Errorf("got %v", got)
			}
			select {
			case who := <-heard:
				if who != acme.String() {
					t.Errorf("heard of %s", who)
				}
			case <-time.After(10 * time.Second):
				t.Error("nobody heard of it")
			}
		})
		t.Run("follow it to another server", func(t *testing.T) {
			k.want(t, acme, blog, []string{"192.0.2.7"}, "blog.example.com")
			k.until(t, acme, made.ID, "A blog.example.com 192.0.2.7 made")
			if got := s.ask(t, "blog.example.com", wire.TypeA); !slices.Equal(got, []string{"192.0.2.7"}) {
				t.Errorf("got %v", got)
			}
			if got := s.ask(t, "example.com", wire.TypeA); len(got) != 0 {
				t.Errorf("got %v", got)
			}
		})
		t.Run("go with a name to another site", func(t *testing.T) {
			k.want(t, acme, shop, []string{"192.0.2.7"}, "blog.example.com")
			k.want(t, acme, blog, []string{"192.0.2.7"})
			k.until(t, acme, made.ID, "A blog.example.com 192.0.2.7 made")
		})
		t.Run("are made anew when somebody took them away", func(t *testing.T) {
			k.later(t, "blog.example.com") // a day
			rested := func(state string) {
				t.Helper()
				eventually(t, func() (bool, string) {
					var at int64
					must(t, d.Reader().QueryRow(t.Context(), `SELECT due_at FROM dns_records WHERE name = 'blog.example.com' AND state = $1`, state).Scan(&at))
					return time.Until(db.Time(at)) > 50*time.Minute, fmt.Sprintf("it is due at %s", db.Time(at))
				})
			}
			rested("made")
			for len(heard) > 0 {
				<-heard
			}
			k.later(t, "blog.example.com")
			rested("made")
			if len(heard) > 0 {
				t.Error("to find a record in its place is news")
			}
			s.gone(t, "blog.example.com", "A")
			k.later(t, "blog.example.com")
			rested("made")
			if got := s.ask(t, "blog.example.com", wire.TypeA); !slices.Equal(got, []string{"192.0.2.7"}) {
				t.Errorf("got %v", got)
			}
			s.gone(t, "blog.example.com", "A")
			s.foreign(t, "blog.example.com", "A", "198.51.100.1")
			k.later(t, "blog.example.com")
			k.until(t, acme, made.ID, "A blog.example.com 192.0.2.7 in_the_way")
			rested("in_the_way")
			s.gone(t, "blog.example.com", "A")
			k.later(t, "blog.example.com")
			k.until(t, acme, made.ID, "A blog.example.com 192.0.2.7 made")
		})
		t.Run("of somebody else are never touched", func(t *testing.T) {
			s.foreign(t, "taken.example.com", "A", "198.51.100.1")
			s.foreign(t, "alias.example.com", "CNAME", "example.org.")
			s.foreign(t, "six.example.com", "AAAA", "2001:db8::9")
			s.foreign(t, "equal.example.com", "A", "192.0.2.7")
			k.want(t, acme, blog, []string{"192.0.2.7"}, "taken.example.com", "alias.example.com", "six.example.com", "equal.example.com")
			blocked := []string{"A taken.example.com 192.0.2.7 in_the_way", "A alias.example.com 192.0.2.7 in_the_way", "A six.example.com 192.0.2.7 in_the_way", "A equal.example.com 192.0.2.7 in_the_way", "A blog.example.com 192.0.2.7 made"}
			k.until(t, acme, made.ID, blocked...)
			found, _, err := k.providers.ListRecords(t.Context(), acme, made.ID, 0, "")
			must(t, err)
			for _, r := range found {
				want := map[string]string{"taken.example.com": `A "198.51.100.1"`, "alias.example.com": `CNAME "example.org."`, "six.example.com": `AAAA "2001:db8::9"`}[r.Name]
				if !strings.Contains(r.Problem, want) || want == "" && r.Problem != "" {
					t.Errorf("%s: %q", r.Name, r.Problem)
				}
			}
			untouched := func() {
				t.Helper()
				for name, kind := range map[string]uint16{"taken.example.com": wire.TypeA, "alias.example.com": wire.TypeCNAME, "six.example.com": wire.TypeAAAA, "equal.example.com": wire.TypeA} {
					if got := s.ask(t, name, kind); len(got) != 1 {
						t.Errorf("%s is %v", name, got)
					}
				}
			}
			untouched()
			k.want(t, acme, blog, nil)
			k.until(t, acme, made.ID, "A blog.example.com 192.0.2.7 made")
			untouched()
		})
		t.Run("are made once what was in the way is gone", func(t *testing.T) {
			k.want(t, acme, blog, []string{"192.0.2.7"}, "taken.example.com")
			k.until(t, acme, made.ID, "A blog.example.com 192.0.2.7 made", "A taken.example.com 192.0.2.7 in_the_way")
			s.gone(t, "taken.example.com", "A")
			due := func() (at int64) {
				t.Helper()
				must(t, d.Reader().QueryRow(t.Context(), `SELECT due_at FROM dns_records WHERE name = 'taken.example.com'`).Scan(&at))
				return at
			}
			before := due()
			k.want(t, acme, blog, []string{"192.0.2.7"}, "taken.example.com")
			if now := due(); now != before || time.Until(db.Time(now)) < 50*time.Minute {
				t.Errorf("to want it again has the zone read at %s, not in an hour", db.Time(now))
			}
			k.later(t, "taken.example.com") // an hour
			k.until(t, acme, made.ID, "A blog.example.com 192.0.2.7 made", "A taken.example.com 192.0.2.7 made")
		})
		t.Run("are made once, whenever the process dies", func(t *testing.T) {
			stop()
			ctx, kill := context.WithCancel(t.Context())
			k.appended = kill // and so nothing of what follows is written down
			k.want(t, acme, blog, []string{"192.0.2.7"}, "taken.example.com", "crash.example.com")
			must(t, k.providers.Run(ctx))
			if have, _ := k.records(t, acme, made.ID); !slices.Contains(have, "A crash.example.com 192.0.2.7 making") {
				t.Fatalf("it was written down: %q", have)
			}
			if got := s.ask(t, "crash.example.com", wire.TypeA); len(got) != 1 {
				t.Fatalf("it was not made: %v", got)
			}
			k.appended = func() { t.Error("it was made twice") }
			k.run(whole)
			k.until(t, acme, made.ID, "A blog.example.com 192.0.2.7 made", "A taken.example.com 192.0.2.7 made", "A crash.example.com 192.0.2.7 made")
			if got := s.ask(t, "crash.example.com", wire.TypeA); len(got) != 1 {
				t.Errorf("got %v", got)
			}
			k.appended = func() {}
		})
		t.Run("are removed with the site", func(t *testing.T) {
			k.want(t, acme, blog, nil)
			k.want(t, acme, shop, nil)
			k.until(t, acme, made.ID)
			for _, name := range []string{"blog.example.com", "crash.example.com", "taken.example.com"} {
				if got := s.ask(t, name, wire.TypeA); len(got) != 0 {
					t.Errorf("%s is %v", name, got)
				}
			}
		})
	})
}

// TestProof has a provider prove claims.
func TestProof(t *testing.T) {
	eachServer(t, func(t *testing.T, d *db.DB, s server) {
		k := newKeeping(t, d, s.address)
		acme, other := k.tenant(t, "acme"), k.tenant(t, "other")
		k.run(t)
		waiting, err := k.Domains.Create(t.Context(), acme, "waits.example.com")
		must(t, err)
		made, err := k.providers.Create(t.Context(), acme, "main", []string{"example.com"}, s.credentials(t))
		must(t, err)
		verified := func(id string) {
			t.Helper()
			eventually(t, func() (bool, string) {
				now, err := k.Domains.Get(t.Context(), acme, id)
				must(t, err)
				return now.State == domain.Verified && now.Proof == domain.DNS, fmt.Sprintf("it is %+v", now)
			})
		}
		t.Run("a claim that waited when the provider came is verified without anybody's doing", func(t *testing.T) { verified(waiting.ID) })
		claim, err := k.Domains.Create(t.Context(), acme, "shop.example.com")
		must(t, err)
		t.Run("and so is one that comes later", func(t *testing.T) { verified(claim.ID) })
		t.Run("with its record, which is removed when the claim is released, and made anew when it is taken back", func(t *testing.T) {
			proof := func(n int) {
				t.Helper()
				eventually(t, func() (bool, string) {
					got := s.ask(t, "_chom.shop.example.com", wire.TypeTXT)
					return len(got) == n, fmt.Sprintf("got %v", got)
				})
			}
			proof(1)
			_, err := k.Release(t.Context(), acme, claim.ID)
			must(t, err)
			proof(0)
			_, err = k.Domains.Create(t.Context(), acme, "shop.example.com")
			must(t, err)
			proof(1)
			must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error { // as forget does after a month
				_, err := tx.Exec(t.Context(), `DELETE FROM claims WHERE id = $1`, claim.ID)
				return err
			}))
			k.providers = domain.NewProviders(d, slog.New(slog.DiscardHandler), k.config(s.address))
			k.run(t)
			proof(0)
		})
		t.Run("another's claim is none of it", func(t *testing.T) {
			theirs, err := k.Domains.Create(t.Context(), other, "theirs.example.com")
			must(t, err)
			looked, err := k.Check(t.Context(), other, theirs.ID)
			must(t, err)
			if got := s.ask(t, "_chom.theirs.example.com", wire.TypeTXT); looked.State != domain.Pending || len(got) != 0 {
				t.Errorf("got %+v, %v", looked, got)
			}
		})
		t.Run("a provider that is removed leaves its records", func(t *testing.T) {
			must(t, k.providers.DeleteProvider(t.Context(), acme, made.ID))
			if got := s.ask(t, "_chom.waits.example.com", wire.TypeTXT); len(got) != 1 {
				t.Errorf("got %v", got)
			}
			if _, err := k.providers.GetProvider(t.Context(), acme, made.ID); !errors.Is(err, domain.ErrProviderNotFound) {
				t.Errorf("got %v", err)
			}
		})
	})
}

// TestUndelegated has an organization bring a zone that is not its own: at its own provider, it may write what it likes.
func TestUndelegated(t *testing.T) { // case C10
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		public := dnstest.StartKnot(t, "example.com")
		own := dnstest.StartPowerDNS(t, "example.com")
		k := newKeeping(t, d, public.Address)
		thief := k.tenant(t, "thief")
		made, err := k.providers.Create(t.Context(), thief, "mine", []string{"example.com"}, ofPower(t, own))
		must(t, err)
		k.run(t)
		claim, err := k.Domains.Create(t.Context(), thief, "example.com")
		must(t, err)
		k.until(t, thief, made.ID, "TXT _chom.example.com "+claim.Record.Value+" made")
		looked, err := k.Check(t.Context(), thief, claim.ID)
		must(t, err)
		if looked.State != domain.Pending || !strings.Contains(looked.Problem, "there is no TXT record") || k.holds(t, thief, "example.com") {
			t.Errorf("got %+v", looked)
		}
	})
}

func TestChallenge(t *testing.T) {
	eachServer(t, func(t *testing.T, d *db.DB, s server) {
		k := newKeeping(t, d, s.address)
		acme, other := k.tenant(t, "acme"), k.tenant(t, "other")
		_, err := k.providers.Create(t.Context(), acme, "main", []string{"example.com"}, s.credentials(t))
		must(t, err)
		stop := k.run(t)
		name, err := contract.ParsePattern("*.shop.example.com")
		must(t, err)
		texts := func(want ...string) {
			t.Helper()
			eventually(t, func() (bool, string) {
				got := s.ask(t, "_acme-challenge.shop.example.com", wire.TypeTXT)
				slices.Sort(got)
				return slices.Equal(got, want), fmt.Sprintf("got %v", got)
			})
		}
		listening, stopListening := context.WithCancel(t.Context())
		defer stopListening()
		go func() {
			_ = d.Listen(listening, func(topic, _ string) {
				if topic == domain.RecordsTopic {
					t.Error("sites and claims were told of a challenge")
				}
			})
		}()
		must(t, k.providers.PresentChallenge(t.Context(), acme, name, "one"))
		if got := s.ask(t, "_acme-challenge.shop.example.com", wire.TypeTXT); !slices.Equal(got, []string{`"one"`}) {
			t.Errorf("when it is said to be there: %v", got)
		}
		must(t, k.providers.PresentChallenge(t.Context(), acme, name, "two"))
		must(t, k.providers.PresentChallenge(t.Context(), acme, name, "two"))
		texts(`"one"`, `"two"`)
		must(t, k.providers.RemoveChallenge(t.Context(), other, name, "two"))
		must(t, k.providers.RemoveChallenge(t.Context(), acme, name, "one"))
		must(t, k.providers.RemoveChallenge(t.Context(), acme, name, "never"))
		texts(`"two"`)
		t.Run("is refused without a provider, or a value", func(t *testing.T) {
			if err := k.providers.PresentChallenge(t.Context(), other, name, "x"); !errors.Is(err, domain.ErrNoProvider) {
				t.Errorf("got %v", err)
			}
			if err := k.providers.PresentChallenge(t.Context(), acme, name, "a b\""); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("got %v", err)
			}
		})
		t.Run("says what is in the way", func(t *testing.T) {
			s.foreign(t, "_acme-challenge.cname.example.com", "CNAME", "elsewhere.example.org.")
			taken, err := contract.ParseDomain("cname.example.com")
			must(t, err)
			if err := k.providers.PresentChallenge(t.Context(), acme, taken, "x"); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "CNAME") {
				t.Errorf("got %v", err)
			}
		})
		t.Run("is removed after an hour when nobody takes it back", func(t *testing.T) {
			stop()
			must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE dns_records SET created_at = $1 WHERE value = 'two'`, db.Micros(time.Now().Add(-61*time.Minute)))
				return err
			}))
			k.providers = domain.NewProviders(d, slog.New(slog.DiscardHandler), k.config(s.address))
			k.run(t)
			texts()
		})
	})
}

func TestProviders(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		power := dnstest.StartPowerDNS(t, "example.com", "example.net")
		k := newKeeping(t, d, power.Address)
		acme, other := k.tenant(t, "acme"), k.tenant(t, "other")
		ctx := t.Context()
		count := func(query string, args ...any) (n int) {
			t.Helper()
			must(t, d.Reader().QueryRow(ctx, query, args...).Scan(&n))
			return n
		}
		var said []string
		refused := func(kind fault.Kind, holds string, err error) {
			t.Helper()
			if fault.KindOf(err) != kind || !strings.Contains(err.Error(), holds) {
				t.Errorf("got %v", err)
			}
			said = append(said, fmt.Sprint(err))
		}
		t.Run("wrong credentials are refused, and nothing is stored", func(t *testing.T) {
			wrong := credentials(t, dns.PowerDNS, map[string]string{"server_url": power.URL, "api_key": "canary-of-nobody"})
			_, err := k.providers.Create(ctx, acme, "main", []string{"example.com"}, wrong)
			refused(fault.KindConflict, "powerdns does not give the zone example.com: it answered 401", err)
			_, err = k.providers.Create(ctx, acme, "main", []string{"example.com", "example.org"}, ofPower(t, power))
			refused(fault.KindConflict, "the zone example.org: it answered 404", err)
			if n := count(`SELECT COUNT(*) FROM dns_providers`) + count(`SELECT COUNT(*) FROM dns_zones`) + count(`SELECT COUNT(*) FROM audit_events`); n != 0 {
				t.Errorf("%d rows are there", n)
			}
		})
		t.Run("names and zones have rules", func(t *testing.T) {
			for name, zones := range map[string][]string{"no": nil, "suffix": {"co.uk"}, "twice": {"example.com", "EXAMPLE.com."}, "wild": {"*.example.com"}, "Upper": {"example.com"}} {
				_, err := k.providers.Create(ctx, acme, name, zones, ofPower(t, power))
				if f, ok := fault.Of(err); !ok || f.Kind() != fault.KindInvalid || f.Field() != "zones" && f.Field() != "name" {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		made, err := k.providers.Create(ctx, acme, "main", []string{"example.com"}, ofPower(t, power))
		must(t, err)
		_, err = k.providers.Create(ctx, acme, "main", []string{"example.net"}, ofPower(t, power))
		refused(fault.KindConflict, "this name", err)
		_, err = k.providers.Create(ctx, acme, "second", []string{"example.net", "example.com"}, ofPower(t, power))
		refused(fault.KindConflict, "has the zone example.com", err)
		second, err := k.providers.Create(ctx, acme, "second", []string{"example.net"}, ofPower(t, power))
		must(t, err)
		t.Run("are listed, page by page", func(t *testing.T) {
			first, next, err := k.providers.ListProviders(ctx, acme, 1, "")
			must(t, err)
			rest, end, err := k.providers.ListProviders(ctx, acme, 1, next)
			must(t, err)
			if len(first) != 1 || len(rest) != 1 || first[0].ID != made.ID || rest[0].ID != second.ID || end != "" {
				t.Errorf("listed %+v, %+v, %q", first, rest, end)
			}
		})
		t.Run("know their names", func(t *testing.T) {
			for text, want := range map[string]bool{"example.com": true, "a.b.example.com": true, "*.example.com": true, "example.org": false, "notexample.com": false} {
				name, err := contract.ParsePattern(text)
				must(t, err)
				if has, err := domain.HasProvider(ctx, d.Reader(), acme, name); err != nil || has != want {
					t.Errorf("%s: %v, %v", text, has, err)
				}
				if has, err := domain.HasProvider(ctx, d.Reader(), other, name); err != nil || has {
					t.Errorf("another's %s: %v, %v", text, has, err)
				}
			}
		})
		t.Run("of another organization do not exist", func(t *testing.T) { // case C01
			_, err := k.providers.GetProvider(ctx, other, made.ID)
			refused(fault.KindNotFound, "", err)
			_, _, err = k.providers.ListRecords(ctx, other, made.ID, 0, "")
			refused(fault.KindNotFound, "", err)
			refused(fault.KindNotFound, "", k.providers.DeleteProvider(ctx, other, made.ID))
			if all, _, err := k.providers.ListProviders(ctx, other, 0, ""); err != nil || len(all) != 0 {
				t.Errorf("listed %+v, %v", all, err)
			}
			k.want(t, other, contract.NewSiteID(), []string{"192.0.2.1"}, "www.example.com")
			if n := count(`SELECT COUNT(*) FROM dns_records`); n != 0 {
				t.Errorf("%d records are there", n)
			}
			theirs, err := k.providers.Create(ctx, other, "main", []string{"example.com"}, ofPower(t, power))
			must(t, err) // names and zones are each organization's own
			must(t, k.providers.DeleteProvider(ctx, other, theirs.ID))
		})
		t.Run("that fail say why, come back, and show nobody's secrets", func(t *testing.T) { // case A16
			k.run(t)
			must(t, db.InTx(ctx, d, func(tx *db.Tx) error { // the key was changed at the service
				plain, err := credentials(t, dns.PowerDNS, map[string]string{"server_url": power.URL, "api_key": "canary-of-nobody"}).Encode()
				if err != nil {
					return err
				}
				sealed, err := secrettest.New().Seal(secret.Place{Organization: acme.String(), Table: domain.SealedProviders.Table, Column: domain.SealedProviders.Column, Row: made.ID}, plain)
				if err != nil {
					return err
				}
				_, err = tx.Exec(ctx, `UPDATE dns_providers SET sealed = $1 WHERE id = $2`, sealed, made.ID)
				return err
			}))
			k.want(t, acme, contract.NewSiteID(), []string{"192.0.2.1"}, "www.example.com")
			eventually(t, func() (bool, string) {
				now, err := k.providers.GetProvider(ctx, acme, made.ID)
				must(t, err)
				_, problems := k.records(t, acme, made.ID)
				return now.Problem == "the zone example.com can't be read: it answered 401" && problems == now.Problem, fmt.Sprintf("%+v, %s", now, problems)
			})
			name, err := contract.ParseDomain("www.example.com")
			must(t, err)
			refused(fault.KindConflict, "it answered 401", k.providers.PresentChallenge(ctx, acme, name, "x"))
			// A process without the keys must not lose its temper, and says so.
			eventually(t, func() (bool, string) {
				return count(`SELECT COUNT(*) FROM dns_providers WHERE busy_until > $1`, db.Micros(time.Now())) == 0, "its turn goes on"
			})
			before, err := k.providers.GetProvider(ctx, acme, made.ID)
			must(t, err)
			must(t, db.InTx(ctx, d, func(tx *db.Tx) error {
				if _, err := tx.Exec(ctx, `UPDATE dns_providers SET sealed = $1 WHERE id = $2`, []byte("canary-of-nobody"), made.ID); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, `UPDATE dns_records SET due_at = 1`)
				return err
			}))
			k.want(t, acme, contract.NewSiteID(), []string{"192.0.2.1"}, "b.example.com")
			eventually(t, func() (bool, string) {
				n := count(`SELECT COUNT(*) FROM dns_providers WHERE busy_until > $1 AND called_at < busy_until - 10000000`, db.Micros(time.Now().Add(50*time.Second)))
				return n == 1, "it is tried at once"
			})
			eventually(t, func() (bool, string) { // when the turn has ended
				now, err := k.providers.GetProvider(ctx, acme, made.ID)
				must(t, err)
				return now.Problem == "CHOM cannot use its credentials: connect it again" && now.CalledAt.Equal(before.CalledAt), fmt.Sprintf("%+v; it was last called at %s", now, before.CalledAt)
			})
		})
		must(t, k.providers.DeleteProvider(ctx, acme, second.ID))
		var audited string
		must(t, d.Reader().QueryRow(ctx, `SELECT string_agg(action || ' ' || detail, '; ') FROM audit_events`).Scan(&audited))
		for _, want := range []string{"dns_provider.create main, powerdns", "dns_provider.delete second, powerdns"} {
			if !strings.Contains(audited, want) {
				t.Errorf("%s is not in %s", want, audited)
			}
		}
		all := append(said, audited, k.log.String())
		if n := count(`SELECT COUNT(*) FROM dns_providers WHERE sealed = $1`, []byte(power.Key)); n != 0 || strings.Contains(strings.Join(all, "\n"), "canary") {
			t.Errorf("credentials are in %q", all)
		}
		t.Run("are 50 at most", func(t *testing.T) { // case C07
			many := k.tenant(t, "many")
			must(t, db.InTx(ctx, d, func(tx *db.Tx) error {
				for n := range domain.MaxProviders {
					if _, err := tx.Exec(ctx, `
						INSERT INTO dns_providers (organization_id, id, name, type, sealed, problem, busy_until, created_at)
						VALUES ($1, $2, $2, 'powerdns', '', '', 0, 1)`, many, fmt.Sprint("p", n)); err != nil {
						return err
					}
				}
				return nil
			}))
			if _, err := k.providers.Create(ctx, many, "main", []string{"example.com"}, ofPower(t, power)); !errors.Is(err, domain.ErrTooManyProviders) {
				t.Errorf("got %v", err)
			}
		})
	})
}

// hanging is a real service but for zones whose names begin with "slow": there it has nothing, and from some time on nobody answers.
type hanging struct {
	domain.Service
	began chan<- string // gets the zones of calls that hang
	hangs *atomic.Bool
}

func (h hanging) Records(ctx context.Context, zone string) ([]dns.Record, error) {
	if !strings.HasPrefix(zone, "slow") {
		return h.Service.Records(ctx, zone)
	}
	if h.hangs.Load() {
		h.began <- zone
		<-ctx.Done()
	}
	return nil, ctx.Err()
}

// TestTurns has one organization with servers that let everybody wait, and another one.
func TestTurns(t *testing.T) {
	eachServer(t, func(t *testing.T, d *db.DB, s server) {
		k := newKeeping(t, d, s.address)
		began := make(chan string, 100)
		var hangs atomic.Bool
		config := k.config(s.address)
		config.Open = func(c dns.Credentials) (domain.Service, error) {
			service, err := dns.Open(c, loopback)
			return hanging{service, began, &hangs}, err
		}
		k.providers = domain.NewProviders(d, slog.New(slog.DiscardHandler), config)
		acme, other := k.tenant(t, "acme"), k.tenant(t, "other")
		ctx, leave := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		defer asking.Wait()
		defer leave()
		const crowd = 9
		for i := range crowd {
			zone := fmt.Sprintf("slow%d.example", i)
			_, err := k.providers.Create(ctx, acme, fmt.Sprintf("slow%d", i), []string{zone}, s.credentials(t))
			must(t, err)
			if i < crowd-1 {
				k.want(t, acme, contract.NewSiteID(), []string{"192.0.2.1"}, "www."+zone)
			}
		}
		made, err := k.providers.Create(ctx, other, "main", []string{"example.com"}, s.credentials(t))
		must(t, err)
		k.want(t, other, contract.NewSiteID(), []string{"192.0.2.1"}, "www.example.com")
		awaited, err := contract.ParseDomain(fmt.Sprintf("www.slow%d.example", crowd-1))
		must(t, err)
		asking.Go(func() { _ = k.providers.PresentChallenge(ctx, acme, awaited, "x") })
		eventually(t, func() (bool, string) {
			var n int
			must(t, d.Reader().QueryRow(ctx, `SELECT COUNT(*) FROM dns_records WHERE type = 'TXT'`).Scan(&n))
			return n == 1, "nothing was asked for"
		})
		hangs.Store(true)
		k.run(t)
		k.until(t, other, made.ID, "A www.example.com 192.0.2.1 made")
		time.Sleep(300 * time.Millisecond) // several rounds
		var zones []string
		for len(began) > 0 {
			zones = append(zones, <-began)
		}
		slices.Sort(zones)
		if want := []string{"slow0.example", fmt.Sprintf("slow%d.example", crowd-1)}; !slices.Equal(zones, want) {
			t.Errorf("turns began in %v, want %v: two at most, that with a challenge among them", zones, want)
		}
	})
}

// silent is a service that never answers; it tells how long it was given.
type silent struct{ given chan<- time.Duration }

func (s silent) Records(ctx context.Context, _ string) ([]dns.Record, error) {
	deadline, _ := ctx.Deadline()
	s.given <- time.Until(deadline)
	<-ctx.Done()
	return nil, errors.New("no answer")
}
func (silent) Append(context.Context, string, dns.Record) error { return nil }
func (silent) Delete(context.Context, string, dns.Record) error { return nil }

func TestSilent(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		k := newKeeping(t, d, "127.0.0.1:1")
		given := make(chan time.Duration, 2)
		config := k.config("127.0.0.1:1")
		config.Open = func(dns.Credentials) (domain.Service, error) { return silent{given}, nil }
		k.providers = domain.NewProviders(d, slog.New(slog.DiscardHandler), config)
		acme, of := k.tenant(t, "acme"), credentials(t, dns.PowerDNS, map[string]string{"server_url": "http://127.0.0.1:8053", "api_key": "x"})
		create := func(ctx context.Context) error {
			_, err := k.providers.Create(ctx, acme, "main", []string{"example.com"}, of)
			return err
		}
		gone, leave := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { first <- create(gone) }()
		took := <-given
		if err := create(t.Context()); fault.KindOf(err) != fault.KindLimited {
			t.Errorf("a second one at the same time: %v", err)
		}
		leave()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("whoever asked went away: %v", err)
		}
		if took <= 0 || took > 20*time.Second {
			t.Errorf("it had %s, and people's door waits for 25 s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := create(ctx); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "did not answer in time for the zone example.com") {
			t.Errorf("got %v", err)
		}
	})
}
