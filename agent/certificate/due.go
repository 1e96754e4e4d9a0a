package certificate

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// spread gives a text its own number from 0 to below 1, the same after each
// restart: what would be drawn anew could be drawn until it is early.
func spread(of string) float64 {
	sum := sha256.Sum256([]byte(of))
	return float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32)
}

// dueAt is when a certificate is to be renewed: at the moment that its CA
// suggests, else between 0.6 and two thirds of its life, so that hundreds that
// were obtained in one night are renewed over many.
func dueAt(h *held, r *renewal, name string) time.Time {
	life := h.notAfter.Sub(h.notBefore)
	part := func(f float64) time.Time { return h.notBefore.Add(time.Duration(f * float64(life))) }
	at := part(0.6 + spread(name+h.serial)*(2./3-0.6))
	if r != nil && r.Serial == h.serial && !r.At.IsZero() {
		at = r.At
		if last := latest(h.notBefore, h.notAfter); at.After(last) { // noted for a start that is too late already
			at = last
		}
	}
	// A new one rests for a while, whatever CA and clock say: else one of the two
	// being wrong would have the same name ordered again and again.
	if rest := h.obtained.Add(min(life/10, 24*time.Hour)); !h.obtained.IsZero() && at.Before(rest) && !h.obtained.After(h.notAfter) {
		at = rest
	}
	return at
}

// latest is when a certificate is renewed at the latest: a CA that lets it run out
// is not followed.
func latest(notBefore, notAfter time.Time) time.Time {
	return notBefore.Add(time.Duration(0.9 * float64(notAfter.Sub(notBefore))))
}

// choose takes a moment from a CA's window, evenly and always the same. Of a window
// that reaches beyond the latest moment the part before it counts: else all that
// fell behind it would be renewed at that one moment, right before they end.
func choose(start, end, latest time.Time, serial string) time.Time {
	if latest.After(start) && latest.Before(end) {
		end = latest
	}
	return start.Add(time.Duration(spread(serial) * float64(end.Sub(start))))
}

// Back-off: a name's first failures may be a matter of minutes, as when DNS is
// being changed; then a CA's limit of five failed validations an hour is
// respected, and who looks once a day finds a fresh answer.
var backoff = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}

const (
	hopeless     = 10                 // failures, from which a name without a certificate is hardly tried any more
	hopelessWait = 7 * 24 * time.Hour // for it
	brokerWait   = time.Hour          // at most, where the control plane or the host is the obstacle: no CA is asked
	longestWait  = 8 * 24 * time.Hour // more than any wait: a next try beyond was noted by a wrong clock
)

// waitFor is how long to wait after a number of failures in a row. A name that
// has a certificate, as does remaining say of its life, is never given up, and is
// tried more often than once a day when it lives by days. Jitter from 0 to 1
// takes up to a fifth off, so that what failed together comes back apart.
func waitFor(tries int, kind kind, has bool, remaining time.Duration, jitter float64) time.Duration {
	wait := backoff[min(max(tries, 1), len(backoff))-1]
	switch {
	case kind == ofBroker || kind == ofHost:
		wait = min(wait, brokerWait)
	case has:
		if remaining > 0 {
			wait = min(wait, max(remaining/4, time.Hour))
		}
	case kind == refused || kind == ofName && tries >= hopeless:
		wait = hopelessWait
	}
	return wait - time.Duration(jitter*float64(wait/5))
}

// nextTry is when something wanted may be tried: at once when it was never
// tried, and when the site changed since, but a minute after the last try.
func nextTry(now time.Time, r record, generation uint64) time.Time {
	switch {
	case r.NextTry.IsZero(), r.NextTry.After(now.Add(longestWait)):
		return time.Time{}
	case generation > r.Generation && r.LastTry.Add(backoff[0]).Before(r.NextTry):
		return r.LastTry.Add(backoff[0])
	}
	return r.NextTry
}

// plausibly is how long a host may have been off. A clock that says more is
// wrong, and so is one that is more than a day behind what is known to be past.
const (
	plausiblyOff    = 400 * 24 * time.Hour
	plausiblyBehind = 24 * time.Hour
)

// believe decides what time it is on a host whose clock nobody has confirmed,
// from the newest moment that is known to be past. A clock that can't be right
// is not trusted: no certificate is renewed, or called over, because of it.
func believe(host, newest time.Time) (now time.Time, trusted bool) {
	switch {
	case newest.IsZero():
		return host, true
	case host.After(newest.Add(plausiblyOff)), host.Before(newest.Add(-plausiblyBehind)):
		return newest, false
	case host.Before(newest):
		return newest, true
	}
	return host, true
}

// now gives the time: the control plane's, or the host's where it can be right.
func (m *Manager) now() (now time.Time, trusted bool) {
	m.mu.Lock()
	newest := m.newest
	m.mu.Unlock()
	if m.cfg.Clock != nil {
		if now, confirmed := m.cfg.Clock.Now(); confirmed {
			return now.Round(0), true
		}
	}
	return believe(m.wall().Round(0), newest)
}

// time is now for those who go on either way.
func (m *Manager) time() time.Time {
	now, _ := m.now()
	return now
}

// past notes a moment that is known to be past, a day apart from the last that
// was noted: it is told by those who sign certificates and orders.
func (m *Manager) past(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.After(m.newest.Add(24 * time.Hour)) {
		m.note(t)
	}
}

// confirmed notes the control plane's time. Where it is more than a day before
// what was noted, the clock that said so was wrong, and is so no more.
func (m *Manager) confirmed(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.Sub(m.newest).Abs() > 24*time.Hour {
		m.note(t)
	}
}

// note makes a moment the newest that is known to be past. Called with mu held.
func (m *Manager) note(t time.Time) {
	if err := m.files.keepNewest(t); err != nil {
		m.cfg.Log.Warn("the time could not be noted", "err", err)
		return
	}
	m.newest = t
}
