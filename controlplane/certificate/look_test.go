package certificate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/certificate/certificatetest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/proto/contract"
)

// outside is a real TLS server that stands for the internet's way to a site.
type outside struct {
	port  string
	mu    sync.Mutex
	shown tls.Certificate
	asked []string // server names
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.asked = append(o.asked, hello.ServerName)
		if o.shown.Certificate == nil {
			return nil, errors.New("there is none")
		}
		return &tls.Config{Certificates: []tls.Certificate{o.shown}}, nil
	}}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	must(t, err)
	o.port = port
	return o
}

func (o *outside) show(t *testing.T, chain, key string) {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(chain), []byte(key))
	must(t, err)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shown = pair
}

func TestLook(t *testing.T) {
	server := newOutside(t)
	w := newWorld(t, dbtest.SQLite(t), func(c *Config) { c.Port = server.port })
	stranger := certificatetest.New(t)
	for _, name := range []string{"example.com", "chom-probe.wild.example.com"} {
		w.addresses[name] = []string{"127.0.0.1"}
	}
	w.addresses["inside.example.com"] = []string{"10.1.2.3"}
	at := func(from, to time.Duration, names ...string) *x509.Certificate {
		c := certificatetest.Leaf(names...)
		c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to)
		return c
	}
	own := certificatetest.Key(t)
	for title, test := range map[string]struct {
		name    string
		show    func() (chain, key string)
		problem string
	}{
		"a good one":                     {"example.com", func() (string, string) { return w.ca.Files(t, certificatetest.Leaf("example.com")) }, ""},
		"a good one of a wildcard":       {"*.wild.example.com", func() (string, string) { return w.ca.Files(t, certificatetest.Leaf("*.wild.example.com")) }, ""},
		"one for another name":           {"example.com", func() (string, string) { return w.ca.Files(t, certificatetest.Leaf("a.example.org", "b.example.org")) }, "other names: a.example.org, b.example.org"},
		"one for the base of a wildcard": {"*.wild.example.com", func() (string, string) { return w.ca.Files(t, certificatetest.Leaf("wild.example.com")) }, "other names: wild.example.com"},
		"one that is over":               {"example.com", func() (string, string) { return w.ca.Files(t, at(-48*time.Hour, -time.Hour, "example.com")) }, "the certificate ended on"},
		"one that has not begun":         {"example.com", func() (string, string) { return w.ca.Files(t, at(time.Hour, 48*time.Hour, "example.com")) }, "is valid from"},
		"one of a CA that nobody knows":  {"example.com", func() (string, string) { return stranger.Files(t, certificatetest.Leaf("example.com")) }, "no CA that browsers trust"},
		"one without the one between": {"example.com", func() (string, string) {
			return certificatetest.PEM(w.ca.Issue(t, certificatetest.Leaf("example.com"), own)), certificatetest.KeyPEM(t, own)
		}, "those between are missing"},
		"a name that leads inside":   {"inside.example.com", nil, "the name has no public address"},
		"a name that does not exist": {"nowhere.example.com", nil, "the name has no public address"},
		"a server that has none":     {"example.com", func() (string, string) { return "", "" }, "TLS failed"},
	} {
		t.Run(title, func(t *testing.T) {
			name, err := contract.ParsePattern(test.name)
			must(t, err)
			server.shown = tls.Certificate{}
			if test.show != nil {
				if chain, key := test.show(); chain != "" {
					server.show(t, chain, key)
				}
			}
			seen := w.probe(t.Context(), name)
			if seen.GetValid() != (test.problem == "") || !strings.Contains(seen.GetProblem(), test.problem) || seen.GetDomain() != test.name {
				t.Errorf("seen is %v", seen)
			}
			if shows := server.shown.Certificate != nil; met(seen) != shows || (seen.GetNotAfter() != nil) != shows {
				t.Errorf("seen is %v", seen)
			}
		})
	}
	for _, asked := range server.asked {
		if strings.Contains(asked, "*") || strings.HasSuffix(asked, ".") {
			t.Errorf("asked for %q", asked)
		}
	}
}

func TestOutside(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		server := newOutside(t)
		w := newWorld(t, d, func(c *Config) { c.Port = server.port })
		w.addresses["example.com"] = []string{"127.0.0.1"}
		chain, key := w.ca.Files(t, certificatetest.Leaf("example.com"))
		server.show(t, chain, key)
		began := time.Now()
		names := []contract.Domain{domainOf(t, "example.com"), domainOf(t, "www.example.com")}
		w.report(t, began, good("example.com", began.Add(60*oneDay)), none("www.example.com", "on its way"))
		look := func(at time.Time) {
			t.Helper()
			must(t, w.look(t.Context(), at))
			w.looking.Wait()
		}
		next := func() time.Duration {
			return time.Until(db.Time(int64(w.count(t, `SELECT look_at FROM certificates WHERE name = 'example.com'`))))
		}
		near := func(want time.Duration) {
			t.Helper()
			if got := next(); got < want*85/100 || got > want*115/100 {
				t.Errorf("the next look is in %s, not %s", got, want)
			}
		}
		look(time.Now())
		if c := w.one(t, "example.com"); !c.Outside.GetValid() || c.OutsideAt.IsZero() {
			t.Errorf("outside is %v", c.Outside)
		}
		if c := w.one(t, "www.example.com"); c.Outside != nil {
			t.Errorf("what is not served was looked at: %v", c.Outside)
		}
		near(30 * time.Minute)
		look(time.Now())
		if n := len(server.asked); n != 1 {
			t.Errorf("it was asked %d times", n)
		}

		t.Run("a look that fails is repeated soon, and decides nothing where it met no certificate", func(t *testing.T) {
			w.addresses["example.com"] = nil
			for _, wait := range []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute} {
				must(t, w.CheckNow(t.Context(), w.ours, w.site, names))
				near(wait)
			}
			w.settled(t, time.Now().Add(3*time.Hour))
			if c := w.one(t, "example.com"); c.Outside.GetProblem() == "" || met(c.Outside) || !c.AlarmAt.IsZero() {
				t.Errorf("%+v", c)
			}
		})
		t.Run("a newer one that is bad counts, until a good one is met", func(t *testing.T) {
			w.addresses["example.com"] = []string{"127.0.0.1"}
			stranger, strangerKey := certificatetest.New(t).Files(t, certificatetest.Leaf("example.com"))
			server.show(t, stranger, strangerKey)
			must(t, w.CheckNow(t.Context(), w.ours, w.site, names))
			w.settled(t, time.Now().Add(2*time.Hour))
			if c := w.one(t, "example.com"); c.AlarmAt.IsZero() || strings.Join(w.mailed(t), " ") != mailLost {
				t.Errorf("%+v", c)
			}
			server.show(t, chain, key)
			must(t, w.CheckNow(t.Context(), w.ours, w.site, names))
			w.settled(t, time.Now().Add(2*time.Hour))
			if c := w.one(t, "example.com"); !c.AlarmAt.IsZero() || len(w.mailed(t)) != 0 {
				t.Errorf("%+v", c)
			}
			near(30 * time.Minute)
		})
		t.Run("an agent's measurement that is older than it changes nothing", func(t *testing.T) {
			w.report(t, time.Now().Add(-time.Hour), failing("example.com", now.Add(-oneDay), now, "old"), none("www.example.com", "on its way"))
			if n := w.count(t, `SELECT COUNT(*) FROM certificates WHERE name = 'example.com' AND valid`); n != 1 {
				t.Error("it is not valid any more")
			}
		})
		t.Run("another organization's site is not looked at", func(t *testing.T) {
			before := len(server.asked)
			must(t, w.CheckNow(t.Context(), w.theirs, w.site, names))
			if len(server.asked) != before {
				t.Error("it was")
			}
		})
		t.Run("a name that is not asked for is not looked at", func(t *testing.T) {
			before := len(server.asked)
			must(t, w.CheckNow(t.Context(), w.ours, w.site, names[1:]))
			if len(server.asked) != before {
				t.Error("it was")
			}
		})
		t.Run("a look that a clock set for far ahead is made now", func(t *testing.T) {
			w.exec(t, `UPDATE certificates SET look_at = $1 WHERE name = 'example.com'`, db.Micros(time.Now().Add(60*oneDay)))
			before := len(server.asked)
			look(time.Now())
			if len(server.asked) != before+1 {
				t.Errorf("it was asked %d times", len(server.asked)-before)
			}
			near(30 * time.Minute)
		})
		t.Run("is counted", func(t *testing.T) {
			must(t, w.gauges.count(t.Context(), d.Reader()))
			if v, n := testutil.ToFloat64(w.gauges.states.WithLabelValues("valid")), testutil.ToFloat64(w.gauges.states.WithLabelValues("none")); v != 1 || n != 1 {
				t.Errorf("%g valid, %g none", v, n)
			}
			if first := time.Unix(int64(testutil.ToFloat64(w.gauges.first)), 0); time.Until(first) < 59*oneDay || time.Until(first) > 60*oneDay {
				t.Errorf("the first ends at %s", first)
			}
		})
	})
}

// slow is an internet in which each connection takes a while and fails.
type slow struct {
	mu        sync.Mutex
	now, most int
}

func (s *slow) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	s.mu.Lock()
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.now--
	s.mu.Unlock()
	return nil, ctx.Err()
}

// await waits until so many connections are on their way.
func (s *slow) await(t *testing.T, n int) {
	t.Helper()
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		now := s.now
		s.mu.Unlock()
		if now >= n {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d connections are on their way, want %d", now, n)
		}
	}
}

// TestPatience claims that a server that hangs is waited for a while only.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Certificates{config: Config{Dialer: &slow{}, Port: "443"}}
		began := time.Now()
		seen := c.probe(t.Context(), contract.Domain{})
		if took := time.Since(began); took != lookTimeout || seen.GetProblem() != "from outside: no answer in time" {
			t.Errorf("it took %s: %v", took, seen)
		}
	})
}

// TestAtOnce claims that names which hang keep none of another organization waiting, that they are looked at a few at a time, and that
// nothing is kept of a look that was broken off.
func TestAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		internet := &slow{}
		w := newWorld(t, d, func(c *Config) { c.Dialer = internet })
		var seen []*sitev1.ObservedCertificate
		var names []contract.Domain
		for i := range 3 * looksAtOnce {
			name := domainOf(t, fmt.Sprintf("n%d.example.com", i))
			names, seen = append(names, name), append(seen, good(name.String(), time.Now().Add(60*oneDay)))
		}
		began := time.Now()
		w.report(t, began, seen...)
		w.reportOf(t, w.theirs, w.theirSite, began.Add(time.Second), seen[0])
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		must(t, w.look(ctx, began))
		must(t, w.look(ctx, began.Add(time.Second))) // none of the first has ended
		must(t, w.look(ctx, began.Add(2*time.Second)))
		internet.await(t, looksOfOne+1)
		if n := w.count(t, `SELECT COUNT(*) FROM certificates WHERE organization_id = $1 AND look_at > $2`, w.theirs, db.Micros(began.Add(lookLease))); n != 1 {
			t.Error("the other organization's name is not looked at")
		}
		cancel()
		w.looking.Wait()
		if internet.most != looksOfOne+1 {
			t.Errorf("%d at once", internet.most)
		}
		t.Run("those that somebody asks for, too", func(t *testing.T) {
			internet.most = 0
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			must(t, w.CheckNow(ctx, w.ours, w.site, names)) // running out of time is no error
			if internet.most != looksOfOne {
				t.Errorf("%d at once", internet.most)
			}
		})
		if n := w.count(t, `SELECT COUNT(*) FROM certificates WHERE outside IS NOT NULL`); n != 0 {
			t.Errorf("%d were kept", n)
		}
	})
}

// TestRun claims that Run looks by itself, and ends with its context.
func TestRun(t *testing.T) {
	server := newOutside(t)
	w := newWorld(t, dbtest.SQLite(t), func(c *Config) { c.Port = server.port })
	w.addresses["example.com"] = []string{"127.0.0.1"}
	chain, key := w.ca.Files(t, certificatetest.Leaf("example.com"))
	server.show(t, chain, key)
	w.report(t, time.Now(), good("example.com", time.Now().Add(3*oneDay)))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	for until := time.Now().Add(10 * time.Second); w.one(t, "example.com").Outside == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("nobody looks")
		}
	}
	cancel()
	must(t, <-ended)
	if mails := w.mailed(t); len(mails) != 1 || mails[0] != mailEnding {
		t.Errorf("mailed was %v", mails)
	}
}
