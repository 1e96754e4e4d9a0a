package certificate

import (
	"slices"
	"time"

	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// want is one name that is to have a certificate, and from where.
type want struct {
	key
	site       contract.SiteID
	generation uint64
	source     source
	challenge  sitev1.Challenge // of acmeCA
	upload     string           // of uploaded: the certificate's id
	sha256     [32]byte         // of uploaded: the leaf
	shared     []string         // of uploaded: all names that it is for
}

// wanted is what wants gives, without what has to wait: a first certificate, for a
// site's newest order to be done. One that fails does not end the renewals of the
// names that have certificates already.
func (m *Manager) wanted(s task.Site) []want {
	all := wants(s)
	if s.Converged == s.Desired.GetGeneration() {
		return all
	}
	return slices.DeleteFunc(all, func(w want) bool { return m.held(w.key) == nil })
}

// wants reads from a site's desired state which names are to have certificates.
// Nothing is wanted of a site that is not served. A name that the CA is to be
// asked for must be one of the site's.
func wants(s task.Site) []want {
	d := s.Desired
	if !answers(d) {
		return nil
	}
	var out []want
	add := func(name string, w want) {
		domain, err := contract.ParsePattern(name)
		if err != nil || slices.ContainsFunc(out, func(other want) bool { return other.name == domain }) {
			return
		}
		if w.source != platform && !slices.Contains(d.GetDomains(), domain.String()) {
			return
		}
		w.key, w.site, w.generation = key{s.Handle, domain}, s.ID, d.GetGeneration()
		out = append(out, w)
	}
	// The first that names a name has it.
	for _, u := range d.GetHttps().GetUploaded() {
		for _, name := range u.GetDomains() {
			if len(u.GetSha256()) == 32 {
				add(name, want{source: uploaded, upload: u.GetId(), sha256: [32]byte(u.GetSha256()), shared: u.GetDomains()})
			}
		}
	}
	for _, name := range d.GetHttps().GetPlatformDomains() {
		add(name, want{source: platform})
	}
	for _, a := range d.GetHttps().GetAcme() {
		domain, err := contract.ParsePattern(a.GetName())
		known := a.GetChallenge() == sitev1.Challenge_CHALLENGE_DNS_01 || a.GetChallenge() == sitev1.Challenge_CHALLENGE_HTTP_01
		if err == nil && known && (!domain.IsWildcard() || a.GetChallenge() == sitev1.Challenge_CHALLENGE_DNS_01) {
			add(a.GetName(), want{source: acmeCA, challenge: a.GetChallenge()})
		}
	}
	return out
}

// answers reports whether nginx is to answer for a site.
func answers(d *sitev1.DesiredState) bool {
	return d.GetPhase() == sitev1.Phase_PHASE_ACTIVE || d.GetPhase() == sitev1.Phase_PHASE_SUSPENDED
}

// due is when a want is to be seen to, for what is on disk and what is known.
func (w want) due(now time.Time, h *held, r record) time.Time {
	next := nextTry(now, r, w.generation)
	if h == nil || h.source != w.source || w.source == uploaded && h.sha256 != w.sha256 {
		return next
	}
	if w.source == uploaded {
		return never // who uploaded it renews it
	}
	if at := dueAt(h, r.Renewal, w.name.String()); at.After(next) {
		return at
	}
	return next
}

var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// asks reports whether the CA of what is on disk is to be asked when it wants it
// renewed.
func (w want) asks(now time.Time, h *held, r record) bool {
	return w.source == acmeCA && h != nil && h.source == acmeCA &&
		(r.Renewal == nil || r.Renewal.Serial != h.serial || !now.Before(r.Renewal.Ask) || r.Renewal.Ask.After(now.Add(longestWait)))
}
