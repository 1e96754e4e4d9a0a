package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"chom.dev/servers/knot"
	"chom.dev/servers/pebble"
)

const zone = "example.test"

// real is a world with a real name server, a real nginx and real CAs.
type real struct {
	*world
	dns   *knot.Server
	nginx *webServer
	log   *safe // of the manager
}

func newReal(t *testing.T) *real {
	t.Helper()
	r := &real{dns: startKnot(t), log: new(safe)}
	r.nginx = startNginx(t)
	r.world = newWorld(t, func(c *Config) {
		c.ChallengeDir = r.nginx.challenges
		c.Probe = r.nginx.tls
		c.Log = slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), r.log), nil))
		c.Broker = provider{away: away{}, server: r.dns}
	})
	r.suggest = r.renewalInfo
	r.cfg.Serve = func(ctx context.Context, ids []contract.SiteID) ([]contract.SiteID, error) {
		served, err := r.serveSites(ctx, ids)
		if err != nil {
			return nil, err
		}
		return served, r.nginx.load(r.world)
	}
	return r
}

// ca starts one. It refuses every fifth nonce.
func (r *real) ca(change func(*pebble.Options)) *pebble.CA {
	r.t.Helper()
	o := pebble.Options{Dir: r.t.TempDir(), HTTPPort: r.nginx.port, DNSServer: r.dns.Address, NonceReject: 20}
	if change != nil {
		change(&o)
	}
	ca, err := pebble.Start(r.t.Context(), o)
	must(r.t, err)
	r.t.Cleanup(ca.Stop)
	return ca
}

func issuer(name string, ca *pebble.CA) *linkv1.Issuer {
	return &linkv1.Issuer{Name: name, DirectoryUrl: ca.DirectoryURL, Roots: ca.Roots}
}

func (r *real) trusts(issuers ...*linkv1.Issuer) {
	r.t.Helper()
	must(r.t, r.SetIssuance(&linkv1.Issuance{Issuers: issuers, Contact: "ops@example.com"}))
}

// one does what is due for a site's only name, now.
func (r *real) one(s task.Site) {
	r.t.Helper()
	r.do(r.t.Context(), &job{want: wants(s)[0], changes: r.changes})
}

func (r *real) heldOf(s task.Site) *held { return r.held(wants(s)[0].key) }
func (r *real) problemOf(s task.Site) string {
	return r.record(wants(s)[0].key).Problem
}

func TestIssues(t *testing.T) {
	r := newReal(t)
	ca := r.ca(func(o *pebble.Options) { o.NonceReject = 30 })
	r.trusts(issuer("pebble", ca))
	const byName, wild = "www.a." + zone, "*.b." + zone
	https := byHTTP(byName)
	https.Acme = append(https.Acme, &sitev1.AcmeDomain{Name: wild, Challenge: sitev1.Challenge_CHALLENGE_DNS_01})
	s := r.have(1, https, byName, wild)
	stop := r.runs()
	var seen []*sitev1.ObservedCertificate
	eventually(t, 60*time.Second, "both names are served with valid certificates", func() bool {
		seen = r.Observe(t.Context(), s)
		return seen[0].GetValid() && seen[1].GetValid()
	})
	for i, name := range []string{byName, wild} {
		o := seen[i]
		if o.GetDomain() != name || o.GetSource() != sitev1.CertificateSource_CERTIFICATE_SOURCE_ACME || !strings.Contains(o.GetIssuer(), "Pebble") || o.GetProblem() != "" || len(o.GetSha256()) != 32 {
			t.Errorf("observed: %v", o)
		}
	}
	stop()
	t.Run("each name alone, key and chain in a file of 0600", func(t *testing.T) {
		for _, w := range wants(s) {
			b, err := r.read(w.key)
			must(t, err)
			must(t, b.only(w.name, time.Now()))
			if st, err := os.Stat(r.files.pem(w.key)); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", w.name, st.Mode(), err)
			}
		}
	})
	t.Run("no key in logs and states", func(t *testing.T) {
		var keys []string
		texts := map[string]string{"the log": r.log.String()}
		must(t, filepath.WalkDir(r.cfg.Dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if filepath.Ext(path) != ".pem" && !strings.Contains(path, "/account/") {
				texts[path] = string(text)
				return err
			}
			if st, err := d.Info(); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", path, st.Mode(), err)
			}
			if filepath.Ext(path) == ".pem" {
				block, _ := pem.Decode(text)
				keys = append(keys, base64.StdEncoding.EncodeToString(block.Bytes)[60:100])
				return err
			}
			var a account
			must(t, json.Unmarshal(text, &a))
			block, _ := pem.Decode([]byte(a.Key))
			keys = append(keys, base64.StdEncoding.EncodeToString(block.Bytes)[60:100])
			return err
		}))
		if len(keys) != 3 || len(texts) < 4 {
			t.Fatalf("%d keys, %d texts", len(keys), len(texts))
		}
		for name, text := range texts {
			if strings.Contains(text, blockKey) {
				t.Errorf("%s holds a key", name)
			}
			for _, k := range keys {
				if strings.Contains(text, k) {
					t.Errorf("%s holds a key", name)
				}
			}
		}
	})
	t.Run("nothing of a challenge is left", func(t *testing.T) {
		if left, err := filepath.Glob(r.cfg.ChallengeDir + "/*/*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

func TestFallback(t *testing.T) {
	r := newReal(t)
	second := r.ca(nil)
	port := freePort(t)
	down := &linkv1.Issuer{Name: "first", DirectoryUrl: "https://127.0.0.1:" + strconv.Itoa(port) + "/dir"}
	dir := t.TempDir()
	r.trusts(down, issuer("second", second))
	s := r.have(1, byHTTP("www.a."+zone), "www.a."+zone)
	r.one(s)
	h := r.heldOf(s)
	if h == nil || h.issuer != "second" {
		t.Fatalf("held: %+v; %s", h, r.problemOf(s))
	}
	// The first comes back, as another name is due.
	first := r.ca(func(o *pebble.Options) { o.Port, o.Dir = port, dir })
	r.trusts(issuer("first", first), issuer("second", second))
	s = r.have(2, byHTTP("www.b."+zone), "www.b."+zone)
	r.one(s)
	if h := r.heldOf(s); h == nil || h.issuer != "first" {
		t.Fatalf("held: %+v; %s", h, r.problemOf(s))
	}
	// It loses all accounts, and gets a new one.
	first.Stop()
	first = r.ca(func(o *pebble.Options) { o.Port, o.Dir = port, dir })
	s = r.have(3, byHTTP("www.c."+zone), "www.c."+zone)
	r.one(s)
	if h := r.heldOf(s); h == nil || h.issuer != "first" {
		t.Fatalf("held: %+v; %s", h, r.problemOf(s))
	}
	// It does not know what it issued before, and issues the next one all the same.
	r.mu.Lock()
	forgotten := r.sites[1]
	r.mu.Unlock()
	former := r.heldOf(forgotten).sha256
	r.one(forgotten)
	if h := r.heldOf(forgotten); h.issuer != "first" || h.sha256 == former {
		t.Fatalf("held: %+v; %s", h, r.problemOf(forgotten))
	}
	// Both are gone: what is there stays, and the problem names both.
	first.Stop()
	second.Stop()
	before := must2(os.ReadFile(r.files.pem(wants(s)[0].key)))
	r.one(s)
	if after := must2(os.ReadFile(r.files.pem(wants(s)[0].key))); !bytes.Equal(before, after) {
		t.Error("the old certificate is not what it was")
	}
	rec := r.record(wants(s)[0].key)
	if !strings.Contains(rec.Problem, "first could not be asked") || !strings.Contains(rec.Problem, "second could not be asked") || rec.Failures != 1 {
		t.Errorf("record: %+v", rec)
	}
	if wait := rec.NextTry.Sub(rec.LastTry); wait < 45*time.Second || wait > 61*time.Second {
		t.Errorf("tried again after %s", wait)
	}
	// Hundreds of names do not all find that out: for all but two it was no try.
	r.one(r.have(4, byHTTP("www.d."+zone), "www.d."+zone))
	s = r.have(5, byHTTP("www.e."+zone), "www.e."+zone)
	r.one(s)
	if other := r.record(wants(s)[0].key); other.Failures != 0 || !strings.Contains(other.Problem, "first could not be asked") || other.NextTry.IsZero() || other.NextTry.After(rec.NextTry.Add(time.Minute)) {
		t.Errorf("record: %+v", other)
	}
}

func TestValidationFails(t *testing.T) {
	r := newReal(t)
	first, second := r.ca(nil), r.ca(nil)
	tapped, tap := newTap(t, second)
	r.trusts(issuer("first", first), tapped)
	s := r.have(1, byHTTP("www.a."+zone), "www.a."+zone)
	r.one(s)
	before := must2(os.ReadFile(r.files.pem(wants(s)[0].key)))
	r.challenges.dir = t.TempDir() // nginx does not look there
	r.one(s)
	rec := r.record(wants(s)[0].key)
	if !strings.Contains(rec.Problem, "All A and AAAA records of the name must lead to this server") || !strings.Contains(rec.Problem, "www.a."+zone) || rec.Failures != 1 {
		t.Errorf("record: %+v", rec)
	}
	if after := must2(os.ReadFile(r.files.pem(wants(s)[0].key))); !bytes.Equal(before, after) {
		t.Error("the old certificate is not what it was")
	}
	if n := len(tap.orders()); n != 0 {
		t.Errorf("the second CA gets %d orders for what is the name's fault", n)
	}
	// The control plane is away, as a record is to be set.
	r.cfg.Broker = away{}
	https := &sitev1.Https{Acme: []*sitev1.AcmeDomain{{Name: "*.c." + zone, Challenge: sitev1.Challenge_CHALLENGE_DNS_01}}}
	s = r.have(2, https, "*.c."+zone)
	r.one(s)
	if p := r.problemOf(s); !strings.Contains(p, "the TXT record for the CA could not be set: the control plane is away") {
		t.Errorf("problem: %s", p)
	}
	if n := len(tap.orders()); n != 0 {
		t.Errorf("the second CA gets %d orders while the control plane is away", n)
	}
}

func TestRefused(t *testing.T) {
	r := newReal(t)
	ca := r.ca(func(o *pebble.Options) { o.Blocked = []string{"bank." + zone} })
	r.trusts(issuer("pebble", ca))
	s := r.have(1, byHTTP("bank."+zone), "bank."+zone)
	r.one(s)
	rec := r.record(wants(s)[0].key)
	if !rec.Refused || !strings.Contains(rec.Problem, "Upload a certificate of your own") || rec.NextTry.Sub(rec.LastTry) < 5*day {
		t.Errorf("record: %+v", rec)
	}
}

func TestEAB(t *testing.T) {
	r := newReal(t)
	ca := r.ca(func(o *pebble.Options) { o.EAB = map[string][]byte{"kid": []byte("0123456789abcdef0123456789abcdef")} })
	without := issuer("pebble", ca)
	r.trusts(without)
	s := r.have(1, byHTTP("www.a."+zone), "www.a."+zone)
	r.one(s)
	if p := r.problemOf(s); r.heldOf(s) != nil || !strings.Contains(p, "refuses this platform's account") {
		t.Errorf("without a binding: %s", p)
	}
	with := issuer("pebble", ca)
	with.EabKeyId, with.EabKey = "kid", []byte("0123456789abcdef0123456789abcdef")
	r.trusts(with)
	r.one(s)
	if r.heldOf(s) == nil {
		t.Errorf("with the binding: %s", r.problemOf(s))
	}
	if strings.Contains(r.log.String(), "0123456789abcdef") {
		t.Error("the log holds the MAC key")
	}
}

func TestLimited(t *testing.T) {
	r := newReal(t)
	limiting, tap := newTap(t, r.ca(nil))
	tap.limit.Store(true)
	r.trusts(limiting)
	s := r.have(1, byHTTP("www.a."+zone), "www.a."+zone)
	r.one(s)
	rec := r.record(wants(s)[0].key)
	if wait := rec.NextTry.Sub(rec.LastTry); !strings.Contains(rec.Problem, "asked for too much lately: five a week") || wait < 7190*time.Second || wait > 7210*time.Second {
		t.Errorf("waits %s: %+v", wait, rec)
	}
	// Another one issues meanwhile, and the first is left alone.
	r.trusts(limiting, issuer("second", r.ca(nil)))
	before := len(tap.orders())
	r.one(s)
	if h := r.heldOf(s); h == nil || h.issuer != "second" || len(tap.orders()) != before {
		t.Errorf("held %+v, %d more orders", h, len(tap.orders())-before)
	}
}

func TestRenewal(t *testing.T) {
	r := newReal(t)
	ca := r.ca(func(o *pebble.Options) { o.Validity = 30 * time.Second })
	tapped, tap := newTap(t, ca)
	r.trusts(tapped)
	s := r.have(1, byHTTP("www.a."+zone), "www.a."+zone)
	k := wants(s)[0].key
	r.one(s)
	first := r.heldOf(s)
	if first == nil {
		t.Fatal(r.problemOf(s))
	}
	old, err := r.read(k)
	must(t, err)
	now := time.Now()
	must(t, ca.SetRenewalInfo(chainPEM(old), now.Add(-10*time.Second), now.Add(-2*time.Second)))
	r.do(t.Context(), &job{want: wants(s)[0], ask: true, changes: r.changes})
	said := r.record(k).Renewal
	if said == nil || said.At.IsZero() || said.At.After(now) || said.Ask.Sub(now) < 5*time.Hour {
		t.Fatalf("the CA said %+v", said)
	}
	start := time.Now()
	r.runs()
	eventually(t, 15*time.Second, "renewed as the CA said", func() bool { h := r.heldOf(s); return h != nil && h.sha256 != first.sha256 })
	if after := time.Since(start); after > 12*time.Second {
		t.Errorf("renewed after %s, not before 0.6 of its life", after)
	}
	orders := tap.orders()
	if len(orders) != 2 || orders[0].Replaces != "" || tap.replaces.Load() == 0 { // now and then Pebble does not know what it issued
		t.Errorf("orders: %+v", orders)
	}
	for _, o := range orders {
		if len(o.Identifiers) != 1 || o.Identifiers[0].Value != "www.a."+zone {
			t.Errorf("ordered: %+v", o)
		}
	}
}

// TestRenewalOfTheUnknown has a CA that can't find what a name's next certificate
// replaces, and says so as of an error of its own: Pebble does of one in 256.
func TestRenewalOfTheUnknown(t *testing.T) {
	r := newReal(t)
	tapped, tap := newTap(t, r.ca(nil))
	r.trusts(tapped)
	s := r.have(1, byHTTP("www.a."+zone), "www.a."+zone)
	r.one(s)
	before := r.heldOf(s)
	if before == nil {
		t.Fatal(r.problemOf(s))
	}
	tap.forget.Store(true)
	r.one(s)
	if after := r.heldOf(s); after.sha256 == before.sha256 {
		t.Fatalf("not renewed: %s", r.problemOf(s))
	}
	if tap.replaces.Load() == 0 {
		t.Error("the CA was never told what the new certificate replaces")
	}
}

// TestMany renews twenty names by a real CA, with the control plane away.
func TestMany(t *testing.T) {
	r := newReal(t)
	ca := r.ca(nil)
	tapped, tap := newTap(t, ca)
	r.trusts(tapped)
	r.cfg.Broker = away{}
	var sites []task.Site
	own := newSigner(t)
	var names []string
	for i := range 20 {
		name := fmt.Sprintf("www%d.%s", i, zone)
		names = append(names, name)
		s := r.have(i, byHTTP(name), name)
		b := own.bundle(t, acmeCA, day, name)
		b.chain[0] = own.sign(t, b.key.Public(), day, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-89 * day) }, name)
		b.obtained = b.leaf().NotBefore
		r.put(s, name, b)
		sites = append(sites, s)
	}
	stop := r.runs()
	eventually(t, 90*time.Second, "all are served with new certificates", func() bool {
		for _, s := range sites {
			if o := r.Observe(t.Context(), s)[0]; !o.GetValid() {
				return false
			}
		}
		return true
	})
	stop()
	for i, call := range r.calls() {
		if i > 0 && call.at.Sub(r.served[i-1].at) < serveRest {
			t.Errorf("Serve is called %s after the last", call.at.Sub(r.served[i-1].at))
		}
	}
	var ordered []string
	for _, o := range tap.orders() {
		for _, id := range o.Identifiers {
			ordered = append(ordered, id.Value)
		}
	}
	slices.Sort(ordered)
	slices.Sort(names)
	if !slices.Equal(ordered, names) {
		t.Errorf("ordered: %v", ordered)
	}
}

// tap stands between the manager and a real CA: it writes down what is ordered,
// and can say what no test can bring a CA to say. It is no CA.
type tap struct {
	limit    atomic.Bool
	forget   atomic.Bool // what it issued before
	replaces atomic.Int32
	mu       sync.Mutex
	seen     []ordered
}

type ordered struct {
	Identifiers []struct{ Value string }
	Replaces    string
}

func (p *tap) orders() []ordered {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

func newTap(t *testing.T, ca *pebble.CA) (*linkv1.Issuer, *tap) {
	t.Helper()
	p := new(tap)
	behind, err := url.Parse(ca.DirectoryURL)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Roots)
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "https", behind.Host
			r.Out.Host = r.In.Host // the CA writes its URLs by it
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}},
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/order-plz" {
			body, _ := io.ReadAll(req.Body)
			req.Body = io.NopCloser(bytes.NewReader(body))
			if p.limit.Load() {
				w.Header().Set("Retry-After", "7200")
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusTooManyRequests)
				fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"five a\nweek"}`)
				return
			}
			var jws struct{ Payload string }
			var o ordered
			must2(nil, json.Unmarshal(body, &jws))
			payload := must2(base64.RawURLEncoding.DecodeString(jws.Payload))
			must2(nil, json.Unmarshal(payload, &o))
			if o.Replaces != "" {
				p.replaces.Add(1)
			}
			if p.forget.Load() && o.Replaces != "" {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusInternalServerError)
				fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:serverInternal","detail":"could not find an order for the given certificate"}`)
				return
			}
			res := httptest.NewRecorder()
			forward.ServeHTTP(res, req)
			if res.Code == http.StatusCreated { // not those whose nonce was refused
				p.mu.Lock()
				p.seen = append(p.seen, o)
				p.mu.Unlock()
			}
			for name, values := range res.Header() {
				w.Header()[name] = values
			}
			w.WriteHeader(res.Code)
			_, _ = w.Write(res.Body.Bytes())
			return
		}
		forward.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	own := pem.EncodeToMemory(&pem.Block{Type: blockCert, Bytes: server.Certificate().Raw})
	return &linkv1.Issuer{Name: "tapped", DirectoryUrl: server.URL + behind.Path, Roots: append(own, ca.Roots...)}, p
}

// provider is a control plane whose DNS provider is the test's name server.
type provider struct {
	away
	server *knot.Server
}

func (p provider) PresentChallenge(ctx context.Context, req *linkv1.PresentChallengeRequest) (*linkv1.PresentChallengeResponse, error) {
	return &linkv1.PresentChallengeResponse{}, p.server.Update(ctx, zone, fmt.Sprintf("add _acme-challenge.%s. 1 TXT %q", req.GetDomain(), req.GetValue()))
}

func (p provider) RemoveChallenge(ctx context.Context, req *linkv1.RemoveChallengeRequest) (*linkv1.RemoveChallengeResponse, error) {
	return &linkv1.RemoveChallengeResponse{}, p.server.Update(ctx, zone, fmt.Sprintf("del _acme-challenge.%s. TXT %q", req.GetDomain(), req.GetValue()))
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startKnot starts a real name server, by which every name of the zone leads here.
func startKnot(t *testing.T) *knot.Server {
	t.Helper()
	server, err := knot.Start(t.Context(), knot.Options{Dir: t.TempDir(), Zones: []string{zone}, Log: t.Output()})
	must(t, err)
	t.Cleanup(server.Stop)
	must(t, server.Set(t.Context(), "*."+zone, "A", "127.0.0.1"))
	return server
}

// webServer is a real nginx that answers CAs from the challenges and serves
// names by their certificates, as package nginx has it do.
type webServer struct {
	t          *testing.T
	dir        string
	challenges string
	port       int // plain HTTP
	tls        string
	server     *exec.Cmd
	mu         sync.Mutex
	generation int
}

func startNginx(t *testing.T) *webServer {
	t.Helper()
	n := &webServer{t: t, dir: t.TempDir(), port: freePort(t)}
	n.challenges, n.tls = filepath.Join(n.dir, "challenges"), "127.0.0.1:"+strconv.Itoa(freePort(t))
	n.configure("")
	n.server = exec.Command("/usr/sbin/nginx", "-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf"))
	n.server.Stderr = t.Output()
	must(t, n.server.Start())
	t.Cleanup(func() {
		_ = n.server.Process.Signal(syscall.SIGTERM) // ended already is fine
		_ = n.server.Wait()
	})
	n.await()
	return n
}

// configure writes the configuration. Sites' names are handled alike: by tests
// only one site has a name, so that a token alone says whose it is.
func (n *webServer) configure(servers string) {
	n.generation++
	must(n.t, os.WriteFile(filepath.Join(n.dir, "nginx.conf"), []byte(fmt.Sprintf(`
daemon off;
user root;
pid %[1]s/pid;
error_log %[1]s/error.log;
worker_processes 1;
events {}
http {
    access_log off;
    server {
        listen 127.0.0.1:%[2]d;
        location = /generation { return 200 "%[3]d"; }
        location ~ ^/\.well-known/acme-challenge/(?<token>[A-Za-z0-9_-]+)$ {
            include %[1]s/where*.conf;
            default_type text/plain;
        }
    }
    server {
        listen %[4]s ssl default_server;
        ssl_reject_handshake on;
    }
%[5]s}
`, n.dir, n.port, n.generation, n.tls, servers)), 0o600))
	n.where()
}

// where tells nginx of the sites' directories, as package nginx does by one
// block for each site.
func (n *webServer) where() {
	var tries []string
	for i := range 25 {
		tries = append(tries, "/"+newSite(n.t, i, nil).Handle.String()+"/$token")
	}
	must(n.t, os.WriteFile(filepath.Join(n.dir, "where.conf"), []byte(fmt.Sprintf("root %s;\ntry_files %s =404;\n", n.challenges, strings.Join(tries, " "))), 0o600))
}

// load serves what is on disk.
func (n *webServer) load(w *world) error {
	sites, err := w.Sites()
	if err != nil {
		return err
	}
	var servers strings.Builder
	for _, s := range sites {
		var names []contract.Domain
		for _, text := range s.Desired.GetDomains() {
			d, err := contract.ParsePattern(text)
			if err != nil {
				return err
			}
			names = append(names, d)
		}
		for name, c := range w.Paths(s.Handle, names) {
			fmt.Fprintf(&servers, "    server { listen %s ssl; server_name %s; ssl_certificate %s; ssl_certificate_key %s; }\n", n.tls, name, c.Path, c.Path)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.configure(servers.String())
	if err := n.server.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	n.await()
	return nil
}

func (n *webServer) await() {
	n.t.Helper()
	eventually(n.t, 20*time.Second, "nginx serves its configuration", func() bool {
		res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/generation", n.port))
		if err != nil {
			return false
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		return err == nil && string(text) == strconv.Itoa(n.generation)
	})
}
