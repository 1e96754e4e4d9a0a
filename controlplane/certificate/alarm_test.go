package certificate

import (
	"testing"
	"time"
)

const oneDay = 24 * time.Hour

func TestAlarm(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	// long is a certificate of 90 days that ends after a while.
	long := func(left time.Duration) known {
		return known{valid: left > 0, begins: now.Add(left - 90*oneDay), ends: now.Add(left)}
	}
	short := func(left time.Duration) known {
		return known{valid: true, begins: now.Add(left - 6*oneDay), ends: now.Add(left)}
	}
	gone := func(k known, since time.Duration) known {
		k.valid, k.lost = false, now.Add(-since)
		return k
	}
	told := func(k known, marks int64, ago time.Duration) notice {
		return notice{end: k.ends, marks: marks, lost: k.lost, at: now.Add(-ago)}
	}
	for name, test := range map[string]struct {
		known known
		told  notice
		about cause
		mail  bool
		next  time.Duration
	}{
		"never had one":                             {known{}, notice{}, allWell, false, oneDay},
		"two months left":                           {long(60 * oneDay), notice{}, allWell, false, oneDay},
		"a bit more than 14 days left":              {long(14*oneDay + time.Minute), notice{}, allWell, false, time.Minute},
		"14 days left":                              {long(14 * oneDay), notice{}, ending, true, oneDay},
		"14 days left, told":                        {long(14 * oneDay), told(long(14*oneDay), 1, time.Hour), ending, false, oneDay},
		"10 days left, not told: chomd was off":     {long(10 * oneDay), notice{}, ending, true, oneDay},
		"just before the mark of 7 days":            {long(7*oneDay + time.Second), told(long(7*oneDay+time.Second), 1, 6*oneDay), ending, false, time.Second},
		"7 days left":                               {long(7 * oneDay), told(long(7*oneDay), 1, 7*oneDay), ending, true, oneDay},
		"3 days left":                               {long(3 * oneDay), told(long(3*oneDay), 2, 4*oneDay), ending, true, oneDay},
		"a day left":                                {long(oneDay), told(long(oneDay), 3, 2*oneDay), ending, true, oneDay},
		"an hour left, told":                        {long(time.Hour), told(long(time.Hour), 4, 23*time.Hour), ending, false, time.Hour},
		"over":                                      {long(0), told(long(0), 4, oneDay), ended, true, oneDay},
		"over, told":                                {long(-time.Hour), told(long(-time.Hour), 5, time.Hour), ended, false, oneDay},
		"over, and found so for the first time":     {long(-9 * oneDay), notice{}, ended, true, oneDay},
		"over, and the loss too: said once":         {gone(long(-2*time.Hour), 2*time.Hour), told(long(-2*time.Hour), 5, 2*time.Hour), ended, false, oneDay},
		"another one in its place that ends too":    {long(6 * oneDay), told(long(2*oneDay), 3, time.Hour), ending, true, oneDay},
		"another one in its place that does not":    {long(60 * oneDay), told(long(2*oneDay), 3, time.Hour), allWell, false, oneDay},
		"a short one with half of it left":          {short(3 * oneDay), notice{}, allWell, false, oneDay},
		"a short one with a quarter of it left":     {short(36 * time.Hour), notice{}, ending, true, 12 * time.Hour},
		"a short one with a day left":               {short(oneDay), told(short(oneDay), 1, 12*time.Hour), ending, true, oneDay},
		"lost for a minute":                         {gone(long(60*oneDay), time.Minute), notice{}, allWell, false, 59 * time.Minute},
		"lost for an hour":                          {gone(long(60*oneDay), time.Hour), notice{}, lost, true, oneDay},
		"lost for a day, told":                      {gone(long(60*oneDay), oneDay), told(gone(long(60*oneDay), oneDay), 0, 23*time.Hour), lost, false, oneDay},
		"lost again soon after it was told":         {gone(long(60*oneDay), time.Hour), notice{lost: now.Add(-5 * time.Hour), at: now.Add(-4 * time.Hour)}, lost, false, 20 * time.Hour},
		"lost again the next day":                   {gone(long(60*oneDay), time.Hour), notice{lost: now.Add(-30 * time.Hour), at: now.Add(-29 * time.Hour)}, lost, true, oneDay},
		"lost while it ends: one mail":              {gone(long(7*oneDay), time.Hour), told(long(7*oneDay), 1, 7*oneDay), lost, true, oneDay},
		"told by a clock that was two months ahead": {long(14 * oneDay), told(long(14*oneDay), 5, -60*oneDay), ending, true, oneDay},
		"told by a clock that was a minute ahead":   {long(14 * oneDay), told(long(14*oneDay), 1, -time.Minute), ending, false, oneDay},
	} {
		t.Run(name, func(t *testing.T) {
			d := alarm(now, test.known, test.told)
			if d.about != test.about || d.mail != test.mail || d.next.Sub(now) != test.next {
				t.Errorf("about %d, mail %t, next in %s", d.about, d.mail, d.next.Sub(now))
			}
			if again := alarm(now.Add(time.Second), test.known, d.told); d.mail && again.mail {
				t.Error("it is mailed twice")
			}
			if d.mail && !d.told.at.Equal(now) {
				t.Errorf("told at %s", d.told.at)
			}
		})
	}
}
