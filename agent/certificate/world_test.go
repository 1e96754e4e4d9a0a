package certificate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func domain(t *testing.T, name string) contract.Domain {
	t.Helper()
	d, err := contract.ParsePattern(name)
	must(t, err)
	return d
}

// world is a Manager and what is around it.
type world struct {
	*Manager
	t *testing.T

	mu      sync.Mutex
	sites   []task.Site
	served  []served
	fails   int                      // calls of Serve that fail yet
	rejects map[contract.SiteID]bool // not taken into use
}

type served struct {
	at    time.Time
	sites []contract.SiteID
}

func (w *world) Sites() ([]task.Site, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]task.Site(nil), w.sites...), nil
}

func (w *world) serveSites(_ context.Context, ids []contract.SiteID) ([]contract.SiteID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.served = append(w.served, served{time.Now(), ids})
	if w.fails > 0 {
		w.fails--
		return nil, errors.New("nginx is broken")
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id contract.SiteID) bool { return w.rejects[id] }), nil
}

func (w *world) calls() []served {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]served(nil), w.served...)
}

type safe struct {
	mu sync.Mutex
	bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Buffer.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Buffer.String()
}

// newWorld opens a Manager in a directory of its own.
func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t}
	dir := t.TempDir()
	cfg := Config{
		Dir: filepath.Join(dir, "certificates"), ChallengeDir: filepath.Join(dir, "challenges"),
		Broker: away{}, Registry: w, Serve: w.serveSites, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	w.Manager, err = New(cfg)
	must(t, err)
	w.suggest = func(context.Context, *bundle) (acme.RenewalInfo, error) {
		return acme.RenewalInfo{}, acme.ErrUnsupported
	}
	return w
}

// again opens the same directory with another Manager, as after a restart.
func (w *world) again(change func(*Config)) {
	w.t.Helper()
	cfg := w.cfg
	if change != nil {
		change(&cfg)
	}
	m, err := New(cfg)
	must(w.t, err)
	m.suggest = w.suggest
	w.Manager = m
}

// have makes a site that is converged, with Https as given.
func (w *world) have(n int, https *sitev1.Https, domains ...string) task.Site {
	w.t.Helper()
	s := newSite(w.t, n, https, domains...)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.sites {
		if w.sites[i].ID == s.ID {
			s.Desired.Generation = w.sites[i].Desired.Generation + 1
			s.Converged = s.Desired.Generation
			w.sites[i] = s
			return s
		}
	}
	w.sites = append(w.sites, s)
	return s
}

func newSite(t *testing.T, n int, https *sitev1.Https, domains ...string) task.Site {
	t.Helper()
	id, err := contract.ParseSiteID(fmt.Sprintf("01890000-0000-7000-8000-%012d", n))
	must(t, err)
	text := strings.ToLower(base32.StdEncoding.EncodeToString([]byte{'s', 0, byte(n >> 16), byte(n >> 8), byte(n), 0, 0}))[:10]
	handle, err := contract.ParseHandle(text)
	must(t, err)
	return task.Site{
		ID: id, Handle: handle, Converged: 1,
		Desired: &sitev1.DesiredState{SiteId: id.String(), Handle: handle.String(), Generation: 1, Phase: sitev1.Phase_PHASE_ACTIVE, Domains: domains, Https: https},
	}
}

// byHTTP lists names for HTTP-01.
func byHTTP(names ...string) *sitev1.Https {
	h := new(sitev1.Https)
	for _, name := range names {
		h.Acme = append(h.Acme, &sitev1.AcmeDomain{Name: name, Challenge: sitev1.Challenge_CHALLENGE_HTTP_01})
	}
	return h
}

// away is a control plane that can't be reached.
type away struct{}

var errAway = errors.New("the control plane is away")

func (away) IssuePlatformCertificate(context.Context, *linkv1.IssuePlatformCertificateRequest) (*linkv1.IssuePlatformCertificateResponse, error) {
	return nil, errAway
}

func (away) FetchCertificate(context.Context, *linkv1.FetchCertificateRequest) (*linkv1.FetchCertificateResponse, error) {
	return nil, errAway
}

func (away) PresentChallenge(context.Context, *linkv1.PresentChallengeRequest) (*linkv1.PresentChallengeResponse, error) {
	return nil, errAway
}

func (away) RemoveChallenge(context.Context, *linkv1.RemoveChallengeRequest) (*linkv1.RemoveChallengeResponse, error) {
	return nil, errAway
}

// signer is a small CA of the test's own.
type signer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newSigner(t *testing.T) signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(10000 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return signer{k, cert}
}

func (s signer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockCert, Bytes: s.cert.Raw})
}

// sign makes a certificate; change may be nil.
func (s signer) sign(t *testing.T, public crypto.PublicKey, life time.Duration, change func(*x509.Certificate), names ...string) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: serial, DNSNames: names, NotBefore: time.Now().Truncate(time.Second), NotAfter: time.Now().Truncate(time.Second).Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.cert, public, s.key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

// bundle makes a key and a certificate.
func (s signer) bundle(t *testing.T, from source, life time.Duration, names ...string) *bundle {
	t.Helper()
	k, err := newKey()
	must(t, err)
	return &bundle{origin: origin{source: from, issuer: "test"}, key: k, chain: []*x509.Certificate{s.sign(t, k.Public(), life, nil, names...)}}
}

// put stores a certificate as if it had been obtained, and served since.
func (w *world) put(s task.Site, name string, b *bundle) {
	w.t.Helper()
	must(w.t, w.store(key{s.Handle, domain(w.t, name)}, contract.SiteID{}, b, func() bool { return true }))
}

// runs runs the manager until the test, or the function that is returned, ends it.
func (w *world) runs() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	m := w.Manager
	go func() { done <- m.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				w.t.Errorf("Run: %v", err)
			}
		})
	}
	w.t.Cleanup(stop)
	return stop
}

// eventually waits for something that is on its way.
func eventually(t *testing.T, within time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", within, what)
		}
	}
}

// Forget has keys destroyed as they are when a site goes, of some names.
func (w *world) Forget(h contract.Handle, names []contract.Domain) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revoke(func(k key) bool { return k.handle == h && slices.Contains(names, k.name) })
	for _, name := range names {
		if err := w.files.remove(key{h, name}); err != nil {
			return err
		}
	}
	return nil
}
