package certificate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/clock/clocktest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/webhook"
)

// now is when the fake months begin.
var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

const (
	mailEnding = "certificate_ending owner@acme.example"
	mailEnded  = "certificate_ended owner@acme.example"
	mailLost   = "certificate_lost owner@acme.example"
)

// said is a mail, and on which day.
func said(day int, mail string) string { return fmt.Sprintf("%d %s", day, mail) }

// live lets a month go by, six hours at a time, and gives the mails of each day. What happens says what the agent reports; nil for
// nothing.
func (w *world) live(t *testing.T, days int, happens func(at time.Time, day int) []*sitev1.ObservedCertificate) (mails []string) {
	t.Helper()
	for hour := 0; hour < days*24; hour += 6 {
		at := now.Add(time.Duration(hour) * time.Hour)
		if seen := happens(at, hour/24); seen != nil {
			w.report(t, at, seen...)
		}
		for range 2 { // a second round says nothing anew
			w.settled(t, at)
		}
		for _, mail := range w.mailed(t) {
			mails = append(mails, said(hour/24, mail))
		}
	}
	return mails
}

func TestMonth(t *testing.T) {
	const name = "example.com"
	ends := now.Add(20 * oneDay)
	renewed := now.Add(100 * oneDay)
	for title, test := range map[string]struct {
		happens func(at time.Time, day int) []*sitev1.ObservedCertificate
		want    []string
		alarm   bool // after the month
	}{
		"a renewal in time says nothing": {func(_ time.Time, day int) []*sitev1.ObservedCertificate {
			if day < 3 {
				return []*sitev1.ObservedCertificate{good(name, ends)}
			}
			return []*sitev1.ObservedCertificate{good(name, renewed)}
		}, nil, false},
		"a CA that is down for ten days is said once, and over when it is back": {func(at time.Time, day int) []*sitev1.ObservedCertificate {
			if day < 10 {
				return []*sitev1.ObservedCertificate{failing(name, ends, at, "the CA does not answer")}
			}
			return []*sitev1.ObservedCertificate{good(name, renewed)}
		}, []string{said(6, mailEnding)}, false},
		"a CA that stays down is said five times": {func(at time.Time, _ int) []*sitev1.ObservedCertificate {
			return []*sitev1.ObservedCertificate{failing(name, ends, at, "the CA does not answer")}
		}, []string{said(6, mailEnding), said(13, mailEnding), said(17, mailEnding), said(19, mailEnding), said(20, mailEnded)}, true},
		"of a silent agent the last known end counts": {func(_ time.Time, day int) []*sitev1.ObservedCertificate {
			if day > 2 {
				return nil
			}
			return []*sitev1.ObservedCertificate{good(name, ends)}
		}, []string{said(6, mailEnding), said(13, mailEnding), said(17, mailEnding), said(19, mailEnding), said(20, mailEnded)}, true},
		"a valid certificate that is gone is said once": {func(_ time.Time, day int) []*sitev1.ObservedCertificate {
			if day < 2 {
				return []*sitev1.ObservedCertificate{good(name, renewed)}
			}
			return []*sitev1.ObservedCertificate{none(name, "nginx does not answer")}
		}, []string{said(2, mailLost)}, true},
		"a name that never had one is no alarm": {func(time.Time, int) []*sitev1.ObservedCertificate {
			return []*sitev1.ObservedCertificate{none(name, "it is on its way")}
		}, nil, false},
		"a host's own stand-in is no alarm, whatever its end": {func(time.Time, int) []*sitev1.ObservedCertificate {
			m := good(name, ends)
			m.Valid, m.Source = false, sitev1.CertificateSource_CERTIFICATE_SOURCE_UNSPECIFIED
			return []*sitev1.ObservedCertificate{m}
		}, nil, false},
		"a name that leaves the site takes its alarm along": {func(at time.Time, day int) []*sitev1.ObservedCertificate {
			if day < 8 {
				return []*sitev1.ObservedCertificate{failing(name, ends, at, "the CA does not answer")}
			}
			return []*sitev1.ObservedCertificate{}
		}, []string{said(6, mailEnding)}, false},
		"one that flutters between good and bad does not fill mailboxes": {func(at time.Time, day int) []*sitev1.ObservedCertificate {
			if at.Hour() == 0 {
				return []*sitev1.ObservedCertificate{good(name, renewed)}
			}
			return []*sitev1.ObservedCertificate{failing(name, ends, at, "two hosts")}
		}, []string{said(6, mailEnding), said(13, mailEnding), said(17, mailEnding), said(19, mailEnding), said(20, mailEnded)}, true},
	} {
		t.Run(title, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, d *db.DB) {
				w := newWorld(t, d)
				mails := w.live(t, 30, test.happens)
				if strings.Join(mails, "\n") != strings.Join(test.want, "\n") {
					t.Errorf("mailed was\n%s", strings.Join(mails, "\n"))
				}
				if n := w.count(t, `SELECT COUNT(*) FROM certificates WHERE alarm_at IS NOT NULL`); (n == 1) != test.alarm {
					t.Errorf("%d alarms are on", n)
				}
			})
		})
	}
}

// TestReplicas claims that two processes say nothing twice.
func TestReplicas(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		var seen []*sitev1.ObservedCertificate
		for i := range 20 {
			seen = append(seen, good(fmt.Sprintf("n%d.example.com", i), now.Add(10*oneDay)))
		}
		w.report(t, now, seen...)
		ended := make(chan error, 4)
		for range cap(ended) {
			go func() {
				_, err := w.warn(t.Context(), now)
				ended <- err
			}()
		}
		for range cap(ended) {
			must(t, <-ended)
		}
		if mails := w.mailed(t); len(mails) != 20 {
			t.Errorf("%d mails about 20 names", len(mails))
		}
	})
}

// TestClockJump claims that an alarm comes, and once, whatever the clock showed before.
func TestClockJump(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	ends := now.Add(20 * oneDay)
	w.report(t, now, good("example.com", ends))
	w.settled(t, now)
	w.settled(t, now.Add(60*oneDay)) // the clock was two months ahead, for longer than Run waits
	if mails := w.mailed(t); len(mails) != 1 || mails[0] != mailEnded {
		t.Fatalf("mailed was %v", mails)
	}
	w.settled(t, now.Add(time.Hour)) // it was set right
	if mails := w.mailed(t); len(mails) != 0 || !w.one(t, "example.com").AlarmAt.IsZero() {
		t.Errorf("mailed was %v, the alarm began %s", mails, w.one(t, "example.com").AlarmAt)
	}
	for hour := range 8 * 24 {
		w.settled(t, now.Add(time.Duration(hour)*time.Hour))
	}
	if mails := w.mailed(t); len(mails) != 1 || mails[0] != mailEnding || w.one(t, "example.com").AlarmAt.IsZero() {
		t.Errorf("mailed was %v", mails)
	}
}

// TestTrust claims that Run does nothing while the clock cannot be believed.
func TestTrust(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	began := time.Now()
	w.report(t, began, good("example.com", began.Add(20*oneDay)))
	var trusted trust
	for _, at := range []time.Time{began, clocktest.Set(t, began.Add(time.Second), 60*oneDay), clocktest.Set(t, began.Add(time.Minute), 60*oneDay)} {
		must(t, w.turn(t.Context(), &trusted, at))
	}
	if mails := w.mailed(t); len(mails) != 0 {
		t.Errorf("mailed was %v", mails)
	}
	must(t, w.turn(t.Context(), &trusted, clocktest.Set(t, began.Add(61*time.Minute), 60*oneDay)))
	if mails := w.mailed(t); len(mails) != 1 {
		t.Errorf("after an hour mailed was %v", mails)
	}
}

// TestSaid looks at what is sent: the mail's values, and the event.
func TestSaid(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		var told []string
		w.config.Mails = recorder(func(values map[string]string) { told = append(told, fmt.Sprint(values)) })
		w.exec(t, `
			INSERT INTO webhooks (organization_id, id, url, description, events, enabled, problem, sealed_secret, created_at, updated_at)
			VALUES ($1, 'hook', 'https://hooks.example.com/', '', '', TRUE, '', $2, 1, 1)`, w.ours, []byte{})
		ends := now.Add(10 * oneDay)
		w.report(t, now, failing("example.com", ends, now, "the CA said: rateLimited"))
		w.settled(t, now)
		want := fmt.Sprint(map[string]string{
			"organization": "acme", "site": "shop", "domain": "example.com", "time": "2026-12-06T12:00:00Z", "problem": "the CA said: rateLimited",
			"advice": "The next one is tried for by itself, again and again. The names of the site show what keeps it.",
			"link":   publicURL + "/organizations/" + w.ours.String() + "/sites/" + w.site.String(),
		})
		if len(told) != 1 || told[0] != want {
			t.Errorf("told is %v", told)
		}
		w.settled(t, now.Add(3*oneDay))
		if len(told) != 2 || !strings.Contains(told[1], "its server has reported nothing since 26 November 2026, 12:00 UTC") {
			t.Errorf("told is %v", told)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM webhook_deliveries WHERE type = $1`, string(webhook.CertificateExpiring)); n != 1 {
			t.Errorf("%d events", n)
		}
		uploaded := good("example.com", ends)
		uploaded.Source, uploaded.Sha256 = sitev1.CertificateSource_CERTIFICATE_SOURCE_UPLOADED, []byte(strings.Repeat("u", 32))
		w.report(t, now.Add(7*oneDay), uploaded)
		w.settled(t, now.Add(7*oneDay))
		if len(told) != 3 || !strings.Contains(told[2], "upload the next one") {
			t.Errorf("told is %v", told)
		}
		t.Run("nothing of a site that is in the trash", func(t *testing.T) {
			w.exec(t, `UPDATE sites SET phase = 'trashed' WHERE id = $1`, w.site)
			w.settled(t, now.Add(20*oneDay))
			if len(told) != 3 || !w.one(t, "example.com").AlarmAt.IsZero() {
				t.Errorf("told is %v", told)
			}
		})
	})
}
