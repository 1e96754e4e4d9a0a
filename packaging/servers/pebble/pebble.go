// Package pebble starts real ACME CAs for tests and labs: Pebble, Let's
// Encrypt's own small server (the tool "pebble" of packaging/setup/tools.sh).
// It issues by the protocol's letter and is deliberately unkind. Everything it
// knows is gone when it ends.
package pebble

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"chom.dev/servers/child"
)

// Options say how a CA is. The zero value of each has a meaning.
type Options struct {
	Dir         string            // its files; must be there
	Address     string            // the IP address to listen at; empty is 127.0.0.1
	Port        int               // the port of its directory; 0 is a free one
	HTTPPort    int               // where it looks for answers to HTTP-01; 0 is 80
	DNSServer   string            // host and port of the name server that it asks; empty is the system's
	EAB         map[string][]byte // MAC keys by key id; with any, no account is made without one
	NonceReject int               // how many percent of good nonces it refuses
	Validity    time.Duration     // of certificates; 0 is 90 days
	Blocked     []string          // names that it refuses to issue for
	Log         io.Writer         // what it prints; nil is nowhere
}

// CA is one that runs.
type CA struct {
	DirectoryURL string
	Roots        []byte // PEM: to trust the directory, and what it issues

	management string
	client     *http.Client
	server     *exec.Cmd
	ended      <-chan struct{}
}

// Start starts a CA and returns when it answers.
func Start(ctx context.Context, o Options) (*CA, error) {
	ca, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start pebble: %w", err)
	}
	return ca, nil
}

func start(ctx context.Context, o Options) (*CA, error) {
	program, err := exec.LookPath("pebble")
	if err != nil {
		return nil, fmt.Errorf("build it with packaging/setup/tools.sh pebble: %w", err)
	}
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	listen := net.JoinHostPort(o.Address, strconv.Itoa(o.Port))
	if o.Port == 0 {
		if listen, err = free(o.Address); err != nil {
			return nil, err
		}
	}
	management, err := free(o.Address)
	if err != nil {
		return nil, err
	}
	root, err := identity(o)
	if err != nil {
		return nil, err
	}
	if err := configure(o, listen, management); err != nil {
		return nil, err
	}
	args := []string{"-config", filepath.Join(o.Dir, "config.json")}
	if o.DNSServer != "" {
		args = append(args, "-dnsserver", o.DNSServer)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	ca := &CA{
		DirectoryURL: "https://" + listen + "/dir", Roots: root,
		management: "https://" + management,
		client:     &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}},
		server:     exec.Command(program, args...),
	}
	ca.server.Stdout, ca.server.Stderr = o.Log, o.Log
	ca.server.Env = append(os.Environ(),
		"PEBBLE_VA_NOSLEEP=1", // else it waits up to 15 s before it validates
		"PEBBLE_AUTHZREUSE=0", // every order is proved anew
		"PEBBLE_WFE_NONCEREJECT="+strconv.Itoa(o.NonceReject))
	if ca.ended, err = child.Start(ca.server, syscall.SIGKILL); err != nil {
		return nil, err
	}
	issuing, err := ca.awaitRoot(ctx)
	if err != nil {
		ca.Stop()
		return nil, err
	}
	ca.Roots = append(ca.Roots, issuing...)
	return ca, nil
}

// Stop ends it.
func (ca *CA) Stop() {
	_ = ca.server.Process.Kill() // gone already is fine
	<-ca.ended
}

// SetRenewalInfo has it say of a certificate (PEM, the leaf first) that it is to
// be renewed between two moments (RFC 9773).
func (ca *CA) SetRenewalInfo(certificate []byte, start, end time.Time) error {
	window := fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`, start.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
	body, err := json.Marshal(map[string]string{"certificate": string(certificate), "ariResponse": window})
	if err != nil {
		return err
	}
	res, err := ca.client.Post(ca.management+"/set-renewal-info/", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("pebble did not take the renewal window: %s", res.Status)
	}
	return nil
}

// awaitRoot gives the root that it issues by, which it makes at each start.
func (ca *CA) awaitRoot(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		issuing, err := ca.get(ctx, ca.management+"/roots/0")
		if err == nil {
			_, err = ca.get(ctx, ca.DirectoryURL)
		}
		if err == nil {
			return issuing, nil
		}
		select {
		case <-ca.ended:
			return nil, errors.New("it ended at once; see its log")
		case <-ctx.Done():
			return nil, fmt.Errorf("it does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (ca *CA) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := ca.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	return io.ReadAll(res.Body)
}

// configure writes its configuration.
func configure(o Options, listen, management string) error {
	type profile struct {
		Description    string `json:"description"`
		ValidityPeriod uint64 `json:"validityPeriod"`
	}
	validity := o.Validity
	if validity == 0 {
		validity = 90 * 24 * time.Hour
	}
	httpPort := o.HTTPPort
	if httpPort == 0 {
		httpPort = 80
	}
	keys := map[string]string{}
	for id, key := range o.EAB {
		keys[id] = base64.RawURLEncoding.EncodeToString(key)
	}
	text, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress":                  listen,
		"managementListenAddress":        management,
		"certificate":                    filepath.Join(o.Dir, "cert.pem"),
		"privateKey":                     filepath.Join(o.Dir, "key.pem"),
		"httpPort":                       httpPort,
		"tlsPort":                        1, // TLS-ALPN-01 is nobody's here
		"keyAlgorithm":                   "ecdsa",
		"domainBlocklist":                o.Blocked,
		"externalAccountBindingRequired": len(o.EAB) > 0,
		"externalAccountMACKeys":         keys,
		"retryAfter":                     map[string]int{"authz": 1, "order": 1},
		"profiles":                       map[string]profile{"default": {"what there is", uint64(validity / time.Second)}},
	}})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.Dir, "config.json"), text, 0o600)
}

// identity makes the certificate of its listeners, which is its own root. One
// that is there stays: a CA that is started again is trusted as before.
func identity(o Options) ([]byte, error) {
	certFile, keyFile := filepath.Join(o.Dir, "cert.pem"), filepath.Join(o.Dir, "key.pem")
	if kept, err := os.ReadFile(certFile); err == nil {
		return kept, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "pebble of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(o.Address)}, DNSNames: []string{"localhost", "pebble"},
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return nil, err
	}
	return cert, os.WriteFile(certFile, cert, 0o600)
}

// free finds a port that nobody listens at.
func free(address string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
