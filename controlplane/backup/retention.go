package backup

import (
	"cmp"
	"slices"
	"time"

	"chom.dev/proto/contract"
)

// aged is a READY backup, as far as it matters for how long it is kept.
type aged struct {
	ID       contract.BackupID
	Sequence uint64
	// At is the moment that it shows, by its host's clock, and Checked when it was found READY, by ours.
	At, Checked time.Time
	// Needed is one that is kept whatever its age: a drill has proven it last, or a restore goes back to it.
	Needed bool
}

// youngFor is how long a backup is kept whatever else there is.
const youngFor = 24 * time.Hour

// shows is the moment that a backup is of. No host's clock makes it younger than it is: it would push out all others.
func (a aged) shows() time.Time {
	if a.At.IsZero() || a.At.After(a.Checked) {
		return a.Checked.UTC()
	}
	return a.At.UTC()
}

// period is a stretch of time of which one backup is kept.
type period [3]int

// expired gives those of a site's READY backups that nothing keeps, by their sequence. What it gives once it gives again, unless
// the retention changes or one is needed after all; without these the others are kept just so.
func expired(now time.Time, all []aged, r Retention) []contract.BackupID {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b aged) int { // the newest first
		return cmp.Or(b.shows().Compare(a.shows()), cmp.Compare(b.Sequence, a.Sequence))
	})
	kept := map[contract.BackupID]bool{}
	keep := func(count uint32, of func(time.Time) period) {
		seen := map[period]bool{}
		for _, a := range all {
			p := of(a.shows())
			if seen[p] {
				continue
			}
			if len(seen) == int(count) {
				return
			}
			seen[p], kept[a.ID] = true, true
		}
	}
	keep(r.Hourly, func(t time.Time) period { return period{t.Year(), t.YearDay(), t.Hour()} })
	keep(r.Daily, func(t time.Time) period { return period{t.Year(), t.YearDay()} })
	keep(r.Weekly, func(t time.Time) period { year, week := t.ISOWeek(); return period{year, week} })
	keep(r.Monthly, func(t time.Time) period { return period{t.Year(), int(t.Month())} })
	newest := uint64(0)
	for _, a := range all {
		newest = max(newest, a.Sequence)
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Compare(a.Sequence, b.Sequence) })
	var gone []contract.BackupID
	for _, a := range all {
		if !kept[a.ID] && !a.Needed && a.Sequence != newest && now.Sub(a.Checked) >= youngFor {
			gone = append(gone, a.ID)
		}
	}
	return gone
}
