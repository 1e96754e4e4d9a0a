package backup

import (
	"testing"
	"time"
)

func TestAlarm(t *testing.T) {
	const hour, day = time.Hour, 24 * time.Hour
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, test := range map[string]struct {
		is    standing
		told  notice
		about cause
		mail  bool
		next  time.Duration
	}{
		"nothing is wanted":                                 {standing{}, notice{}, allWell, false, hour},
		"nothing is wanted, and the newest one is old":      {standing{good: ago(999 * day)}, notice{}, allWell, false, hour},
		"a good one of yesterday":                           {standing{interval: day, since: ago(9 * day), good: ago(25*hour + 30*time.Minute)}, notice{}, allWell, false, 30 * time.Minute},
		"none for 26 hours":                                 {standing{interval: day, since: ago(9 * day), good: ago(26 * hour)}, notice{}, overdue, true, hour},
		"every two days, none for 54 hours":                 {standing{interval: 2 * day, since: ago(9 * day), good: ago(54 * hour)}, notice{}, allWell, false, 48 * time.Minute},
		"every two days, none for 55 hours":                 {standing{interval: 2 * day, since: ago(9 * day), good: ago(55 * hour)}, notice{}, overdue, true, hour},
		"hourly ones, none for 25 hours":                    {standing{interval: hour, since: ago(9 * day), good: ago(25 * hour)}, notice{}, allWell, false, hour},
		"hourly ones, none for 26 hours":                    {standing{interval: hour, since: ago(9 * day), good: ago(26 * hour)}, notice{}, overdue, true, hour},
		"weekly ones, none for 7 days":                      {standing{interval: 7 * day, since: ago(30 * day), good: ago(7*day + 18*hour)}, notice{}, allWell, false, 48 * time.Minute},
		"weekly ones, none for 8 days":                      {standing{interval: 7 * day, since: ago(30 * day), good: ago(8 * day)}, notice{}, overdue, true, hour},
		"a new site that never had one":                     {standing{interval: hour, since: ago(25 * hour)}, notice{}, allWell, false, hour},
		"a site that never had one":                         {standing{interval: hour, since: ago(26 * hour)}, notice{}, overdue, true, hour},
		"they are wanted again since an hour":               {standing{interval: hour, since: ago(hour), good: ago(300 * day)}, notice{}, allWell, false, hour},
		"one has failed":                                    {standing{interval: hour, since: ago(day), good: ago(2 * hour), failing: ago(hour)}, notice{}, failing, true, hour},
		"the next fails too":                                {standing{interval: hour, since: ago(day), good: ago(3 * hour), failing: ago(2 * hour)}, notice{failing, ago(2 * hour), ago(2 * hour)}, failing, false, hour},
		"they fail for a day":                               {standing{interval: hour, since: ago(9 * day), good: ago(25 * hour), failing: ago(day)}, notice{failing, ago(day), ago(day)}, failing, true, hour},
		"they fail after one was good, for the second time": {standing{interval: hour, since: ago(9 * day), good: ago(2 * hour), failing: ago(hour)}, notice{allWell, time.Time{}, ago(2 * hour)}, failing, false, hour},
		"they fail again the next day":                      {standing{interval: hour, since: ago(9 * day), good: ago(2 * hour), failing: ago(hour)}, notice{allWell, time.Time{}, ago(day)}, failing, true, hour},
		"they have failed until there is none":              {standing{interval: hour, since: ago(9 * day), good: ago(26 * hour), failing: ago(23 * hour)}, notice{failing, ago(23 * hour), ago(23 * hour)}, overdue, true, hour},
		"there is none still":                               {standing{interval: hour, since: ago(9 * day), good: ago(40 * hour)}, notice{overdue, ago(14 * hour), ago(14 * hour)}, overdue, false, hour},
		"there is none for a day more":                      {standing{interval: hour, since: ago(9 * day), good: ago(50 * hour)}, notice{overdue, ago(day), ago(day)}, overdue, true, hour},
		"it was said three days later, and two days ago":    {standing{interval: hour, since: ago(9 * day), good: ago(5*day + 26*hour)}, notice{overdue, ago(5 * day), ago(2 * day)}, overdue, false, hour},
		"it was said three days later, and three days ago":  {standing{interval: hour, since: ago(9 * day), good: ago(6*day + 26*hour)}, notice{overdue, ago(6 * day), ago(3 * day)}, overdue, true, hour},
		"it was said a month later, and a week ago":         {standing{interval: hour, since: ago(99 * day), good: ago(37*day + 26*hour)}, notice{overdue, ago(37 * day), ago(7 * day)}, overdue, true, hour},
		"there is a new one":                                {standing{interval: hour, since: ago(9 * day), good: ago(time.Minute)}, notice{overdue, ago(3 * hour), ago(3 * hour)}, allWell, true, hour},
		"there is a new one, and that was said":             {standing{interval: hour, since: ago(9 * day), good: ago(time.Minute)}, notice{allWell, time.Time{}, now}, allWell, false, hour},
		"it is damaged":                                     {standing{good: ago(hour), damaged: ago(time.Minute)}, notice{}, damaged, true, hour},
		"it is damaged, right after a mail that one failed": {standing{good: ago(hour), damaged: ago(time.Minute)}, notice{failing, ago(hour), ago(hour)}, damaged, true, hour},
		"it is repaired, and they fail still":               {standing{good: ago(9 * hour), failing: ago(8 * hour)}, notice{damaged, ago(5 * hour), ago(5 * hour)}, failing, false, hour},
		"told by a clock that was a year ahead":             {standing{good: ago(9 * hour), failing: ago(8 * hour)}, notice{failing, ago(8 * hour), ago(-365 * day)}, failing, true, hour},
		"told by a clock that was a minute ahead":           {standing{good: ago(9 * hour), failing: ago(8 * hour)}, notice{failing, ago(8 * hour), ago(-time.Minute)}, failing, false, hour},
		"mailed ten minutes less than a day ago about it":   {standing{good: ago(30 * hour), failing: ago(29 * hour)}, notice{failing, ago(29 * hour), ago(day - 10*time.Minute)}, failing, false, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			d := alarm(now, test.is, test.told)
			if d.about != test.about || d.mail != test.mail || test.next != 0 && d.next.Sub(now) != test.next {
				t.Errorf("about %d, mail %t, next in %s", d.about, d.mail, d.next.Sub(now))
			}
			if again := alarm(now.Add(time.Second), test.is, d.told); d.mail && again.mail {
				t.Error("it is mailed twice")
			}
			if d.mail && !d.told.at.Equal(now) {
				t.Errorf("told at %s", d.told.at)
			}
		})
	}
}

// TestAlarmYear counts the mails about a site whose hourly backups fail, each or every other one, for a year.
func TestAlarmYear(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		fails func(n int) bool
		most  int
	}{
		"none fails":          {func(int) bool { return false }, 0},
		"all fail":            {func(int) bool { return true }, 60},
		"every other one":     {func(n int) bool { return n%2 == 0 }, 2 * 366},
		"one in each quarter": {func(n int) bool { return n%2160 == 5 }, 2 * 5},
	} {
		t.Run(name, func(t *testing.T) {
			is, told, mails := standing{interval: time.Hour, since: start}, notice{}, 0
			for n := range 365 * 24 {
				now := start.Add(time.Duration(n) * time.Hour)
				switch {
				case !test.fails(n):
					is.good, is.failing = now, time.Time{}
				case is.failing.IsZero():
					is.failing = now
				}
				d := alarm(now, is, told)
				if told = d.told; d.mail {
					mails++
				}
			}
			if mails > test.most || test.most > 0 && mails == 0 {
				t.Errorf("%d mails", mails)
			}
			t.Logf("%d mails", mails)
		})
	}
}
