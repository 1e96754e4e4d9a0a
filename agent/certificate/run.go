package certificate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/agent/fail"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

const (
	atOnce       = 4                // orders under way: a host is a small machine, and a CA a shared one
	lookEvery    = time.Minute      // how late a lost wake-up makes us
	restLook     = time.Second      // between two looks: each reads the whole registry
	ensureWithin = 10 * time.Second // a site that is being made waits for it
	jobWithin    = 10 * time.Minute // a job: DNS providers take minutes
)

// job is something under way for a certificate.
type job struct {
	want
	ask     bool   // only when the CA wants it renewed
	changes uint64 // as Manager.changes when it was found
	cancel  context.CancelFunc
	revoked bool // its certificate is not to be there any more
}

// Run keeps the certificates of all sites until the context ends.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.challenges.clear(); err != nil {
		return err
	}
	jobs := make(chan *job)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.look(ctx, jobs) })
	for range atOnce {
		g.Go(func() error { return m.work(ctx, jobs) })
	}
	g.Go(func() error { return m.serve(ctx) })
	return g.Wait()
}

// look finds what is due and hands it out, the most urgent first.
func (m *Manager) look(ctx context.Context, jobs chan<- *job) error {
	for {
		looked := time.Now()
		todo, next, err := m.due()
		if err != nil {
			return err
		}
		again := time.After(min(max(next, restLook), lookEvery))
		wake := false
		for !wake {
			var out chan<- *job
			var first *job
			if len(todo) > 0 {
				out, first = jobs, todo[0]
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case out <- first:
				todo = todo[1:]
			case <-again:
				wake = true
			case <-m.wake:
				wake = true
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(restLook - time.Since(looked)):
		}
	}
}

// due lists what is to be done now, and how long from now there is something
// else to do.
func (m *Manager) due() (todo []*job, next time.Duration, err error) {
	m.mu.Lock()
	changes := m.changes
	m.mu.Unlock()
	// Before the sites: what is on disk for an order that comes meanwhile is not
	// taken for what the former one left.
	onDisk, err := m.files.names()
	if err != nil {
		m.cfg.Log.Warn("certificates of names that are no site's any more could not be looked for", "err", err)
	}
	sites, err := m.cfg.Registry.Sites()
	if err != nil {
		return nil, 0, err
	}
	now, trusted := m.now()
	if m.cfg.Clock != nil {
		if said, confirmed := m.cfg.Clock.Now(); confirmed {
			m.confirmed(said.Round(0))
		}
	}
	none := len(m.authorities()) == 0
	next = lookEvery
	type urgent struct {
		*job
		ends time.Time // zero for what can't be served at all
	}
	var found []urgent
	for _, s := range sites {
		wanted := m.wanted(s)
		m.withdraw(s, wanted, onDisk[s.Handle.String()])
		for _, w := range wanted {
			h, r := m.held(w.key), m.record(w.key)
			switch {
			case r.Withdrawn:
				m.mu.Lock()
				err := m.reclaim(w.key, w.site)
				m.mu.Unlock()
				if err != nil {
					m.cfg.Log.Warn("a certificate that is wanted again could not be taken back", "name", w.name, "err", err)
				}
			case r.Unserved:
				m.announce(w.key, w.site)
			}
			if !trusted || w.source == acmeCA && none {
				continue
			}
			var ends time.Time
			if h != nil {
				ends = h.notAfter
			}
			switch at := w.due(now, h, r); {
			case !at.After(now):
				found = append(found, urgent{&job{want: w}, ends})
			case w.asks(now, h, r):
				found = append(found, urgent{&job{want: w, ask: true}, never})
			default:
				next = min(next, at.Sub(now))
			}
		}
	}
	slices.SortStableFunc(found, func(a, b urgent) int { return a.ends.Compare(b.ends) })
	m.mu.Lock()
	defer m.mu.Unlock()
	if changes != m.changes {
		return nil, 0, nil // a site was removed meanwhile, and what was found may be its
	}
	for _, u := range found {
		if m.jobs[u.key] == nil {
			u.changes = changes
			todo = append(todo, u.job)
		}
	}
	return todo, next, nil
}

// work does one job after the other.
func (m *Manager) work(ctx context.Context, jobs <-chan *job) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case j := <-jobs:
			m.do(ctx, j)
		}
	}
}

// do does one job, and notes what came of it.
func (m *Manager) do(ctx context.Context, j *job) {
	ctx, j.cancel = context.WithTimeout(ctx, jobWithin)
	defer j.cancel()
	m.mu.Lock()
	stale := m.jobs[j.key] != nil || j.changes != m.changes
	if !stale {
		m.jobs[j.key] = j
	}
	m.mu.Unlock()
	if stale {
		m.Wake()
		return
	}
	defer func() {
		m.mu.Lock()
		delete(m.jobs, j.key)
		m.mu.Unlock()
	}()
	if j.ask {
		m.ask(ctx, j)
		return
	}
	err := m.get(ctx, j)
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return // stopped, or removed: nobody's failure
	}
	if err != nil {
		m.failed(j, err)
	}
}

// get gets the certificate that a job wants, and stores it.
func (m *Manager) get(ctx context.Context, j *job) error {
	m.mu.Lock()
	if j.revoked {
		m.mu.Unlock()
		return nil
	}
	err := m.files.room(j.key)
	m.mu.Unlock()
	if err != nil {
		return hostFailure(err)
	}
	var b *bundle
	switch j.source {
	case uploaded:
		b, err = m.fetch(ctx, j.want)
	case platform:
		b, err = m.issue(ctx, j.site, j.name)
	case acmeCA:
		var old *bundle
		if h := m.held(j.key); h != nil && h.source == acmeCA {
			if old, err = m.read(j.key); err != nil {
				return hostFailure(err)
			}
		}
		b, err = m.obtain(ctx, j.want, old)
	}
	if err != nil {
		return err
	}
	return m.store(j.key, j.site, b, func() bool { return !j.revoked })
}

// EnsurePlatform sees that a site's preview names have certificates, as a step
// of bringing it about. Those that have one are left alone: Run renews them, and
// gets those that did not come within 10 s.
func (m *Manager) EnsurePlatform(ctx context.Context, site task.Site) error {
	ctx, cancel := context.WithTimeout(ctx, ensureWithin)
	defer cancel()
	var errs []error
	for _, text := range site.Desired.GetHttps().GetPlatformDomains() {
		name, err := contract.ParseDomain(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		k := key{site.Handle, name}
		if m.held(k) != nil {
			continue
		}
		b, err := m.issue(ctx, site.ID, name)
		if err == nil {
			err = m.store(k, contract.SiteID{}, b, func() bool { return true })
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("certificate of %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// issue has the control plane sign a certificate for a preview name.
func (m *Manager) issue(ctx context.Context, site contract.SiteID, name contract.Domain) (*bundle, error) {
	k, err := newKey()
	if err != nil {
		return nil, hostFailure(err)
	}
	csr, err := request(name, k)
	if err != nil {
		return nil, hostFailure(err)
	}
	res, err := m.cfg.Broker.IssuePlatformCertificate(ctx, &linkv1.IssuePlatformCertificateRequest{SiteId: site.String(), Domain: name.String(), Csr: csr})
	if err != nil {
		return nil, brokerFailure("the control plane gave no certificate", err)
	}
	var b *bundle
	if len(res.GetKey()) > 0 {
		b, err = parse(res.GetChain(), res.GetKey())
	} else {
		own := &bundle{key: k}
		var text []byte
		if text, err = own.text(); err != nil {
			return nil, hostFailure(err)
		}
		b, err = parse(res.GetChain(), text)
	}
	if err == nil {
		err = b.covers(name)
	}
	if err != nil {
		return nil, brokerFailure("the control plane's certificate cannot be used", err)
	}
	b.origin = origin{source: platform}
	return b, nil
}

// fetch gets an uploaded certificate: from another name of the site, or from the
// control plane.
func (m *Manager) fetch(ctx context.Context, w want) (*bundle, error) {
	for _, text := range w.shared {
		other, err := contract.ParsePattern(text)
		if err != nil || other == w.name {
			continue
		}
		k := key{w.handle, other}
		if h := m.held(k); h == nil || h.source != uploaded || h.sha256 != w.sha256 {
			continue
		}
		if b, err := m.read(k); err == nil && fingerprint(b.leaf()) == w.sha256 && b.covers(w.name) == nil {
			return b, nil
		}
	}
	res, err := m.cfg.Broker.FetchCertificate(ctx, &linkv1.FetchCertificateRequest{SiteId: w.site.String(), CertificateId: w.upload})
	if err != nil {
		return nil, brokerFailure("the uploaded certificate could not be fetched", err)
	}
	b, err := parse(res.GetChain(), res.GetKey())
	if err == nil {
		err = b.covers(w.name)
	}
	if err == nil && fingerprint(b.leaf()) != w.sha256 {
		err = errors.New("it is another one than the site is to have")
	}
	if err != nil {
		return nil, brokerFailure("the uploaded certificate cannot be used", err)
	}
	b.origin = origin{source: uploaded}
	return b, nil
}

// store puts a certificate in the place of the former, unless it is not to be
// there any more. A zero site means that the caller sees to nginx.
func (m *Manager) store(k key, site contract.SiteID, b *bundle, wanted func() bool) error {
	if b.obtained.IsZero() {
		b.obtained = m.time()
	}
	text, err := b.text()
	if err != nil {
		return hostFailure(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !wanted() {
		return nil
	}
	// Should the agent die after the certificate is in its place, nginx is told
	// of it after the restart.
	r := m.record(k)
	if !site.IsZero() {
		if err := m.files.keepFormer(k, !r.Unserved); err != nil {
			return hostFailure(err)
		}
	}
	r.Unserved, r.Withdrawn = !site.IsZero(), false
	first := m.heldLocked(k) == nil
	if err := m.records.keep(k, r); err != nil {
		return hostFailure(err)
	}
	fail.Point("certificate.obtained")
	if err := m.files.write(m.files.pem(k), text); err != nil {
		return hostFailure(err)
	}
	fail.Point("certificate.stored")
	if err := m.records.keep(k, record{Renewal: r.Renewal, Unserved: r.Unserved}); err != nil {
		return hostFailure(err)
	}
	delete(m.tardy, k) // what nginx did not take is no more
	if r.Unserved {
		m.announceLocked(k, site)
		if first {
			signal(m.first)
		}
	}
	m.cfg.Log.Info("certificate stored", "name", k.name, "site", k.handle, "source", string(b.source), "issuer", b.issuer, "until", b.leaf().NotAfter)
	return nil
}

// failed notes a failure and when to try again. What is there stays.
func (m *Manager) failed(j *job, err error) {
	f := explain(err)
	now := m.time()
	m.mu.Lock()
	defer m.mu.Unlock()
	if j.revoked {
		return
	}
	h, r := m.heldLocked(j.key), m.record(j.key)
	if j.generation > r.Generation {
		r.Tries = 0
	}
	if !f.unasked {
		r.Failures++
		r.Tries++
		r.LastTry = now
	}
	r.Generation, r.Problem, r.Away, r.Refused = j.generation, f.Error(), f.kind == ofBroker, f.kind == refused
	remaining := time.Duration(0)
	if h != nil {
		remaining = h.notAfter.Sub(now)
	}
	r.NextTry = now.Add(waitFor(r.Tries, f.kind, h != nil, remaining, spread(fmt.Sprint(j.name, r.Failures)))).Round(time.Second)
	r.Limited = maps.Clone(r.Limited)
	if r.Limited == nil {
		r.Limited = map[string]time.Time{}
	}
	for issuer, until := range f.limited {
		r.Limited[issuer] = until
	}
	maps.DeleteFunc(r.Limited, func(_ string, until time.Time) bool { return !until.After(now) })
	if f.unasked || f.until.After(r.NextTry) {
		r.NextTry = f.until
	}
	m.cfg.Log.Warn("no certificate", "name", j.name, "site", j.handle, "failures", r.Failures, "next", r.NextTry, "err", f)
	if err := m.records.keep(j.key, r); err != nil {
		// It holds until the agent restarts; without room no CA is asked.
		m.cfg.Log.Warn("a failure could not be noted", "name", j.name, "err", err)
	}
}
