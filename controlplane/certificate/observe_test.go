package certificate

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

func (w *world) names(t *testing.T) string {
	t.Helper()
	all, err := OfSite(t.Context(), w.db.Reader(), w.ours, w.site)
	must(t, err)
	var words []string
	for _, c := range all {
		words = append(words, c.Name.String())
	}
	return strings.Join(words, " ")
}

func TestObserve(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.reportOf(t, w.theirs, w.theirSite, now, good("example.com", now.Add(oneDay)))
		a, b := good("example.com", now.Add(60*oneDay)), none("*.example.com", "on its way")
		w.report(t, now, a, b)
		if got := w.names(t); got != "*.example.com example.com" {
			t.Errorf("known are %s", got)
		}
		c := w.one(t, "example.com")
		if !proto.Equal(c.Observed, a) || !c.ObservedAt.Equal(now) || c.SiteName != "shop" || c.Site != w.site {
			t.Errorf("known is %+v", c)
		}

		t.Run("the same is written again after a while only", func(t *testing.T) {
			w.report(t, now.Add(time.Minute), a, b)
			if c := w.one(t, "example.com"); !c.ObservedAt.Equal(now) {
				t.Errorf("observed at %s", c.ObservedAt)
			}
			w.report(t, now.Add(sameFor), a, b)
			if c := w.one(t, "example.com"); !c.ObservedAt.Equal(now.Add(sameFor)) {
				t.Errorf("observed at %s", c.ObservedAt)
			}
		})
		t.Run("what is left out is known no more, of this site alone", func(t *testing.T) {
			w.report(t, now.Add(time.Hour), a)
			if got := w.names(t); got != "example.com" {
				t.Errorf("known are %s", got)
			}
			w.report(t, now.Add(time.Hour))
			if n := w.count(t, `SELECT COUNT(*) FROM certificates`); w.names(t) != "" || n != 1 {
				t.Errorf("known are %s, and %d in all", w.names(t), n)
			}
		})
		t.Run("a measurement of the future is one of now", func(t *testing.T) {
			must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
				return Observe(t.Context(), tx, w.ours, w.site, time.Now().Add(oneDay), []*sitev1.ObservedCertificate{a})
			}))
			if at := w.one(t, "example.com").ObservedAt; at.After(time.Now()) {
				t.Errorf("observed at %s", at)
			}
		})
	})
}

func TestHostileAgent(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	long := strings.Repeat("ü", 5000)
	all := []*sitev1.ObservedCertificate{
		{Domain: "example.com", Valid: true, Problem: "a\x1b[31m\nb\u202e\u0000" + long, Issuer: long + "\xff", Sha256: []byte("short"), Source: 77,
			NotAfter: &timestamppb.Timestamp{Seconds: 1 << 60}, NextTryTime: &timestamppb.Timestamp{Nanos: -1}},
		{Domain: "example.com", Problem: "a second time"},
		{Domain: "../etc/passwd"}, {Domain: ""}, {Domain: "a b.example.com"}, {Domain: "127.0.0.1"}, nil,
	}
	for i := range 500 {
		all = append(all, none(fmt.Sprintf("n%d.example.com", i), ""))
	}
	w.report(t, now, all...)
	if n := w.count(t, `SELECT COUNT(*) FROM certificates`); n > maxSeen {
		t.Errorf("%d are known", n)
	}
	c := w.one(t, "example.com").Observed
	if c.GetValid() || c.GetSha256() != nil || c.GetSource() != 0 || c.GetNotAfter() != nil || c.GetNextTryTime() != nil {
		t.Errorf("known is %v", c)
	}
	if p := c.GetProblem(); !strings.HasPrefix(p, "a[31m bü") || utf8.RuneCountInString(p) != maxProblem || utf8.RuneCountInString(c.GetIssuer()) != maxName {
		t.Errorf("known is %.60q", p)
	}
	w.settled(t, now.Add(30*oneDay))
	if mails := w.mailed(t); len(mails) != 0 {
		t.Errorf("mailed was %v", mails)
	}
}

// TestTwoSources lets the host and the look from outside say different things of a name, each as often as it does, and claims that
// neither takes back what the other has found.
func TestTwoSources(t *testing.T) {
	const name = "example.com"
	ends := now.Add(60 * oneDay)
	wrong := good(name, ends)
	wrong.Valid, wrong.Source, wrong.Problem = false, 0, "from outside: the certificate is for other names"
	unmet := none(name, "from outside: no answer in time")
	for title, test := range map[string]struct {
		host, outside func(since time.Duration) *sitev1.ObservedCertificate
		lasts         time.Duration
		want          []string
		alarm         bool // at the end
	}{
		"a bad one outside is an alarm after an hour, whatever the host says": {
			host: func(time.Duration) *sitev1.ObservedCertificate { return good(name, ends) },
			outside: func(since time.Duration) *sitev1.ObservedCertificate {
				if since < time.Hour {
					return good(name, ends)
				}
				return wrong
			}, lasts: 4 * time.Hour, want: []string{mailLost}, alarm: true,
		},
		"one that was bad outside from the first look on is too": {
			host:    func(time.Duration) *sitev1.ObservedCertificate { return good(name, ends) },
			outside: func(time.Duration) *sitev1.ObservedCertificate { return wrong },
			lasts:   4 * time.Hour, want: []string{mailLost}, alarm: true,
		},
		"it is over when a good one is met outside": {
			host: func(time.Duration) *sitev1.ObservedCertificate { return good(name, ends) },
			outside: func(since time.Duration) *sitev1.ObservedCertificate {
				if since >= time.Hour && since < 4*time.Hour {
					return wrong
				}
				return good(name, ends)
			}, lasts: 6 * time.Hour, want: []string{mailLost},
		},
		"it is over when the host does not serve the name any more": {
			host: func(since time.Duration) *sitev1.ObservedCertificate {
				if since < 4*time.Hour {
					return good(name, ends)
				}
				return none(name, "by HTTP only")
			},
			outside: func(time.Duration) *sitev1.ObservedCertificate { return wrong },
			lasts:   4*time.Hour + 30*time.Minute, want: []string{mailLost},
		},
		"a loss on the host is no less one for a good one outside": {
			host: func(since time.Duration) *sitev1.ObservedCertificate {
				if since < time.Hour {
					return good(name, ends)
				}
				return wrong
			},
			outside: func(time.Duration) *sitev1.ObservedCertificate { return good(name, ends) },
			lasts:   4 * time.Hour, want: []string{mailLost}, alarm: true,
		},
		"of two ends the earlier one counts, once": {
			host:    func(time.Duration) *sitev1.ObservedCertificate { return good(name, now.Add(10*oneDay)) },
			outside: func(time.Duration) *sitev1.ObservedCertificate { return good(name, now.Add(12*oneDay)) },
			lasts:   4 * time.Hour, want: []string{mailEnding}, alarm: true,
		},
		"an end outside alone counts too": {
			host:    func(time.Duration) *sitev1.ObservedCertificate { return good(name, ends) },
			outside: func(time.Duration) *sitev1.ObservedCertificate { return good(name, now.Add(10*oneDay)) },
			lasts:   4 * time.Hour, want: []string{mailEnding}, alarm: true,
		},
		"an end outside counts no more when nothing was met there for a day": {
			host: func(time.Duration) *sitev1.ObservedCertificate { return good(name, ends) },
			outside: func(since time.Duration) *sitev1.ObservedCertificate {
				if since < time.Hour {
					return good(name, now.Add(10*oneDay))
				}
				return unmet
			}, lasts: 30 * time.Hour, want: []string{mailEnding},
		},
	} {
		t.Run(title, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, d *db.DB) {
				w := newWorld(t, d)
				var mails []string
				began := time.Time{} // of the alarm
				for since := time.Duration(0); since <= test.lasts; since += 10 * time.Minute {
					at := now.Add(since)
					w.report(t, at, test.host(since))
					w.settled(t, at)
					if since%(30*time.Minute) == 0 {
						must(t, w.keep(t.Context(), w.one(t, name), test.outside(since), at))
						w.settled(t, at)
					}
					mails = append(mails, w.mailed(t)...)
					if alarm := w.one(t, name).AlarmAt; !began.IsZero() && test.alarm && !alarm.Equal(began) {
						t.Fatalf("after %s the alarm, which began at %s, is one of %s", since, began, alarm)
					} else if began.IsZero() {
						began = alarm
					}
				}
				if strings.Join(mails, "\n") != strings.Join(test.want, "\n") {
					t.Errorf("mailed was %v", mails)
				}
				if alarm := w.one(t, name).AlarmAt; alarm.IsZero() == test.alarm {
					t.Errorf("the alarm began at %s", alarm)
				}
			})
		})
	}
}
