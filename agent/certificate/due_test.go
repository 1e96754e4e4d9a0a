package certificate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chom.dev/agent/clock"
	"chom.dev/agent/task"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const day = 24 * time.Hour

var issued = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func TestDueAt(t *testing.T) {
	h := &held{serial: "1", notBefore: issued, notAfter: issued.Add(90 * day)}
	t.Run("is at two thirds of the life, or up to six days before, each name at its own time", func(t *testing.T) {
		days := map[int]int{}
		for i := range 500 {
			at := dueAt(h, nil, fmt.Sprintf("www%d.example.com", i))
			if at.Before(issued.Add(54*day)) || at.After(issued.Add(60*day)) {
				t.Fatalf("due after %s", at.Sub(issued))
			}
			days[int(at.Sub(issued)/day)]++
		}
		for d := 54; d < 60; d++ {
			if days[d] < 50 {
				t.Errorf("day %d has %d of 500: %v", d, days[d], days)
			}
		}
	})
	t.Run("is when the CA says, early or late", func(t *testing.T) {
		for _, after := range []time.Duration{3 * day, 75 * day} {
			r := &renewal{Serial: "1", At: issued.Add(after)}
			if at := dueAt(h, r, "www.example.com"); !at.Equal(r.At) {
				t.Errorf("due after %s, the CA said %s", at.Sub(issued), after)
			}
		}
	})
	t.Run("does not follow a CA that lets the certificate run out", func(t *testing.T) {
		r := &renewal{Serial: "1", At: issued.Add(4000 * day)}
		if at := dueAt(h, r, "www.example.com"); !at.Equal(issued.Add(81 * day)) {
			t.Errorf("due after %s", at.Sub(issued))
		}
	})
	t.Run("is spread over what a CA's window leaves before the latest moment, and does not pile up there", func(t *testing.T) {
		last := latest(h.notBefore, h.notAfter)
		start, tenth := issued.Add(60*day), last.Sub(issued.Add(60*day))/10
		tenths := map[int]int{}
		for i := range 500 {
			serial := fmt.Sprint(i)
			at := dueAt(&held{serial: serial, notBefore: h.notBefore, notAfter: h.notAfter}, &renewal{Serial: serial, At: choose(start, h.notAfter, last, serial)}, "www.example.com")
			if at.Before(start) || !at.Before(last) {
				t.Fatalf("due after %s", at.Sub(issued))
			}
			tenths[int(at.Sub(start)/tenth)]++
		}
		for n := range 10 {
			if tenths[n] < 25 || tenths[n] > 80 {
				t.Errorf("tenth %d has %d of 500: %v", n, tenths[n], tenths)
			}
		}
	})
	t.Run("ignores what was said of the former certificate", func(t *testing.T) {
		r := &renewal{Serial: "2", At: issued.Add(3 * day)}
		if at := dueAt(h, r, "www.example.com"); at.Before(issued.Add(54 * day)) {
			t.Errorf("due after %s", at.Sub(issued))
		}
	})
	t.Run("lets a new one rest for a day, even if the CA says that it was due long ago", func(t *testing.T) {
		young := *h
		young.obtained = issued.Add(time.Hour)
		r := &renewal{Serial: "1", At: issued.Add(-365 * day)}
		if at := dueAt(&young, r, "www.example.com"); !at.Equal(young.obtained.Add(day)) {
			t.Errorf("due after %s", at.Sub(issued))
		}
	})
}

func TestWaitFor(t *testing.T) {
	for _, c := range []struct {
		what      string
		tries     int
		kind      kind
		has       bool
		remaining time.Duration
		want      time.Duration
	}{
		{"first", 1, ofName, false, 0, time.Minute},
		{"second", 2, ofName, false, 0, 5 * time.Minute},
		{"third", 3, ofName, false, 0, 15 * time.Minute},
		{"fourth", 4, ofName, false, 0, time.Hour},
		{"fifth", 5, ofName, false, 0, 6 * time.Hour},
		{"sixth", 6, ofName, false, 0, 24 * time.Hour},
		{"ninth", 9, ofName, false, 0, 24 * time.Hour},
		{"tenth of a name without a certificate: hopeless", 10, ofName, false, 0, 7 * day},
		{"hundredth of it", 100, ofName, false, 0, 7 * day},
		{"hundredth of a name with one: daily", 100, ofName, true, 30 * day, day},
		{"hundredth of a name whose one is over: daily", 100, ofName, true, -30 * day, day},
		{"of a certificate that lives by days: sooner", 100, ofName, true, 2 * day, 12 * time.Hour},
		{"of one that ends within the hour", 100, ofName, true, time.Minute, time.Hour},
		{"a CA that is down is no name's fault", 100, ofIssuer, false, 0, day},
		{"refused for good", 1, refused, false, 0, 7 * day},
		{"refused for a renewal: daily", 7, refused, true, 30 * day, day},
		{"the control plane away", 100, ofBroker, false, 0, time.Hour},
		{"a full disk", 100, ofHost, true, 30 * day, time.Hour},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got := waitFor(c.tries, c.kind, c.has, c.remaining, 0); got != c.want {
				t.Errorf("waits %s, want %s", got, c.want)
			}
			if got := waitFor(c.tries, c.kind, c.has, c.remaining, 0.5); got != c.want-c.want/10 {
				t.Errorf("with jitter waits %s", got)
			}
		})
	}
}

func TestNextTry(t *testing.T) {
	now := issued
	failed := record{Generation: 4, LastTry: now.Add(-time.Hour), NextTry: now.Add(6 * day)}
	if at := nextTry(now, failed, 4); !at.Equal(failed.NextTry) {
		t.Errorf("tried at %s", at)
	}
	if at := nextTry(now, failed, 5); at.After(now) {
		t.Error("a change to the site does not start anew")
	}
	failed.LastTry = now.Add(-time.Second)
	if at := nextTry(now, failed, 5); !at.Equal(failed.LastTry.Add(time.Minute)) {
		t.Errorf("a change to the site is followed by a try at %s", at)
	}
	failed.NextTry = now.Add(3650 * day)
	if at := nextTry(now, failed, 4); at.After(now) {
		t.Error("a next try that a wrong clock noted keeps a name waiting for years")
	}
}

func TestBelieve(t *testing.T) {
	for _, c := range []struct {
		what    string
		host    time.Duration // from what is known to be past
		now     time.Duration
		trusted bool
	}{
		{"a clock that goes on", time.Hour, time.Hour, true},
		{"a host that was off for a year", 365 * day, 365 * day, true},
		{"ten years ahead", 3650 * day, 0, false},
		{"ten years behind", -3650 * day, 0, false},
		{"some minutes behind", -10 * time.Minute, 0, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			now, trusted := believe(issued.Add(c.host), issued)
			if !now.Equal(issued.Add(c.now)) || trusted != c.trusted {
				t.Errorf("believes %s, %v", now.Sub(issued), trusted)
			}
		})
	}
	if now, trusted := believe(issued, time.Time{}); !now.Equal(issued) || !trusted {
		t.Error("a fresh host does not believe its clock")
	}
}

func TestConfirmed(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Clock = new(clock.Clock) })
	look := func(said time.Time) {
		t.Helper()
		w.cfg.Clock.Set(said)
		_, _, err := w.due()
		must(t, err)
	}
	now := time.Now()
	look(now.Add(3650 * day)) // the control plane's clock is wrong, once
	look(now)
	w.again(func(c *Config) { c.Clock = nil })
	if at, trusted := w.now(); !trusted || at.Sub(now).Abs() > time.Hour {
		t.Errorf("after the control plane's clock was wrong once the host believes %s, %v", at, trusted)
	}
	w.again(func(c *Config) { c.Clock = new(clock.Clock) })
	look(now.Add(-time.Hour))
	if w.newest.Before(now.Add(-time.Minute)) {
		t.Error("an hour less is written down")
	}
}

func TestRetryHint(t *testing.T) {
	now := issued
	for _, c := range []struct {
		what, detail string
		after        time.Time
		want         time.Duration
	}{
		{"words of Let's Encrypt", "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after 2026-03-02 12:00:00 UTC: see https://letsencrypt.org", time.Time{}, 36 * time.Hour},
		{"the header", "", now.Add(5 * time.Hour), 5 * time.Hour},
		{"nothing", "too many", time.Time{}, time.Hour},
		{"a moment that is past", "retry after 2020-01-01 00:00:00", time.Time{}, time.Hour},
		{"a year that nobody meant", "", now.Add(100000 * time.Hour), 7 * day},
		{"no date", "retry after 2026-99-99 00:00:00", time.Time{}, time.Hour},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got := (retryHint{c.after}).until(now, c.detail).Sub(now); got != c.want {
				t.Errorf("waits %s, want %s", got, c.want)
			}
		})
	}
}

func TestWants(t *testing.T) {
	t.Run("renewals only of a site whose order is not done", func(t *testing.T) {
		ca, w := newSigner(t), newWorld(t, nil)
		s := w.have(1, byHTTP("a.example.com", "b.example.com", "c.example.com"), "a.example.com", "b.example.com")
		for _, name := range []string{"a.example.com", "c.example.com"} {
			w.put(s, name, ca.bundle(t, acmeCA, day, name))
		}
		if all := w.wanted(s); len(all) != 2 {
			t.Fatalf("wants %v", all)
		}
		s.Converged = 0
		if left := w.wanted(s); len(left) != 1 || left[0].name.String() != "a.example.com" {
			t.Errorf("wants %v: only a has a certificate and is still the site's", left)
		}
	})
	t.Run("nothing of a site that is not served", func(t *testing.T) {
		s := newSite(t, 1, byHTTP("a.example.com"), "a.example.com")
		if len(wants(s)) != 1 {
			t.Fatal("nothing is wanted at all")
		}
		for _, p := range []sitev1.Phase{sitev1.Phase_PHASE_TRASHED, sitev1.Phase_PHASE_ABSENT, sitev1.Phase_PHASE_UNSPECIFIED} {
			if s.Desired.Phase = p; len(wants(s)) > 0 {
				t.Errorf("wanted of a site that is %s", p)
			}
		}
	})
	t.Run("an uploaded certificate goes before one of a CA", func(t *testing.T) {
		https := byHTTP("a.example.com")
		https.Uploaded = []*sitev1.UploadedCertificate{{Id: "u", Sha256: make([]byte, 32), Domains: []string{"a.example.com"}}}
		if w := wants(newSite(t, 1, https, "a.example.com")); len(w) != 1 || w[0].source != uploaded {
			t.Errorf("wants %v", w)
		}
	})
	names := []string{"a.example.com", "b.example.com", "*.example.com", "c.example.net", "A.example.com", "", "..", "10.0.0.1", "*.a.example.com", "x\x00.example.com"}
	t.Run("a CA is asked only for names that both lists have, each once, wildcards by DNS", rapid.MakeCheck(func(t *rapid.T) {
		some := rapid.SliceOf(rapid.SampledFrom(names))
		d := &sitev1.DesiredState{
			Generation: 1, Phase: sitev1.Phase(rapid.IntRange(0, 4).Draw(t, "phase")),
			Domains: some.Draw(t, "domains"), Https: &sitev1.Https{PlatformDomains: some.Draw(t, "platform")},
		}
		listed := some.Draw(t, "acme")
		for _, name := range listed {
			d.Https.Acme = append(d.Https.Acme, &sitev1.AcmeDomain{Name: name, Challenge: sitev1.Challenge(rapid.IntRange(0, 3).Draw(t, "challenge"))})
		}
		seen := map[string]bool{}
		for _, w := range wants(task.Site{Desired: d, Converged: 1}) {
			name := w.name.String()
			if seen[name] {
				t.Fatalf("%s is wanted twice", name)
			}
			seen[name] = true
			if w.source != acmeCA {
				continue
			}
			lower := func(n string) bool { return strings.ToLower(n) == name }
			if !slices.Contains(d.Domains, name) || !slices.ContainsFunc(listed, lower) {
				t.Fatalf("%s is ordered, of %q and %q", name, d.Domains, listed)
			}
			if w.name.IsWildcard() && w.challenge != sitev1.Challenge_CHALLENGE_DNS_01 {
				t.Fatalf("%s is ordered by %s", name, w.challenge)
			}
		}
	}))
}
