package nginx

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"chom.dev/proto/contract"
)

// certified gives names of a site certificates.
func certified(t *testing.T, m *Manager, s *Site, trusted bool, names ...string) {
	t.Helper()
	if s.Certificates == nil {
		s.Certificates = map[contract.Domain]Certificate{}
	}
	for _, name := range names {
		key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		template := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
		file := m.etc + "/pem/" + name + ".pem"
		if err := os.MkdirAll(m.etc+"/pem", 0o700); err != nil {
			t.Fatal(err)
		}
		text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))}),
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s.Certificates[must(contract.ParsePattern(name))] = Certificate{Path: file, Trusted: trusted}
	}
}

// visit asks as a browser would, by HTTP or HTTPS, and tells what came of it: a
// status, where it leads, the name in the certificate, the protocol, the page.
type visit struct {
	status      int
	location    string
	certificate string
	protocol    string
	header      http.Header
	body        string
}

func browse(t *testing.T, m *Manager, scheme, sni, host, path string) (visit, error) {
	t.Helper()
	address := m.addresses[0]
	if scheme == "https" {
		address = m.secure[0]
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{ServerName: sni, InsecureSkipVerify: true}, //nolint:gosec // what is shown is looked at below
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+"://"+host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return visit{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return visit{}, err
	}
	v := visit{status: resp.StatusCode, location: resp.Header.Get("Location"), protocol: resp.Proto, header: resp.Header, body: string(body)}
	if resp.TLS != nil {
		v.certificate = resp.TLS.PeerCertificates[0].Subject.CommonName
	}
	return v, nil
}

func met(t *testing.T, m *Manager, url, want string) visit {
	t.Helper()
	scheme, rest, _ := strings.Cut(url, "://")
	host, path, _ := strings.Cut(rest, "/")
	v, err := browse(t, m, scheme, host, host, "/"+path)
	got := fmt.Sprintf("%d %s", v.status, v.location+v.body)
	switch {
	case err != nil:
		got = "nothing"
	case v.status >= 400:
		got = fmt.Sprint(v.status)
	}
	if got != want {
		t.Errorf("%s answers %.300q, want %q (%v)", url, got, want, err)
	}
	return v
}

func TestHTTPS(t *testing.T) {
	m, srv := setup(t)
	base(t, m)
	a := fresh(t, m, Static, "a.example", "www.a.example", "old.a.example")
	a.Redirects = a.Domains[2:]
	apply(t, m, a)
	b := fresh(t, m, Static, "b.example")

	t.Run("before there is a certificate a site is served by HTTP, and no handshake ends well", func(t *testing.T) {
		met(t, m, "http://a.example/", "200 a.example")
		met(t, m, "http://old.a.example/x?y=1", "301 http://a.example/x?y=1"+redirectPage)
		met(t, m, "https://a.example/", "nothing")
	})
	t.Run("a name with a certificate is served by HTTPS, and HTTP leads there; the others stay", func(t *testing.T) {
		certified(t, m, &a, true, "a.example")
		before := srv.signals
		if changed, err := m.Place(t.Context(), a); err != nil || !changed {
			t.Fatal(changed, err)
		}
		if _, err := m.Reload(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if srv.signals != before+1 {
			t.Errorf("%d reloads", srv.signals-before)
		}
		v := met(t, m, "https://a.example/", "200 a.example")
		if v.certificate != "a.example" || v.protocol != "HTTP/2.0" {
			t.Errorf("certificate of %s, %s", v.certificate, v.protocol)
		}
		met(t, m, "http://a.example/x?y=1", "301 https://a.example/x?y=1"+redirectPage)
		met(t, m, "http://old.a.example/x", "301 https://a.example/x"+redirectPage)
		met(t, m, "http://www.a.example/", "200 a.example")
		met(t, m, "https://www.a.example/", "nothing")
		met(t, m, "https://old.a.example/", "nothing")
		if ok, err := m.Serves(t.Context(), a); !ok || err != nil {
			t.Errorf("Serves = %v, %v", ok, err)
		}
		expect(t, m, "a.example", "/", "a.example") // what the agent measures is the page, not the redirect
	})
	t.Run("each name shows its own certificate", func(t *testing.T) {
		certified(t, m, &a, true, "www.a.example", "old.a.example")
		certified(t, m, &b, true, "b.example")
		apply(t, m, a)
		apply(t, m, b)
		for _, name := range []string{"a.example", "www.a.example", "b.example"} {
			page, _, _ := strings.Cut(name, "www.")
			if page == "" {
				page = "a.example"
			}
			if v := met(t, m, "https://"+name+"/", "200 "+page); v.certificate != name {
				t.Errorf("%s shows the certificate of %s", name, v.certificate)
			}
		}
		if v := met(t, m, "https://old.a.example/x", "301 https://a.example/x"+redirectPage); v.certificate != "old.a.example" {
			t.Errorf("certificate of %s", v.certificate)
		}
	})
	t.Run("the configuration tells which names it serves with which files", func(t *testing.T) {
		got := must(m.Certified(a.Handle))
		if len(got) != 3 || got[a.Domains[0]] != a.Certificates[a.Domains[0]].Path || got[a.Domains[2]] != a.Certificates[a.Domains[2]].Path {
			t.Errorf("got %v", got)
		}
		if got := must(m.Certified(contract.NewHandle())); len(got) != 0 {
			t.Errorf("a site that isn't there has %v", got)
		}
	})
	t.Run("a renewed certificate is shown after a reload", func(t *testing.T) {
		file := a.Certificates[a.Domains[0]].Path
		former := must(os.ReadFile(file))
		var other Site
		certified(t, m, &other, true, "renewed.example")
		if err := os.WriteFile(file, must(os.ReadFile(other.Certificates[must(contract.ParseDomain("renewed.example"))].Path)), 0o600); err != nil {
			t.Fatal(err)
		}
		before := srv.signals
		if changed, err := m.Place(t.Context(), a); err != nil || changed {
			t.Error(changed, err)
		}
		if _, err := m.Reload(t.Context(), nil); err != nil || srv.signals != before+1 {
			t.Errorf("%v, %d reloads", err, srv.signals-before)
		}
		if v := met(t, m, "https://a.example/", "200 a.example"); v.certificate != "renewed.example" {
			t.Errorf("certificate of %s", v.certificate)
		}
		if err := os.WriteFile(file, former, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("H05: an unknown name, no name and a bare address get no certificate", func(t *testing.T) {
		for _, sni := range []string{"unknown.example", "", "sub.a.example"} {
			if v, err := browse(t, m, "https", sni, "a.example", "/"); err == nil && sni != "" {
				t.Errorf("%q: certificate of %s", sni, v.certificate)
			}
		}
		conn, err := tls.Dial("tcp", m.secure[0], &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // nothing may be shown at all
		if err == nil {
			t.Errorf("a bare address is shown the certificate of %s", conn.ConnectionState().PeerCertificates[0].Subject)
		}
	})
	t.Run("H05: who shook hands for one name gets no page of another", func(t *testing.T) {
		if v, err := browse(t, m, "https", "a.example", "b.example", "/"); err != nil || v.status != http.StatusMisdirectedRequest || strings.Contains(v.body, "b.example") {
			t.Errorf("%+v, %v", v, err)
		}
		if v, err := browse(t, m, "https", "a.example", "unknown.example", "/"); err == nil {
			t.Errorf("%+v", v)
		}
	})
	t.Run("a name may be spelled in capitals", func(t *testing.T) {
		if v, err := browse(t, m, "https", "A.Example", "A.EXAMPLE", "/"); err != nil || v.status != http.StatusOK || v.body != "a.example" {
			t.Errorf("%+v, %v", v, err)
		}
	})
	t.Run("TLS 1.2 and 1.3 are spoken, older versions are not", func(t *testing.T) {
		for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
			conn, err := tls.Dial("tcp", m.secure[0], &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}) //nolint:gosec // versions are the claim
			if (err == nil) != want {
				t.Errorf("%s: %v", tls.VersionName(version), err)
			}
			if err == nil {
				_ = conn.Close()
			}
		}
	})
	t.Run("HSTS is told by HTTPS, where browsers trust the certificate", func(t *testing.T) {
		a.HSTS = 24 * time.Hour
		apply(t, m, a)
		if v := met(t, m, "https://a.example/", "200 a.example"); v.header.Get("Strict-Transport-Security") != "max-age=86400" {
			t.Errorf("header %q", v.header.Get("Strict-Transport-Security"))
		}
		preview := fresh(t, m, Static, "preview.example")
		preview.HSTS = 24 * time.Hour
		certified(t, m, &preview, false, "preview.example")
		apply(t, m, preview)
		if v := met(t, m, "https://preview.example/", "200 preview.example"); v.header.Get("Strict-Transport-Security") != "" {
			t.Error("told with a certificate that no browser trusts")
		}
		met(t, m, "http://preview.example/", "200 preview.example")
	})
	t.Run("HTTP can be kept", func(t *testing.T) {
		kept := a
		kept.KeepHTTP = true
		apply(t, m, kept)
		met(t, m, "http://a.example/", "200 a.example")
		met(t, m, "https://a.example/", "200 a.example")
		apply(t, m, a)
	})
	t.Run("a suspended site is suspended by HTTPS too", func(t *testing.T) {
		s := a
		s.Suspended = true
		apply(t, m, s)
		met(t, m, "https://a.example/", "503")
		expect(t, m, "a.example", "/", "503")
		apply(t, m, a)
	})
	t.Run("a wildcard serves every name below it, and no page of another name", func(t *testing.T) {
		w := fresh(t, m, Static, "w.example")
		w.Domains = append(w.Domains, must(contract.ParsePattern("*.w.example")))
		certified(t, m, &w, true, "w.example", "*.w.example")
		apply(t, m, w)
		if v := met(t, m, "https://x.w.example/", "200 w.example"); v.certificate != "*.w.example" {
			t.Errorf("certificate of %s", v.certificate)
		}
		met(t, m, "http://x.w.example/y", "301 https://x.w.example/y"+redirectPage)
		if v, err := browse(t, m, "https", "x.w.example", "w.example", "/"); err != nil || v.status != http.StatusMisdirectedRequest {
			t.Errorf("%+v, %v", v, err)
		}
	})
	t.Run("F07: a site that breaks nginx keeps nobody from a renewed certificate", func(t *testing.T) {
		file := b.Certificates[b.Domains[0]].Path
		former := must(os.ReadFile(file))
		var renewed Site
		certified(t, m, &renewed, true, "renewed2.example")
		// b is renewed; a's certificate is cut, as a full disk or a person leaves it, and c has a bad snippet.
		c := fresh(t, m, Static, "c.example")
		apply(t, m, c)
		write(t, m.snippets(c.Handle)+"/bad.conf", "no such directive;")
		broken := fresh(t, m, Static, "cut.example")
		certified(t, m, &broken, true, "cut.example")
		lies := m.etc + "/certificates/" + broken.Handle.String() + "/cut.example.pem"
		good := must(os.ReadFile(broken.Certificates[broken.Domains[0]].Path))
		write(t, lies, string(good))
		broken.Certificates[broken.Domains[0]] = Certificate{Path: lies, Trusted: true}
		if err := os.Remove(m.snippets(c.Handle) + "/bad.conf"); err != nil {
			t.Fatal(err)
		}
		apply(t, m, broken)
		write(t, m.snippets(c.Handle)+"/bad.conf", "no such directive;")
		write(t, lies, string(good[:len(good)/2]))
		if err := os.WriteFile(file, must(os.ReadFile(renewed.Certificates[must(contract.ParseDomain("renewed2.example"))].Path)), 0o600); err != nil {
			t.Fatal(err)
		}
		mended := 0
		report, err := m.Reload(t.Context(), func(h contract.Handle) bool {
			if h != broken.Handle || mended > 0 {
				return false
			}
			mended++
			write(t, lies, string(good))
			return true
		})
		if err != nil || len(report.SetAside) != 1 || report.SetAside[0].Handle != c.Handle || mended != 1 {
			t.Fatalf("%+v, %v, mended %d", report, err, mended)
		}
		if v := met(t, m, "https://b.example/", "200 b.example"); v.certificate != "renewed2.example" {
			t.Errorf("certificate of %s", v.certificate)
		}
		met(t, m, "https://cut.example/", "200 cut.example")
		met(t, m, "http://c.example/", "nothing")
		if err := os.WriteFile(file, former, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a certificate that nginx cannot read changes nothing of what is served", func(t *testing.T) {
		bad := a
		bad.Certificates = map[contract.Domain]Certificate{a.Domains[0]: {Path: t.TempDir() + "/none.pem", Trusted: true}}
		if changed, err := m.Place(t.Context(), bad); changed || err == nil || !strings.Contains(err.Error(), "none.pem") {
			t.Error(changed, err)
		}
		if _, err := m.Reload(t.Context(), nil); err != nil {
			t.Error(err)
		}
		met(t, m, "https://a.example/", "200 a.example")
		met(t, m, "https://b.example/", "200 b.example")
	})
}

func TestChallenge(t *testing.T) {
	m, _ := setup(t)
	base(t, m)
	s := fresh(t, m, Static, "a.example", "old.a.example")
	s.Redirects = s.Domains[1:]
	certified(t, m, &s, true, "a.example")
	apply(t, m, s)
	well := m.trees + "/" + s.Handle.String() + "/public/.well-known/acme-challenge"
	write(t, well+"/tenant", "the tenant's")
	t.Run("H02: a CA is answered from root's place, not from the site's tree", func(t *testing.T) {
		write(t, m.challenges+"/"+s.Handle.String()+"/token", "token.thumb")
		for _, name := range []string{"a.example", "old.a.example"} {
			met(t, m, "http://"+name+"/.well-known/acme-challenge/token", "200 token.thumb")
			met(t, m, "http://"+name+"/.well-known/acme-challenge/tenant", "404")
			met(t, m, "https://a.example/.well-known/acme-challenge/tenant", "404")
			met(t, m, "https://a.example/.well-known/acme-challenge/token", "200 token.thumb")
			met(t, m, "http://"+name+"/.well-known/acme-challenge/../../index.html", "301 https://a.example/.well-known/acme-challenge/../../index.html"+redirectPage)
			met(t, m, "http://"+name+"/.well-known/acme-challenge/", "403")
		}
	})
	t.Run("H02: a link in root's place leads nowhere", func(t *testing.T) {
		if err := os.Symlink("/etc/passwd", m.challenges+"/"+s.Handle.String()+"/link"); err != nil {
			t.Fatal(err)
		}
		met(t, m, "http://a.example/.well-known/acme-challenge/link", "403")
	})
	t.Run("who asks from outside learns where a name leads, of suspended sites too", func(t *testing.T) {
		met(t, m, "http://a.example/.well-known/acme-challenge/"+contract.ProbeFile, "200 "+s.Handle.String())
		s.Suspended = true
		apply(t, m, s)
		met(t, m, "http://a.example/.well-known/acme-challenge/"+contract.ProbeFile, "200 "+s.Handle.String())
		met(t, m, "http://a.example/.well-known/acme-challenge/token", "200 token.thumb")
	})
}

// redirectPage is nginx's own.
const redirectPage = "<html>\r\n<head><title>301 Moved Permanently</title></head>\r\n<body>\r\n<center><h1>301 Moved Permanently</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
