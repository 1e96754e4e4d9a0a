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

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/fail"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
)

// A certificate on disk is worth nothing before nginx goes by it. It is told of what
// was stored and of what is to go, all of it together and not too often; a key is
// destroyed only once nginx has let go of it.
//
//	stored -> unserved -> Serve: served   the former is forgotten
//	              ^         |
//	              |         +--- not yet   an order is to come, or nginx refuses it: told again, later
//	              |         +--- breaks it the former is put back, at once
//	withdrawn ----+              served   its key is destroyed

const (
	serveRest  = 5 * time.Second // between two reloads of nginx: each keeps old workers until their requests end
	firstRest  = time.Second     // where a name waits that has never had a certificate: somebody watches
	serveWait  = time.Minute     // at most, until a failed one is tried again
	tardyLeast = time.Minute     // until a site that was not served a second time is told of again: it doubles,
	tardyMost  = time.Hour       // to this
)

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
