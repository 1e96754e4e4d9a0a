package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	linkv1 "chom.dev/proto/gen/chom/link/v1"

	"chom.dev/controlplane/keyfile"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
)

// issuersConfig is where certificates of sites come from.
type issuersConfig struct {
	ACMEConfig  string `koanf:"acme-config"`
	PreviewCert string `koanf:"preview-cert"`
	PreviewKey  string `koanf:"preview-key"`
}

func issuersFlags(f *pflag.FlagSet) {
	f.String("acme-config", "", "file in YAML that names the CAs which issue certificates of sites, readable by its owner only (default Let's Encrypt alone; whoever runs chomd agrees to its terms, see chomd serve --help)")
	f.String("preview-cert", "", "certificate chain in PEM for all names below preview-domain, a wildcard (default a CA of chomd's own, which browsers do not know: /preview-ca.pem)")
	f.String("preview-key", "", "its key in PEM; every host that holds a site gets it")
}

const issuersHelp = `
Certificates of sites come from ACME CAs. Without acme-config that is Let's Encrypt; a file names others, in the order in
which they are asked:

    contact: ops@example.com            # may be left out; CAs write there
    issuers:
      - name: letsencrypt
        directory: https://acme-v02.api.letsencrypt.org/directory
        caa: [letsencrypt.org]          # what a CAA record may name for it; where an issuer has none, no CAA record is looked at
      - name: own
        directory: https://ca.example.net/directory
        roots: /etc/chomd/own-ca.pem    # for a CA that systems do not know
        eab-key-id: kid-1               # external account binding, for CAs that ask for it
        eab-key: BASE64URL

To name a CA means to agree to its terms of service.`

// issuersFile is what acme-config holds.
type issuersFile struct {
	Contact string `json:"contact"`
	Issuers []struct {
		Name      string   `json:"name"`
		Directory string   `json:"directory"`
		CAA       []string `json:"caa"`
		Roots     string   `json:"roots"`
		EABKeyID  string   `json:"eab-key-id"`
		EABKey    string   `json:"eab-key"`
	} `json:"issuers"`
}

const letsEncrypt = `
issuers:
- name: letsencrypt
  directory: https://acme-v02.api.letsencrypt.org/directory
  caa: [letsencrypt.org]
`

func (i issuersConfig) checkIssuers(n namesConfig, rule func(ok bool, key, rule string)) {
	if _, err := i.issuers(); err != nil {
		rule(false, "acme-config", err.Error())
	}
	rule((i.PreviewCert == "") == (i.PreviewKey == ""), "preview-cert", "and preview-key must be given together")
	if i.PreviewCert != "" && i.PreviewKey != "" {
		rule(n.PreviewDomain != "", "preview-cert", "is for a preview-domain")
		_, _, _, err := i.previewPair()
		rule(err == nil, "preview-cert", fmt.Sprintf("and preview-key must be a certificate and its key in PEM: %v", err))
	}
}

// issuers are the CAs, and what a CAA record may name for them.
type issuers struct {
	message *linkv1.Issuance
	caa     []string // empty where one of the CAs is not known by any name: records then forbid nothing for sure
}

// rootsPEM are the roots that hosts trust besides the system's.
func (i issuers) rootsPEM() []byte {
	roots := i.message.GetPlatformRoots()
	for _, one := range i.message.GetIssuers() {
		roots = append(append(slices.Clone(roots), '\n'), one.GetRoots()...)
	}
	return roots
}

var issuerName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

func (i issuersConfig) issuers() (issuers, error) {
	var err error
	text := []byte(letsEncrypt)
	if i.ACMEConfig != "" {
		if text, err = keyfile.Read(i.ACMEConfig); err != nil {
			return issuers{}, err
		}
	}
	var file issuersFile
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		return issuers{}, errors.New("must be YAML with contact and issuers, and nothing else that is unknown") // an error would show its text
	}
	all := issuers{message: &linkv1.Issuance{Contact: file.Contact}}
	if file.Contact != "" {
		if address, err := mail.ParseAddress(file.Contact); err != nil || address.Address != file.Contact {
			return issuers{}, errors.New("contact: must be a mail address")
		}
	}
	if len(file.Issuers) == 0 || len(file.Issuers) > 10 {
		return issuers{}, errors.New("issuers: must be 1 to 10")
	}
	names, nameless := map[string]bool{}, false
	for n, one := range file.Issuers {
		where := fmt.Sprintf("issuers[%d].", n)
		if !issuerName.MatchString(one.Name) || names[one.Name] {
			return issuers{}, errors.New(where + "name: must be lower-case letters, digits and hyphens, and unique")
		}
		names[one.Name] = true
		if u, err := url.Parse(one.Directory); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return issuers{}, errors.New(where + "directory: must be an https URL")
		}
		issuer := &linkv1.Issuer{Name: one.Name, DirectoryUrl: one.Directory, EabKeyId: one.EABKeyID}
		if (one.EABKeyID == "") != (one.EABKey == "") {
			return issuers{}, errors.New(where + "eab-key-id: and eab-key must be given together")
		}
		if one.EABKey != "" {
			if issuer.EabKey, err = base64.RawURLEncoding.DecodeString(one.EABKey); err != nil {
				return issuers{}, errors.New(where + "eab-key: must be in base64url without padding")
			}
		}
		if one.Roots != "" {
			if issuer.Roots, err = os.ReadFile(one.Roots); err != nil {
				return issuers{}, fmt.Errorf("%sroots: %w", where, err)
			}
			if !x509.NewCertPool().AppendCertsFromPEM(issuer.Roots) {
				return issuers{}, errors.New(where + "roots: must be a file of certificates in PEM")
			}
		}
		for _, ca := range one.CAA {
			if _, err := contract.ParseDomain(ca); err != nil {
				return issuers{}, errors.New(where + "caa: " + contract.RuleOf(err))
			}
		}
		nameless = nameless || len(one.CAA) == 0
		all.caa = append(all.caa, one.CAA...)
		all.message.Issuers = append(all.message.Issuers, issuer)
	}
	if nameless {
		all.caa = nil
	}
	return all, nil
}

// previewPair reads the operator's certificate for preview names.
func (i issuersConfig) previewPair() (chain, key []byte, leaf *x509.Certificate, err error) {
	if chain, err = os.ReadFile(i.PreviewCert); err != nil {
		return nil, nil, nil, err
	}
	if key, err = os.ReadFile(i.PreviewKey); err != nil {
		return nil, nil, nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, nil, nil, err
	}
	return chain, key, pair.Leaf, nil
}

// previewCA is what visitors of previews may want to trust; nothing where the operator's certificate needs none.
func (i issuersConfig) previewCA(platform *pki.Platform) []byte {
	if i.PreviewCert != "" {
		return nil
	}
	return platform.Roots()
}

// handouts is what hosts get for the names of their sites; it implements link.Certificates.
type handouts struct {
	config   issuersConfig
	issuance *linkv1.Issuance
	platform *pki.Platform
	uploads
	challenges
}

// uploads and challenges are kept by the nouns that they belong to.
type (
	uploads interface {
		Fetch(ctx context.Context, organization contract.OrganizationID, site contract.SiteID, id string) (chain, key []byte, err error)
	}
	challenges interface {
		PresentChallenge(ctx context.Context, organization contract.OrganizationID, name contract.Domain, value string) error
		RemoveChallenge(ctx context.Context, organization contract.OrganizationID, name contract.Domain, value string) error
	}
)

// Issuance implements link.Certificates.
func (h *handouts) Issuance() *linkv1.Issuance { return h.issuance }

// Uploaded implements link.Certificates.
func (h *handouts) Uploaded(ctx context.Context, organization contract.OrganizationID, site contract.SiteID, id string) (chain, key []byte, err error) {
	return h.Fetch(ctx, organization, site, id)
}

// Preview implements link.Certificates. The operator's files are read each time: whoever renews them need not tell us.
func (h *handouts) Preview(csr []byte, name contract.Domain, now time.Time) (chain, key []byte, err error) {
	if h.config.PreviewCert != "" {
		chain, key, leaf, err := h.config.previewPair()
		if err != nil {
			return nil, nil, fmt.Errorf("read preview-cert and preview-key: %w", err)
		}
		if err := leaf.VerifyHostname(name.String()); err != nil {
			return nil, nil, fmt.Errorf("preview-cert: %w", err)
		}
		return bytes.TrimSpace(chain), key, nil
	}
	request, _, err := pki.ParseRequest(csr)
	if err != nil {
		return nil, nil, err
	}
	chain, err = h.platform.Issue(request, name, now)
	return chain, nil, err
}
