// Package certificate gives the names of this host's sites their certificates:
// it obtains, keeps, renews and measures them. Each name has one of its own, so
// that what keeps one name from having a certificate keeps no other.
//
//	            wanted               obtained
//	no file ------------> ordered ------------> held <----------------+
//	                       ^    |                 | 2/3 of its life,  | obtained
//	     the back-off ends |    | failed          | or as its CA says |
//	                       |    v                 v                   |
//	                      waiting <----------- renewed ---------------+
//	                                 failed    (served on, whatever happens)
//
// The control plane says which names (chom.site.v1.Https) and which CAs
// (chom.link.v1.Issuance); both are on this host's disk, so that certificates
// are renewed while the control plane is away. Only a name that the desired state
// lists is ever ordered, one per order. No failure deletes, replaces or breaks a
// certificate that is there.
//
// Files, all root's alone:
//
//	<Dir>/<handle>/<name>.pem    key and chain in one file: one rename changes both
//	<Dir>/<handle>/<name>.former what nginx served before a <name>.pem that it has not taken yet
//	<Dir>/<handle>/<name>.json   how getting the next one goes
//	<Dir>/account/<issuer>.json  the account with a CA, and its key
//	<Dir>/issuance               the CAs, as the control plane last named them
//	<Dir>/newest                 the newest moment that is known to be past
//
// The name *.example.com lies in files named _.example.com. Keys are made here,
// one for each certificate, and never leave the host.
//
// Not here: what nginx does with them (package nginx), and which names lead to
// this host (the control plane finds out).
package certificate

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"google.golang.org/protobuf/proto"

	"chom.dev/agent/clock"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// Where things are on a host.
const (
	Dir          = "/var/lib/chom-agent/certificates"
	ChallengeDir = "/run/chom-acme" // answers to CAs; nginx serves them, a reboot may forget them
)

// Broker is the control plane, for what a host can't do alone. The link fills
// in the epoch. Its errors are shown to people.
type Broker interface {
	IssuePlatformCertificate(context.Context, *linkv1.IssuePlatformCertificateRequest) (*linkv1.IssuePlatformCertificateResponse, error)
	FetchCertificate(context.Context, *linkv1.FetchCertificateRequest) (*linkv1.FetchCertificateResponse, error)
	PresentChallenge(context.Context, *linkv1.PresentChallengeRequest) (*linkv1.PresentChallengeResponse, error)
	RemoveChallenge(context.Context, *linkv1.RemoveChallengeRequest) (*linkv1.RemoveChallengeResponse, error)
}

// Registry knows the sites of the host.
type Registry interface {
	Sites() ([]task.Site, error)
}

// Config is what a Manager needs.
type Config struct {
	Dir          string // empty is Dir
	ChallengeDir string // empty is ChallengeDir
	Broker       Broker
	Registry     Registry
	// Serve makes nginx serve what is on disk for these sites. Served are those for
	// which it does, and names no file that Paths leaves out; the others, for which
	// an order is to come or whose files nginx refuses, come again one by one, less
	// and less often. An error means that nginx could not be reloaded: all come
	// again. It is called at most once in 5 s.
	Serve func(context.Context, []contract.SiteID) (served []contract.SiteID, err error)
	Clock *clock.Clock // the control plane's time, as far as it is known
	Probe string       // where TLS is served; empty is 127.0.0.1:443
	Log   *slog.Logger
}

// Manager holds the certificates of this host. Safe for concurrent use.
type Manager struct {
	cfg        Config
	files      files
	records    records
	challenges challenges
	wall       func() time.Time // the host's own clock
	wake       chan struct{}    // look now
	loaded     chan struct{}    // something waits to be served
	first      chan struct{}    // a name among it had no certificate before
	// What CAs are asked for.
	obtain  func(context.Context, want, *bundle) (*bundle, error)
	suggest func(context.Context, *bundle) (acme.RenewalInfo, error)

	mu       sync.Mutex
	newest   time.Time // known to be past
	issuance *linkv1.Issuance
	trust    trust                   // what Observe trusts, made from issuance
	cas      map[string]*ca          // by name
	cache    map[key]*cached         // what was read of files
	jobs     map[key]*job            // under way
	changes  uint64                  // counts what Remove and Forget took away
	unserved map[key]contract.SiteID // on disk, and not known to nginx
	serving  map[key]contract.SiteID // nginx is being told of
	tardy    map[key]tardy           // nginx was told of, in vain
}

// key names a certificate.
type key struct {
	handle contract.Handle
	name   contract.Domain
}

// New opens the directory, and makes it when it is missing.
func New(cfg Config) (*Manager, error) {
	cfg.Dir = cmp.Or(cfg.Dir, Dir)
	cfg.ChallengeDir = cmp.Or(cfg.ChallengeDir, ChallengeDir)
	cfg.Probe = cmp.Or(cfg.Probe, "127.0.0.1:443")
	m := &Manager{
		cfg: cfg, files: files{cfg.Dir}, records: records{files: files{cfg.Dir}, known: map[key]record{}}, challenges: challenges{cfg.ChallengeDir}, wall: time.Now,
		wake: make(chan struct{}, 1), loaded: make(chan struct{}, 1), first: make(chan struct{}, 1),
		issuance: new(linkv1.Issuance), cas: map[string]*ca{}, cache: map[key]*cached{}, jobs: map[key]*job{},
		unserved: map[key]contract.SiteID{}, tardy: map[key]tardy{},
	}
	m.obtain, m.suggest = m.order, m.renewalInfo
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open certificates: %w", err)
	}
	var err error
	if m.newest, err = m.files.newest(); err != nil {
		return nil, fmt.Errorf("open certificates: %w", err)
	}
	kept, err := m.files.issuance()
	if err != nil {
		return nil, fmt.Errorf("open certificates: %w", err)
	}
	return m, m.use(kept, nil)
}

// SetIssuance takes what the control plane says of CAs, and keeps it for when
// it is away. It says so whenever the link is there again: what failed without
// it is tried anew. Nil, from a control plane that knows nothing of them, changes
// nothing: one that has none says so by an empty message.
func (m *Manager) SetIssuance(said *linkv1.Issuance) error {
	m.linked()
	if said == nil {
		return nil
	}
	m.mu.Lock()
	same := proto.Equal(said, m.issuance)
	m.mu.Unlock()
	if same {
		return nil
	}
	// Kept first: what is in use is what a restart finds, and what could not be kept
	// is not the same when it is said again.
	if err := m.use(proto.CloneOf(said), m.files.keepIssuance); err != nil {
		return err
	}
	m.Wake()
	return nil
}

// linkedWithin is how soon what failed without the control plane is tried again
// once it is back: there may be many names, and many hosts with it.
const linkedWithin = 10 * time.Second

// linked has names tried again that had to wait for the control plane.
func (m *Manager) linked() {
	now := m.time()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.records.where(func(r record) bool { return r.Away && r.NextTry.After(now.Add(linkedWithin)) }) {
		r := m.record(k)
		r.NextTry = now.Add(time.Duration((0.1 + 0.9*spread(k.name.String())) * float64(linkedWithin)))
		if err := m.records.keep(k, r); err != nil {
			m.cfg.Log.Warn("that a name is tried again soon could not be noted", "name", k.name, "err", err)
		}
	}
	m.Wake()
}

// use takes what is said of CAs, whole or not at all: after keep, which may be
// nil, has kept it.
func (m *Manager) use(said *linkv1.Issuance, keep func(*linkv1.Issuance) error) error {
	t, err := newTrust(said)
	if err != nil {
		return fmt.Errorf("use what the control plane says of CAs: %w", err)
	}
	cas := map[string]*ca{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, issuer := range said.GetIssuers() {
		if _, twice := cas[issuer.GetName()]; twice {
			return fmt.Errorf("use what the control plane says of CAs: there are two named %s", task.Line(issuer.GetName(), 64))
		}
		if known := m.cas[issuer.GetName()]; known != nil && proto.Equal(known.issuer, issuer) && known.contact == said.GetContact() {
			cas[issuer.GetName()] = known
			continue
		}
		if cas[issuer.GetName()], err = m.newCA(issuer, said.GetContact()); err != nil {
			return fmt.Errorf("use what the control plane says of CAs: %w", err)
		}
	}
	if keep != nil {
		if err := keep(said); err != nil {
			return fmt.Errorf("keep what the control plane says of CAs: %w", err)
		}
	}
	m.issuance, m.trust, m.cas = said, t, cas
	return nil
}

// authorities gives the CAs in the order of preference.
func (m *Manager) authorities() []*ca {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*ca
	for _, issuer := range m.issuance.GetIssuers() {
		out = append(out, m.cas[issuer.GetName()])
	}
	return out
}

// Served is what nginx needs to know of a certificate.
type Served struct {
	Path    string // key and chain in PEM
	OCSP    bool   // it is of a CA of the platform's, and names an OCSP responder
	Trusted bool   // visitors' browsers trust where it comes from; those of the platform's own names they may not
}

// Paths says which of a site's names have a certificate that can be served: the
// file is whole, and for the name. One that has expired is better than none.
func (m *Manager) Paths(h contract.Handle, names []contract.Domain) map[contract.Domain]Served {
	out := map[contract.Domain]Served{}
	for _, name := range names {
		k := key{h, name}
		held := m.held(k)
		if held == nil || m.record(k).Withdrawn {
			continue
		}
		// Whose answers are stapled nginx calls: not an address that came with somebody's upload.
		out[name] = Served{Path: m.files.pem(k), OCSP: held.ocsp && held.source == acmeCA, Trusted: held.source != platform}
	}
	return out
}

// Wake looks for what is to be done at once, as after a change to a site.
func (m *Manager) Wake() {
	select {
	case m.wake <- struct{}{}:
	default: // it looks already
	}
}

// Remove destroys all keys of a site. nginx must not use them any more. A site
// that has none is fine.
func (m *Manager) Remove(h contract.Handle) error {
	if h.IsZero() {
		return fmt.Errorf("remove certificates: no handle")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revoke(func(k key) bool { return k.handle == h })
	if err := m.files.removeAll(h); err != nil {
		return fmt.Errorf("remove certificates of site %s: %w", h, err)
	}
	return m.challenges.removeAll(h)
}

// revoke ends what is under way for certificates that go. Called with mu held.
func (m *Manager) revoke(goes func(key) bool) {
	m.changes++
	m.records.forget(goes)
	for k, j := range m.jobs {
		if goes(k) {
			j.revoked = true
			j.cancel()
		}
	}
	gone := func(k key, _ contract.SiteID) bool { return goes(k) }
	maps.DeleteFunc(m.unserved, gone)
	maps.DeleteFunc(m.serving, gone)
	maps.DeleteFunc(m.tardy, func(k key, _ tardy) bool { return goes(k) })
	maps.DeleteFunc(m.cache, func(k key, _ *cached) bool { return goes(k) })
}
