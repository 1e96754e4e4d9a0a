package link_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
)

// forger holds the key of the current root, and signs what the authority never would.
type forger struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func forge(t *testing.T, dir string) forger {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "roots.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var f forger
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return f
		}
		if block.Headers["Role"] != "current" {
			continue
		}
		if block.Type == "CERTIFICATE" {
			f.root = must(x509.ParseCertificate(block.Bytes))
		} else {
			f.key = must(x509.ParsePKCS8PrivateKey(block.Bytes)).(*ecdsa.PrivateKey)
		}
	}
}

func (f forger) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, f.root, key.Public(), f.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestClientCertificates(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	h := w.enroll("web1")
	f := forge(t, w.dir)
	foreign, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	id := must(contract.ParseServerID(h.id))
	issue := func(a *pki.Authority, key *ecdsa.PrivateKey, at time.Time) []byte {
		csr, _, err := pki.ParseRequest(newCSR(t, key))
		if err != nil {
			t.Fatal(err)
		}
		return must(a.IssueAgent(id, csr, at)).DER
	}
	uri := func(s string) *url.URL { return must(url.Parse(s)) }
	mine := uri("spiffe://chom/server/" + h.id)
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	key := newKey(t)

	handshake := func(c *tls.Config) error {
		cl, end := dial(c)
		defer end()
		_, err := linkv1connect.NewLinkServiceClient(cl, "https://"+w.addr).Hello(context.Background(), &linkv1.HelloRequest{
			ProtocolVersion: 1, InstanceId: uuid.NewString(),
		})
		return err
	}
	t.Run("the right one is let in", func(t *testing.T) {
		if err := handshake(trust(h.roots, h.cert, h.key)); err != nil {
			t.Error(err)
		}
	})
	t.Run("without one no method of the link is answered", func(t *testing.T) {
		c, end := dial(trust(h.roots, nil, nil))
		defer end()
		services := linkv1.File_chom_link_v1_link_service_proto.Services()
		methods := services.ByName("LinkService").Methods()
		for i := range methods.Len() {
			path := "https://" + w.addr + "/chom.link.v1.LinkService/" + string(methods.Get(i).Name())
			res, err := c.Post(path, "application/proto", strings.NewReader(""))
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusUnauthorized && res.StatusCode != http.StatusForbidden {
				t.Errorf("%s: %s", path, res.Status)
			}
		}
		wantCode(t, handshake(trust(h.roots, nil, nil)), connect.CodeUnauthenticated)
	})
	t.Run("a certificate of this authority that was never given to the server is refused", func(t *testing.T) {
		wantCode(t, handshake(trust(h.roots, issue(w.authority, key, time.Now()), key)), connect.CodePermissionDenied)
	})
	server := must((must(pki.NewListener(w.authority, time.Now()))).Config().GetCertificate(nil))
	for name, c := range map[string]*tls.Config{
		"expired":                      trust(h.roots, issue(w.authority, h.key, time.Now().Add(-8*24*time.Hour)), h.key),
		"not yet valid":                trust(h.roots, issue(w.authority, h.key, time.Now().Add(8*24*time.Hour)), h.key),
		"of another authority":         trust(h.roots, issue(foreign, key, time.Now()), key),
		"the door's own":               trust(h.roots, server.Certificate[0], server.PrivateKey.(*ecdsa.PrivateKey)),
		"for two agents":               trust(h.roots, f.sign(t, &x509.Certificate{ExtKeyUsage: client, URIs: []*url.URL{mine, uri("spiffe://chom/server/" + contract.NewServerID().String())}}, key), key),
		"for an agent and a host name": trust(h.roots, f.sign(t, &x509.Certificate{ExtKeyUsage: client, URIs: []*url.URL{mine}, DNSNames: []string{"x.example"}}, key), key),
		"for nobody":                   trust(h.roots, f.sign(t, &x509.Certificate{ExtKeyUsage: client}, key), key),
		"for something else":           trust(h.roots, f.sign(t, &x509.Certificate{ExtKeyUsage: client, URIs: []*url.URL{uri("spiffe://chom/operator/" + h.id)}}, key), key),
		"with more in its name":        trust(h.roots, f.sign(t, &x509.Certificate{ExtKeyUsage: client, URIs: []*url.URL{uri(mine.String() + "?x")}}, key), key),
		"for servers too":              trust(h.roots, f.sign(t, &x509.Certificate{ExtKeyUsage: append(client, x509.ExtKeyUsageServerAuth), URIs: []*url.URL{mine}}, key), key),
		"with another's key":           trust(h.roots, h.cert, key),
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			err := handshake(c)
			if err == nil || connect.IsWireError(err) { // the handshake fails, no call is answered
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("TLS 1.2 and HTTP/1.1 are refused", func(t *testing.T) {
		old := trust(h.roots, h.cert, h.key)
		old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS12
		old.NextProtos = []string{"h2"}
		if c, err := tls.Dial("tcp", w.addr, old); err == nil {
			_ = c.Close()
			t.Error("TLS 1.2 is spoken")
		}
		one := trust(h.roots, h.cert, h.key)
		one.NextProtos = []string{"http/1.1"}
		if c, err := tls.Dial("tcp", w.addr, one); err == nil {
			if err := c.Handshake(); err == nil {
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Error("HTTP/1.1 is spoken")
				}
			}
			_ = c.Close()
		}
	})
	if w.count(`SELECT COUNT(*) FROM server_instances`) != 1 {
		t.Error("a refused one has left a trace")
	}
}
