package certificate

import (
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
)

// known is what measurements say of a name: those of its host, those from outside, or both together.
type known struct {
	valid bool
	// begins and ends are those of the last certificate that was the name's own; zero while there was none.
	begins, ends time.Time
	// lost is since when it is not served validly although it was; zero otherwise.
	lost time.Time
}

// after is what is known after another measurement.
func (k known) after(m *sitev1.ObservedCertificate, at time.Time) known {
	// A host that has none shows one that it signed itself: its end is nobody's matter. One that somebody gave it is the name's
	// own, though it be over by now.
	if m.GetValid() || met(m) && m.GetSource() != sitev1.CertificateSource_CERTIFICATE_SOURCE_UNSPECIFIED && m.GetNotBefore() != nil && m.GetNotAfter() != nil {
		k.begins, k.ends = micro(m.GetNotBefore().AsTime()), micro(m.GetNotAfter().AsTime())
	}
	switch {
	case m.GetValid():
		k.lost = time.Time{}
	case k.valid:
		k.lost = at
	}
	k.valid = m.GetValid()
	return k
}

// looked is what is known from outside after another look that met a certificate. What the host serves validly is to be met outside
// from the first look on.
func (k known) looked(host known, m *sitev1.ObservedCertificate, at time.Time) known {
	k.valid = k.valid || k.lost.IsZero() && host.valid
	return k.after(m, at)
}

// together is what follows from what the host says and what was met outside: a loss lasts until whoever saw it sees a good one, and
// of two ends the earlier one counts.
func together(host, outside known) known {
	k := host
	k.valid = host.valid && outside.lost.IsZero()
	if !outside.ends.IsZero() && (k.ends.IsZero() || outside.ends.Before(k.ends)) {
		k.begins, k.ends = outside.begins, outside.ends
	}
	if !outside.lost.IsZero() && (k.lost.IsZero() || outside.lost.Before(k.lost)) {
		k.lost = outside.lost
	}
	return k
}

// follows takes in what follows from another measurement, and has it decided upon now if that is anything new.
func (r *row) follows(now time.Time) {
	before := r.known
	if r.known = together(r.host, r.outside); r.known != before || r.decideAt.IsZero() {
		r.decideAt = now
	}
}

// micro is a time as the database keeps it.
func micro(t time.Time) time.Time { return db.Time(db.Micros(t)) }

// notice is what was mailed last.
type notice struct {
	end   time.Time // of which certificate, and
	marks int64     // how many marks before its end were passed
	lost  time.Time // of which loss
	at    time.Time // when
}

// What an alarm is about.
type cause uint8

const (
	allWell cause = iota
	ending        // the certificate ends soon
	ended         // it is over
	lost          // the name is not served with a valid one any more
)

const (
	// warnFor is how long before the end an alarm begins. Certificates are renewed a month before it, or when a third of their
	// life is left: by then a renewal has failed for days.
	warnFor = 14 * 24 * time.Hour
	// shortLife is that of certificates which are renewed later than that; for them an alarm begins in their last quarter.
	shortLife = 3 * warnFor
	// lostFor is how long a name may be without a valid certificate: a site that moves, a host that starts.
	lostFor = time.Hour
	// lostAgain is how soon another loss of the same name is mailed.
	lostAgain = 24 * time.Hour
	// decideEvery is how often a name is decided upon at least, whatever the clock showed when the next time was set.
	decideEvery = 24 * time.Hour
	// setBack is from when on a mail of the future shows that the clock was set back, and counts for nothing.
	setBack = time.Hour
)

// again is when an alarm about an end is repeated.
var again = []time.Duration{7 * 24 * time.Hour, 3 * 24 * time.Hour, 24 * time.Hour, 0}

// decision is what is to be done about a name.
type decision struct {
	about cause
	mail  bool
	told  notice    // what will have been mailed then
	next  time.Time // when it is to be decided anew, unless something is measured before
}

// alarm decides about a name at a moment.
func alarm(now time.Time, k known, told notice) decision {
	if told.at.After(now.Add(setBack)) {
		told = notice{}
	}
	d := decision{told: told, next: now.Add(decideEvery)}
	soon := func(t time.Time) {
		if t.After(now) && t.Before(d.next) {
			d.next = t
		}
	}
	passed := int64(0)
	for _, mark := range marks(k) {
		if soon(mark); !now.Before(mark) {
			passed++
		}
	}
	switch {
	case passed > 0 && !now.Before(k.ends):
		d.about = ended
	case !k.lost.IsZero() && !now.Before(k.lost.Add(lostFor)):
		d.about = lost
	case passed > 0:
		d.about = ending
	}
	if !k.lost.IsZero() {
		soon(k.lost.Add(lostFor))
	}
	if passed > 0 && (!told.end.Equal(k.ends) || passed > told.marks) {
		d.mail, d.told.end, d.told.marks = true, k.ends, passed
	}
	if d.about == lost && !told.lost.Equal(k.lost) {
		soon(told.at.Add(lostAgain))
		if d.mail || told.lost.IsZero() || !now.Before(told.at.Add(lostAgain)) {
			d.mail, d.told.lost = true, k.lost
		}
	}
	if d.mail {
		d.told.at = now
	}
	return d
}

// marks are the moments at which there is something to say about an end, in order; none while there is no certificate.
func marks(k known) []time.Time {
	if k.ends.IsZero() {
		return nil
	}
	first := warnFor
	if life := k.ends.Sub(k.begins); life < shortLife {
		first = max(0, life/4)
	}
	all := []time.Time{k.ends.Add(-first)}
	for _, before := range again {
		if before < first {
			all = append(all, k.ends.Add(-before))
		}
	}
	return all
}
