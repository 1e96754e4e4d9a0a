package e2e

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
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	certificatev1 "chom.dev/proto/gen/chom/certificate/v1"
	domainv1 "chom.dev/proto/gen/chom/domain/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/packaging/rig"
)

// named is what the control plane says of a site's name.
func named(t *testing.T, s *sitev1.Site, name string) *sitev1.SiteName {
	t.Helper()
	for _, n := range get(t, s).GetNames() {
		if n.GetName() == name {
			return n
		}
	}
	t.Fatalf("the site %s has no name %s", s.GetName(), name)
	return nil
}

// awaitName waits until a name is so.
func awaitName(t *testing.T, ctx context.Context, s *sitev1.Site, name string, state sitev1.NameState) *sitev1.SiteName {
	t.Helper()
	for {
		n := named(t, s, name)
		if n.GetState() == state {
			return n
		}
		if ctx.Err() != nil {
			t.Fatalf("%s is %s, not %s: %s\n%v", name, n.GetState(), state, n.GetProblem(), n)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// trusted are the roots of the CA, and those of the platform.
func trusted(t *testing.T) (ca, platform *x509.CertPool) {
	t.Helper()
	ca, platform = x509.NewCertPool(), x509.NewCertPool()
	ca.AppendCertsFromPEM(world.rig.CA.Roots)
	res, err := http.Get(world.rig.URL() + "/preview-ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || !platform.AppendCertsFromPEM(text) {
		t.Fatalf("no CA of the platform: %v: %.100s", err, text)
	}
	return ca, platform
}

// point sets the DNS as the page said.
func point(t *testing.T, n *sitev1.SiteName) {
	t.Helper()
	if len(n.GetRecords()) == 0 {
		t.Fatalf("%s says nothing to set: %v", n.GetName(), n)
	}
	for _, r := range n.GetRecords() {
		if err := world.rig.DNS.Set(t.Context(), r.GetName(), r.GetType(), r.GetValue()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHTTPS is the way of a name: a site is made before the DNS leads to it, its page says what to set, and as soon as that is
// set everything else happens by itself.
func TestHTTPS(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *host) {
		ctx := timeout(t, 3*time.Minute)
		ca, platform := trusted(t)
		request := newSite(h, "wordpress")
		name := request.Domains[0]
		old := "old-" + name
		request.Domains, request.RedirectDomains = append(request.Domains, old), []string{old}
		request.Https = &sitev1.HttpsOptions{HstsMaxAgeSeconds: 3600}
		made, err := world.rig.Sites.CreateSite(ctx, request)
		if err != nil {
			t.Fatal(err)
		}
		done(t, ctx, made.GetTask())
		s := get(t, made.GetSite())
		defer purge(t, h, s)

		// From the first second: the preview by HTTPS, the name by HTTP.
		preview := s.GetPreviewDomain()
		if p, err := rig.VisitSecure(ctx, h.Host, preview, "/", platform); err != nil || p.Status != http.StatusOK {
			t.Errorf("https://%s: %v %d", preview, err, p.Status)
		}
		if n := awaitName(t, timeout(t, 20*time.Second), s, preview, sitev1.NameState_NAME_STATE_SECURE); n.GetRole() != sitev1.NameRole_NAME_ROLE_PREVIEW {
			t.Errorf("%v", n)
		}
		shows(t, h, s, http.StatusOK, request.Settings["title"])
		if _, err := rig.VisitSecure(ctx, h.Host, name, "/", ca); err == nil {
			t.Errorf("%s is served by HTTPS already", name)
		}
		pending := awaitName(t, ctx, s, name, sitev1.NameState_NAME_STATE_PENDING)
		if want := h.Addr().String(); len(pending.GetRecords()) != 1 || pending.GetRecords()[0].GetType() != "A" || pending.GetRecords()[0].GetValue() != want {
			t.Errorf("pending with %v, want an A record to %s", pending, want)
		}

		// The DNS leads elsewhere: it says where.
		if err := world.rig.DNS.Set(ctx, name, "A", "203.0.113.7"); err != nil {
			t.Fatal(err)
		}
		for !strings.Contains(named(t, s, name).GetProblem(), "203.0.113.7") {
			if ctx.Err() != nil {
				t.Fatalf("it does not say where the name leads: %v", named(t, s, name))
			}
			time.Sleep(100 * time.Millisecond)
		}
		// A CAA record forbids the CA: it says so, and what to set.
		if err := world.rig.DNS.Set(ctx, name, "CAA", `0 issue "other.example"`); err != nil {
			t.Fatal(err)
		}
		point(t, pending)
		for !slices.ContainsFunc(named(t, s, name).GetRecords(), func(r *domainv1.DnsRecord) bool {
			return r.GetType() == "CAA" && strings.Contains(r.GetValue(), "pebble.letsencrypt.org")
		}) {
			if ctx.Err() != nil {
				t.Fatalf("it does not say that the CA is forbidden: %v", named(t, s, name))
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err := world.rig.DNS.Delete(ctx, name, "CAA"); err != nil {
			t.Fatal(err)
		}
		if err := world.rig.DNS.Set(ctx, old, "A", h.Addr().String()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		secure := awaitName(t, ctx, s, name, sitev1.NameState_NAME_STATE_SECURE)
		t.Logf("secure %s after the DNS was set", time.Since(begin).Round(10*time.Millisecond))
		if !secure.GetCertificate().GetValid() || secure.GetCertificate().GetSource() != sitev1.CertificateSource_CERTIFICATE_SOURCE_ACME {
			t.Errorf("%v", secure)
		}
		p, err := rig.VisitSecure(ctx, h.Host, name, "/", ca)
		if err != nil || p.Status != http.StatusOK || p.Header.Get("Strict-Transport-Security") != "max-age=3600" {
			t.Errorf("https://%s: %v, %d, %v", name, err, p.Status, p.Header)
		}
		awaitName(t, ctx, s, old, sitev1.NameState_NAME_STATE_SECURE)
		for from, to := range map[string]string{name: "https://" + name + "/x?y=1", old: "https://" + name + "/x?y=1"} {
			p, err := rig.Visit(ctx, h.Host, from, "/x?y=1")
			if err != nil || p.Status != http.StatusMovedPermanently || p.Header.Get("Location") != to {
				t.Errorf("http://%s: %v, %d to %s", from, err, p.Status, p.Header.Get("Location"))
			}
		}
		if s = get(t, s); s.GetUrl() != "https://"+name+"/" {
			t.Errorf("its address is %s", s.GetUrl())
		}
		// WordPress has learned its address.
		home := strings.TrimSpace(sh(t, h, fmt.Sprintf(`mariadb --batch --skip-column-names s%s -e "SELECT option_value FROM wp_options WHERE option_name = 'home'"`, s.GetHandle())))
		for home != "https://"+name && ctx.Err() == nil {
			time.Sleep(200 * time.Millisecond)
			home = strings.TrimSpace(sh(t, h, fmt.Sprintf(`mariadb --batch --skip-column-names s%s -e "SELECT option_value FROM wp_options WHERE option_name = 'home'"`, s.GetHandle())))
		}
		if home != "https://"+name {
			t.Errorf("WordPress thinks that it is %s", home)
		}
		// The keys are root's.
		if modes := sh(t, h, "stat -c '%a %U' /var/lib/chom-agent/certificates/"+s.GetHandle()+"/*.pem | sort -u"); modes != "600 root" {
			t.Errorf("keys are %q", modes)
		}
		// Suspended, it still shows the right certificate.
		res, err := world.rig.Sites.SuspendSite(ctx, &sitev1.SuspendSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		done(t, ctx, res.GetTask())
		if p, err := rig.VisitSecure(ctx, h.Host, name, "/", ca); err != nil || p.Status != http.StatusServiceUnavailable {
			t.Errorf("suspended: %v, %d", err, p.Status)
		}
	})
}

// TestSnippetsStay is about what an administrator added to a site's server block: certificates come, and it is byte for byte what
// it was, and works.
func TestSnippetsStay(t *testing.T) {
	t.Parallel()
	h := world.hosts["trixie"]
	ctx := timeout(t, 2*time.Minute)
	ca, _ := trusted(t)
	s := create(t, h, "static")
	defer purge(t, h, s)
	dir := "/etc/nginx/chom/snippets/" + s.GetHandle()
	before := sh(t, h, "mkdir -p "+dir+" && printf '# mine, with a trailing space \\nadd_header X-Mine yes always;' > "+dir+"/mine.conf && sha256sum "+dir+"/mine.conf")
	point(t, awaitName(t, ctx, s, s.GetDomains()[0], sitev1.NameState_NAME_STATE_PENDING))
	awaitName(t, ctx, s, s.GetDomains()[0], sitev1.NameState_NAME_STATE_SECURE)
	if p, err := rig.VisitSecure(ctx, h.Host, s.GetDomains()[0], "/", ca); err != nil || p.Header.Get("X-Mine") != "yes" {
		t.Errorf("%v, %v", err, p.Header)
	}
	if after := sh(t, h, "sha256sum "+dir+"/mine.conf"); after != before {
		t.Errorf("it is %s, was %s", after, before)
	}
	sh(t, h, "rm -r "+dir) // who puts something there takes it away
}

// TestWildcard proves *.NAME by a DNS provider that the organization connected: a name server that takes signed updates.
func TestWildcard(t *testing.T) {
	t.Parallel()
	h := world.hosts["bookworm"]
	ctx := timeout(t, 3*time.Minute)
	ca, _ := trusted(t)
	request := newSite(h, "static")
	name := request.GetName() + ".wild.example"
	request.Domains = []string{name, "*." + name}
	provider, err := world.rig.DNSProviders.CreateDnsProvider(ctx, &domainv1.CreateDnsProviderRequest{
		OrganizationId: world.org, Name: request.GetName(), Zones: []string{"wild.example"},
		Credentials: &domainv1.DnsProviderCredentials{Service: &domainv1.DnsProviderCredentials_Rfc2136{Rfc2136: &domainv1.Rfc2136Credentials{
			Server: world.rig.DNS.Address, KeyName: world.rig.DNS.KeyName, KeyAlgorithm: "hmac-sha256", Key: world.rig.DNS.Key,
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := world.rig.DNSProviders.DeleteDnsProvider(t.Context(), &domainv1.DeleteDnsProviderRequest{OrganizationId: world.org, ProviderId: provider.GetProvider().GetId()}); err != nil {
			t.Error(err)
		}
	}()
	// The claim is proved and the addresses are set by the provider: nobody sets anything by hand.
	if _, err := world.rig.Claims.CreateClaim(ctx, &domainv1.CreateClaimRequest{OrganizationId: world.org, Name: name}); err != nil {
		t.Fatal(err)
	}
	made, err := world.rig.Sites.CreateSite(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	done(t, ctx, made.GetTask())
	s := get(t, made.GetSite())
	awaitName(t, ctx, s, name, sitev1.NameState_NAME_STATE_SECURE)
	awaitName(t, ctx, s, "*."+name, sitev1.NameState_NAME_STATE_SECURE)
	t.Logf("both secure %s after the site was asked for", time.Since(begin).Round(100*time.Millisecond))
	if p, err := rig.VisitSecure(ctx, h.Host, "any."+name, "/", ca); err != nil || p.Status != http.StatusOK {
		t.Errorf("%v, %d", err, p.Status)
	}
	records := func() []string {
		res, err := world.rig.DNSProviders.ListManagedRecords(ctx, &domainv1.ListManagedRecordsRequest{OrganizationId: world.org, ProviderId: provider.GetProvider().GetId()})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, r := range res.GetRecords() {
			if r.GetPurpose() != "challenge" {
				all = append(all, r.GetType()+" "+r.GetName())
			}
		}
		slices.Sort(all)
		return all
	}
	if got, want := records(), []string{"A *." + name, "A " + name, "TXT _chom." + name}; !slices.Equal(got, want) {
		t.Errorf("records %v, want %v", got, want)
	}
	purge(t, h, s)
	for len(records()) > 1 {
		if ctx.Err() != nil {
			t.Fatalf("records of a site that is gone: %v", records())
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// TestUploadedCertificate is about a certificate of the customer's own.
func TestUploadedCertificate(t *testing.T) {
	t.Parallel()
	h := world.hosts["trixie"]
	ctx := timeout(t, 2*time.Minute)
	s := create(t, h, "static")
	defer purge(t, h, s)
	name := s.GetDomains()[0]
	root, chain, key := ownCertificate(t, name)
	up, err := world.rig.Certificates.UploadCertificate(ctx, &certificatev1.UploadCertificateRequest{
		OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), Chain: chain, Key: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	own := x509.NewCertPool()
	own.AddCert(root)
	for {
		p, err := rig.VisitSecure(ctx, h.Host, name, "/", own)
		if err == nil && p.Status == http.StatusOK {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("it is not served: %v, %v", err, named(t, s, name))
		}
		time.Sleep(100 * time.Millisecond)
	}
	// Nobody vouches for its root: it was looked at, and is not called secure.
	n := named(t, s, name)
	for n.GetCertificate().GetSource() != sitev1.CertificateSource_CERTIFICATE_SOURCE_UPLOADED {
		if ctx.Err() != nil {
			t.Fatalf("it is not measured: %v", n)
		}
		time.Sleep(100 * time.Millisecond)
		n = named(t, s, name)
	}
	if n.GetCertificate().GetValid() || n.GetState() == sitev1.NameState_NAME_STATE_SECURE {
		t.Errorf("called valid: %v", n)
	}
	if seen := sh(t, h, "grep -rl 'PRIVATE KEY' /srv/chom /var/log /run/chom* 2>/dev/null | head -3; true"); seen != "" {
		t.Errorf("keys lie in %s", seen)
	}
	if _, err := world.rig.Certificates.DeleteUploadedCertificate(ctx, &certificatev1.DeleteUploadedCertificateRequest{
		OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), CertificateId: up.GetCertificate().GetId(),
	}); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := rig.VisitSecure(ctx, h.Host, name, "/", own)
		if err != nil && strings.Contains(err.Error(), "remote error: tls: unrecognized name") {
			break // nginx was asked, and shows nothing
		}
		if ctx.Err() != nil {
			t.Fatalf("it is served although it was taken away: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for sh(t, h, "ls /var/lib/chom-agent/certificates/"+s.GetHandle()+" | grep -F "+name+".pem; true") != "" {
		if ctx.Err() != nil {
			t.Fatal("its key is left")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// ownCertificate makes a root, and a certificate by it for a name, with its key.
func ownCertificate(t *testing.T, name string) (root *x509.Certificate, chain, key string) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			parent, by = template, own
		}
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(30*24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, own.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, own
	}
	root, rootKey := sign(&x509.Certificate{Subject: pkix.Name{CommonName: "customer's own"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	leaf, leafKey := sign(&x509.Certificate{DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, root, rootKey)
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return root, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestAsTestssl looks at a host as testssl.sh does, from outside: versions, suites, HTTP/2, what an unknown name is shown.
func TestAsTestssl(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *host) {
		ctx := timeout(t, 2*time.Minute)
		s := create(t, h, "static")
		defer purge(t, h, s)
		name, address := s.GetPreviewDomain(), h.Addr().String()+":443"
		awaitName(t, ctx, s, name, sitev1.NameState_NAME_STATE_SECURE)
		shake := func(c *tls.Config) (tls.ConnectionState, error) {
			c.InsecureSkipVerify = true
			conn, err := tls.Dial("tcp", address, c)
			if err != nil {
				return tls.ConnectionState{}, err
			}
			defer conn.Close()
			return conn.ConnectionState(), nil
		}
		for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
			if _, err := shake(&tls.Config{ServerName: name, MinVersion: version, MaxVersion: version}); (err == nil) != want {
				t.Errorf("%s: %v", tls.VersionName(version), err)
			}
		}
		for _, suite := range append(tls.InsecureCipherSuites(), tls.CipherSuites()...) {
			if slices.Contains(suite.SupportedVersions, tls.VersionTLS13) {
				continue
			}
			good := strings.HasPrefix(suite.Name, "TLS_ECDHE_ECDSA_") && (strings.Contains(suite.Name, "GCM") || strings.Contains(suite.Name, "CHACHA20"))
			if _, err := shake(&tls.Config{ServerName: name, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID}}); (err == nil) != good {
				t.Errorf("%s: %v", suite.Name, err)
			}
		}
		if state, err := shake(&tls.Config{ServerName: name, NextProtos: []string{"h2", "http/1.1"}}); err != nil || state.NegotiatedProtocol != "h2" {
			t.Errorf("%v, speaks %q", err, state.NegotiatedProtocol)
		}
		for _, unknown := range []string{"unknown.example", "", "x." + name} {
			if state, err := shake(&tls.Config{ServerName: unknown}); err == nil {
				t.Errorf("H05: %q is shown the certificate of %v", unknown, state.PeerCertificates[0].DNSNames)
			}
		}
		if state, err := shake(&tls.Config{ServerName: name}); err != nil || !slices.Equal(state.PeerCertificates[0].DNSNames, []string{name}) {
			t.Errorf("%v, %v", err, state.PeerCertificates)
		}
	})
}
