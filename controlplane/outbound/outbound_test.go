package outbound

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/controlplane/outbound/outboundtest"
)

// inside is an HTTPS server that must not be reached; it counts connections.
type inside struct {
	*httptest.Server
	connections atomic.Int64
	requests    atomic.Int64
}

func serve(t *testing.T, address string, handler http.HandlerFunc) *inside {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &inside{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		handler(w, r)
	}))
	s.Server.Listener.Close()
	s.Server.Listener = listener
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.connections.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *inside) port() string {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return port
}

func get(t *testing.T, client *http.Client, url string) (*http.Response, error) {
	t.Helper()
	answer, err := client.Get(url)
	if err == nil {
		t.Cleanup(func() { answer.Body.Close() })
	}
	return answer, err
}

const unreachable = "the name has no public address"

// TestInside tries to reach a server on this machine by every name and spelling of it (case A17).
func TestInside(t *testing.T) {
	secret := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "secret") })
	secret6 := serve(t, "[::1]:"+secret.port(), func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "secret") })
	_, resolver := outboundtest.Names(t, map[string][]string{
		"loopback.example": {"127.0.0.1"}, "loopback6.example": {"::1"}, "mapped.example": {"::ffff:127.0.0.1"}, "private.example": {"10.0.0.1"},
		"metadata.example": {"169.254.169.254"}, "nat64.example": {"64:ff9b::7f00:1"}, "6to4.example": {"2002:7f00:1::"}, "any.example": {"0.0.0.0"},
		"any6.example": {"::"}, "local.example": {"fd00:ec2::254"}, "2130706433": {"127.0.0.1"}, "0177.0.0.1": {"127.0.0.1"}, "0x7f000001": {"127.0.0.1"},
		"127.1": {"127.0.0.1"},
	})
	client := New(WithResolver(resolver), WithRoots(pool(secret, secret6))).Client(10 * time.Second)
	for _, host := range []string{
		"127.0.0.1", "[::1]", "127.0.0.53", "localhost", "10.0.0.1", "10.255.255.255", "172.16.0.1", "192.168.1.1", "169.254.169.254",
		"100.100.100.200", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[fd00:ec2::254]",
		"[fe80::1%25lo]", "[::1%25lo]", "0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255",
		"2130706433", "0177.0.0.1", "0x7f000001", "0x7f.1", "127.1", "127.0.0.1.", "user@127.0.0.1",
		"loopback.example", "loopback6.example", "mapped.example", "private.example", "metadata.example", "nat64.example", "6to4.example",
		"any.example", "any6.example", "local.example", "unknown.example",
	} {
		t.Run(host, func(t *testing.T) {
			began := time.Now()
			answer, err := get(t, client, "https://"+host+":"+secret.port()+"/")
			if err == nil {
				t.Fatalf("it answered %s", answer.Status)
			}
			if got := Explain(err); got != unreachable {
				t.Errorf("the words are %q, for %v", got, err)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("it took %s: something was sent", took)
			}
		})
	}
	if n := secret.connections.Load() + secret6.connections.Load(); n != 0 {
		t.Errorf("%d connections came in", n)
	}
}

func pool(servers ...*inside) *x509.CertPool {
	roots := x509.NewCertPool()
	for _, s := range servers {
		roots.AddCert(s.Certificate())
	}
	return roots
}

var outsideNet = netip.MustParsePrefix("127.0.0.2/32") // plays the public internet

// TestRebinding changes what a name means between two questions: the first answer is public, the second is inside (case A17).
func TestRebinding(t *testing.T) {
	secret := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "secret") })
	public := serve(t, "127.0.0.2:"+secret.port(), func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "public") })
	dns, resolver := outboundtest.Names(t, map[string][]string{"example.com": {"127.0.0.2", "127.0.0.1"}})
	dialer := New(WithResolver(resolver), Allow(outsideNet), WithRoots(pool(secret, public)))
	client := dialer.Client(10 * time.Second)

	answer, err := get(t, client, "https://example.com:"+secret.port()+"/")
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(answer.Body); string(body) != "public" {
		t.Fatalf("the first answer is %q", body)
	}
	client.CloseIdleConnections()
	for range 3 {
		if answer, err := get(t, client, "https://example.com:"+secret.port()+"/"); err == nil {
			t.Errorf("after the change it answered %s", answer.Status)
		} else if got := Explain(err); got != unreachable {
			t.Errorf("after the change: %q, %v", got, err)
		}
	}
	if n := secret.connections.Load(); n != 0 {
		t.Errorf("%d connections came to the inside", n)
	}
	if dns.Asked("example.com") < 2 {
		t.Error("the name was not asked again: nothing was tried")
	}
}

func TestRedirect(t *testing.T) {
	secret := serve(t, "127.0.0.1:0", func(http.ResponseWriter, *http.Request) {})
	public := serve(t, "127.0.0.2:0", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://"+secret.Listener.Addr().String()+"/", http.StatusTemporaryRedirect)
	})
	_, resolver := outboundtest.Names(t, map[string][]string{"example.com": {"127.0.0.2"}})
	allowAll := New(Allow(netip.MustParsePrefix("127.0.0.0/8")), WithResolver(resolver), WithRoots(pool(secret, public))).Client(10 * time.Second)
	answer, err := get(t, allowAll, "https://example.com:"+public.port()+"/")
	if err != nil || answer.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("got %v, %v", answer, err)
	}
	if n := secret.connections.Load(); n != 0 {
		t.Error("the redirect was followed, even to an address that is allowed")
	}
}

func TestProxy(t *testing.T) {
	proxy := serve(t, "127.0.0.1:0", func(http.ResponseWriter, *http.Request) {})
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	// The proxy's own address may be reached, so that it is not the dialer that keeps from it.
	client := New(Allow(netip.MustParsePrefix("127.0.0.0/8"))).Client(5 * time.Second)
	if answer, err := get(t, client, "https://10.0.0.1/"); err == nil {
		t.Errorf("it answered %s", answer.Status)
	}
	if n := proxy.connections.Load(); n != 0 {
		t.Error("the environment's proxy was used")
	}
}

// TestOwn plays a machine with a public address: the firewall would not see what it sends to itself.
func TestOwn(t *testing.T) {
	d := New()
	own := net.IPv4(8, 8, 4, 4)
	d.own = func() ([]net.Addr, error) { return []net.Addr{&net.IPNet{IP: own, Mask: net.CIDRMask(24, 32)}}, nil }
	var no *refused
	if err := d.check("8.8.4.4:443"); !errors.As(err, &no) {
		t.Errorf("its own address: %v", err)
	}
	if err := d.check("8.8.4.5:443"); err != nil {
		t.Errorf("its neighbour's: %v", err)
	}
}

func TestNetworks(t *testing.T) {
	for _, network := range []string{"udp", "unix", "ip"} {
		if _, err := New(Allow(netip.MustParsePrefix("127.0.0.0/8"))).DialContext(t.Context(), network, "127.0.0.1:9"); err == nil {
			t.Errorf("%s was dialed", network)
		}
	}
}

// TestBroken meets servers that do not behave.
func TestBroken(t *testing.T) {
	allowed := Allow(netip.MustParsePrefix("127.0.0.0/8"))
	t.Run("an endless header", func(t *testing.T) {
		s := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("a", 1<<20))
		})
		if _, err := get(t, New(allowed, WithRoots(pool(s))).Client(5*time.Second), s.URL); err == nil || Explain(err) != "the connection broke" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("silence", func(t *testing.T) {
		s := serve(t, "127.0.0.1:0", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		began := time.Now()
		if _, err := get(t, New(allowed, WithRoots(pool(s))).Client(300*time.Millisecond), s.URL); err == nil || Explain(err) != "no answer in time" {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
	})
	t.Run("an answer without end", func(t *testing.T) {
		s := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 1024))
				time.Sleep(10 * time.Millisecond)
			}
		})
		answer, err := get(t, New(allowed, WithRoots(pool(s))).Client(300*time.Millisecond), s.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err == nil || Explain(err) != "no answer in time" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a cut connection", func(t *testing.T) {
		s := serve(t, "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
		})
		if _, err := get(t, New(allowed, WithRoots(pool(s))).Client(5*time.Second), s.URL); err == nil || Explain(err) != "the connection broke" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a stranger's certificate", func(t *testing.T) {
		s := serve(t, "127.0.0.1:0", func(http.ResponseWriter, *http.Request) {})
		if _, err := get(t, New(allowed).Client(5*time.Second), s.URL); err == nil || Explain(err) != "the certificate is not valid for this name" {
			t.Errorf("got %v", err)
		}
		if s.requests.Load() != 0 {
			t.Error("it got a request")
		}
	})
	t.Run("old TLS", func(t *testing.T) {
		s := serve(t, "127.0.0.1:0", func(http.ResponseWriter, *http.Request) {})
		s.TLS.MinVersion, s.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		if _, err := get(t, New(allowed, WithRoots(pool(s))).Client(5*time.Second), s.URL); err == nil || Explain(err) != "TLS failed" {
			t.Errorf("got %v: %q", err, Explain(err))
		}
	})
	t.Run("no server", func(t *testing.T) {
		s := serve(t, "127.0.0.1:0", func(http.ResponseWriter, *http.Request) {})
		s.Close()
		if _, err := get(t, New(allowed).Client(5*time.Second), s.URL); err == nil || Explain(err) != "the connection was refused" {
			t.Errorf("got %v", err)
		}
	})
}

// TestAllows is about addresses that other packages publish: an operator's network counts as he said.
func TestAllows(t *testing.T) {
	d := New(Allow(netip.MustParsePrefix("10.213.4.0/24")))
	for address, want := range map[string]bool{"10.213.4.7": true, "::ffff:10.213.4.7": true, "10.213.5.7": false, "9.9.9.9": true, "::1": false} {
		if got := d.Allows(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}
