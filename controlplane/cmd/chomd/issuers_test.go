package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
)

func TestIssuers(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root, _ := ownPair(t, "ca.example")
	roots := file("roots.pem", root, 0o644)

	t.Run("without a file Let's Encrypt issues", func(t *testing.T) {
		got, err := issuersConfig{}.issuers()
		if err != nil || len(got.message.GetIssuers()) != 1 || got.message.GetIssuers()[0].GetName() != "letsencrypt" || len(got.caa) != 1 || got.caa[0] != "letsencrypt.org" {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("a file names CAs in their order, with roots and bindings", func(t *testing.T) {
		got, err := issuersConfig{ACMEConfig: file("good.yaml", `
contact: ops@example.com
issuers:
- {name: first, directory: "https://first.example/dir", caa: [first.example, second.example], roots: `+roots+`}
- {name: second, directory: "https://second.example/dir", eab-key-id: kid, eab-key: c2VjcmV0}
`, 0o600)}.issuers()
		if err != nil {
			t.Fatal(err)
		}
		first, second := got.message.GetIssuers()[0], got.message.GetIssuers()[1]
		if first.GetName() != "first" || string(first.GetRoots()) != root || second.GetEabKeyId() != "kid" || string(second.GetEabKey()) != "secret" || got.message.GetContact() != "ops@example.com" {
			t.Errorf("%v", got)
		}
		if got.caa != nil {
			t.Errorf("CAA records are held to %v, though the second CA's names are not known", got.caa)
		}
		if !bytes.Contains(got.rootsPEM(), []byte(root)) {
			t.Error("its roots are not among those that are trusted")
		}
	})
	t.Run("CAA records may name any of the CAs", func(t *testing.T) {
		got, err := issuersConfig{ACMEConfig: file("caa.yaml", `
issuers:
- {name: first, directory: "https://first.example/dir", caa: [first.example, second.example]}
- {name: third, directory: "https://third.example/dir", caa: [third.example]}
`, 0o600)}.issuers()
		if err != nil || !slices.Equal(got.caa, []string{"first.example", "second.example", "third.example"}) {
			t.Errorf("%v, %v", got.caa, err)
		}
	})
	t.Run("what is wrong is named, and no secret is shown", func(t *testing.T) {
		for text, rule := range map[string]string{
			"contact: nobody": "contact",
			"issuers: []":     "issuers",
			"issuers: [{name: Upper, directory: 'https://a.example/'}]":                                                       "issuers[0].name",
			"issuers: [{name: a, directory: 'http://a.example/'}]":                                                            "issuers[0].directory",
			"issuers: [{name: a, directory: 'https://a.example/'}, {name: a, directory: 'https://b.example/'}]":               "issuers[1].name",
			"issuers: [{name: a, directory: 'https://a.example/', eab-key-id: x}]":                                            "issuers[0].eab-key-id",
			"issuers: [{name: a, directory: 'https://a.example/', eab-key-id: x, eab-key: 'canary canary'}]":                  "issuers[0].eab-key",
			"issuers: [{name: a, directory: 'https://a.example/', roots: /nowhere}]":                                          "issuers[0].roots",
			"issuers: [{name: a, directory: 'https://a.example/', caa: ['not a name']}]":                                      "issuers[0].caa",
			"issuers: [{name: a, directory: 'https://a.example/', eab-keyid: canary}]":                                        "YAML",
			"issuers: [{name: a, directory: 'https://a.example/', eab-key-id: x, eab-key: [canary]}]\ncontact: a@b.example\n": "YAML",
		} {
			_, err := issuersConfig{ACMEConfig: file("wrong.yaml", text, 0o600)}.issuers()
			if err == nil || !strings.Contains(err.Error(), rule) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s: %v, want it to name %s", text, err, rule)
			}
		}
	})
	t.Run("a file that others can read is refused", func(t *testing.T) {
		if _, err := (issuersConfig{ACMEConfig: file("open.yaml", letsEncrypt, 0o644)}).issuers(); err == nil {
			t.Error("passed")
		}
	})
	t.Run("the operator's certificate is for every preview name, and for no other", func(t *testing.T) {
		chain, wildcardKey := ownPair(t, "*.preview.example")
		h := handouts{config: issuersConfig{PreviewCert: file("preview.pem", chain, 0o644), PreviewKey: file("preview.key", wildcardKey, 0o600)}}
		name, _ := contract.ParseDomain("abcdefgh27.preview.example")
		gotChain, gotKey, err := h.Preview(nil, name, time.Now())
		if err != nil || !strings.HasPrefix(chain, string(gotChain)) || string(gotKey) != wildcardKey {
			t.Errorf("%v", err)
		}
		other, _ := contract.ParseDomain("bank.example")
		if _, _, err := h.Preview(nil, other, time.Now()); err == nil {
			t.Error("given for bank.example")
		}
		platform, err := pki.OpenPlatform(t.TempDir(), "preview.example", time.Now())
		if err != nil || h.config.previewCA(platform) != nil || (issuersConfig{}).previewCA(platform) == nil {
			t.Errorf("whose CA is shown? %v", err)
		}
	})
	t.Run("a pair that does not belong together is named", func(t *testing.T) {
		var wrong wrongConfig
		c := issuersConfig{PreviewCert: file("a.pem", root, 0o644), PreviewKey: file("b.key", func() string { _, other := ownPair(t, "x.example"); return other }(), 0o600)}
		c.checkIssuers(namesConfig{PreviewDomain: "preview.example"}, func(ok bool, key, rule string) {
			if !ok {
				wrong = append(wrong, key+": "+rule)
			}
		})
		if len(wrong) != 1 || !strings.HasPrefix(wrong[0], "preview-cert") {
			t.Errorf("%v", wrong)
		}
	})
}

func ownPair(t *testing.T, name string) (cert, key string) {
	t.Helper()
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, made.Public(), made)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(made)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
