package certificate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/fail"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

const (
	atOnce       = 4                // orders under way: a host is a small machine, and a CA a shared one
	lookEvery    = time.Minute      // how late a lost wake-up makes us
	restLook     = time.Second      // between two looks: each reads the whole registry
	serveRest    = 5 * time.Second  // between two reloads of nginx: each keeps old workers until their requests end
	firstRest    = time.Second      // where a name waits that has never had a certificate: somebody watches
	serveWait    = time.Minute      // at most, until a failed one is tried again
	tardyLeast   = time.Minute      // until a site that was not served a second time is told of again: it doubles,
	tardyMost    = time.Hour        // to this
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
	r.Generation, r.Problem, r.Refused = j.generation, f.Error(), f.kind == refused
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

// announce has nginx load a certificate, unless it is being told of it.
func (m *Manager) announce(k key, site contract.SiteID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, told := m.serving[k]; !told {
		m.announceLocked(k, site)
	}
}

func (m *Manager) announceLocked(k key, site contract.SiteID) {
	m.unserved[k] = site
	signal(m.loaded)
}

// signal says that there is something, if that isn't known already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tardy is a certificate that nginx did not take into use.
type tardy struct {
	times   int       // in a row
	refused int       // of these, the last ones without an order to come
	until   time.Time // nginx is not told of it before
}

// tardyWait is how long nginx is not told of a certificate that it did not take
// into use a number of times in a row.
func tardyWait(times int) time.Duration {
	if times <= 1 {
		return serveRest
	}
	return min(tardyLeast<<min(times-2, 10), tardyMost)
}

// serve has nginx load what was stored: at once, then all that came within 5 s.
// Names that get their first certificate shorten that to 1 s.
func (m *Manager) serve(ctx context.Context) error {
	failures := 0
	var later <-chan time.Time // what was not taken into use is due again
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.loaded:
		case <-later:
		}
		batch, next := m.batch(time.Now())
		later = nil
		if next > 0 {
			later = time.After(next)
		}
		if len(batch) == 0 {
			continue
		}
		soon, rest := firstRest, serveRest
		if err := m.load(ctx, batch); err != nil {
			failures++
			rest = min(serveRest<<min(failures, 5), serveWait)
			soon = rest
			m.cfg.Log.Warn("certificates are not served yet", "count", len(batch), "err", err)
		} else {
			failures = 0
		}
		if err := m.rest(ctx, soon, rest); err != nil {
			return err
		}
	}
}

// batch takes what nginx is to be told of now, and says how long from now there
// is more; zero for nothing.
func (m *Manager) batch(now time.Time) (batch map[key]contract.SiteID, next time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	batch = map[key]contract.SiteID{}
	for k, site := range m.unserved {
		wait := m.tardy[k].until.Sub(now)
		if wait <= 0 {
			batch[k] = site
			delete(m.unserved, k)
		} else if next == 0 || wait < next {
			next = wait
		}
	}
	if len(batch) > 0 {
		select {
		case <-m.first: // those in the batch
		default:
		}
	}
	m.serving = batch
	return batch, next
}

// rest waits until the next reload may be: soon for a first certificate, or until the rest is over.
func (m *Manager) rest(ctx context.Context, soon, rest time.Duration) error {
	over := time.After(rest)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(soon):
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-m.first:
	case <-over:
	}
	return nil
}

// load has nginx load a batch. What it did not take into use stays to be loaded.
func (m *Manager) load(ctx context.Context, batch map[key]contract.SiteID) error {
	m.mu.Lock()
	sites := slices.SortedFunc(maps.Values(batch), func(a, b contract.SiteID) int { return cmp.Compare(a.String(), b.String()) })
	m.mu.Unlock()
	served, err := m.cfg.Serve(ctx, slices.Compact(sites))
	var known map[contract.SiteID]task.Site
	if err == nil {
		fail.Point("certificate.served")
		known, err = m.sites()
	}
	now := m.time()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.serving = nil
	for k, site := range batch {
		if err != nil {
			m.announceLocked(k, site)
			continue
		}
		if _, again := m.unserved[k]; again {
			continue // stored once more meanwhile
		}
		if !slices.Contains(served, site) {
			m.late(k, known[site], now)
			continue
		}
		delete(m.tardy, k)
		if err := m.settle(k, known[site]); err != nil {
			m.cfg.Log.Warn("it could not be noted that a certificate is served", "name", k.name, "err", err)
		}
	}
	return err
}

// sites gives the sites of the host by their ids.
func (m *Manager) sites() (map[contract.SiteID]task.Site, error) {
	all, err := m.cfg.Registry.Sites()
	if err != nil {
		return nil, err
	}
	out := map[contract.SiteID]task.Site{}
	for _, s := range all {
		out[s.ID] = s
	}
	return out, nil
}

// late has nginx told again, later, of what it did not take into use. Where that
// is not for an order that is to come, nginx refused it: the second time what it
// served before is put back. Called with mu held.
func (m *Manager) late(k key, s task.Site, now time.Time) {
	if s.Desired == nil {
		delete(m.tardy, k)
		return // the site is gone, and its files with it
	}
	t := m.tardy[k]
	t.times++
	t.refused++
	if s.Converged != s.Desired.GetGeneration() || !answers(s.Desired) {
		t.refused = 0
	}
	wait := tardyWait(t.times)
	t.until = time.Now().Add(wait)
	m.tardy[k] = t
	m.cfg.Log.Warn("a certificate was not taken into use", "name", k.name, "site", k.handle, "times", t.times, "next", wait)
	if t.refused == refusals {
		if err := m.putBack(k, s.Desired.GetGeneration(), now); err != nil {
			m.cfg.Log.Warn("the former certificate could not be put back", "name", k.name, "site", k.handle, "err", err)
		}
	}
	m.announceLocked(k, s.ID)
}

// refusals is how often in a row nginx refuses a new certificate before the
// former is put back.
const refusals = 2

// Restore puts back what nginx served before of those of a site's names whose new
// certificates it has not taken, and says whether that changed anything: the site
// breaks nginx's configuration, and must keep nobody from being served.
func (m *Manager) Restore(h contract.Handle) (restored bool) {
	now := m.time()
	all, err := m.files.names()
	if err != nil {
		m.cfg.Log.Error("certificates can't be listed", "err", err)
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range all[h.String()] {
		k := key{h, name}
		if _, err := os.Lstat(m.files.former(k)); err != nil {
			continue
		}
		if err := m.putBack(k, m.record(k).Generation, now); err != nil {
			m.cfg.Log.Warn("the former certificate could not be put back", "name", name, "site", h, "err", err)
			continue
		}
		_, err := os.Lstat(m.files.former(k))
		restored = restored || errors.Is(err, fs.ErrNotExist)
	}
	return restored
}

// putBack puts the former certificate back, if it still is valid, in the place of
// one that nginx refuses, and has the next one wait. Called with mu held.
func (m *Manager) putBack(k key, generation uint64, now time.Time) error {
	r := m.record(k)
	former, err := readFile(m.files.former(k), k.name)
	if r.Withdrawn || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	end := former.leaf().NotAfter
	if !end.After(now) {
		return nil
	}
	r.Failures++
	r.Tries = max(r.Tries, len(backoff)-1) + 1 // it was issued: another one would count against the CA's limits
	r.Generation, r.LastTry = generation, now
	r.Problem = "the web server refuses the new certificate; the former is served on"
	r.NextTry = now.Add(waitFor(r.Tries, ofName, true, end.Sub(now), spread(fmt.Sprint(k.name, r.Failures)))).Round(time.Second)
	// Should the agent die in between, the new one is judged anew.
	if err := m.records.keep(k, r); err != nil {
		return err
	}
	if err := m.files.putBack(k); err != nil {
		return err
	}
	delete(m.tardy, k)
	m.cfg.Log.Warn("the former certificate is put back", "name", k.name, "site", k.handle, "until", end, "next", r.NextTry)
	return nil
}

// settle notes that nginx goes by what is on disk. What was withdrawn and is
// wanted again is not destroyed. Called with mu held.
func (m *Manager) settle(k key, s task.Site) error {
	r := m.record(k)
	switch {
	case r.Withdrawn && slices.ContainsFunc(wants(s), func(w want) bool { return w.key == k }):
		return m.reclaim(k, s.ID)
	case r.Withdrawn:
		m.records.forget(func(other key) bool { return other == k })
		return m.files.remove(k)
	case r.Unserved:
		if _, err := atomicfile.Remove(m.files.former(k)); err != nil {
			return err
		}
		r.Unserved = false
		return m.records.keep(k, r)
	}
	return nil
}

// reclaim has nginx take what was withdrawn into use again. Called with mu held.
func (m *Manager) reclaim(k key, site contract.SiteID) error {
	r := m.record(k)
	r.Withdrawn = false
	if err := m.records.keep(k, r); err != nil {
		return err
	}
	delete(m.tardy, k)
	m.announceLocked(k, site)
	return nil
}

// withdraw has nginx let go of certificates that the site is not to have any more,
// and then destroys them: uploaded ones that nothing is to replace, and those of
// names that are the site's no more, as far as there are files of them.
func (m *Manager) withdraw(s task.Site, wanted []want, onDisk []contract.Domain) {
	d := s.Desired
	if !answers(d) || s.Converged != d.GetGeneration() {
		return
	}
	listed := map[contract.Domain]bool{}
	for _, text := range slices.Concat(d.GetDomains(), d.GetHttps().GetPlatformDomains()) {
		if name, err := contract.ParsePattern(text); err == nil {
			listed[name] = true
		}
	}
	for _, name := range onDisk {
		if slices.ContainsFunc(wanted, func(w want) bool { return w.name == name }) {
			continue
		}
		k := key{s.Handle, name}
		m.mu.Lock()
		switch h := m.heldLocked(k); {
		case m.jobs[k] != nil: // the next look finds what comes of it
		case !listed[name] && !m.files.holds(k): // nginx never had it
			m.records.forget(func(other key) bool { return other == k })
			if err := m.files.remove(k); err != nil {
				m.cfg.Log.Warn("what is known of a name that is the site's no more could not be removed", "name", name, "err", err)
			}
		case !listed[name], h != nil && h.source == uploaded:
			m.withdrawLocked(k, s.ID)
		}
		m.mu.Unlock()
	}
}

// withdrawLocked is withdraw for one name, with mu held.
func (m *Manager) withdrawLocked(k key, site contract.SiteID) {
	r := m.record(k)
	if _, told := m.serving[k]; r.Withdrawn && r.Unserved && told {
		return
	}
	if !r.Withdrawn || !r.Unserved {
		r.Withdrawn, r.Unserved = true, true
		if err := m.records.keep(k, r); err != nil {
			m.cfg.Log.Warn("a certificate could not be withdrawn", "name", k.name, "err", err)
			return
		}
	}
	m.announceLocked(k, site)
}
