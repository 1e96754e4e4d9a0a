package certificate

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"time"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// shows serves TLS with one certificate, whatever is asked for.
func shows(t *testing.T, b *bundle) string {
	t.Helper()
	cert := tls.Certificate{PrivateKey: b.key}
	for _, c := range b.chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.(*tls.Conn).Handshake() // what comes of it is the other side's to tell
			}()
		}
	}()
	return l.Addr().String()
}

func TestObserve(t *testing.T) {
	ca, stranger := newSigner(t), newSigner(t)
	over := ca.bundle(t, acmeCA, day, "a.example.com")
	over.chain[0] = ca.sign(t, over.key.Public(), -time.Second, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-day) }, "a.example.com")
	for _, c := range []struct {
		what    string
		name    string
		shown   *bundle
		kept    bool
		valid   bool
		problem string
	}{
		{"what it keeps", "a.example.com", ca.bundle(t, acmeCA, day, "a.example.com"), true, true, ""},
		{"a wildcard, by a name below it", "*.example.com", ca.bundle(t, acmeCA, day, "*.example.com"), true, true, ""},
		{"of a signer whom nobody trusts", "a.example.com", stranger.bundle(t, acmeCA, day, "a.example.com"), true, false, "browsers do not trust who signed it"},
		{"for another name", "a.example.com", ca.bundle(t, acmeCA, day, "b.example.com"), false, false, "it is for b.example.com"},
		{"that is over", "a.example.com", over, true, false, "it ended at"},
		{"that is not what it keeps", "a.example.com", ca.bundle(t, acmeCA, day, "a.example.com"), false, true, "serves another certificate than the one that is kept"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t, func(cfg *Config) { cfg.Probe = shows(t, c.shown) })
			must(t, w.SetIssuance(&linkv1.Issuance{PlatformRoots: ca.pem()}))
			s := w.have(1, byHTTP(c.name), c.name)
			if c.kept {
				w.put(s, c.name, c.shown)
			} else {
				w.put(s, c.name, ca.bundle(t, acmeCA, day, c.name))
			}
			seen := w.Observe(t.Context(), s)
			if len(seen) != 1 || seen[0].GetValid() != c.valid || (c.problem == "") != (seen[0].GetProblem() == "") || !strings.Contains(seen[0].GetProblem(), c.problem) {
				t.Fatalf("observed: %v", seen)
			}
			if print := fingerprint(c.shown.leaf()); string(seen[0].GetSha256()) != string(print[:]) || seen[0].GetNotAfter().AsTime().Unix() != c.shown.leaf().NotAfter.Unix() {
				t.Errorf("observed: %v", seen[0])
			}
			if want := sitev1.CertificateSource_CERTIFICATE_SOURCE_ACME; c.kept && seen[0].GetSource() != want {
				t.Errorf("source: %v", seen[0].GetSource())
			}
		})
	}
	t.Run("nobody answers: never valid, whatever is on disk", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		must(t, l.Close())
		w := newWorld(t, func(cfg *Config) { cfg.Probe = l.Addr().String() })
		must(t, w.SetIssuance(&linkv1.Issuance{PlatformRoots: ca.pem()}))
		s := w.have(1, byHTTP("a.example.com"), "a.example.com")
		w.put(s, "a.example.com", ca.bundle(t, acmeCA, day, "a.example.com"))
		if seen := w.Observe(t.Context(), s)[0]; seen.GetValid() || len(seen.GetSha256()) > 0 || !strings.Contains(seen.GetProblem(), "does not serve it by HTTPS") {
			t.Errorf("observed: %v", seen)
		}
	})
	t.Run("a server that takes connections and says nothing costs two seconds", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		w := newWorld(t, func(cfg *Config) { cfg.Probe = l.Addr().String() })
		start := time.Now()
		seen := w.Observe(t.Context(), w.have(1, nil, "a.example.com", "b.example.com", "c.example.com"))
		if took := time.Since(start); len(seen) != 3 || took < shakeWithin || took > shakeWithin+2*time.Second {
			t.Errorf("took %s: %v", took, seen)
		}
	})
	t.Run("a hundred names and those of the platform are all told", func(t *testing.T) {
		w := newWorld(t, func(cfg *Config) { cfg.Probe = shows(t, over) })
		https := &sitev1.Https{PlatformDomains: []string{"p.example.net"}}
		var names []string
		for i := range 100 {
			names = append(names, "n"+strings.Repeat("x", i%50)+string(rune('a'+i%26))+strings.Repeat("y", i/50)+".example.com")
		}
		if seen := w.Observe(t.Context(), w.have(1, https, names...)); len(seen) != 101 {
			t.Errorf("%d told", len(seen))
		}
	})
}
