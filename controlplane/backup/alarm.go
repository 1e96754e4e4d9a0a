package backup

import "time"

// standing is how well a site is backed up, as far as it is known.
type standing struct {
	interval time.Duration // between two backups that are wanted of it; 0 where none is made by itself
	since    time.Time     // since when they are
	good     time.Time     // when the newest READY one was found so; zero before the first
	failing  time.Time     // when the first of those was asked for that have failed since then; zero while none has
	damaged  time.Time     // since when it is known that its repository is; zero while it is not
}

// cause is what an alarm is about, the worst last.
type cause uint8

const (
	allWell cause = iota
	failing       // backups fail
	overdue       // there is no new one although there should be
	damaged       // what is stored of them is not what was written
)

// notice is what was mailed last.
type notice struct {
	about cause
	since time.Time
	at    time.Time // when
}

const (
	// lateAfter is after how long without a new backup a site is overdue, however often it should have one: a day, and two hours for
	// one that takes long or has to wait for its turn.
	lateAfter = 26 * time.Hour
	// mailEvery is how soon another mail about the same site follows at most, unless something worse has happened.
	mailEvery = 24 * time.Hour
	// mailAtLeast is how soon a mail is repeated while nothing changes: each time after as long as it has lasted by then.
	mailAtLeast = 7 * 24 * time.Hour
	// decideEvery is how often a site is decided upon at least.
	decideEvery = time.Hour
	// setBack is from when on a mail of the future shows that the clock was set back, and counts for nothing.
	setBack = time.Hour
)

// late is when a site is overdue; zero where no backup is made by itself.
func (s standing) late() time.Time {
	if s.interval == 0 {
		return time.Time{}
	}
	from := s.good
	if s.since.After(from) {
		from = s.since
	}
	if s.interval <= 24*time.Hour {
		return from.Add(lateAfter)
	}
	return from.Add(s.interval + s.interval/10 + 2*time.Hour)
}

// worst is what is wrong at a moment, and since when.
func (s standing) worst(now time.Time) (cause, time.Time) {
	late := s.late()
	switch {
	case !s.damaged.IsZero():
		return damaged, s.damaged
	case !late.IsZero() && !now.Before(late):
		return overdue, late
	case !s.failing.IsZero():
		return failing, s.failing
	}
	return allWell, time.Time{}
}

// decision is what is to be done about a site.
type decision struct {
	about cause
	since time.Time
	mail  bool
	told  notice    // what will have been mailed then
	next  time.Time // when it is to be decided anew, unless something happens before
}

// alarm decides about a site at a moment.
func alarm(now time.Time, s standing, told notice) decision {
	if told.at.After(now.Add(setBack)) {
		told = notice{}
	}
	d := decision{told: told, next: now.Add(decideEvery)}
	soon := func(t time.Time) {
		if t.After(now) && t.Before(d.next) {
			d.next = t
		}
	}
	soon(s.late())
	d.about, d.since = s.worst(now)
	wait := mailEvery
	switch {
	case d.about == allWell && told.about == allWell:
		return d
	case d.about == allWell: // what was said is not so any more
		wait = 0
	case d.about == told.about && d.since.Equal(told.since):
		wait = min(max(told.at.Sub(told.since), mailEvery), mailAtLeast)
	case d.about > told.about && d.about > failing:
		wait = 0
	}
	if again := told.at.Add(wait); told.at.IsZero() || !now.Before(again) {
		d.mail, d.told = true, notice{about: d.about, since: d.since, at: now}
	} else {
		soon(again)
	}
	return d
}
