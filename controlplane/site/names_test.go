package site_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/dns/dnstest"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

const serverAddress, elsewhere = "192.0.2.10", "198.51.100.7"

// host is a web server that answers as a site's host does: with the handle of the site that a name leads to.
type host struct {
	port    uint16
	answers atomic.Value // func(http.ResponseWriter, *http.Request)
}

func startHost(t *testing.T) *host {
	t.Helper()
	h := &host{}
	h.says(http.NotFound)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.answers.Load().(func(http.ResponseWriter, *http.Request))(w, r)
	}))
	t.Cleanup(server.Close)
	h.port = netip.MustParseAddrPort(server.Listener.Addr().String()).Port()
	return h
}

func (h *host) says(answer func(http.ResponseWriter, *http.Request)) { h.answers.Store(answer) }

func (h *host) saysHandle(handle contract.Handle) {
	h.says(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/acme-challenge/chom-probe" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, handle.String()+"\n")
	})
}

// routes stand for the internet, which is not here: they lead public addresses to loopback, or nowhere. The rest of the way is
// the real one.
type routes struct {
	*outbound.Dialer
	mu sync.Mutex
	to map[string]bool
}

func newRoutes(open ...string) *routes {
	r := &routes{Dialer: outbound.New(outbound.Allow(netip.MustParsePrefix("127.0.0.0/8"))), to: map[string]bool{}}
	for _, address := range open {
		r.to[address] = true
	}
	return r
}

func (r *routes) set(address string, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to[address] = open
}

func (r *routes) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to := netip.MustParseAddrPort(address)
	r.mu.Lock()
	open := r.to[to.Addr().String()]
	r.mu.Unlock()
	if !open && !to.Addr().IsLoopback() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	return r.Dialer.DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", to.Port()))
}

// https is what the newest order to a site's host says of it, as text.
func (w *world) https(t *testing.T, id contract.SiteID) string {
	t.Helper()
	var parameters []byte
	if err := w.db.Reader().QueryRow(t.Context(), `SELECT parameters FROM tasks WHERE site_id = $1 ORDER BY id DESC LIMIT 1`, id).Scan(&parameters); err != nil {
		t.Fatal(err)
	}
	var order orderv1.ConvergeSite
	if err := proto.Unmarshal(parameters, &order); err != nil {
		t.Fatal(err)
	}
	h := order.GetDesired().GetHttps()
	var parts []string
	for _, a := range h.GetAcme() {
		parts = append(parts, a.GetName()+" by "+strings.TrimPrefix(a.GetChallenge().String(), "CHALLENGE_"))
	}
	for _, u := range h.GetUploaded() {
		parts = append(parts, strings.Join(u.GetDomains(), "+")+" uploaded")
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// addresses tells what a server's agent says of its addresses.
func (w *world) addresses(t *testing.T, addresses ...string) {
	t.Helper()
	text, err := proto.Marshal(&fleetv1.Facts{Prepared: true, Addresses: addresses})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, w.db, `UPDATE servers SET facts = $1 WHERE id = $2`, text, w.server)
}

// TestNames takes names of a site from nothing to certificates, through a real name server and a real web server.
func TestNames(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		dns := dnstest.StartKnot(t, "com") // with what is above, since CAA records are looked for there too
		web, internet := startHost(t), newRoutes()
		w := newWorld(t, d)
		w.addresses(t, "10.0.0.5/24", serverAddress+"/24")
		var provider atomic.Bool
		var uploads []site.Upload
		var outside []site.OutsideCertificate
		var checked []contract.Domain // from outside
		var left time.Duration        // for that
		var wanted atomic.Value       // string
		w.sites = site.New(d, w.tasks, slog.New(slog.DiscardHandler), site.Config{
			PreviewDomain: "preview.example.net", CAs: []string{"ca.example"},
			Resolver: domain.NewNameServer(dns.Address), Dialer: internet, HTTPPort: web.port,
			PublicAddress: func(a netip.Addr) bool { return !a.IsPrivate() }, // serverAddress stands for a public one
			Provider: func(context.Context, db.Querier, contract.OrganizationID, contract.Domain) (bool, error) {
				return provider.Load(), nil
			},
			Uploads: func(context.Context, *db.Tx, contract.OrganizationID, contract.SiteID) ([]site.Upload, error) {
				return uploads, nil
			},
			Outside: func(context.Context, db.Querier, contract.OrganizationID, contract.SiteID) ([]site.OutsideCertificate, error) {
				return outside, nil
			},
			CheckOutside: func(ctx context.Context, _ contract.OrganizationID, _ contract.SiteID, names []contract.Domain) error {
				until, _ := ctx.Deadline()
				checked, left = names, time.Until(until)
				return nil
			},
			WantAddresses: func(_ context.Context, _ *db.Tx, _ contract.OrganizationID, _ contract.SiteID, names []contract.Domain, addresses []netip.Addr) error {
				wanted.Store(fmt.Sprint(names, addresses))
				return nil
			},
		})
		domains := domain.New(d, slog.New(slog.DiscardHandler), domain.Config{InUse: site.InUse})
		made, _, err := w.sites.Create(ctx, site.Request{
			Organization: w.organization, Name: "shop", Type: "static",
			Domains: []string{"example.com", "www.example.com", "Bücher.example.com", "*.example.com"}, Redirects: []string{"www.example.com"},
		})
		if err != nil {
			t.Fatal(err)
		}
		const idn = "xn--bcher-kva.example.com"
		// names gives what people see, after everything was looked at.
		names := func() map[string]site.Name {
			t.Helper()
			if _, err := w.sites.Follow(ctx); err != nil {
				t.Fatal(err)
			}
			w.work(t, well)
			checked, err := w.sites.Check(ctx, w.organization, made.ID)
			if err != nil {
				t.Fatal(err)
			}
			all, err := w.sites.Names(ctx, checked)
			if err != nil {
				t.Fatal(err)
			}
			by := map[string]site.Name{}
			for _, n := range all {
				by[n.Name.String()] = n
			}
			if last := all[len(all)-1]; len(all) != len(checked.Wanted.Domains)+1 || last.Role != site.Preview {
				t.Errorf("names %+v", all)
			}
			return by
		}
		want := func(n site.Name, state site.NameState, problem string) {
			t.Helper()
			if n.State != state || !strings.Contains(n.Problem, problem) || (problem == "") != (n.Problem == "") {
				t.Errorf("%s is %d, %q; want %d, %q", n.Name, n.State, n.Problem, state, problem)
			}
		}

		dns.Update(t, `add example.com. 1 TXT "something"`)
		seen := names()
		want(seen["example.com"], site.NameUnclaimed, "does not hold example.com: claim it")
		want(seen["*.example.com"], site.NameUnclaimed, "does not hold example.com: claim it")
		claim, err := domains.Create(ctx, w.organization, "example.com")
		if err != nil {
			t.Fatal(err)
		}
		seen = names()
		for _, name := range []string{"example.com", "www.example.com", "*.example.com"} {
			proves, leads := site.Record{Name: claim.Record.Name, Type: "TXT", Value: claim.Record.Value}, site.Record{Name: name, Type: "A", Value: "192.0.2.10"}
			if got := seen[name].Records; !slices.Equal(got, []site.Record{proves, leads}) {
				t.Errorf("%s: records %+v", name, got)
			}
		}
		// What is there already is said before it is replaced, or left alone.
		dns.Update(t, "add www.example.com. 1 A "+elsewhere, "add www.example.com. 1 AAAA 2001:db8::7", "add example.com. 1 A "+serverAddress)
		seen = names()
		want(seen["www.example.com"], site.NameUnclaimed, "set the record that proves its claim; it leads to "+elsewhere+" so far")
		want(seen["example.com"], site.NameUnclaimed, "does not hold it yet")
		for name, leads := range map[string][]site.Record{
			"example.com": nil,
			"www.example.com": {
				{Name: "www.example.com", Type: "A", Value: elsewhere, Remove: true}, {Name: "www.example.com", Type: "A", Value: serverAddress},
				{Name: "www.example.com", Type: "AAAA", Value: "2001:db8::7", Remove: true},
			},
		} {
			if got := seen[name].Records; !slices.Equal(got[1:], leads) {
				t.Errorf("%s: records %+v", name, got)
			}
		}
		dns.Update(t, "del www.example.com. A", "del www.example.com. AAAA", "del example.com. A")
		if _, err := domains.Attest(ctx, w.organization, "example.com"); err != nil {
			t.Fatal(err)
		}
		seen = names()
		want(seen["example.com"], site.NamePending, "has no address")
		want(seen["www.example.com"], site.NamePending, "there is no name")
		if got := seen["www.example.com"]; len(got.Records) != 1 || got.Records[0] != (site.Record{Name: "www.example.com", Type: "A", Value: serverAddress}) || got.Role != site.Redirect || got.LookedAt.IsZero() || got.NextLookAt.IsZero() {
			t.Errorf("shown as %+v", got)
		}
		if wanted.Load() != "[example.com www.example.com "+idn+" *.example.com] ["+serverAddress+"]" {
			t.Errorf("asked DNS providers for %s", wanted.Load())
		}

		w.addresses(t, "10.0.0.5/24")
		if _, _, err := w.sites.Suspend(ctx, w.organization, made.ID); err != nil {
			t.Fatal(err)
		}
		w.addresses(t)
		if _, _, err := w.sites.Resume(ctx, w.organization, made.ID); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(fmt.Sprint(wanted.Load()), "["+serverAddress+"]") {
			t.Errorf("a host that does not say where it is had records made or removed: %s", wanted.Load())
		}
		w.addresses(t, "10.0.0.5/24", serverAddress+"/24")

		dns.Update(t, "add example.com. 1 A "+elsewhere, "add www.example.com. 1 A "+serverAddress, "add www.example.com. 1 AAAA 2001:db8::bad",
			"add "+idn+". 1 A "+serverAddress, "add *.example.com. 1 A "+serverAddress)
		seen = names()
		want(seen["example.com"], site.NamePending, "leads to "+elsewhere+" instead of "+serverAddress+", where nothing answers at port 80")
		want(seen["www.example.com"], site.NamePending, "the AAAA record")
		want(seen[idn], site.NamePending, "port 80 of "+serverAddress+" does not answer")
		want(seen["*.example.com"], site.NamePending, "connect the DNS provider of example.com")

		internet.set(serverAddress, true)
		want(names()[idn], site.NamePending, "another server answers (status 404)")
		web.says(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+r.Host+r.URL.Path, http.StatusMovedPermanently)
		})
		want(names()[idn], site.NamePending, "another server answers (status 301)")
		web.saysHandle(contract.NewHandle())
		want(names()[idn], site.NamePending, "another server answers (status 200)")
		if got := w.https(t, made.ID); got != "" {
			t.Errorf("ordered %s", got)
		}

		web.saysHandle(made.Handle)
		dns.Update(t, "add example.com. 1 CAA 0 issue \"other.example\"")
		want(names()[idn], site.NamePending, "the CAA records of example.com forbid ca.example")
		dns.Update(t, "del example.com. CAA")
		want(names()[idn], site.NameIssuing, "")
		if got := w.https(t, made.ID); got != idn+" by HTTP_01" {
			t.Errorf("ordered %s", got)
		}
		dns.Update(t, "del www.example.com. AAAA", "del example.com. A", "add example.com. 1 A 127.0.0.1") // as from behind a NAT
		seen = names()
		want(seen["example.com"], site.NameIssuing, "")
		want(seen["www.example.com"], site.NameIssuing, "")
		want(seen["*.example.com"], site.NamePending, "connect the DNS provider of example.com")
		provider.Store(true)
		want(names()["*.example.com"], site.NameIssuing, "")
		all := "*.example.com by DNS_01, example.com by HTTP_01, www.example.com by HTTP_01, " + idn + " by HTTP_01"
		if got := w.https(t, made.ID); got != all {
			t.Errorf("ordered %s", got)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'site.update' AND detail LIKE '%its certificate is ordered%'`); n != 4 {
			t.Errorf("%d lines in the history", n)
		}

		t.Run("what is ready stays ready", func(t *testing.T) {
			dns.Update(t, "del example.com. A", "add example.com. 1 A "+elsewhere)
			want(names()["example.com"], site.NameIssuing, "leads to "+elsewhere)
			if got := w.https(t, made.ID); got != all {
				t.Errorf("ordered %s", got)
			}
			dns.Update(t, "del example.com. A", "add example.com. 1 A "+serverAddress)
			want(names()["example.com"], site.NameIssuing, "")
		})

		t.Run("measured", func(t *testing.T) {
			now := w.get(t, made.ID)
			holds := holding(made.ID.String(), now.Wanted.Generation, sitev1.Phase_PHASE_ACTIVE)
			measured := proto.CloneOf(holds)
			for name, source := range map[string]sitev1.CertificateSource{
				"example.com": sitev1.CertificateSource_CERTIFICATE_SOURCE_ACME, made.Preview(): sitev1.CertificateSource_CERTIFICATE_SOURCE_PLATFORM,
			} {
				measured.Certificates = append(measured.Certificates, &sitev1.ObservedCertificate{
					Domain: name, Valid: true, Source: source, Issuer: "a CA", NotAfter: timestamppb.New(time.Now().Add(60 * 24 * time.Hour)),
				})
			}
			if err := w.sites.Observe(ctx, w.server, []*sitev1.ObservedState{measured}); err != nil {
				t.Fatal(err)
			}
			secure := func() {
				t.Helper()
				now = w.get(t, made.ID)
				if got := now.URL(time.Now()); got != "https://example.com/" {
					t.Errorf("shown as %s", got)
				}
				listed, err := w.sites.Names(ctx, now)
				if err != nil {
					t.Fatal(err)
				}
				for i, state := range []site.NameState{site.NameSecure, site.NameIssuing, site.NameIssuing, site.NameIssuing, site.NameSecure} {
					if listed[i].State != state {
						t.Errorf("%s is %d", listed[i].Name, listed[i].State)
					}
				}
			}
			secure()
			if _, err := w.sites.Hold(ctx, w.server, []*sitev1.ObservedState{holds}); err != nil {
				t.Fatal(err)
			}
			secure() // a Hello does not say certificates
			if _, err := w.sites.Check(ctx, w.organization, made.ID); err != nil {
				t.Fatal(err)
			}
			if len(checked) != 1 || checked[0].String() != "example.com" || left > 23*time.Second || left < 4*time.Second {
				t.Errorf("looked at from outside were %v, with %s left", checked, left)
			}
			certificate := site.Certificate{Name: "example.com", SHA256: []byte("another"), NotAfter: time.Now().Add(24 * time.Hour), Problem: "from outside: it is for other names"}
			for title, met := range map[string]struct {
				at      time.Time
				state   site.NameState
				problem string
			}{
				"a bad one outside is said":        {time.Now(), site.NameIssuing, certificate.Problem},
				"one of long ago says nothing now": {time.Now().Add(-3 * time.Hour), site.NameSecure, ""},
			} {
				outside = []site.OutsideCertificate{{Certificate: certificate, At: met.at}}
				listed, err := w.sites.Names(ctx, now)
				if err != nil {
					t.Fatal(err)
				}
				if got := listed[0]; got.State != met.state || got.Problem != met.problem || got.Outside == nil {
					t.Errorf("%s: it is %d, %q, outside %v", title, got.State, got.Problem, got.Outside)
				}
			}
			outside = nil
		})

		t.Run("an uploaded certificate takes the place", func(t *testing.T) {
			base, err := contract.ParsePattern("*.example.com")
			if err != nil {
				t.Fatal(err)
			}
			uploads = []site.Upload{{ID: "0192a000-0000-7000-8000-000000000001", Names: []contract.Domain{base}}}
			recertify := func() {
				t.Helper()
				if err := db.InTx(ctx, d, func(tx *db.Tx) error {
					return w.sites.Recertify(ctx, tx, w.organization, made.ID)
				}); err != nil {
					t.Fatal(err)
				}
			}
			recertify()
			if got := w.https(t, made.ID); got != "example.com by HTTP_01, www.example.com+"+idn+"+*.example.com uploaded" {
				t.Errorf("ordered %s", got)
			}
			uploads = nil
			recertify()
			if got := w.https(t, made.ID); got != all {
				t.Errorf("ordered %s", got)
			}
		})

		t.Run("a name that leaves the site", func(t *testing.T) {
			changed, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{Domains: []string{"example.com"}})
			if err != nil {
				t.Fatal(err)
			}
			if got := w.https(t, made.ID); got != "example.com by HTTP_01" || len(changed.Wanted.Redirects) != 0 {
				t.Errorf("ordered %s, redirects %v", got, changed.Wanted.Redirects)
			}
			if _, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{Domains: []string{"example.com", "www.example.com"}}); err != nil {
				t.Fatal(err)
			}
			if got := w.https(t, made.ID); got != "example.com by HTTP_01" {
				t.Errorf("ordered %s before it was looked at again", got)
			}
		})

		t.Run("deleted and restored", func(t *testing.T) {
			if _, _, err := w.sites.Delete(ctx, w.organization, made.ID); err != nil {
				t.Fatal(err)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM domains WHERE look_at IS NOT NULL`); n != 0 {
				t.Errorf("%d names of the trash are looked at", n)
			}
			if _, _, err := w.sites.Restore(ctx, w.organization, made.ID); err != nil {
				t.Fatal(err)
			}
			want(names()["www.example.com"], site.NameIssuing, "")
		})
	})
}

// TestBudget is about one tenant who wants more certificates than there are.
func TestBudget(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		dns := dnstest.StartKnot(t, "com") // with what is above, since CAA records are looked for there too
		web := startHost(t)
		w := newWorld(t, d)
		w.addresses(t, serverAddress)
		config := site.Config{
			AnyName: true, Budget: 3, Resolver: domain.NewNameServer(dns.Address), Dialer: newRoutes(serverAddress), HTTPPort: web.port,
		}
		w.sites = site.New(d, w.tasks, slog.New(slog.DiscardHandler), config)
		dns.Update(t, "add *.example.com. 1 A "+serverAddress)
		request := w.request("many")
		request.Domains = []string{"a.example.com", "b.example.com", "c.example.com", "d.example.com", "e.example.com"}
		made := w.create(t, request)
		web.saysHandle(made.Handle)
		w.work(t, well)
		ready := func() (n int, problems []string) {
			t.Helper()
			checked, err := w.sites.Check(ctx, w.organization, made.ID)
			if err != nil {
				t.Fatal(err)
			}
			all, err := w.sites.Names(ctx, checked)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range all {
				switch {
				case name.Role == site.Preview:
				case name.State == site.NameIssuing:
					n++
				case name.Problem != "":
					problems = append(problems, name.Problem)
				}
			}
			return n, problems
		}
		n, problems := ready() // five at once
		if n != 3 || len(problems) != 2 || !strings.Contains(problems[0], "begun 3 certificates in 7 days") {
			t.Errorf("%d are ready, %q", n, problems)
		}
		if n := len(strings.Split(w.https(t, made.ID), ", ")); n != 3 {
			t.Errorf("ordered %d", n)
		}
		// Nothing is won by taking names away and adding them again.
		if _, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{Domains: []string{"x.example.com"}}); err != nil {
			t.Fatal(err)
		}
		if n, problems := ready(); n != 0 || len(problems) != 1 {
			t.Errorf("%d are ready, %q", n, problems)
		}
		exec(t, d, `UPDATE certificate_starts SET started_at = started_at - $1`, (7 * 24 * time.Hour).Microseconds())
		if n, _ := ready(); n != 1 {
			t.Errorf("%d are ready after a week", n)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM certificate_starts`); n != 1 {
			t.Errorf("%d starts are remembered", n)
		}
	})
}

// TestRunLooks has Run do by itself, within the seconds in which people watch, what the other tests do by hand.
func TestRunLooks(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		dns := dnstest.StartKnot(t, "com") // with what is above, since CAA records are looked for there too
		web := startHost(t)
		w := newWorld(t, d)
		w.addresses(t, serverAddress)
		w.sites = site.New(d, w.tasks, slog.New(slog.DiscardHandler), site.Config{
			PreviewDomain: "preview.example.net", RecordsTopic: "records",
			Resolver: domain.NewNameServer(dns.Address), Dialer: newRoutes(serverAddress), HTTPPort: web.port,
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.sites.Run(ctx) }()
		defer func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		domains := domain.New(d, slog.New(slog.DiscardHandler), domain.Config{InUse: site.InUse})
		made := w.create(t, w.request("shop"))
		web.saysHandle(made.Handle)
		dns.Update(t, "add shop.example.com. 1 A "+serverAddress)
		await := func(what string, within time.Duration, is func(site.Name) bool) {
			t.Helper()
			begin := time.Now()
			for {
				all, err := w.sites.Names(ctx, w.get(t, made.ID))
				if err != nil {
					t.Fatal(err)
				}
				if is(all[0]) {
					t.Logf("%s after %s", what, time.Since(begin).Round(time.Millisecond))
					return
				}
				if time.Since(begin) > within {
					t.Fatalf("not %s within %s: %+v", what, within, all[0])
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		if _, err := domains.Attest(ctx, w.organization, "example.com"); err != nil {
			t.Fatal(err)
		}
		await("ready", 10*time.Second, func(n site.Name) bool { return n.State == site.NameIssuing })
		if _, _, err := w.sites.Update(ctx, w.organization, made.ID, site.Change{Domains: []string{"late.example.com"}}); err != nil {
			t.Fatal(err)
		}
		await("missed", 10*time.Second, func(n site.Name) bool { return strings.Contains(n.Problem, "there is no name") })
		exec(t, d, `UPDATE domains SET looks = 1000, look_at = look_at + 300000000`) // as after a day without the record
		dns.Update(t, "add late.example.com. 1 A "+serverAddress)
		if err := db.InTx(ctx, d, func(tx *db.Tx) error { tx.Notify("records", w.organization.String()); return nil }); err != nil {
			t.Fatal(err)
		}
		await("ready by a provider's record", 10*time.Second, func(n site.Name) bool { return n.State == site.NameIssuing })
	})
}

// TestProofBegins is about a platform whose customers trusted each other until now: what nobody has proved is not ordered any more.
func TestProofBegins(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		dns := dnstest.StartKnot(t, "com")
		web := startHost(t)
		w := newWorld(t, d)
		w.addresses(t, serverAddress)
		config := site.Config{AnyName: true, Resolver: domain.NewNameServer(dns.Address), Dialer: newRoutes(serverAddress), HTTPPort: web.port}
		w.sites = site.New(d, w.tasks, slog.New(slog.DiscardHandler), config)
		dns.Update(t, "add *.example.com. 1 A "+serverAddress)
		request := w.request("shop")
		request.Domains = append(request.Domains, "other.example.com")
		made := w.create(t, request)
		web.saysHandle(made.Handle)
		if _, err := w.sites.Check(ctx, w.organization, made.ID); err != nil {
			t.Fatal(err)
		}
		if got := w.https(t, made.ID); got != "other.example.com by HTTP_01, shop.example.com by HTTP_01" {
			t.Errorf("ordered %s", got)
		}
		config.AnyName = false
		w.sites = site.New(d, w.tasks, slog.New(slog.DiscardHandler), config)
		if _, err := domain.New(d, slog.New(slog.DiscardHandler), domain.Config{InUse: site.InUse}).Attest(ctx, w.organization, "shop.example.com"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.sites.Resume(ctx, w.organization, made.ID); err != nil {
			t.Fatal(err)
		}
		if got := w.https(t, made.ID); got != "shop.example.com by HTTP_01" {
			t.Errorf("ordered %s", got)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM domains WHERE name = 'other.example.com' AND (ready_at IS NOT NULL OR look_at IS NOT NULL OR challenge <> '')`); n != 0 {
			t.Error("what was found of a name outlives that it is held")
		}
	})
}

// TestLead is about DNS providers that come after a site: they are told of its names, but not with each look.
func TestLead(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.addresses(t, "9.9.9.9/24")
		led := 0
		w.sites = site.New(d, w.tasks, slog.New(slog.DiscardHandler), site.Config{
			AnyName: true,
			Provider: func(context.Context, db.Querier, contract.OrganizationID, contract.Domain) (bool, error) {
				return true, nil
			},
			WantAddresses: func(context.Context, *db.Tx, contract.OrganizationID, contract.SiteID, []contract.Domain, []netip.Addr) error {
				led++
				return nil
			},
		})
		made := w.create(t, w.request("shop"))
		led = 0
		look := func(times, want int) {
			t.Helper()
			for range times {
				if _, err := w.sites.Check(t.Context(), w.organization, made.ID); err != nil {
					t.Fatal(err)
				}
			}
			if led != want {
				t.Errorf("told %d times, want %d", led, want)
			}
		}
		look(1, 1)
		look(9, 1)
		look(1, 2)
		exec(t, d, `UPDATE domains SET looks = 0`) // as when a provider has come
		look(3, 3)
	})
}
