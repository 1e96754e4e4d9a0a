package certificate

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

const (
	maxChain = 10 // certificates: what is served has two to four
	// leastLeft is how long a certificate must last still: less is a mistake, and over before anybody has looked.
	leastLeft = time.Hour
	minRSA    = 2048 // bits, as browsers ask for
	maxRSA    = 8192 // bits: above that crypto/tls refuses, and each handshake costs seconds
)

// checked is a certificate that may be served.
type checked struct {
	chain     []byte // PEM, the leaf first, and nothing else
	key       []byte // PEM, PKCS #8
	domains   []contract.Domain
	issuer    string
	sha256    [sha256.Size]byte
	notBefore time.Time
	notAfter  time.Time
}

// check says whether a chain and a key may be served at a moment. Its errors are faults of kind Invalid that name the field,
// chain or key, and the rule.
func check(chain, key string, now time.Time) (checked, error) {
	certificates, err := parseChain(chain)
	if err != nil {
		return checked{}, err
	}
	if err := checkSignatures(certificates); err != nil {
		return checked{}, err
	}
	leaf := certificates[0]
	if err := checkLeaf(leaf, now); err != nil {
		return checked{}, err
	}
	domains, err := domainsOf(leaf)
	if err != nil {
		return checked{}, err
	}
	good := checked{domains: domains, issuer: nameOf(leaf.Issuer.String()), sha256: sha256.Sum256(leaf.Raw), notBefore: leaf.NotBefore, notAfter: leaf.NotAfter}
	for _, c := range certificates {
		good.chain = append(good.chain, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})...)
	}
	good.key, err = parseKey(key, leaf)
	return good, err
}

func wrongChain(rule string) error { return fault.Invalid("chain", rule) }

func wrongKey(rule string) error { return fault.Invalid("key", rule) }

const (
	pemCertificate = "CERTIFICATE"
	pemBegin       = "-----BEGIN "
)

// blocks takes a PEM text apart. It says no where there is anything but blocks in it: what does not belong there may be a
// mistake, and what a parser skips another one may read.
func blocks(text string, most int) ([]*pem.Block, bool) {
	var all []*pem.Block
	for rest := bytes.TrimSpace([]byte(text)); len(rest) > 0; {
		block, after := pem.Decode(rest)
		if block == nil || !bytes.HasPrefix(rest, []byte(pemBegin)) || bytes.Count(rest[:len(rest)-len(after)], []byte(pemBegin)) != 1 || len(all) == most {
			return all, false
		}
		all = append(all, block)
		rest = bytes.TrimSpace(after)
	}
	return all, len(all) > 0
}

func parseChain(text string) ([]*x509.Certificate, error) {
	if strings.Contains(text, "PRIVATE KEY-----") {
		return nil, wrongChain("must not hold a key: that belongs into the field key")
	}
	found, whole := blocks(text, maxChain)
	switch {
	case len(found) == maxChain && !whole:
		return nil, wrongChain(fmt.Sprintf("must be at most %d certificates", maxChain))
	case !whole:
		return nil, wrongChain("must be certificates in PEM and nothing else: no text before, between or after them")
	}
	var all []*x509.Certificate
	for i, block := range found {
		if block.Type != pemCertificate || len(block.Headers) > 0 {
			return nil, wrongChain(fmt.Sprintf("must hold blocks of the type %s only, without headers: block %d is none", pemCertificate, i+1))
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, wrongChain(fmt.Sprintf("must be certificates: block %d cannot be read as one", i+1))
		}
		all = append(all, one)
	}
	return all, nil
}

// checkSignatures says whether each certificate was signed by the next one, by means that nobody can forge.
func checkSignatures(chain []*x509.Certificate) error {
	for i, c := range chain {
		// Before anything is computed with it: what a large key costs grows with the square of its size.
		if !fineKey(c.PublicKey) {
			return wrongChain(fmt.Sprintf("must have keys of RSA with %d to %d bits, ECDSA P-256 or P-384: certificate %d has another", minRSA, maxRSA, i+1))
		}
		if root := i > 0 && i == len(chain)-1 && bytes.Equal(c.RawIssuer, c.RawSubject); !root && brokenHash(c.SignatureAlgorithm) {
			return wrongChain(fmt.Sprintf("must not be signed with %s, which can be forged: certificate %d is", c.SignatureAlgorithm, i+1))
		}
	}
	for i := range len(chain) - 1 {
		if err := chain[i].CheckSignatureFrom(chain[i+1]); err != nil {
			return wrongChain(fmt.Sprintf("must have the leaf first, then each certificate that signed the one before: certificate %d did not sign certificate %d", i+2, i+1))
		}
	}
	return nil
}

func fineKey(public any) bool {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSA && k.N.BitLen() <= maxRSA
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384()
	}
	return false
}

func brokenHash(a x509.SignatureAlgorithm) bool {
	return slices.Contains([]x509.SignatureAlgorithm{
		x509.UnknownSignatureAlgorithm, x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.DSAWithSHA256, x509.ECDSAWithSHA1,
	}, a)
}

func checkLeaf(leaf *x509.Certificate, now time.Time) error {
	switch {
	case leaf.IsCA:
		return wrongChain("must begin with the certificate of the names: the first one is that of a CA")
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth):
		return wrongChain("must be for servers: the first certificate lacks the extended key usage serverAuth")
	case now.Before(leaf.NotBefore):
		return wrongChain("must be valid now: it begins on " + day(leaf.NotBefore))
	case !now.Before(leaf.NotAfter):
		return wrongChain("must be valid now: it ended on " + day(leaf.NotAfter))
	case now.Add(leastLeft).After(leaf.NotAfter):
		return wrongChain("must be valid for another hour: it ends on " + day(leaf.NotAfter))
	}
	return nil
}

// domainsOf are the names that a certificate is for. What it says in its common name counts for nothing, in browsers neither.
func domainsOf(leaf *x509.Certificate) ([]contract.Domain, error) {
	var all []contract.Domain
	for _, text := range leaf.DNSNames {
		name, err := contract.ParsePattern(text)
		if err != nil {
			return nil, wrongChain(fmt.Sprintf("must be for domain names: %q %s", nameOf(text), contract.RuleOf(err)))
		}
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	if len(all) == 0 {
		return nil, wrongChain("must be for at least one domain name, as a DNS name in its subject alternative names")
	}
	return all, nil
}

// parseKey reads the key of a leaf and writes it down as PKCS #8. No error holds anything of it.
func parseKey(text string, leaf *x509.Certificate) ([]byte, error) {
	found, whole := blocks(text, 1)
	if !whole {
		return nil, wrongKey("must be one key in PEM and nothing else")
	}
	block := found[0]
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return nil, wrongKey("must not have a password: take it off first, for example with openssl pkey -in FILE")
	}
	parse, known := keyFormats[block.Type]
	if !known || len(block.Headers) > 0 {
		return nil, wrongKey("must be a private key: PKCS #8 (PRIVATE KEY), PKCS #1 (RSA PRIVATE KEY) or SEC 1 (EC PRIVATE KEY)")
	}
	key, err := parse(block.Bytes)
	if err != nil {
		return nil, wrongKey("must be a private key: this one cannot be read")
	}
	private, ok := key.(interface{ Public() crypto.PublicKey })
	if !ok || !fineKey(private.Public()) {
		return nil, wrongKey(fmt.Sprintf("must be of RSA with %d to %d bits, ECDSA P-256 or P-384", minRSA, maxRSA))
	}
	if own, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !own.Equal(private.Public()) {
		return nil, wrongKey("must be the key of the first certificate in chain: it belongs to another one")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, wrongKey("must be a private key: this one cannot be written as PKCS #8")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

var keyFormats = map[string]func([]byte) (any, error){
	"PRIVATE KEY":     x509.ParsePKCS8PrivateKey,
	"RSA PRIVATE KEY": func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
	"EC PRIVATE KEY":  func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
}

// day is a moment in words.
func day(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") }

const maxName = 256 // runes, as the protos allow

// nameOf makes a stranger's text one that can be shown.
func nameOf(text string) string { return line(text, maxName) }

// line cuts a stranger's text, and takes from it what does something instead of showing something.
func line(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs):
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most-1]) + "…"
	}
	return text
}
